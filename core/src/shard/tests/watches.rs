//! Watches as a client sees them: which events arrive, how often, in which order, and at which clients.

use super::rig::*;
use paddock_transport::wire::{
    Acl, List, Request, SetWatches, WatchMode, WatcherKind, error, event, opcode, perms,
};

const CREATED: i32 = event::NODE_CREATED;
const DELETED: i32 = event::NODE_DELETED;
const CHANGED: i32 = event::NODE_DATA_CHANGED;
const CHILDREN: i32 = event::NODE_CHILDREN_CHANGED;

fn events(w: &mut World, c: &mut Client) -> Vec<(i32, String)> {
    w.messages(c).iter().filter_map(Message::event).collect()
}

fn named(list: &[(i32, &str)]) -> Vec<(i32, String)> {
    list.iter().map(|(kind, path)| (*kind, (*path).to_owned())).collect()
}

#[test]
fn ones_own_set_gives_the_event_before_the_reply() {
    let mut w = World::new(1);
    let mut c = w.client(0);
    w.ask(&mut c, &make("/a", b""));
    w.ask(&mut c, &get("/a", true));
    let xid = w.send(&mut c, &set("/a", b"1"));
    w.run();
    let all = w.messages(&mut c);
    assert_eq!(all.iter().map(|m| m.xid).collect::<Vec<_>>(), [-1, xid]);
    // The watch is one-shot: the next set fires no event.
    w.ask(&mut c, &set("/a", b"2"));
}

#[test]
fn a_delete_gives_one_event_for_all_watches_of_the_path_and_one_for_the_parent() {
    let mut w = World::new(1);
    let (mut c, mut other) = (w.client(0), w.client(0));
    w.ask(&mut c, &make("/p", b""));
    w.ask(&mut c, &make("/p/a", b""));
    w.ask(&mut c, &get("/p/a", true));
    w.ask(&mut c, &exists("/p/a", true));
    w.ask(&mut c, &children("/p/a", true));
    w.ask(&mut c, &children("/p", true));
    w.ask(&mut other, &delete("/p/a"));
    assert_eq!(events(&mut w, &mut c), named(&[(DELETED, "/p/a"), (CHILDREN, "/p")]));
}

#[test]
fn watches_are_armed_only_when_the_call_says_so() {
    let mut w = World::new(1);
    let (mut c, mut other) = (w.client(0), w.client(0));
    assert_eq!(w.ask(&mut c, &get("/late", true)).err, error::NO_NODE);
    assert_eq!(w.ask(&mut c, &children("/late", true)).err, error::NO_NODE);
    w.ask(&mut other, &make("/late", b""));
    assert_eq!(events(&mut w, &mut c), []);
    w.ask(&mut other, &delete("/late"));
    assert_eq!(w.ask(&mut c, &exists("/late", true)).err, error::NO_NODE);
    w.ask(&mut other, &make("/late", b""));
    assert_eq!(events(&mut w, &mut c), named(&[(CREATED, "/late")]));
}

#[test]
fn set_watches_tells_what_was_missed_before_its_reply_and_arms_the_rest() {
    let mut w = World::new(1);
    let (mut c, mut other) = (w.client(0), w.client(0));
    w.ask(&mut other, &make("/w", b""));
    w.ask(&mut other, &make("/q", b""));
    let since = w.ask(&mut other, &make("/quiet", b"")).zxid;
    w.ask(&mut other, &set("/w", b"new"));
    w.ask(&mut other, &make("/q/child", b""));
    let data = texts(&["/quiet", "/gone", "/w"]);
    let exist = texts(&["/w", "/absent"]);
    let child = texts(&["/q", "/gone", "/quiet"]);
    let lists = SetWatches {
        relative_zxid: since,
        data: List::new(&data),
        exist: List::new(&exist),
        child: List::new(&child),
        ..SetWatches::default()
    };
    let xid = w.send(&mut c, &Request::SetWatches(lists));
    w.run();
    let all = w.messages(&mut c);
    let expected =
        [(DELETED, "/gone"), (CHANGED, "/w"), (CREATED, "/w"), (CHILDREN, "/q"), (DELETED, "/gone")];
    assert_eq!(all.iter().filter_map(Message::event).collect::<Vec<_>>(), named(&expected));
    assert!(all[..5].iter().all(|m| m.zxid == -1), "no transaction of now fired them");
    assert_eq!((all[5].xid, all[5].err, all.len()), (xid, 0, 6));
    // Only the paths without a missed event are armed.
    w.ask(&mut other, &set("/w", b"again"));
    w.ask(&mut other, &make("/gone", b""));
    assert_eq!(events(&mut w, &mut c), []);
    w.ask(&mut other, &set("/quiet", b""));
    w.ask(&mut other, &make("/quiet/child", b""));
    w.ask(&mut other, &make("/absent", b""));
    let expected = [(CHANGED, "/quiet"), (CHILDREN, "/quiet"), (CREATED, "/absent")];
    assert_eq!(events(&mut w, &mut c), named(&expected));
}

