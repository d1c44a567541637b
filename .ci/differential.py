"""The same conversations with a real ZooKeeper 3.9 and with Paddock: every reply compared field by field.

Zxids are relative to the conversation's first, and session ids are named in order of appearance. Of the two times only
their order counts. A comment marks each deliberate difference that is left out here; docs/COMPATIBILITY.md lists them."""

import argparse
import sys

from harness import Paddock, ZooKeeper
from jute import HIDDEN, OPEN, Connection, acl, buf, flag, i32, i64, ustr, vec

CONFIG = "tickTime=1000\nmaxClientCnxns=0\n4lw.commands.whitelist=*\n"


def create(path, data=b"", acls=OPEN, flags=0):
    return ustr(path) + buf(data) + acl(acls) + i32(flags)


def read(path, watch=False):
    return ustr(path) + flag(watch)


def versioned(path, version=-1):
    return ustr(path) + i32(version)


def set_data(path, data, version=-1):
    return ustr(path) + buf(data) + i32(version)


def multi(*ops):
    body = b"".join(i32(op) + flag(False) + i32(-1) + record for op, record in ops)
    return body + i32(-1) + flag(True) + i32(-1)


def set_watches(zxid, data=(), exist=(), child=()):
    return i64(zxid) + vec(data, ustr) + vec(exist, ustr) + vec(child, ustr)


class Talk:
    """One conversation with one server, recorded for comparison."""

    def __init__(self, port):
        self.port, self.names, self.said = port, {}, []
        self.main = self.connect()
        first = Connection(port)
        first.hello()
        first.request(3, read("/"))
        data = first.read()
        self.base = int.from_bytes(data[4:12], "big")
        first.request(-11)
        first.read()
        self.base += 1
        self.main.base = self.base

    def connect(self, hello=True, **options):
        c = Connection(self.port, getattr(self, "base", None), self.names)
        if hello:
            self.note(c.hello(**options))
        return c

    def hide_zxids(self):
        """Hides zxids from here on. ZooKeeper gives a zxid to a write that cannot be decoded; Paddock never orders such a write."""
        self.main.base = self.base = HIDDEN

    def note(self, value):
        self.said.append(value)
        return value

    def do(self, op, body=b"", xid=None, on=None):
        return self.note((on or self.main).call(op, body, xid))

    def also(self, op=0, on=None):
        return self.note((on or self.main).reply(op))


def nodes(t):
    t.do(1, create("/n", b"x"))
    t.do(15, create("/n/a", b"1"))
    t.do(15, create("/n/b", None))
    t.do(3, read("/n"))
    t.do(4, read("/n/b"))
    t.do(2, versioned("/n/a"))
    t.do(12, read("/n"))
    t.do(5, set_data("/n", None))
    t.do(4, read("/n"))
    t.do(5, set_data("/n", b"", 1))
    t.do(5, set_data("/n", b"", 1))
    t.do(1, create("/n", b""))
    t.do(3, read("/n"))
    t.do(2, versioned("/n", 9))
    t.do(8, read("/n"))
    t.do(9, ustr("xx"))


def bad_paths(t):
    for path in ["", "a", "//", "/.", "/..", "/a\x01", "/é", "/a b", "/\U0001f600", "/nope/x", "/...", "/a/", "/q//r", "/\ue000", "/\x7f"]:
        t.do(1, create(path))
    t.do(1, create("/a"))
    t.do(1, create("/a/"))
    t.do(1, create("/missing/../x"))
    for op in (3, 4, 8, 12, 6):
        t.do(op, read("/a//b") if op != 6 else ustr("/a//b"))
        t.do(op, read("/a\0b") if op != 6 else ustr("/a\0b"))
        t.do(op, read(b"/a\xff") if op != 6 else ustr(b"/a\xff"))
    t.do(2, versioned("/a//b"))
    for path in ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config", "noslash", "/x\0"]:
        t.do(2, versioned(path))
    t.do(5, set_data("/a//b", b""))
    t.do(5, set_data("", b""))
    t.do(5, set_data("/zookeeper/config", b""))


