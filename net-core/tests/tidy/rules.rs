//! The rules that look at one file at a time, and the one about files that nobody names.

use crate::source::Source;
use std::collections::HashSet;

const COLUMNS_MAX: usize = 110;

fn at(source: &Source, line: usize, what: &str) -> String {
    format!("{}:{line}: {what}", source.path)
}

pub(crate) fn unsafe_outside_sys(source: &Source) -> Vec<String> {
    let is_allowed = source.path.starts_with("net-core/src/sys/") || !source.path.contains("/src/");
    let lines = if is_allowed { Vec::new() } else { Source::lines_with(&source.code, "unsafe") };
    lines.into_iter().map(|line| at(source, line, "unsafe outside of net-core/src/sys")).collect()
}

/// Each `unsafe` needs `SAFETY:` in the comment above its statement, or in a function's docs a
/// section `# Safety`.
pub(crate) fn unsafe_without_reason(source: &Source) -> Vec<String> {
    let code: Vec<&str> = source.code.lines().collect();
    let comments: Vec<&str> = source.comments.lines().collect();
    let is_reason =
        |line: usize| comments[line].contains("SAFETY:") || comments[line].contains("# Safety");
    let has_reason = |line: usize| {
        let mut above = line;
        let mut in_statement = true;
        while above > 0 {
            above -= 1;
            let (code, comment) = (code[above].trim(), comments[above].trim());
            if is_reason(above) && (code.is_empty() || code.starts_with("#[")) {
                return true;
            }
            if code.is_empty() && !comment.is_empty() || code.starts_with("#[") {
                in_statement = false;
                continue; // a comment, or an attribute, right above
            }
            // The beginning of a statement that goes on to the line of the `unsafe`.
            if !in_statement || code.is_empty() || code.ends_with([';', '{', '}', ',']) {
                return false;
            }
        }
        false
    };
    let mut lines = Source::lines_with(&source.code, "unsafe");
    lines.dedup();
    lines.retain(|line| !has_reason(line - 1));
    lines.into_iter().map(|line| at(source, line, "unsafe without a SAFETY comment")).collect()
}

pub(crate) fn left_for_later(source: &Source) -> Vec<String> {
    let in_code = ["todo", "unimplemented", "dbg"].into_iter().flat_map(|word| {
        let is_call = move |line: &usize| {
            let text = source.code.lines().nth(line - 1).unwrap_or_default();
            text.contains(&format!("{word}!"))
        };
        let lines = Source::lines_with(&source.code, word);
        lines.into_iter().filter(is_call).map(move |line| at(source, line, word))
    });
    let in_comments = ["FIXME", "XXX"].into_iter().flat_map(|word| {
        let lines = Source::lines_with(&source.comments, word);
        lines.into_iter().map(move |line| at(source, line, word))
    });
    in_code.chain(in_comments).collect()
}

pub(crate) fn wide_or_tabbed(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (n, line) in source.text.lines().enumerate() {
        if line.contains('\t') {
            found.push(at(source, n + 1, "a tab"));
        }
        let columns = line.chars().count();
        if columns > COLUMNS_MAX {
            found.push(at(source, n + 1, &format!("{columns} columns")));
        }
    }
    found
}

pub(crate) fn without_a_head(source: &Source) -> Vec<String> {
    let says_what = source.text.lines().next().is_some_and(|line| {
        line.strip_prefix("//! ").is_some_and(|words| !words.trim().is_empty())
    });
    let found =
        (!says_what).then(|| at(source, 1, "the first line is no `//!` that says what it is"));
    found.into_iter().collect()
}

/// The shipped code of net-core asks for libc's names in `sys` only; the others have `Errno`'s constants.
pub(crate) fn libc_outside_sys(source: &Source) -> Vec<String> {
    let is_asked = source.path.starts_with("net-core/src/") && !source.path.contains("/tests");
    if !is_asked || source.path.starts_with("net-core/src/sys/") {
        return Vec::new();
    }
    let lines = Source::lines_with(&source.shipped_code(), "libc");
    lines.into_iter().map(|line| at(source, line, "libc outside of net-core/src/sys")).collect()
}

