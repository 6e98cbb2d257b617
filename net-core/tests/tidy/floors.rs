//! The floors: the order of the modules in a crate's `lib.rs`, from the top down.
//!
//! A module uses only modules that stand below it in that list. Inside a folder, files may stand in
//! any order, but no circle of imports joins them; the head of a folder, its `mod.rs`, is one thing
//! with each of its files.

use crate::source::{Source, is_word};
use std::collections::{BTreeMap, BTreeSet};

/// Files that import each other, since each is a view of the others: a `Handler` is called with a
/// `Conn`, and a `Conn` has the type of its `Handler`'s session, and knows its loop.
const ONE_THING: &[(&str, &[&str])] =
    &[("api", &["conn", "handler", "loop_context", "loop_spawner"])];

/// A crate's modules, from the top down.
#[derive(Debug)]
pub(crate) struct Floors {
    krate: String,
    order: Vec<String>,
}

impl Floors {
    /// Reads the order from the crate's `lib.rs`, which is among `sources`.
    pub(crate) fn read(krate: &str, sources: &[Source]) -> Self {
        let path = format!("{krate}/src/lib.rs");
        let lib = sources.iter().find(|source| source.path == path).expect("the crate has a root");
        let names = lib.shipped_code();
        let names = names.lines().filter_map(|line| {
            let item = line.strip_prefix("pub ").unwrap_or(line);
            item.strip_prefix("mod ")?.trim_end().strip_suffix(';')
        });
        Self { krate: krate.to_owned(), order: names.map(str::to_owned).collect() }
    }