def null_and_short(t):
    t.hide_zxids()
    for op in (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 15, 22, 101):
        t.do(op, b"\0\0")
    for op, rest in ((3, flag(0)), (4, flag(0)), (8, flag(0)), (2, i32(-1)), (6, b"")):
        t.do(op, ustr(None) + rest)
    t.do(3, i32(-2) + b"xx" + flag(0))
    t.do(3, i32(0x7FFFFFFF) + b"xx" + flag(0))
    t.do(3, read("/") + b"junk")
    t.do(11, xid=9)
    t.do(3, read("/"), xid=-(2**31))
    t.do(3, read("/"), xid=0)


def empty_path_reads_the_root(t):
    for op in (8, 12):
        t.do(op, read(""))
    t.do(6, ustr(""))


def sequences(t):
    t.do(1, create("/s"))
    t.do(1, create("/s/x", flags=2))
    t.do(1, create("/s/", flags=2))
    t.do(1, create("/s/plain"))
    t.do(1, create("/s/y", flags=3))
    t.do(2, versioned("/s/plain"))
    t.do(15, create("/s/z", flags=2))
    t.do(1, create("/s/plain/none", flags=2))
    t.do(1, create("/s/c", flags=4))
    t.do(3, read("/s/c"))
    for flags in (5, 6, 7, -1, 99):
        t.do(1, create("/s/bad", flags=flags))


def ephemerals(t):
    t.do(1, create("/e", flags=1))
    t.do(3, read("/e"))
    t.do(1, create("/e/child"))
    other = t.connect()
    t.do(3, read("/e"), on=other)
    t.do(1, create("/mine", flags=1), on=other)
    t.do(3, read("/mine", True))
    t.do(-11, on=other)
    t.also(on=other)
    t.also()
    t.do(3, read("/mine"))


def acls(t):
    bad = [None, [], [(31, "foo", "bar")], [(31, "world", "x")], [(31, "auth", "")], [(31, "super", "")], [(31, "digest", "x")]]
    bad += [[(31, "ip", "300.1.1.1")], [(31, "ip", "1.1.1.1/33")], [(31, "digest", "a:b:c")], [(31, "digest", "a:b:")]]
    for entry in bad + [[(31, "ip", "::1")], [(0, "world", "anyone")], [(64, "world", "anyone")], OPEN + OPEN]:
        t.do(1, create(f"/acl{len(t.said)}", acls=entry))
        t.do(6, ustr(f"/acl{len(t.said) - 1}"))
    t.do(100, i32(0) + ustr("digest") + buf(b"bob:pw"), xid=-4)
    t.do(1, create("/bob", b"s", [(31, "auth", "")]))
    t.do(6, ustr("/bob"))
    t.do(107)
    t.do(100, i32(0) + ustr("digest") + buf(b"abc"), xid=77)
    t.do(1, create("/two", b"s", [(31, "auth", ""), (1, "world", "anyone")]))
    t.do(6, ustr("/two"))
    other = t.connect()
    t.do(4, read("/bob"), on=other)
    t.do(3, read("/bob"), on=other)
    t.do(8, read("/bob"), on=other)
    t.do(6, ustr("/bob"), on=other)
    t.do(6, ustr("/two"), on=other)
    t.do(5, set_data("/bob", b""), on=other)
    t.do(1, create("/bob/x"), on=other)
    t.do(7, ustr("/two") + acl(OPEN) + i32(-1), on=other)
    t.do(2, versioned("/bob", 4), on=other)
    t.do(7, ustr("/two") + acl(OPEN) + i32(3))
    t.do(7, ustr("/two") + acl(OPEN) + i32(0))
    t.do(3, read("/two"), on=other)
    t.do(7, ustr("/none") + acl(OPEN) + i32(0))
    t.do(7, ustr("/none") + acl([]) + i32(0))
    t.do(100, i32(0) + ustr("nope") + buf(b"x"), xid=-4, on=other)
    t.also(on=other)


