//! Imports between the rooms of `core/src` run downward only.
//!
//! Owns the table of rooms. Never looks at test code, which may use any room. Correct because the table is
//! ordered from the ground up and a room may name only rooms above its own row, so that no circle can be
//! written down.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Every room of `core/src`, from the ground up, with the rooms that it imports. A row names only rooms of
/// earlier rows. `consensus` stands for what the module re-exports; its own rooms are named `consensus/ROOM`.
const ROOMS: &[(&str, &[&str])] = &[
    ("mutation", &[]),
    ("random", &[]),
    ("log_throttle", &[]),
    ("logged", &[]),
    ("properties", &[]),
    ("path", &[]),
    ("beats", &[]),
    ("freshness", &[]),
    ("stats", &[]),
    ("command", &[]),
    ("acl", &["command"]),
    ("commit", &["acl"]),
    ("submit", &["command", "commit"]),
    ("members", &["properties"]),
    ("session", &[]),
    ("tree", &["acl"]),
    ("client_stat", &["tree"]),
    ("ring", &["commit", "tree"]),
    ("watch", &["commit"]),
    (
        "machine",
        &["acl", "client_stat", "command", "commit", "members", "mutation", "path", "session", "tree"],
    ),
    ("checkpoint", &["acl", "command", "machine", "tree"]),
    ("peers", &["command", "log_throttle", "members", "random"]),
    ("admin", &["stats"]),
    ("config", &["admin", "members", "properties"]),
    ("status", &["admin"]),
    ("consensus/config", &["beats", "config", "members", "ring"]),
    ("consensus/control", &["machine"]),
    ("consensus/raft", &["config", "log_throttle", "members", "mutation", "peers", "random"]),
    ("consensus/durable", &["mutation", "consensus/config", "consensus/raft"]),
    (
        "consensus/commands",
        &["command", "commit", "machine", "mutation", "submit", "consensus/config", "consensus/control"],
    ),
    ("consensus/reads", &["commit", "mutation", "consensus/config"]),
    ("consensus/session_expiry", &["commit", "machine", "mutation", "session", "consensus/config"]),
    (
        "consensus/apply",
        &[
            "checkpoint",
            "command",
            "commit",
            "machine",
            "mutation",
            "ring",
            "tree",
            "consensus/commands",
            "consensus/config",
            "consensus/control",
            "consensus/durable",
            "consensus/raft",
        ],
    ),
    ("consensus/membership", &["command", "machine", "members", "peers", "consensus/raft"]),
    ("consensus/catch_up", &["log_throttle", "peers", "consensus/raft"]),
    ("consensus/peer_links", &["members", "peers", "consensus/config"]),
    (
        "consensus/engine",
        &[
            "beats",
            "command",
            "commit",
            "freshness",
            "machine",
            "mutation",
            "peers",
            "session",
            "stats",
            "submit",
            "consensus/apply",
            "consensus/catch_up",
            "consensus/commands",
            "consensus/config",
            "consensus/control",
            "consensus/durable",
            "consensus/membership",
            "consensus/peer_links",
            "consensus/raft",
            "consensus/reads",
            "consensus/session_expiry",
        ],
    ),
    (
        "consensus/recovery",
        &[
            "beats",
            "checkpoint",
            "command",
            "freshness",
            "machine",
            "members",
            "peers",
            "ring",
            "session",
            "stats",
            "submit",
            "tree",
            "consensus/apply",
            "consensus/catch_up",
            "consensus/commands",
            "consensus/config",
            "consensus/control",
            "consensus/durable",
            "consensus/engine",
            "consensus/membership",
            "consensus/peer_links",
            "consensus/raft",
            "consensus/reads",
            "consensus/session_expiry",
        ],
    ),
    ("consensus", &[]),
    (
        "shard",
        &[
            "acl",
            "admin",
            "beats",
            "client_stat",
            "command",
            "commit",
            "freshness",
            "mutation",
            "ring",
            "session",
            "stats",
            "submit",
            "tree",
            "watch",
        ],
    ),
    ("server", &["admin", "command", "config", "members", "shard", "stats", "consensus", "consensus/config"]),
    ("cluster", &["config", "members", "server", "status"]),
    ("cli", &["cluster", "config", "server", "status"]),
];

/// Rooms that are in no release: any of their files may import any room, and no other room may import them.
const OUTSIDE: &[&str] = &["sim", "bin"];

/// Names in lower case that `consensus` re-exports from its rooms.
const RE_EXPORTS: &[&str] = &["force_new_ensemble", "change_command"];

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(&root).unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    assert!(found.len() > 100, "only {} files found", found.len());
    found
}

/// The module path of a file: `a/b.rs` is `[a, b]`, `a/mod.rs` is `[a]`.
fn module(file: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        file.with_extension("").iter().map(|p| p.to_str().unwrap().to_owned()).collect();
    parts.pop_if(|last| last == "mod" || last == "lib");
    parts
}

fn is_test(file: &Path) -> bool {
    file.iter().any(|part| part == "tests" || part == "tests.rs")
}

