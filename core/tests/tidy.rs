//! Rules that a compiler does not know: where `unsafe` may stand, how a file begins, how long it is, and how
//! comments read.
//!
//! `core/tests/layers.rs` has the table of rooms and their imports.

use std::path::{Path, PathBuf};

const CRATES: [&str; 5] = ["core", "transport", "storage", "bench", "loadgen"];
/// Lines beyond which a file has a second concept in it (tests excepted).
const LINES_MAX: usize = 600;
/// Columns at which comments end, as code does.
const COMMENT_COLUMNS_MAX: usize = 110;
/// Words with which no doc comment begins: each is read alone, so it names its subject.
const OPENINGS: [&str; 12] = [
    "It",
    "Its",
    "They",
    "Their",
    "He",
    "His",
    "Who",
    "Whose",
    "Whoever",
    "What it",
    "Whether it",
    "The same",
];
/// Words that have a standard one in the field, with that word.
const HOUSE_WORDS: [(&str, &str); 8] = [
    ("footing", "serving mode"),
    ("steward", "membership planner"),
    ("upkeep", "housekeeping"),
    ("whoever", "the node, client or peer that is meant"),
    ("heir", "transferee"),
    ("crew", "workers"),
    ("anew", "again"),
    ("refounded", "forced"),
];

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

/// Comment lines of a text: (line number from 1, line, text behind the slashes).
fn comments(text: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    text.lines().enumerate().filter_map(|(at, line)| {
        let behind = line.trim_start().strip_prefix("//")?;
        Some((at + 1, line, behind.trim_start_matches(['/', '!']).trim()))
    })
}

fn wide_comments(text: &str) -> Vec<usize> {
    let is_wide = |line: &str| line.chars().count() > COMMENT_COLUMNS_MAX;
    comments(text).filter(|(_, line, _)| is_wide(line)).map(|(at, ..)| at).collect()
}

fn leaning_docs(text: &str) -> Vec<usize> {
    let mut before = "";
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let doc = line.trim_start().strip_prefix("/// ").unwrap_or_default();
        let begins = !before.trim_start().starts_with("///");
        let leans = |word: &&str| doc.strip_prefix(*word).is_some_and(|rest| rest.starts_with([' ', ',']));
        if begins && OPENINGS.iter().any(leans) {
            found.push(at + 1);
        }
        before = line;
    }
    found
}

fn house_words(text: &str) -> Vec<(usize, &'static str)> {
    let is_in = |comment: &str, word: &str| {
        comment.split(|c: char| !c.is_alphanumeric()).any(|found| found.eq_ignore_ascii_case(word))
    };
    let of = |(at, _, comment)| {
        HOUSE_WORDS.iter().filter(move |(word, _)| is_in(comment, word)).map(move |(word, _)| (at, *word))
    };
    comments(text).flat_map(of).collect()
}

/// Constants that bound something and have no comment above them.
fn silent_bounds(text: &str) -> Vec<&str> {
    let mut before = "";
    let mut found = Vec::new();
    for line in text.lines() {
        let item = line.trim_start();
        let name =
            item.split_once("const ").map(|(_, rest)| rest.split(':').next().unwrap_or_default().trim());
        let starts = ["const ", "pub const ", "pub(crate) const ", "pub(super) const ", "pub(in "];
        if let Some(name) = name.filter(|name| name.ends_with("_MAX") && name.len() > 4)
            && starts.iter().any(|start| item.starts_with(start))
            && !before.trim_start().starts_with("//")
            && !before.trim_start().starts_with("#[")
        {
            found.push(name);
        }
        before = line;
    }
    found
}

/// Each place in the workspace where `rule` finds something.
fn places<T: std::fmt::Debug>(rule: impl Fn(&str) -> Vec<T>) -> Vec<String> {
    let found = sources();
    let of = |(name, text): &(String, String)| {
        rule(text).iter().map(|what| format!("{name}: {what:?}")).collect::<Vec<_>>()
    };
    found.iter().filter(|(name, _)| name != "core/tests/tidy.rs").flat_map(of).collect()
}

#[test]
fn comments_end_where_code_does() {
    assert_eq!(wide_comments(&format!("/// {}\nlet a = 1;\n", "a".repeat(COMMENT_COLUMNS_MAX))), [1]);
    let found = places(wide_comments);
    assert!(found.is_empty(), "comments over {COMMENT_COLUMNS_MAX} columns:\n{}", found.join("\n"));
}

#[test]
fn a_doc_comment_names_its_subject() {
    assert_eq!(leaning_docs("/// Its index.\nindex: u64,\n/// Index of\n/// It all.\n"), [1]);
    let found = places(leaning_docs);
    assert!(found.is_empty(), "doc comments that begin with a pronoun:\n{}", found.join("\n"));
}

#[test]
fn comments_use_the_words_of_the_field() {
    assert_eq!(house_words("// The steward, anew.\nlet steward = 1;\n"), [(1, "steward"), (1, "anew")]);
    let found = places(house_words);
    assert!(found.is_empty(), "words that have a standard one ({HOUSE_WORDS:?}):\n{}", found.join("\n"));
}

#[test]
fn every_bound_is_documented() {
    let text = "/// Bytes of a name.\nconst NAME_MAX: usize = 9;\n\npub const SIZE_MAX: usize = 1;\n";
    assert_eq!(silent_bounds(text), ["SIZE_MAX"]);
    let found = places(|text| silent_bounds(text).into_iter().map(str::to_owned).collect());
    assert!(found.is_empty(), "bounds without a reason:\n{}", found.join("\n"));
}
