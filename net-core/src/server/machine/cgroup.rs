//! The memory limit and the CPU throttling of this process's control group, for example in a container.
//!
//! Both versions are read: v2 (`memory.max`) and v1 (`memory.limit_in_bytes`). Every group from the
//! process's own group up to the top counts, because the limit of a group applies to every group below
//! it. Page cache is charged to a group and given back under pressure, so it counts as available, as in
//! `MemAvailable`.

use super::proc_file::{ProbeError, Root};
use std::time::Duration;

/// What the tightest control group allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupMemory {
    /// The group's limit, in bytes.
    pub(super) limit_bytes: u64,
    /// The part of the limit that is unused or only page cache, in bytes.
    pub(super) available_bytes: u64,
    /// The file that states the limit.
    pub(super) file: String,
}

/// The tightest limit on the process's own group or a group above it. `None` if no group limits memory.
///
/// # Errors
/// Returns an error if a file exists and cannot be read, or does not have the expected content.
pub(super) fn memory(root: &Root<'_>) -> Result<Option<GroupMemory>, ProbeError> {
    let Some(groups) = root.text("/proc/self/cgroup")? else {
        return Ok(None);
    };
    let mut tightest: Option<GroupMemory> = None;
    for line in groups.lines() {
        let Some((hierarchy, group)) = hierarchy_of(line) else {
            continue;
        };
        for mount in hierarchy.mounts {
            for group in group_and_parents(group) {
                let found = limit_at(root, hierarchy, &format!("{mount}{group}"))?;
                tightest = match (tightest, found) {
                    (Some(a), Some(b)) if b.available_bytes < a.available_bytes => Some(b),
                    (a, b) => a.or(b),
                };
            }
        }
    }
    Ok(tightest)
}

/// The time for which quotas on the process's own group, and on the groups above it, have kept threads
/// from running, summed over all cores. `None` if no group reports it. A file that cannot be read is
/// ignored.
pub(super) fn throttled(root: &Root<'_>) -> Option<Duration> {
    let groups = root.text("/proc/self/cgroup").ok()??;
    let mut sum = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(group)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        // V2 counts microseconds, and V1 nanoseconds.
        let (mounts, key, nanos): (&[&str], _, _) = match (id, controllers) {
            ("0", "") => (V2.mounts, "throttled_usec ", 1000),
            _ if controllers.split(',').any(|name| name == "cpu") => {
                (&["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu"], "throttled_time ", 1)
            }
            _ => continue,
        };
        // A mount may have one of two names. The first name with counters is used.
        for mount in mounts {
            let counters = group_and_parents(group).into_iter().filter_map(|group| {
                let stat = root.text(&format!("{mount}{group}/cpu.stat")).ok()??;
                stat_line(&stat, key)
            });
            let found =
                counters.fold(None, |sum: Option<u64>, n| Some(sum.unwrap_or(0).saturating_add(n)));
            if let Some(found) = found {
                let time = Duration::from_nanos(found.saturating_mul(nanos));
                sum = Some(sum.unwrap_or(Duration::ZERO) + time);
                break;
            }
        }
    }
    sum
}

/// The mounts and file names under which one version of control groups keeps these values.
struct Hierarchy {
    mounts: &'static [&'static str],
    limit: &'static str,
    used: &'static str,
    cache_lines: [&'static str; 2],
}

const V2: Hierarchy = Hierarchy {
    mounts: &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"],
    limit: "memory.max",
    used: "memory.current",
    cache_lines: ["inactive_file ", "active_file "],
};

const V1: Hierarchy = Hierarchy {
    mounts: &["/sys/fs/cgroup/memory"],
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cache_lines: ["total_inactive_file ", "total_active_file "],
};

/// V1 writes "no limit" as the largest multiple of a page. No machine has so much memory.
const V1_UNLIMITED_BYTES: u64 = 1 << 62;

/// A line of `/proc/self/cgroup` is `id:controllers:group`. V2 has id 0 and no controllers.
fn hierarchy_of(line: &str) -> Option<(&'static Hierarchy, &str)> {
    let mut parts = line.splitn(3, ':');
    let id = parts.next()?;
    let controllers = parts.next()?;
    let group = parts.next()?;
    if id == "0" && controllers.is_empty() {
        Some((&V2, group))
    } else if controllers.split(',').any(|name| name == "memory") {
        Some((&V1, group))
    } else {
        None
    }
}

/// For `/a/b`: `/a/b`, `/a` and the top, which is an empty string. A namespace may show `..` for groups
/// above its own top. Such groups cannot be reached, so such a path counts as the top.
fn group_and_parents(group: &str) -> Vec<String> {
    let mut names: Vec<&str> = group.split('/').filter(|name| !name.is_empty()).collect();
    if names.contains(&"..") {
        names.clear();
    }
    let paths = (0..=names.len())
        .rev()
        .map(|depth| names[..depth].iter().map(|name| format!("/{name}")).collect::<String>());
    paths.collect()
}

