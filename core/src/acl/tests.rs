//! The matrix of permissions and ids, and which lists may be stored.

use super::*;

fn id(scheme: &str, id: &str) -> Identity {
    Identity { scheme: scheme.into(), id: id.into() }
}

fn list(entries: &[(i32, &str, &str)]) -> AclList {
    AclList { entries: entries.iter().map(|(perms, s, i)| AclEntry::new(*perms, id(s, i))).collect() }
}

fn fix(entries: &[(i32, &str, &str)], ids: &[Identity]) -> Result<AclList, FixupError> {
    fixup(
        entries.iter().map(|(perms, s, i)| Requested {
            perms: *perms,
            scheme: Some((*s).into()),
            id: Some((*i).into()),
        }),
        ids,
    )
}

#[test]
fn permissions_are_neither_hierarchical_nor_inherited() {
    for granted in [perms::READ, perms::WRITE, perms::CREATE, perms::DELETE, perms::ADMIN] {
        let list = list(&[(granted, "world", "anyone")]);
        for needed in [perms::READ, perms::WRITE, perms::CREATE, perms::DELETE, perms::ADMIN] {
            assert_eq!(allowed::<Identity>(&list, needed, &[], 0), granted == needed);
        }
        assert!(allowed::<Identity>(&list, perms::ALL, &[], 0), "any bit of the needed ones suffices");
    }
    assert!(!allowed::<Identity>(&list(&[(0, "world", "anyone")]), perms::ALL, &[], 0));
    assert!(!allowed::<Identity>(&list(&[(64, "world", "anyone")]), perms::ALL, &[], 0));
}

#[test]
fn who_is_let_in() {
    let bob = id("digest", &digest_id("bob:pw"));
    let eve = id("digest", &digest_id("eve:pw"));
    let here = id("ip", "10.0.0.7");
    let owned = list(&[(31, "digest", &bob.id), (1, "ip", "10.0.0.0/8")]);
    for (needed, ids, ok) in [
        (perms::WRITE, vec![here.clone(), bob.clone()], true),
        (perms::WRITE, vec![here.clone(), eve.clone()], false),
        (perms::WRITE, vec![here.clone(), eve.clone(), bob.clone()], true),
        (perms::READ, vec![here.clone()], true),
        (perms::READ, vec![id("ip", "11.0.0.7")], false),
        (perms::READ | perms::ADMIN, vec![here.clone()], true),
        (perms::ADMIN, vec![id("super", "")], true),
        (perms::ADMIN, vec![], false),
    ] {
        assert_eq!(allowed(&owned, needed, &ids, 0), ok, "{needed} {ids:?}");
        assert!(allowed(&owned, needed, &ids, policy::SKIP_ACL));
    }
    assert!(allowed::<Identity>(&AclList::default(), perms::ALL, &[], 0), "an empty list is open");
    assert!(!allowed(&list(&[(31, "world", "x")]), 1, &[here], 0), "the world is only anyone");
}

#[test]
fn lists_that_are_refused() {
    let ip_only = [id("ip", "127.0.0.1"), id("super", "")];
    for entries in [
        &[][..],
        &[(31, "foo", "bar")],
        &[(31, "world", "x")],
        &[(31, "auth", "")],
        &[(31, "super", "")],
        &[(31, "digest", "x")],
        &[(31, "ip", "300.1.1.1")],
        &[(31, "ip", "1.1.1.1/33")],
        &[(31, "world", "anyone"), (1, "sasl", "bob")],
        &[(31, "ensemble", "x")],
    ] {
        assert_eq!(fix(entries, &ip_only), Err(FixupError::Invalid), "{entries:?}");
    }
    assert_eq!(FixupError::Invalid.code(), -114);
}

#[test]
fn null_strings_in_a_list() {
    let one = |scheme: Option<&'static str>, id: Option<&'static str>| {
        fixup::<Identity>(
            [Requested { perms: 31, scheme: scheme.map(Into::into), id: id.map(Into::into) }],
            &[],
        )
    };
    assert_eq!(one(None, Some("anyone")), Err(FixupError::Invalid));
    assert_eq!(one(None, None), Err(FixupError::Invalid));
    assert_eq!(one(Some("foo"), None), Err(FixupError::Invalid));
    for scheme in ["world", "ip", "digest"] {
        assert_eq!(one(Some(scheme), None), Err(FixupError::NullId));
    }
    let bob = [id("digest", "bob:h")];
    let expanded = fixup([Requested { perms: 1, scheme: Some("auth".into()), id: None }], &bob).unwrap();
    assert_eq!(expanded, list(&[(1, "digest", "bob:h")]));
    assert_eq!(FixupError::NullId.code(), -5);
}

#[test]
fn duplicates_go_first_and_those_of_the_expansion_stay() {
    let ids = [id("ip", "127.0.0.1"), id("digest", "bob:h"), id("super", ""), id("digest", "amy:h")];
    let stored = fix(
        &[
            (1, "world", "anyone"),
            (31, "auth", ""),
            (1, "world", "anyone"),
            (31, "digest", "bob:h"),
            (2, "ip", "::1"),
        ],
        &ids,
    );
    assert_eq!(
        stored.unwrap(),
        list(&[
            (1, "world", "anyone"),
            (31, "digest", "bob:h"),
            (31, "digest", "amy:h"),
            (31, "digest", "bob:h"),
            (2, "ip", "::1"),
        ])
    );
    let odd_bits = fix(&[(64, "world", "anyone"), (0, "world", "anyone")], &ids).unwrap();
    assert_eq!(odd_bits, list(&[(64, "world", "anyone"), (0, "world", "anyone")]), "unknown bits are kept");
}

#[test]
fn a_reader_does_not_see_the_hash() {
    let secret = list(&[(1, "world", "anyone"), (31, "digest", "bob:hash"), (31, "digest", "plain")]);
    let shown = list(&[(1, "world", "anyone"), (31, "digest", "bob:x"), (31, "digest", "plain")]);
    assert_eq!(*mask_for_reader(&secret, &[id("ip", "127.0.0.1")], 0), shown);
    for admin in [id("digest", "bob:hash"), id("super", "")] {
        assert_eq!(*mask_for_reader(&secret, &[admin], 0), secret);
    }
    assert_eq!(*mask_for_reader::<Identity>(&secret, &[], policy::SKIP_ACL), secret);
    assert!(matches!(mask_for_reader::<Identity>(&AclList::world(31), &[], 0), Cow::Borrowed(_)));
}
