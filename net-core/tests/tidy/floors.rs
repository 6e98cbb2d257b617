//! The floors of `docs/ARCHITECTURE.md`: who may import from whom.

use crate::source::{Source, is_word};
use std::collections::{BTreeMap, BTreeSet};

/// A crate's modules from the top down. Of two modules, the one with the smaller rank is higher,
/// and may import from the other; equal ones stand side by side and do not know each other.
#[derive(Debug)]
pub(crate) struct Floors {
    krate: String,
    places: BTreeMap<String, Place>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    rank: usize,
    /// Modules with the same number are one thing in several files, and know each other.
    thing: usize,
}

impl Floors {
    /// Reads the rows of the page's table that are of this crate. In a row, `>` goes one step
    /// down, `,` stands between modules that do not know each other, and `+` joins several into
    /// one thing.
    pub(crate) fn read(page: &str, krate: &str) -> Result<Self, String> {
        let mut places = BTreeMap::new();
        let (mut rank, mut thing) = (0, 0);
        for row in rows(page, krate) {
            for step in row.split('>') {
                for joined in step.split(',') {
                    for name in joined.split('+').map(str::trim) {
                        let is_name = !name.is_empty()
                            && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
                        if !is_name {
                            return Err(format!("`{name}` in the table is no module"));
                        }
                        if places.insert(name.to_owned(), Place { rank, thing }).is_some() {
                            return Err(format!("`{name}` is in the table twice"));
                        }
                    }
                    thing += 1;
                }
                rank += 1;
            }
        }
        if places.is_empty() {
            return Err("no row of the table is about it".into());
        }
        Ok(Self { krate: krate.to_owned(), places })
    }

    pub(crate) fn check(&self, sources: &[Source]) -> Vec<String> {
        let mut found = Vec::new();
        let mut there = BTreeSet::new();
        for source in sources {
            let Some(module) = self.module_path(&source.path) else { continue };
            there.insert(module[0].clone());
            let Some(own) = self.places.get(&module[0]) else {
                found.push(format!("{}: on no floor", source.path));
                continue;
            };
            for (line, import) in imports(&source.shipped_code(), module.len()) {
                let wrong = match self.places.get(&import) {
                    _ if import == module[0] => continue,
                    None => "is no module: name the module that has it",
                    Some(place) if place.thing == own.thing || place.rank > own.rank => continue,
                    Some(place) if place.rank == own.rank => "is on the same floor",
                    Some(_) => "is on a higher floor",
                };
                found.push(format!("{}:{line}: `{import}` {wrong}", source.path));
            }
        }
        for name in self.places.keys().filter(|name| !there.contains(*name)) {
            found
                .push(format!("{}: `{name}` is on a floor, but there is no such file", self.krate));
        }
        found
    }

    /// `net-core/src/driver/epoll.rs` is `[driver, epoll]`. `None`: not of the crate's source, its
    /// root, or a test, which may look everywhere.
    fn module_path(&self, path: &str) -> Option<Vec<String>> {
        let inside = path.strip_prefix(&self.krate)?.strip_prefix("/src/")?.strip_suffix(".rs")?;
        let mut module: Vec<String> = inside.split('/').map(str::to_owned).collect();
        let is_test = module.iter().skip(1).any(|name| name == "tests");
        if inside == "lib" || module[0] == "bin" || is_test {
            return None;
        }
        if module.last().is_some_and(|name| name == "mod") {
            module.pop();
        }
        Some(module)
    }
}

