//! Rules of this repository that the compiler does not check: where `unsafe` may stand, how a file begins,
//! and how long it may be.

use std::path::{Path, PathBuf};

const CRATES: [&str; 5] = ["core", "transport", "storage", "bench", "loadgen"];
/// A longer file holds a second concept (tests excepted).
const LINES_MAX: usize = 700;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every source file of the workspace: (path from the root, text).
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = CRATES.iter().map(|c| root().join(c)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                if path.file_name().is_some_and(|n| n != "target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.push((name, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    found.sort();
    assert!(found.len() > 100, "the search lost its way: {} files", found.len());
    found
}

fn is_test(name: &str) -> bool {
    name.contains("/tests") || name.ends_with("tests.rs")
}

/// Lines of code, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|l| l.split("//").next().unwrap_or_default())
}

#[test]
fn unsafe_stands_only_where_the_architecture_page_says() {
    let page = std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let list = page.split("## Where `unsafe` lives").nth(1).expect("the page lost its list");
    for (name, text) in sources().iter().filter(|(name, _)| !is_test(name)) {
        let used = code(text).any(|l| ["unsafe {", "unsafe impl", "unsafe fn"].iter().any(|u| l.contains(u)));
        let file = name.rsplit('/').next().unwrap();
        let listed = list.contains(name.as_str())
            || list.contains(&format!("`{file}`")) && list.contains(name.trim_end_matches(file));
        assert!(!used || listed, "{name} uses unsafe and is not in docs/ARCHITECTURE.md");
    }
}

#[test]
fn every_file_says_first_what_it_is() {
    for (name, text) in sources() {
        assert!(
            text.starts_with("//!") || text.starts_with("#!["),
            "{name} does not begin with its module doc"
        );
    }
}

#[test]
fn no_file_grows_a_second_concept() {
    for (name, text) in sources().iter().filter(|(name, _)| !is_test(name)) {
        assert!(text.lines().count() <= LINES_MAX, "{name} has {} lines", text.lines().count());
    }
}
