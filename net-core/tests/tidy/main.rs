//! Tidiness as a test: what the pages promise of the sources, looked up in the sources.
//!
//! Each rule is a function from a source to what it finds there, and each is shown below to find
//! something. The floors are the order of the modules in each crate's `lib.rs`.

mod defaults;
mod floors;
mod rules;
mod source;

use floors::Floors;
use source::Source;
use std::fs;
use std::path::{Path, PathBuf};

/// The crates that a user depends on, and those that are only here.
const LIBRARIES: [&str; 3] = ["net-core", "net-buffer", "net-timer"];
const OTHERS: [&str; 2] = ["examples", "benches"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Every source of the crate, by its path from the workspace's root.
fn sources_of(krate: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![root().join(krate)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder can be read") {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("the source can be read");
                let inside = path.strip_prefix(root()).expect("it is below the root");
                sources.push(Source::new(&inside.to_string_lossy(), &text));
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!sources.is_empty(), "no sources in {krate}");
    sources
}

fn libraries() -> Vec<Source> {
    LIBRARIES.iter().flat_map(|krate| sources_of(krate)).collect()
}

fn everything() -> Vec<Source> {
    LIBRARIES.iter().chain(&OTHERS).flat_map(|krate| sources_of(krate)).collect()
}

fn nothing_found(found: Vec<String>) {
    assert!(found.is_empty(), "{} found:\n  {}", found.len(), found.join("\n  "));
}

#[test]
fn files_import_only_from_floors_below() {
    let mut found = Vec::new();
    for krate in LIBRARIES {
        let sources = sources_of(krate);
        found.extend(Floors::read(krate, &sources).check(&sources));
    }
    nothing_found(found);
}

#[test]
fn unsafe_code_stays_in_sys() {
    nothing_found(libraries().iter().flat_map(rules::unsafe_outside_sys).collect());
}

#[test]
fn libc_stays_in_sys() {
    nothing_found(libraries().iter().flat_map(rules::libc_outside_sys).collect());
}

#[test]
fn every_unsafe_says_why_it_is_sound() {
    nothing_found(everything().iter().flat_map(rules::unsafe_without_reason).collect());
}

#[test]
fn nothing_is_left_for_later_in_the_text() {
    nothing_found(everything().iter().flat_map(rules::left_for_later).collect());
}

#[test]
fn lines_fit_and_have_no_tabs() {
    // Programs have tables and help texts whose lines rustfmt leaves alone.
    nothing_found(libraries().iter().flat_map(rules::wide_or_tabbed).collect());
}

#[test]
fn every_file_begins_by_saying_what_it_is() {
    nothing_found(everything().iter().flat_map(rules::without_a_head).collect());
}

#[test]
fn pages_name_tests_that_exist() {
    let sources = everything();
    for page in ["ARCHITECTURE", "FEATURES", "LIFE", "RELIABILITY"] {
        let path = format!("docs/{page}.md");
        let text = fs::read_to_string(root().join(&path)).expect("the page is there");
        nothing_found(rules::tests_unknown(&path, &text, &sources));
    }
}

#[test]
fn every_limit_shows_its_default() {
    let limits =
        sources_of("net-core").into_iter().filter(|s| s.path.ends_with("config/limits.rs"));
    let found: Vec<_> = limits.map(|source| defaults::not_shown(&source)).collect();
    assert_eq!(found.len(), 1, "there is one file of limits");
    nothing_found(found.concat());
}

#[test]
fn every_file_is_part_of_its_crate() {
    for krate in LIBRARIES {
        nothing_found(rules::unreachable(krate, &sources_of(krate)));
    }
}
