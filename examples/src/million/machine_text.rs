//! The machine's limits, as text.

use net_core::process::Machine;

use super::figures::{bytes, grouped};

/// Each limit on a line, with a newline at the end.
pub fn machine_text(machine: &Machine) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| text += &format!("  {name:<24} {value}\n");
    line("kernel", machine.kernel.clone().unwrap_or_else(|| "?".to_owned()));
    line("cores", machine.cores.to_string());
    let available = bytes(machine.memory_available_bytes);
    let total = bytes(machine.memory_total_bytes);
    let limit = machine.memory_limited_by.as_ref().map(|file| format!(" (limited by {file})"));
    line("memory", format!("{available} available of {total}{}", limit.unwrap_or_default()));
    let (soft, hard) = (or_unlimited(machine.nofile_soft), or_unlimited(machine.nofile_hard));
    line("nofile", format!("{soft} soft, {hard} hard"));
    line("fs.nr_open", or_unknown(machine.nr_open));
    let open = or_unknown(machine.files_open);
    line("fs.file-max", format!("{}, {open} open", or_unknown(machine.file_max)));
    line("max_user_watches", or_unknown(machine.max_user_watches));
    line("ip_local_port_range", or_unknown_list(machine.port_range.as_ref().map(|r| &r[..])));
    line("tcp_mem (pages)", or_unknown_list(machine.tcp_mem_pages.as_ref().map(|r| &r[..])));
    let count = or_unknown(machine.conntrack_count);
    line("nf_conntrack", format!("{count} of {}", or_unknown(machine.conntrack_max)));
    line("somaxconn", or_unknown(machine.somaxconn));
    line("tcp_max_orphans", or_unknown(machine.tcp_max_orphans));
    line("tcp_max_tw_buckets", or_unknown(machine.tcp_max_tw_buckets));
    text
}

fn or_unlimited(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { grouped(limit) }
}

fn or_unknown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "not there".to_owned(), grouped)
}

fn or_unknown_list(limits: Option<&[u64]>) -> String {
    let words = |limits: &[u64]| limits.iter().map(|l| l.to_string()).collect::<Vec<_>>().join(" ");
    limits.map_or_else(|| "not there".to_owned(), words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_told_and_what_is_not_too() {
        let (file_max, files_open) = (Some(2_466_183), Some(497));
        let text = machine_text(&Machine { file_max, files_open, ..Machine::default() });
        assert!(text.contains("2,466,183, 497 open"), "{text}");
        assert!(text.contains("max_user_watches         not there"), "{text}");
    }
}