/// Files below `src` which no `mod` leads to from `lib.rs` or a program in `bin`.
pub(crate) fn unreachable(krate: &str, sources: &[Source]) -> Vec<String> {
    let src = format!("{krate}/src/");
    let find = |path: &str| sources.iter().find(|source| source.path == path);
    let mut reached = HashSet::new();
    let mut to_do: Vec<String> = sources
        .iter()
        .map(|source| source.path.clone())
        .filter(|path| *path == format!("{src}lib.rs") || path.starts_with(&format!("{src}bin/")))
        .collect();
    while let Some(path) = to_do.pop() {
        let Some(source) = find(&path).filter(|_| reached.insert(path.clone())) else { continue };
        let folder = match path.strip_suffix("/lib.rs").or_else(|| path.strip_suffix("/mod.rs")) {
            Some(folder) => folder.to_owned(),
            None => path.trim_end_matches(".rs").to_owned(),
        };
        for name in submodules(&source.code) {
            to_do.push(format!("{folder}/{name}.rs"));
            to_do.push(format!("{folder}/{name}/mod.rs"));
        }
    }
    let lost = sources.iter().filter(|s| s.path.starts_with(&src) && !reached.contains(&s.path));
    lost.map(|source| at(source, 1, "no `mod` leads to this file")).collect()
}

/// Names in back quotes that can only be those of tests, having three `_` or more, and are nowhere
/// in the code.
pub(crate) fn tests_unknown(path: &str, page: &str, sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for (n, line) in page.lines().enumerate() {
        for word in line.split('`').skip(1).step_by(2) {
            let is_name = word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let is_test = is_name && word.matches('_').count() >= 3;
            let is_there = |source: &Source| !Source::lines_with(&source.code, word).is_empty();
            if is_test && !sources.iter().any(is_there) {
                found.push(format!("{path}:{}: there is no `{word}`", n + 1));
            }
        }
    }
    found
}

/// The names in `mod name;`.
fn submodules(code: &str) -> impl Iterator<Item = &str> {
    code.lines().filter_map(|line| {
        let (before, rest) = line.split_once("mod ")?;
        let is_item = before.trim().is_empty() || before.trim_start().starts_with("pub");
        rest.trim().strip_suffix(';').filter(|_| is_item)
    })
}

// --- each rule can find something ------------------------------------------------------------------

fn file(path: &str, text: &str) -> Source {
    Source::new(path, text)
}

#[test]
fn libc_outside_of_sys_is_found_and_in_tests_it_is_not() {
    let text =
        "// libc::A\nlet a = libc::EIO;\n#[cfg(test)]\nmod tests {\n let b = libc::EIO;\n}\n";
    let found = libc_outside_sys(&file("net-core/src/base/a.rs", text));
    assert_eq!(found, ["net-core/src/base/a.rs:2: libc outside of net-core/src/sys"]);
    for path in ["net-core/src/sys/a.rs", "net-core/src/base/tests.rs", "examples/src/a.rs"] {
        assert!(libc_outside_sys(&file(path, text)).is_empty(), "{path}");
    }
}

#[test]
fn unsafe_outside_of_sys_is_found_and_mentioned_it_is_not() {
    let text = "// unsafe\nlet unsafe_code = \"unsafe\";\nunsafe { x() }\n";
    assert_eq!(
        unsafe_outside_sys(&file("net-core/src/life.rs", text)),
        ["net-core/src/life.rs:3: unsafe outside of net-core/src/sys"]
    );
    assert_eq!(unsafe_outside_sys(&file("net-buffer/src/sys/a.rs", text)).len(), 1);
    assert!(unsafe_outside_sys(&file("net-core/src/sys/socket.rs", text)).is_empty());
}