def multis(t):
    t.do(14, multi())
    t.do(14, multi((1, create("/m", b"1")), (5, set_data("/m", b"2")), (13, versioned("/m", 1)), (2, versioned("/m"))))
    t.do(14, multi((1, create("/m")), (5, set_data("/m", b"", 9)), (1, create("/m2")), (2, versioned("/m2"))))
    t.do(3, read("/m"))
    t.do(14, multi((15, create("/m")), (1, create("/m/s", flags=2)), (1, create("/m/s", flags=2))))
    t.do(14, multi((2, versioned("/none")), (2, versioned("/m"))))
    t.do(14, multi((13, versioned("/m", 7))))
    t.do(22, multi((4, read("/m")), (8, read("/m")), (4, read("/none"))))
    t.do(22, multi())
    t.do(3, read("/m"))


def multis_of_the_wrong_kind(t):
    t.hide_zxids()
    t.do(1, create("/m", b"1"))
    t.do(14, multi((1, create("/m")), (4, read("/m"))))
    t.do(14, multi((4, read("/m"))))
    t.do(14, multi((7, ustr("/m") + acl(OPEN) + i32(-1))))
    t.do(14, multi((1, create("/bad", flags=99))))
    t.do(22, multi((4, read("/m")), (2, versioned("/m"))))
    t.do(3, read("/m"))


def own_watch_before_reply(t):
    t.do(1, create("/w", b"0"))
    t.do(4, read("/w", True))
    t.do(5, set_data("/w", b"1"))
    t.also(5)
    t.do(4, read("/w", True))
    t.do(8, read("/w", True))
    t.do(2, versioned("/w"))
    t.also(2)
    t.do(4, read("/w", True))
    t.do(3, read("/w", True))
    t.do(1, create("/w"))
    t.also(1)
    t.do(8, read("/w", True))
    t.do(1, create("/w/c"))
    t.also(1)
    t.do(12, read("/", True))
    t.do(1, create("/top"))
    t.also(1)


def pipelined_reads_and_writes(t):
    t.do(1, create("/p", b"0"))
    t.main.request(4, read("/p", True))
    t.main.request(5, set_data("/p", b"1"))
    t.main.request(4, read("/p", True))
    t.main.request(5, set_data("/p", b"2"))
    t.main.request(4, read("/p"))
    for op in (4, 0, 5, 4, 0, 5, 4):
        t.also(op)


def multi_events_in_order(t):
    t.do(1, create("/me", b"0"))
    t.do(4, read("/me", True))
    t.do(8, read("/me", True))
    t.do(3, read("/me/k", True))
    t.do(14, multi((5, set_data("/me", b"1")), (1, create("/me/k")), (2, versioned("/me/k"))))
    for _ in range(3):
        t.also(14)


def watches_come_back(t):
    t.do(1, create("/w1", b""))
    t.do(1, create("/w2", b""))
    zxid = t.base + 3
    other = t.connect()
    t.do(5, set_data("/w2", b"n"))
    t.do(101, set_watches(t.base + 2**20, ["/w1", "/gone"], ["/w1", "/absent"], ["/gone", "/w1"]), xid=-8, on=other)
    for _ in range(3):
        t.also(101, on=other)
    t.do(5, set_data("/w1", b"n"))
    t.also(on=other)
    t.do(1, create("/absent"))
    t.also(on=other)
    t.do(1, create("/w1/c"))
    t.also(on=other)
    third = t.connect()
    t.do(101, set_watches(zxid, ["/w2"], [], ["/w1"]), xid=-8, on=third)
    t.also(101, on=third)
    t.also(101, on=third)


def reattach(t):
    t.do(1, create("/r", flags=1))
    again = t.connect(session=t.main.session, password=t.main.password, timeout=7000)
    t.also(3)
    t.do(3, read("/r"), on=again)
    t.do(107, on=again)
    wrong = t.connect(session=again.session, password=b"x" * 16)
    t.also(on=wrong)
    t.also(3, on=again)
    unknown = t.connect(session=0x7777, password=b"x" * 16)
    t.also(on=unknown)
    back = t.connect(session=t.main.session, password=t.main.password)
    t.do(3, read("/r"), on=back)