/// The second column of the rows that belong to the crate: for `net-core` the floors F9 to F0,
/// for another crate the row with its name.
fn rows<'a>(page: &'a str, krate: &str) -> Vec<String> {
    let mut in_table = false;
    let mut rows = Vec::new();
    for line in page.lines() {
        let mut cells = line.trim().trim_matches('|').split('|').map(str::trim);
        let (first, second): (&'a str, &'a str) =
            (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        in_table = line.starts_with('|') && (in_table || first == "floor");
        let is_floor = first.strip_prefix('F').is_some_and(|n| n.parse::<u8>().is_ok());
        let is_of_crate = if is_floor { krate == "net-core" } else { first == krate };
        if in_table && is_of_crate {
            rows.push(second.replace('`', ""));
        }
    }
    rows
}

/// The crate's modules that the code names, by `crate::` or by enough `super::`, with the lines.
fn imports(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (n, line) in code.lines().enumerate() {
        for (at, word) in line.match_indices("crate::") {
            if is_word(line, at, "crate".len()) {
                found.push((n + 1, first_name(&line[at + word.len()..])));
            }
        }
        let up = "super::".repeat(depth);
        for (at, _) in line.match_indices(&up) {
            let rest = &line[at + up.len()..];
            let is_longer = line[..at].ends_with("super::");
            if is_word(line, at, "super".len()) && !is_longer {
                found.push((n + 1, first_name(rest)));
            }
        }
    }
    found
}

fn first_name(path: &str) -> String {
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
    if end == 0 { path.chars().take(1).collect() } else { path[..end].to_owned() }
}

// --- the rule can find something ---------------------------------------------------------------------

#[cfg(test)]
const PAGE: &str = "
| floor | files | what |
|-------|-------|------|
| F2 | `top` > `left`, `right` | |
| F1 | `handler` + `conn` | |
| F0 | `sys` | |
| other | `a` > `b` | |
";

#[cfg(test)]
fn check(path: &str, text: &str) -> Vec<String> {
    let floors = Floors::read(PAGE, "net-core").unwrap();
    let mut sources: Vec<_> = ["top", "left", "right", "handler", "conn", "sys"]
        .map(|name| Source::new(&format!("net-core/src/{name}.rs"), ""))
        .into();
    sources.push(Source::new(&format!("net-core/src/{path}"), text));
    floors.check(&sources)
}

#[test]
fn imports_from_below_and_within_one_thing_are_fine() {
    assert_eq!(check("top.rs", "use crate::left::A;\nuse crate::sys::{B, C};\n"), [""; 0]);
    assert_eq!(check("handler.rs", "use crate::conn::A;\n"), [""; 0]);
    assert_eq!(check("conn.rs", "use crate::handler::A;\nuse crate::conn::B;\n"), [""; 0]);
    assert_eq!(check("sys/socket.rs", "use super::Errno;\nuse crate::sys::A;\n"), [""; 0]);
    assert_eq!(check("sys.rs", "// use crate::top::A;\nlet a = \"crate::top\";\n"), [""; 0]);
    assert_eq!(check("sys/tests.rs", "use crate::top::A;\n"), [""; 0]);
    assert_eq!(check("sys.rs", "#[cfg(test)]\nmod tests {\n use crate::top::A;\n}\n"), [""; 0]);
    assert_eq!(check("lib.rs", "pub use crate::top::A;\n"), [""; 0]);
}

#[test]
fn imports_from_above_are_found_however_they_are_written() {
    let texts = [
        "use crate::top::A;\n",
        "fn a() -> crate::top::A {}\n",
        "use super::top::A;\n",
        "pub(crate) use crate::top::A as B;\n",
    ];
    for text in texts {
        assert_eq!(check("sys.rs", text), ["net-core/src/sys.rs:1: `top` is on a higher floor"]);
    }
    let found = check("sys/socket.rs", "use super::super::conn::A;\n");
    assert_eq!(found, ["net-core/src/sys/socket.rs:1: `conn` is on a higher floor"]);
}

#[test]
fn imports_from_the_same_floor_are_found() {
    let found = check("left.rs", "use crate::right::A;\n");
    assert_eq!(found, ["net-core/src/left.rs:1: `right` is on the same floor"]);
    assert_eq!(check("left.rs", "use crate::top::A;\n").len(), 1, "`>` goes one way only");
}

#[test]
fn detours_by_way_of_the_root_are_found() {
    assert_eq!(check("top.rs", "use crate::Server;\n").len(), 1);
    assert_eq!(check("top.rs", "use crate::{left, right};\n").len(), 1);
}

#[test]
fn a_table_that_does_not_match_the_files_is_found() {
    assert_eq!(check("new.rs", ""), ["net-core/src/new.rs: on no floor"]);
    let floors = Floors::read(PAGE, "other").unwrap();
    let found = floors.check(&[Source::new("other/src/a.rs", "")]);
    assert_eq!(found, ["other: `b` is on a floor, but there is no such file"]);
    assert!(Floors::read("| F1 | a |\n", "net-core").is_err(), "not in the table of floors");
    assert!(Floors::read(&PAGE.replace("sys", "top"), "net-core").is_err(), "twice");
}