#[test]
fn unsafe_without_a_reason_right_above_is_found() {
    let found = |text: &str| unsafe_without_reason(&file("a.rs", text)).len();
    assert_eq!(found("// SAFETY: so.\nlet a = unsafe { x() };\n"), 0);
    assert_eq!(found("// SAFETY: so.\n#[inline]\nunsafe impl Send for X {}\n"), 0);
    assert_eq!(found("/// X.\n/// # Safety\n/// So.\npub unsafe fn x() {}\n"), 0);
    assert_eq!(found("// SAFETY: so.\nlet (a, b) =\n    unsafe { x() };\n"), 0);
    assert_eq!(found("// SAFETY: so.\nfoo(\n    unsafe { x() })\n"), 0);
    assert_eq!(found("let a = unsafe { x() };\n"), 1);
    assert_eq!(found("unsafe impl Send for X {}\n"), 1);
    assert_eq!(found("/// X.\npub unsafe fn x() {}\n"), 1);
    assert_eq!(found("// Because.\nlet a = unsafe { x() };\n"), 1);
    assert_eq!(found("// SAFETY: so.\nlet a = 1;\nlet b = unsafe { x() };\n"), 1);
    assert_eq!(found("// SAFETY: so.\n\nlet b = unsafe { x() };\n"), 1);
    assert_eq!(found("// SAFETY: so.\na(unsafe { x() });\na(unsafe { y() });\n"), 1);
    assert_eq!(found("let what = \"// SAFETY: so.\";\nunsafe { x() }\n"), 1);
}

#[test]
fn what_is_left_for_later_is_found() {
    let found = |text: &str| left_for_later(&file("a.rs", text)).len();
    assert_eq!(found("fn a() { todo!() }\n"), 1);
    assert_eq!(found("fn a() { unimplemented!(\"b\") }\n"), 1);
    assert_eq!(found("let b = dbg!(a);\n"), 1);
    assert_eq!(found("// FIXME: later\n"), 1);
    assert_eq!(found("/* XXX */\n"), 1);
    assert_eq!(found("let todo = \"todo!() FIXME\"; // nothing to do\n"), 0);
}

#[test]
fn tabs_and_wide_lines_are_found() {
    assert_eq!(wide_or_tabbed(&file("a.rs", "a\tb\n")).len(), 1);
    assert_eq!(wide_or_tabbed(&file("a.rs", &"─".repeat(COLUMNS_MAX))).len(), 0);
    assert_eq!(wide_or_tabbed(&file("a.rs", &"─".repeat(COLUMNS_MAX + 1))).len(), 1);
}

#[test]
fn a_file_that_does_not_say_what_it_is_is_found() {
    assert!(without_a_head(&file("a.rs", "//! A.\nuse b;\n")).is_empty());
    for text in ["", "use b;\n", "// A.\n", "//!\n//! A.\n", "\n//! A.\n"] {
        assert_eq!(without_a_head(&file("a.rs", text)).len(), 1, "{text:?}");
    }
}

#[test]
fn a_test_that_is_only_on_the_page_is_found() {
    let sources = [file("a.rs", "fn a_b_c_d() {}\n// e_f_g_h\n")];
    let page = "`a_b_c_d`, `e_f_g_h`, i_j_k_l, `m`\n`a_b_c` and `a.b_c_d_e`";
    let found = tests_unknown("x.md", page, &sources);
    assert_eq!(found, ["x.md:1: there is no `e_f_g_h`"]);
}

#[test]
fn a_file_that_nobody_names_is_found() {
    let sources = [
        file("a/src/lib.rs", "mod b;\npub mod c;\n// mod d;\nmod e {\n}\n"),
        file("a/src/b.rs", "#[cfg(test)]\nmod tests;\n"),
        file("a/src/b/tests.rs", ""),
        file("a/src/c/mod.rs", "mod f;\n"),
        file("a/src/c/f.rs", ""),
        file("a/src/bin/program.rs", ""),
        file("a/src/d.rs", ""),
        file("a/src/f.rs", ""),
        file("a/tests/g.rs", ""),
    ];
    let lost = unreachable("a", &sources);
    assert_eq!(lost.len(), 2, "{lost:?}");
    assert!(lost[0].starts_with("a/src/d.rs") && lost[1].starts_with("a/src/f.rs"));
}
