"""kazoo against the Paddock binary: every basic operation, watches, ephemerals, sequentials, transactions, restart."""

import argparse
import re
import threading

from harness import four_letters, suite_arguments, suite_server
from kazoo.client import KazooClient
from kazoo.exceptions import (
    BadVersionError,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    RolledBackError,
)
from kazoo.recipe.watchers import ChildrenWatch, DataWatch
from kazoo.security import make_digest_acl

WAIT_SECONDS = 10


def connect(server, **options):
    client = KazooClient(hosts=server.connect, timeout=10.0, **options)
    client.start(timeout=WAIT_SECONDS)
    return client


def expect(error, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except error:
        return
    raise AssertionError(f"{call.__name__}{args} did not raise {error.__name__}")


def nodes(zk):
    assert zk.create("/app", b"root") == "/app"
    assert zk.create("/app/a", b"1") == "/app/a"
    data, stat = zk.get("/app/a")
    assert (data, stat.version, stat.dataLength, stat.numChildren) == (b"1", 0, 1, 0)
    assert zk.set("/app/a", b"22").version == 1
    assert sorted(zk.get_children("/app")) == ["a"]
    children, stat = zk.get_children("/app", include_data=True)
    assert stat.numChildren == 1 and stat.cversion == 1
    assert zk.exists("/nope") is None and zk.exists("/app").dataLength == 4
    expect(NodeExistsError, zk.create, "/app", b"")
    expect(NoNodeError, zk.get, "/nope")
    expect(NoNodeError, zk.create, "/nope/x", b"")
    expect(BadVersionError, zk.set, "/app/a", b"x", version=7)
    expect(NotEmptyError, zk.delete, "/app")
    zk.create("/app/deep/er", b"", makepath=True)
    zk.delete("/app/deep", recursive=True)
    path, stat = zk.create("/app/with-stat", b"xyz", include_data=True)
    assert path == "/app/with-stat" and stat.dataLength == 3
    big = bytes(range(256)) * 2000
    zk.create("/app/big", big)
    assert zk.get("/app/big")[0] == big
    assert zk.sync("/app") == "/app"


def sequences_and_ephemerals(server, zk):
    zk.create("/seq")
    made = [zk.create("/seq/n-", b"", sequence=True) for _ in range(3)]
    assert made == [f"/seq/n-{i:010d}" for i in range(3)], made
    other = connect(server)
    lock = other.create("/seq/e-", b"", ephemeral=True, sequence=True)
    assert zk.exists(lock).ephemeralOwner == other.client_id[0]
    gone = threading.Event()
    assert zk.exists(lock, watch=lambda event: gone.set())
    other.stop()
    other.close()
    assert gone.wait(WAIT_SECONDS), "ephemeral did not go with its session"
    assert zk.exists(lock) is None


def watches(zk):
    zk.create("/w", b"0")
    seen = []
    arrived = threading.Condition()

    def note(event):
        with arrived:
            seen.append((event.type, event.path))
            arrived.notify()

    def wait_for(count):
        with arrived:
            assert arrived.wait_for(lambda: len(seen) >= count, WAIT_SECONDS), seen

    zk.get("/w", watch=note)
    zk.get_children("/w", watch=note)
    zk.exists("/w/new", watch=note)
    zk.set("/w", b"1")
    wait_for(1)
    zk.create("/w/new", b"")
    wait_for(3)
    assert seen == [("CHANGED", "/w"), ("CREATED", "/w/new"), ("CHILD", "/w")], seen
    values, lists = [], []
    DataWatch(zk, "/w", lambda data, stat: values.append(data))
    ChildrenWatch(zk, "/w", lambda children: lists.append(sorted(children)))
    done = threading.Event()
    DataWatch(zk, "/w", lambda data, stat: done.set() if data == b"end" else None)
    zk.set("/w", b"end")
    assert done.wait(WAIT_SECONDS)
    assert values[0] == b"1" and lists[0] == ["new"]


def transactions(zk):
    t = zk.transaction()
    t.create("/t", b"")
    t.create("/t/a", b"1")
    t.set_data("/t/a", b"2")
    t.check("/t/a", 1)
    t.delete("/t/a")
    results = t.commit()
    assert results[0] == "/t" and results[1] == "/t/a" and results[2].version == 1, results
    t = zk.transaction()
    t.create("/t/b", b"")
    t.check("/t", 9)
    t.create("/t/c", b"")
    results = t.commit()
    assert isinstance(results[0], RolledBackError) and isinstance(results[1], BadVersionError), results
    assert zk.get_children("/t") == []


def access(server, zk):
    owner = connect(server, auth_data=[("digest", "bob:pw")])
    owner.create("/secret", b"s", acl=[make_digest_acl("bob", "pw", all=True)])
    assert owner.get("/secret")[0] == b"s"
    expect(NoAuthError, zk.get, "/secret")
    expect(NoAuthError, zk.set, "/secret", b"x")
    acls, _ = owner.get_acls("/secret")
    assert acls[0].id.scheme == "digest" and acls[0].id.id.startswith("bob:")
    owner.stop()
    owner.close()


def restart(server, zk):
    before = zk.get("/app/a")
    zk.create("/mine", b"", ephemeral=True)
    session = zk.client_id[0]
    back = threading.Event()
    armed = threading.Event()
    zk.add_listener(lambda state: back.set() if state == "CONNECTED" and armed.is_set() else None)
    fired = threading.Event()
    zk.get("/app/a", watch=lambda event: fired.set())
    armed.set()
    assert server.stop() == 0, "SIGTERM is a clean stop"
    server.start()
    assert back.wait(WAIT_SECONDS), "client did not come back after the restart"
    assert zk.client_id[0] == session, "session did not survive the restart"
    assert zk.get("/app/a") == before
    assert zk.exists("/mine").ephemeralOwner == session
    zk.set("/app/a", b"after")
    assert fired.wait(WAIT_SECONDS), "watch set before the restart did not fire after it"


def words(server):
    assert four_letters(server.port, "ruok") == "imok"
    assert re.search("^Mode: (standalone|leader|follower|observer)$", four_letters(server.port, "srvr"), re.M)
    assert "zk_znode_count\t" in four_letters(server.port, "mntr")
    assert "Clients:" in four_letters(server.port, "stat")


def conversations(server):
    zk = connect(server)
    nodes(zk)
    sequences_and_ephemerals(server, zk)
    watches(zk)
    transactions(zk)
    access(server, zk)
    words(server)
    if server.process:
        restart(server, zk)
    zk.stop()
    zk.close()


def main():
    arguments = suite_arguments(argparse.ArgumentParser(description=__doc__))
    with suite_server(arguments) as (server, name):
        conversations(server)
    print(f"kazoo suite, {name}: 7 passed, 0 failed")


if __name__ == "__main__":
    main()