/// The room of a module path; `None`: the crate's root.
fn room(module: &[String]) -> Option<String> {
    match module {
        [] => None,
        [first, second, ..] if first == "consensus" => Some(format!("consensus/{second}")),
        [first, ..] => Some(first.clone()),
    }
}

/// Code of a file without comments and without the tests at its end.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Path segments behind a `crate::` or `super::…::` at the start of `text`.
fn segments(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let path: &str = &text[..text.find(|c| !is_part(c)).unwrap_or(text.len())];
    path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// The rooms that a file's code names.
fn imports(file: &Path, text: &str) -> BTreeSet<String> {
    let own = module(file);
    let code = code(text);
    let mut found = BTreeSet::new();
    for (at, word) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        let before = code[..at].chars().next_back();
        let is_inside = before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$');
        // `pub(in crate::ROOM)` imports nothing.
        if is_inside || code[..at].ends_with("(in ") {
            continue;
        }
        let mut path = segments(&code[at..]);
        let mut base = if word == "crate::" { Vec::new() } else { own.clone() };
        path.retain(|part| part != "crate");
        while path.first().is_some_and(|part| part == "super") {
            path.remove(0);
            base.pop();
        }
        assert!(word == "super::" || !path.is_empty(), "{}: a `use` names one room", file.display());
        base.extend(path);
        let re_export = |name: &String| {
            name.chars().next().is_some_and(char::is_uppercase) || RE_EXPORTS.contains(&name.as_str())
        };
        let facade =
            base.first().is_some_and(|room| room == "consensus") && base.get(1).is_none_or(re_export);
        found.extend(if facade { Some("consensus".to_owned()) } else { room(&base) });
    }
    found
}

/// Violations among the imports of a file in the room `from`.
fn violations(from: &str, imports: &BTreeSet<String>) -> Vec<String> {
    let rows: BTreeMap<&str, (usize, &[&str])> =
        ROOMS.iter().enumerate().map(|(row, (room, allowed))| (*room, (row, *allowed))).collect();
    let Some((own_row, allowed)) = rows.get(from).copied() else {
        return vec![format!("the room `{from}` has no row in the table of core/tests/layers.rs")];
    };
    let wrong = |to: &String| {
        if to == from || allowed.contains(&to.as_str()) {
            return None;
        }
        Some(match rows.get(to.as_str()) {
            Some((row, _)) if *row > own_row => format!("`{from}` imports `{to}`, which lies above it"),
            _ => format!("`{from}` imports `{to}`, which its row in core/tests/layers.rs does not name"),
        })
    };
    imports.iter().filter_map(wrong).collect()
}

#[test]
fn imports_run_downward_only() {
    let mut all = Vec::new();
    for (file, text) in sources() {
        let Some(from) = room(&module(&file)) else { continue };
        if is_test(&file) || OUTSIDE.contains(&from.as_str()) {
            continue;
        }
        all.extend(
            violations(&from, &imports(&file, &text))
                .iter()
                .map(|what| format!("{}: {what}", file.display())),
        );
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn the_table_names_every_room_and_only_rooms_of_earlier_rows() {
    let rooms: BTreeSet<String> = (sources().iter())
        .filter(|(file, _)| !is_test(file))
        .filter_map(|(file, _)| room(&module(file)))
        .filter(|room| !OUTSIDE.contains(&room.as_str()))
        .collect();
    for (row, (room, allowed)) in ROOMS.iter().enumerate() {
        assert!(rooms.contains(*room), "`{room}` is no room of core/src");
        for name in *allowed {
            let above = ROOMS[..row].iter().any(|(earlier, _)| earlier == name);
            assert!(above, "`{room}` names `{name}`, which has no earlier row");
        }
    }
    let listed: BTreeSet<String> = ROOMS.iter().map(|(room, _)| (*room).to_owned()).collect();
    let missing: Vec<&String> = rooms.difference(&listed).collect();
    assert!(missing.is_empty(), "rooms without a row: {missing:?}");
}

#[test]
fn an_upward_import_is_refused_by_name() {
    let upward = imports(Path::new("tree/writer.rs"), "use crate::machine::Machine;\nuse super::Reader;\n");
    assert_eq!(violations("tree", &upward), ["`tree` imports `machine`, which lies above it"]);
    let inside = imports(Path::new("consensus/raft/node.rs"), "use super::super::engine::Consensus;\n");
    assert_eq!(
        violations("consensus/raft", &inside),
        ["`consensus/raft` imports `consensus/engine`, which lies above it"]
    );
    let sim = imports(Path::new("machine/mod.rs"), "fn f() { crate::sim::run::seed(1, None, None); }\n");
    assert_eq!(
        violations("machine", &sim),
        ["`machine` imports `sim`, which its row in core/tests/layers.rs does not name"]
    );
}

#[test]
fn comments_and_tests_import_nothing() {
    let text = "/// See [`crate::server`].\nfn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::server::Server;\n}\n";
    assert!(imports(Path::new("tree/mod.rs"), text).is_empty());
}