fn limit_at(
    root: &Root<'_>,
    hierarchy: &Hierarchy,
    directory: &str,
) -> Result<Option<GroupMemory>, ProbeError> {
    let file = format!("{directory}/{}", hierarchy.limit);
    let Some(text) = root.text(&file)? else {
        return Ok(None);
    };
    if text.trim() == "max" {
        return Ok(None);
    }
    let limit_bytes: u64 =
        text.trim().parse().map_err(|_| root.strange(&file, "number of bytes"))?;
    if limit_bytes >= V1_UNLIMITED_BYTES {
        return Ok(None);
    }
    let used = root.number(&format!("{directory}/{}", hierarchy.used))?.unwrap_or(0);
    let stat = root.text(&format!("{directory}/memory.stat"))?.unwrap_or_default();
    let cache: u64 = hierarchy.cache_lines.iter().filter_map(|key| stat_line(&stat, key)).sum();
    let pinned = used.saturating_sub(cache);
    Ok(Some(GroupMemory { limit_bytes, available_bytes: limit_bytes.saturating_sub(pinned), file }))
}

fn stat_line(stat: &str, key: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix(key))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::proc_file::fake::FakeRoot;
    use super::*;

    #[test]
    fn no_control_group_limits_nothing() {
        let fake = FakeRoot::new();
        assert_eq!(memory(&fake.root()).unwrap(), None);
    }

    #[test]
    fn tightest_parent_binds_and_page_cache_counts_as_available() {
        let fake = FakeRoot::new();
        fake.write("proc/self/cgroup", "0::/a/b\n")
            .write("sys/fs/cgroup/a/b/memory.max", "max\n")
            .write("sys/fs/cgroup/a/memory.max", "1000\n")
            .write("sys/fs/cgroup/a/memory.current", "700\n")
            .write("sys/fs/cgroup/a/memory.stat", "anon 9\ninactive_file 100\nactive_file 50\n");
        let found = memory(&fake.root()).unwrap().unwrap();
        assert_eq!(found.limit_bytes, 1000);
        assert_eq!(found.available_bytes, 450);
        assert!(found.file.ends_with("/a/memory.max"));
    }

    #[test]
    fn version_one_without_a_limit_is_no_limit() {
        let fake = FakeRoot::new();
        let file = "sys/fs/cgroup/memory/x/memory.limit_in_bytes";
        fake.write("proc/self/cgroup", "4:memory:/x\n0::/\n").write(file, "9223372036854771712\n");
        assert_eq!(memory(&fake.root()).unwrap(), None);
        fake.write(file, "5000\n").write("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "1000\n");
        assert_eq!(memory(&fake.root()).unwrap().unwrap().available_bytes, 4000);
    }

    #[test]
    fn limit_that_is_no_number_names_its_file() {
        let fake = FakeRoot::new();
        fake.write("proc/self/cgroup", "0::/\n").write("sys/fs/cgroup/memory.max", "lots\n");
        let error = memory(&fake.root()).unwrap_err().to_string();
        assert!(error.contains("memory.max"), "{error}");
    }

    #[test]
    fn path_above_the_namespace_counts_as_the_top() {
        assert_eq!(group_and_parents("/../x"), [""]);
        assert_eq!(group_and_parents("/a/b"), ["/a/b", "/a", ""]);
    }

    #[test]
    fn a_quota_on_any_group_above_holds_back() {
        let fake = FakeRoot::new();
        assert_eq!(throttled(&fake.root()), None);
        let stat = |usec| format!("usage_usec 9\nnr_throttled 3\nthrottled_usec {usec}\n");
        fake.write("proc/self/cgroup", "0::/a/b\n")
            .write("sys/fs/cgroup/cpu.stat", "usage_usec 9\n");
        assert_eq!(throttled(&fake.root()), None, "the top has no quota");
        fake.write("sys/fs/cgroup/a/cpu.stat", &stat(2000));
        fake.write("sys/fs/cgroup/a/b/cpu.stat", &stat(500));
        assert_eq!(throttled(&fake.root()), Some(Duration::from_micros(2500)));
    }

    #[test]
    fn version_one_counts_nanoseconds_of_the_cpu_controller() {
        let fake = FakeRoot::new();
        fake.write("proc/self/cgroup", "4:cpu,cpuacct:/x\n3:memory:/y\n0::/\n");
        fake.write("sys/fs/cgroup/cpu,cpuacct/x/cpu.stat", "nr_periods 1\nthrottled_time 7000\n");
        assert_eq!(throttled(&fake.root()), Some(Duration::from_micros(7)));
    }
}