def persistent_watches(t):
    add = lambda path, mode: ustr(path) + i32(mode)
    t.do(106, add("/pw", 0))
    t.do(1, create("/pw"))
    t.also()
    t.do(1, create("/pw/a"))
    t.also()
    t.do(5, set_data("/pw", b"1"))
    t.also(5)
    t.do(2, versioned("/pw/a"))
    t.also()
    t.do(2, versioned("/pw"))
    t.also()
    t.do(106, add("/rec", 1))
    for op, body in ((1, create("/rec")), (1, create("/rec/a")), (5, set_data("/rec/a", b"")), (2, versioned("/rec/a"))):
        t.do(op, body)
        t.also(op)
    t.do(106, add("/x", 2))
    for kind in (1, 2, 3, 4, 5, 6):
        t.do(17, add("/rec", kind))
        t.do(18, add("/rec", kind))
    t.do(1, create("/rec/b"))
    t.do(3, read("/none", True))
    t.do(17, add("/none", 2))
    t.do(18, add("/none", 3))
    t.do(18, add("/none", 3))


def small_reads(t):
    t.do(104, ustr("/"))
    t.do(104, ustr("/none"))
    t.do(107)
    t.do(107, b"junk")
    t.do(102, buf(b""))
    t.do(16, ustr(None) * 3 + i64(-1))


def handshakes(t):
    for options in ({"readonly": None}, {"password": None}, {"password": b""}, {"timeout": 1}, {"timeout": 100000}, {"timeout": -5}):
        t.connect(**options)
    t.connect(zxid=2**60)
    for data in (i32(-1), i32(0x7FFFFFFF), i32(2_000_000), b"abcd"):
        c = t.connect(hello=False)
        c.send_raw(data)
        t.also(on=c)


def frames(t):
    c = t.connect()
    c.send_raw(i32(0))
    t.also(on=c)
    c = t.connect()
    c.send_raw(i32(-7))
    t.also(on=c)
    for op in (999, 0, -1, 10, 23, 13):
        c = t.connect()
        t.do(op, versioned("/") if op == 13 else b"", on=c)
        t.also(on=c)
    c = t.connect()
    c.request(-11)
    c.request(3, read("/"))
    t.also(on=c)
    t.also(on=c)
    c = t.connect()
    c.send(i32(5) + i32(1) + create("/big", b"x" * (1 << 20)))
    t.also(on=c)


CONVERSATIONS = [
    nodes,
    bad_paths,
    null_and_short,
    empty_path_reads_the_root,
    sequences,
    ephemerals,
    acls,
    multis,
    multis_of_the_wrong_kind,
    own_watch_before_reply,
    pipelined_reads_and_writes,
    multi_events_in_order,
    watches_come_back,
    reattach,
    persistent_watches,
    small_reads,
    handshakes,
    frames,
]

def run(talk, port):
    t = Talk(port)
    talk(t)
    return t.said


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", help="one conversation's name")
    parser.add_argument("--against", default="paddock", choices=["paddock", "zookeeper"])
    arguments = parser.parse_args()
    passed = failed = 0
    for talk in CONVERSATIONS:
        if arguments.only and talk.__name__ != arguments.only:
            continue
        other = Paddock(config=CONFIG) if arguments.against == "paddock" else ZooKeeper("tickTime=1000\n")
        with ZooKeeper("tickTime=1000\n") as zookeeper, other as paddock:
            want, got = run(talk, zookeeper.port), run(talk, paddock.port)
        bad = [(i, w, g) for i, (w, g) in enumerate(zip(want, got)) if w != g]
        if bad or len(want) != len(got):
            failed += 1
            for i, w, g in bad:
                print(f"{talk.__name__}[{i}]\n  zookeeper {w}\n  paddock   {g}")
        else:
            passed += 1
    print(f"differential: {passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
