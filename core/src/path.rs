//! Paths: validation, reserved nodes, and the parent of a path.
//!
//! Owns the rules of spec 02 §1: the full validation of create, setData, setACL and check, and the reduced
//! one of delete.
//! Never looks at a tree.
//! Correct because ZooKeeper's rule over UTF-16 units maps to this one over Unicode scalar values. Below
//! U+10000 they are the same. Any character above is a pair of surrogates in ZooKeeper, hence illegal.
#![forbid(unsafe_code)]

/// The root, as clients write it. Reads also accept `""`, which is the parent of first-level paths in the
/// tree.
pub const ROOT: &str = "/";
/// Subtree of the server's own nodes.
pub const ZOOKEEPER: &str = "/zookeeper";
/// Parent of the quota nodes.
pub const QUOTA: &str = "/zookeeper/quota";
/// Node that holds the ensemble's configuration.
pub const CONFIG: &str = "/zookeeper/config";

/// A violation of spec 02 §1: error -8 for the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PathError {
    /// The path has length 0.
    #[error("the path is empty")]
    Empty,
    /// The first character is not `/`.
    #[error("the path does not start with '/'")]
    Relative,
    /// The last character is `/` and the path is not the root.
    #[error("the path ends with '/'")]
    TrailingSlash,
    /// Two slashes in a row.
    #[error("the path has an empty component")]
    EmptyComponent,
    /// A component is `.` or `..`.
    #[error("the path has a component '.' or '..'")]
    Dots,
    /// A character that no path may hold.
    #[error("the path holds U+{0:04X}")]
    Character(u32),
    /// One of the four nodes that cannot be deleted.
    #[error("the node is reserved")]
    Reserved,
}

/// Full validation. A create passes its final path, sequence number included.
pub fn validate(path: &str) -> Result<(), PathError> {
    let bytes = path.as_bytes();
    match bytes {
        [] => return Err(PathError::Empty),
        [b'/'] => return Ok(()),
        [b'/', .., b'/'] => return Err(PathError::TrailingSlash),
        [b'/', ..] => {}
        _ => return Err(PathError::Relative),
    }
    for component in path[1..].split('/') {
        match component {
            "" => return Err(PathError::EmptyComponent),
            "." | ".." => return Err(PathError::Dots),
            // Most components are printable ASCII and need no decoding.
            _ if component.bytes().all(|b| (0x20..0x7f).contains(&b)) => {}
            _ => {
                if let Some(c) = component.chars().find(|c| illegal(*c)) {
                    return Err(PathError::Character(c as u32));
                }
            }
        }
    }
    Ok(())
}

/// The checks of a create before the lookup of the parent. Full validation follows when the sequence number
/// is appended. Gives the parent's path (`""` for the root).
pub fn parent_for_create(path: &str) -> Result<&str, PathError> {
    if path.as_bytes().contains(&0) {
        return Err(PathError::Character(0));
    }
    path.rfind('/').map(|slash| &path[..slash]).ok_or(PathError::Relative)
}

/// The checks of delete and deleteContainer. Gives the parent's path (`""` for the root).
pub fn parent_for_delete(path: &str) -> Result<&str, PathError> {
    if is_reserved(path) {
        return Err(PathError::Reserved);
    }
    parent_for_create(path)
}

/// Whether the path is one of the nodes that always exist. The root's alias `""` is not among them, since no
/// write can name it.
pub fn is_reserved(path: &str) -> bool {
    matches!(path, ROOT | ZOOKEEPER | QUOTA | CONFIG)
}

/// Parent as the tree stores it: `""` for first-level paths, `None` for the root under either name.
pub fn parent(path: &str) -> Option<&str> {
    if path.len() <= 1 {
        return None;
    }
    path.rfind('/').map(|slash| &path[..slash])
}

/// Last component of a path.
pub fn name(path: &str) -> &str {
    path.rfind('/').map_or(path, |slash| &path[slash + 1..])
}

