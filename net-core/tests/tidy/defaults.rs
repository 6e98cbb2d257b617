//! A limit's documentation ends with its default, and with no other value than the code's.

use crate::source::Source;
use std::collections::HashMap;

/// The fields of `Limits` in this source whose docs do not end with the default of the code.
pub(crate) fn not_shown(source: &Source) -> Vec<String> {
    let Some((fields, defaults)) = source.text.split_once("impl Default for Limits") else {
        return vec![format!("{}: no `impl Default for Limits`", source.path)];
    };
    let defaults: HashMap<&str, &str> = defaults
        .split("\n}\n")
        .next()
        .into_iter()
        .flat_map(str::lines)
        .filter_map(|line| line.strip_prefix("            ")?.strip_suffix(',')?.split_once(": "))
        .collect();
    let mut found = Vec::new();
    let mut last_line = "";
    for line in fields.lines() {
        let field = line.strip_prefix("    pub ").and_then(|rest| rest.split_once(": "));
        if let Some((name, _)) = field
            && let Some(default) = defaults.get(name)
        {
            let shown = format!("/// Default: {}.", in_words(name, default));
            if last_line.trim() != shown {
                found.push(format!("{}: {name}: its docs do not end with `{shown}`", source.path));
            }
        }
        last_line = line;
    }
    if defaults.is_empty() {
        found.push(format!("{}: no defaults are found", source.path));
    }
    found
}

/// A default as a reader wants it: `64 << 10` bytes are 64 KiB.
fn in_words(name: &str, code: &str) -> String {
    let call = |of: &str| code.strip_prefix(of).and_then(|rest| rest.strip_suffix(')'));
    if let Some(seconds) = call("Duration::from_secs(") {
        return format!("{seconds} s");
    }
    if let Some(millis) = call("Duration::from_millis(") {
        return format!("{millis} ms");
    }
    if let Some((_, variant)) = code.split_once("::") {
        return if variant == "ZERO" { "0".into() } else { format!("`{variant}`") };
    }
    let number = match code.split_once(" << ") {
        Some((n, by)) => n.parse::<u64>().ok().zip(by.parse::<u32>().ok()).map(|(n, by)| n << by),
        None => code.replace('_', "").parse().ok(),
    };
    match (number, code) {
        (Some(n), _) if ["bytes", "watermark", "limit"].iter().any(|is| name.contains(is)) => {
            bytes(n)
        }
        (Some(n), _) => grouped(n),
        (None, "true") => "on".into(),
        (None, "false") => "off".into(),
        (None, "None") => "none".into(),
        (None, other) => other.into(),
    }
}

fn bytes(n: u64) -> String {
    let unit = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = unit.into_iter().find(|(by, _)| n > 0 && n.is_multiple_of(1 << by));
    whole.map_or_else(|| grouped(n), |(by, unit)| format!("{} {unit}", n >> by))
}

fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut shown = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[test]
fn a_default_that_is_not_shown_or_another_is_found() {
    let source = |shown: &str| {
        let text = format!(
            "pub struct Limits {{\n    /// X.\n    ///\n    /// {shown}\n    pub cork_bytes: usize,\n}}\n\
             impl Default for Limits {{\n        Self {{\n            cork_bytes: 64 << 10,\n        }}\n}}\n"
        );
        not_shown(&Source::new("limits.rs", &text))
    };
    assert!(source("Default: 64 KiB.").is_empty());
    assert_eq!(source("Default: 32 KiB.").len(), 1);
    assert_eq!(source("No word of it.").len(), 1);
    let words = [
        in_words("timeout", "Duration::from_millis(30)"),
        in_words("when_full", "WhenFull::Refuse"),
        in_words("topics_max", "1 << 16"),
        in_words("idle_timeout", "None"),
        in_words("output_limit", "1 << 20"),
    ];
    assert_eq!(words, ["30 ms", "`Refuse`", "65,536", "none", "1 MiB"]);
}