#[test]
fn persistent_and_recursive_watches_stay_until_removed() {
    let mut w = World::new(1);
    let (mut c, mut d, mut other) = (w.client(0), w.client(0), w.client(0));
    let add = |path: &'static str, mode| Request::AddWatch { path: path.into(), mode };
    let added = w.ask(&mut c, &add("/rec", WatchMode::PersistentRecursive));
    assert_eq!(added.body, 0i32.to_be_bytes());
    w.ask(&mut d, &add("/rec", WatchMode::Persistent));
    for request in
        [make("/rec", b""), make("/rec/a", b""), set("/rec/a", b""), delete("/rec/a"), delete("/rec")]
    {
        w.ask(&mut other, &request);
    }
    let recursive =
        [(CREATED, "/rec"), (CREATED, "/rec/a"), (CHANGED, "/rec/a"), (DELETED, "/rec/a"), (DELETED, "/rec")];
    assert_eq!(events(&mut w, &mut c), named(&recursive));
    let persistent = [(CREATED, "/rec"), (CHILDREN, "/rec"), (CHILDREN, "/rec"), (DELETED, "/rec")];
    assert_eq!(events(&mut w, &mut d), named(&persistent));

    let check = |kind| Request::CheckWatches { path: "/rec".into(), kind };
    let remove = |kind| Request::RemoveWatches { path: "/rec".into(), kind };
    assert_eq!(w.ask(&mut c, &check(WatcherKind::Data)).err, error::NO_WATCHER);
    assert_eq!(w.ask(&mut c, &check(WatcherKind::PersistentRecursive)).err, 0);
    assert_eq!(w.ask(&mut c, &remove(WatcherKind::Any)).err, 0);
    assert_eq!(w.ask(&mut c, &remove(WatcherKind::Any)).err, error::NO_WATCHER);
    w.ask(&mut other, &make("/rec", b""));
    assert_eq!(events(&mut w, &mut c), []);
    w.send_raw(&mut c, 5, opcode::ADD_WATCH, &[0, 0, 0, 1, b'/', 0, 0, 0, 2]);
    w.run();
    assert_eq!(w.messages(&mut c)[0].err, error::MARSHALLING_ERROR, "mode 2 does not exist");
}

#[test]
fn an_event_is_withheld_from_whoever_may_not_read_and_the_watch_is_consumed() {
    let mut w = World::new(1);
    let (mut c, mut other) = (w.client(0), w.client(0));
    assert_eq!(w.ask(&mut c, &exists("/secret", true)).err, error::NO_NODE);
    let acl = [Acl::new(perms::ALL & !perms::READ, "world", "anyone")];
    w.ask(&mut other, &create("/secret", b"", &acl, 0));
    assert_eq!(events(&mut w, &mut c), []);
    assert_eq!(w.stats.shard(0).watch_events_filtered.get(), 1);
    assert_eq!(w.stats.shard(0).watches.get(), 0, "consumed");
    // A watch is not armed by a read that is refused.
    assert_eq!(w.ask(&mut c, &exists("/secret", true)).err, error::NO_AUTH);
    assert_eq!(w.stats.shard(0).watches.get(), 0);
}

#[test]
fn ephemerals_of_an_expired_session_fire_and_its_connection_is_closed() {
    let mut w = World::new(2);
    let (mut dying, mut c) = (w.client(0), w.client(1));
    w.ask(&mut dying, &create("/e", b"", &[Acl::OPEN], 1));
    w.ask(&mut c, &exists("/e", true));
    w.core.expire(dying.session);
    w.run();
    assert_eq!(events(&mut w, &mut c), named(&[(DELETED, "/e")]));
    assert!(w.is_closed(&dying) && !w.is_closed(&c));
    assert_eq!(w.ask(&mut c, &exists("/e", false)).err, error::NO_NODE);
}

#[test]
fn a_closed_connection_leaves_no_watch_behind_and_the_next_in_its_slot_gets_none() {
    let mut w = World::new(1);
    let mut other = w.client(0);
    let mut c = w.client(0);
    w.ask(&mut c, &exists("/a", true));
    w.net.reset(c.wire);
    w.run();
    assert_eq!(w.stats.shard(0).watches.get(), 0);
    let mut next = w.client(0);
    w.ask(&mut other, &make("/a", b""));
    assert_eq!(events(&mut w, &mut next), []);
}

#[test]
fn a_connection_at_its_bound_of_watches_is_closed_rather_than_told_that_one_more_is_armed() {
    let mut w = World::new(1);
    w.shards[0].watches = crate::watch::Watches::new(2);
    let (mut c, mut other) = (w.client(0), w.client(0));
    for path in ["/1", "/2", "/2"] {
        w.ask(&mut c, &exists(path, true));
    }
    assert!(!w.is_closed(&c));
    w.send(&mut c, &exists("/3", true));
    w.send(&mut c, &exists("/4", false));
    w.run();
    assert!(w.is_closed(&c));
    assert!(w.messages(&mut c).len() <= 1, "nothing is served behind it");
    assert_eq!(w.stats.shard(0).watches.get(), 0);
    assert_eq!(w.ask(&mut other, &exists("/1", true)).err, error::NO_NODE);
}

#[test]
fn a_shard_asks_to_be_woken_exactly_while_watches_are_armed() {
    let mut w = World::new(1);
    let mut c = w.client(0);
    let armed = |w: &World| w.shards[0].armed.load(std::sync::atomic::Ordering::Relaxed);
    assert!(!armed(&w));
    w.ask(&mut c, &exists("/a", true));
    assert!(armed(&w));
    w.send(&mut c, &make("/a", b""));
    w.run();
    assert!(!armed(&w), "the one-shot watch is gone");
}