/// Suffix of a sequential create, from the parent's stored child counter. At least ten characters with the
/// sign, as Java's `%010d`.
pub fn sequence_suffix(stored_cversion: i32) -> String {
    format!("{stored_cversion:010}")
}

fn illegal(c: char) -> bool {
    matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_zookeeper_accepts() {
        for path in [
            "/",
            "/a",
            "/a/b",
            "/...",
            "/a.b",
            "/.a",
            "/..a",
            "/ ",
            "/a b",
            "/é",
            "/a/...",
            "/\u{200b}",
            "/\u{a0}",
            "/\u{d7ff}",
            "/\u{f900}",
            "/\u{ffef}",
            "/zookeeper",
            "/zookeeper/config",
            "/~",
            "/a\u{20}",
        ] {
            assert_eq!(validate(path), Ok(()), "{path:?}");
        }
    }

    #[test]
    fn paths_that_zookeeper_refuses() {
        use PathError::*;
        for (path, error) in [
            ("", Empty),
            ("a", Relative),
            ("a/", Relative),
            ("//", TrailingSlash),
            ("/a/", TrailingSlash),
            ("//a", EmptyComponent),
            ("/a//b", EmptyComponent),
            ("/.", Dots),
            ("/..", Dots),
            ("/a/.", Dots),
            ("/a/./b", Dots),
            ("/a/../b", Dots),
            ("/missing/../x", Dots),
            ("/a\0b", Character(0)),
            ("/a\u{1}", Character(1)),
            ("/a\u{1f}", Character(0x1f)),
            ("/a\u{7f}", Character(0x7f)),
            ("/a\u{9f}", Character(0x9f)),
            ("/\u{e000}", Character(0xe000)),
            ("/\u{f8ff}", Character(0xf8ff)),
            ("/\u{fff0}", Character(0xfff0)),
            ("/\u{fffd}", Character(0xfffd)),
            ("/\u{ffff}", Character(0xffff)),
            ("/\u{1f40e}", Character(0x1f40e)),
        ] {
            assert_eq!(validate(path), Err(error), "{path:?}");
        }
    }

    #[test]
    fn a_create_finds_its_parent_before_the_path_is_validated() {
        assert_eq!(parent_for_create("/a/"), Ok("/a"));
        assert_eq!(parent_for_create("/"), Ok(""));
        assert_eq!(parent_for_create("/x"), Ok(""));
        assert_eq!(parent_for_create("/missing/../x"), Ok("/missing/.."));
        assert_eq!(parent_for_create("x/y"), Ok("x"));
        assert_eq!(parent_for_create("x"), Err(PathError::Relative));
        assert_eq!(parent_for_create(""), Err(PathError::Relative));
        assert_eq!(parent_for_create("/a\0"), Err(PathError::Character(0)));
    }

    #[test]
    fn reserved_nodes_cannot_be_deleted_and_odd_paths_are_simply_not_found() {
        for path in ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"] {
            assert_eq!(parent_for_delete(path), Err(PathError::Reserved));
        }
        assert_eq!(parent_for_delete("/a//b"), Ok("/a/"));
        assert_eq!(parent_for_delete("/zookeeper/quota/a"), Ok("/zookeeper/quota"));
        assert!(parent_for_delete("").is_err());
        assert!(parent_for_delete("/a\0").is_err());
    }

    #[test]
    fn sequence_numbers_print_as_java_prints_them() {
        for (counter, text) in [
            (0, "0000000000"),
            (4, "0000000004"),
            (i32::MAX, "2147483647"),
            (i32::MIN, "-2147483648"),
            (-1, "-000000001"),
        ] {
            assert_eq!(sequence_suffix(counter), text);
        }
    }

    #[test]
    fn parents_and_names() {
        assert_eq!(parent("/"), None);
        assert_eq!(parent(""), None);
        assert_eq!(parent("/a"), Some(""));
        assert_eq!(parent("/a/b"), Some("/a"));
        assert_eq!(name("/a/b"), "b");
        assert_eq!(name("/a"), "a");
    }
}