    pub(crate) fn check(&self, sources: &[Source]) -> Vec<String> {
        let mut found = Vec::new();
        let mut inside = BTreeMap::<String, BTreeSet<(String, String)>>::new();
        for source in sources {
            let Some(module) = self.module_path(&source.path) else { continue };
            let Some(own) = self.order.iter().position(|name| *name == module[0]) else {
                continue; // of tests only, or no part of the crate, which is another rule's to find
            };
            for (line, import) in imports(&source.shipped_code(), &module) {
                let Some(first) = import.first() else { continue };
                let wrong = match self.order.iter().position(|name| name == first) {
                    None => "is no module: name the module that has it",
                    Some(place) if place < own => "is on a higher floor",
                    Some(place) if place > own => continue,
                    Some(_) => {
                        if let (Some(from), Some(to)) = (module.get(1), import.get(1)) {
                            let files = inside.entry(first.clone()).or_default();
                            files.insert((from.clone(), to.clone()));
                        }
                        continue;
                    }
                };
                found.push(format!("{}:{line}: `{first}` {wrong}", source.path));
            }
        }
        for (folder, files) in &inside {
            let ends = circle(files);
            let is_one = |(of, names): &(&str, &[&str])| of == folder && ends == *names;
            if !ends.is_empty() && !ONE_THING.iter().any(is_one) {
                let names = ends.join("`, `");
                found.push(format!("{}/src/{folder}: `{names}` import each other", self.krate));
            }
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

/// The names on circles of these imports, sorted.
fn circle(imports: &BTreeSet<(String, String)>) -> Vec<String> {
    let mut reached = imports.clone();
    reached.retain(|(from, to)| from != to);
    loop {
        let further: Vec<_> = (reached.iter())
            .flat_map(|(a, b)| {
                let next = reached.iter().filter(move |(from, _)| from == b);
                next.map(move |(_, to)| (a.clone(), to.clone()))
            })
            .filter(|pair| !reached.contains(pair))
            .collect();
        if further.is_empty() {
            let on_circle = reached.into_iter().filter(|(from, to)| from == to);
            return on_circle.map(|(name, _)| name).collect();
        }
        reached.extend(further);
    }
}

/// What the code of `module` names by `crate::` or `super::`: the line, and the path from the root.
/// What a `super::` names inside the own file is left out.
fn imports(code: &str, module: &[String]) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for (n, line) in code.lines().enumerate() {
        for (at, word) in line.match_indices("crate::") {
            if is_word(line, at, "crate".len()) {
                found.push((n + 1, names(&line[at + word.len()..])));
            }
        }
        for (at, word) in line.match_indices("super::") {
            let is_first = is_word(line, at, "super".len()) && !line[..at].ends_with("super::");
            if !is_first {
                continue;
            }
            let mut rest = &line[at + word.len()..];
            let mut depth = 1;
            while let Some(further) = rest.strip_prefix("super::") {
                (rest, depth) = (further, depth + 1);
            }
            if let Some(kept) = module.len().checked_sub(depth) {
                let path: Vec<_> = module[..kept].iter().cloned().chain(names(rest)).collect();
                found.push((n + 1, path));
            }
        }
    }
    found
}

/// The names of a path up to its end, or to a group in braces.
fn names(path: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in path.split("::") {
        let end = part.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(part.len());
        // What is no name, as `{`, stands for itself: it names no module.
        let end = if end == 0 { part.chars().next().map_or(0, char::len_utf8) } else { end };
        found.push(part[..end].to_owned());
        if end < part.len() {
            break;
        }
    }
    found
}

// --- the rule can find something ---------------------------------------------------------------------

#[cfg(test)]
fn check(path: &str, text: &str) -> Vec<String> {
    let source = |path: &str, text| Source::new(&format!("net-core/src/{path}"), text);
    let lib = "mod top;\n\npub mod middle;\n\nmod sys;\n\n#[cfg(test)]\nmod helper;\n";
    let mut sources: Vec<_> = ["top/mod.rs", "middle/mod.rs", "sys/mod.rs", "helper.rs"]
        .map(|path| source(path, ""))
        .into();
    sources.push(source("lib.rs", lib));
    sources.push(source("middle/left.rs", "use super::right::A;\n"));
    sources.push(source(path, text));
    Floors::read("net-core", &sources).check(&sources)
}

#[test]
fn imports_from_below_and_within_a_folder_are_fine() {
    assert_eq!(check("top/a.rs", "use crate::middle::A;\nuse crate::sys::{B, C};\n"), [""; 0]);
    assert_eq!(check("middle/a.rs", "use super::left::A;\nuse crate::middle::B;\n"), [""; 0]);
    assert_eq!(check("sys/socket.rs", "use super::Errno;\nuse crate::sys::A;\n"), [""; 0]);
    assert_eq!(check("sys/a.rs", "// use crate::top::A;\nlet a = \"crate::top\";\n"), [""; 0]);
    assert_eq!(check("sys/tests.rs", "use crate::top::A;\n"), [""; 0]);
    assert_eq!(check("sys/a.rs", "#[cfg(test)]\nmod tests {\n use crate::top::A;\n}\n"), [""; 0]);
    assert_eq!(check("helper/a.rs", "use crate::top::A;\n"), [""; 0]);
}

#[test]
fn imports_from_above_are_found_however_they_are_written() {
    let texts = [
        "use crate::top::A;\n",
        "fn a() -> crate::top::A {}\n",
        "use super::super::top::A;\n",
        "pub(crate) use crate::top::A as B;\n",
    ];
    for text in texts {
        assert_eq!(
            check("sys/a.rs", text),
            ["net-core/src/sys/a.rs:1: `top` is on a higher floor"]
        );
    }
    assert_eq!(check("middle/mod.rs", "use super::top::A;\n").len(), 1);
    assert_eq!(check("sys/tests_of.rs", "use crate::middle::A;\n").len(), 1);
}

#[test]
fn detours_by_way_of_the_root_are_found() {
    assert_eq!(check("top/a.rs", "use crate::Server;\n").len(), 1);
    assert_eq!(check("top/a.rs", "use crate::{middle, sys};\n").len(), 1);
    assert_eq!(check("top/a.rs", "use crate::helper::A;\n").len(), 1, "it is for tests only");
}

#[test]
fn files_of_a_folder_that_import_each_other_are_found() {
    let found = ["net-core/src/middle: `left`, `right` import each other"];
    assert_eq!(check("middle/right.rs", "use super::left::A;\n"), found);
    assert_eq!(check("middle/right.rs", "use crate::middle::left::A;\n"), found);
    let longer = "use super::further::A;\n";
    assert_eq!(check("middle/right.rs", longer), [""; 0]);
    assert_eq!(check("middle/right/deep.rs", "use super::super::left::A;\n"), found);
}
