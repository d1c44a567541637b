"""A raw ZooKeeper client for the differential suite: frames in, decoded replies out, nothing hidden."""

import socket
import struct

OPEN = [(31, "world", "anyone")]
ANSWER_SECONDS_MAX = 8
HIDDEN = -1


def i32(v):
    return struct.pack(">i", v)


def i64(v):
    return struct.pack(">q", v)


def buf(v):
    return i32(-1) if v is None else i32(len(v)) + v


def ustr(v):
    return buf(None if v is None else v.encode("utf-8", "surrogatepass") if isinstance(v, str) else v)


def vec(items, encode):
    return i32(-1) if items is None else i32(len(items)) + b"".join(encode(i) for i in items)


def acl(entries):
    return vec(entries, lambda e: i32(e[0]) + ustr(e[1]) + ustr(e[2]))


def flag(v):
    return b"\x01" if v else b"\x00"


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        assert self.at + n <= len(self.data), f"reply too short: {self.data.hex()}"
        self.at += n
        return self.data[self.at - n : self.at]

    def i32(self):
        return struct.unpack(">i", self.take(4))[0]

    def i64(self):
        return struct.unpack(">q", self.take(8))[0]

    def boolean(self):
        return self.take(1) != b"\0"

    def buf(self):
        n = self.i32()
        return None if n < 0 else self.take(n)

    def ustr(self):
        v = self.buf()
        return None if v is None else v.decode("utf-8")

    def vec(self, decode):
        n = self.i32()
        return None if n < 0 else [decode() for _ in range(n)]

    def rest(self):
        return self.data[self.at :]


class Connection:
    """One TCP connection. `base` makes zxids relative (HIDDEN: shows none), `names` makes session ids symbolic."""

    def __init__(self, port, base=None, names=None, host="127.0.0.1"):
        self.sock = socket.create_connection((host, port), timeout=ANSWER_SECONDS_MAX)
        self.session, self.password = 0, b"\0" * 16
        self.xid = 0
        self.names = names if names is not None else {}
        self.base = base

    def send_raw(self, data):
        self.sock.sendall(data)

    def send(self, payload):
        self.send_raw(i32(len(payload)) + payload)

    def read(self):
        """Payload of the next frame; None when the server closed the connection."""
        try:
            head = self._exactly(4)
            return head and self._exactly(struct.unpack(">i", head)[0])
        except ConnectionError:
            return None
        except TimeoutError:
            return b"timeout"

    def _exactly(self, n):
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            if not more:
                return None
            data += more
        return data

    def hello(self, session=0, password=b"\0" * 16, timeout=10000, zxid=0, readonly=True):
        payload = i32(0) + i64(zxid) + i32(timeout) + i64(session) + buf(password)
        if readonly is not None:
            payload += flag(readonly)
        self.send(payload)
        reply = self.read()
        if reply is None:
            return "closed"
        c = Cursor(reply)
        _, granted, self.session, self.password = c.i32(), c.i32(), c.i64(), c.buf()
        if self.session:
            self.names.setdefault(self.session, f"session{len(self.names) + 1}")
        zero = self.password == b"\0" * 16
        return ("hello", granted, self.names.get(self.session, 0), len(self.password), zero, c.rest().hex())

    def request(self, op, body=b"", xid=None, header=True):
        if xid is None:
            self.xid += 1
            xid = self.xid
        self.send(i32(xid) + i32(op) + body if header else body)
        return xid

    def relative(self, zxid):
        if zxid <= 0 or self.base is None:
            return zxid
        if self.base == HIDDEN:
            return "z"
        return f"z+{zxid - self.base}"

    def stat(self, c):
        czxid, mzxid, ctime, mtime = c.i64(), c.i64(), c.i64(), c.i64()
        version, cversion, aversion, owner = c.i32(), c.i32(), c.i32(), c.i64()
        length, children, pzxid = c.i32(), c.i32(), c.i64()
        return {
            "czxid": self.relative(czxid),
            "mzxid": self.relative(mzxid),
            "times": "in order" if ctime <= mtime else "reversed",
            "versions": (version, cversion, aversion),
            "owner": self.names.get(owner, owner),
            "length": length,
            "children": children,
            "pzxid": self.relative(pzxid),
        }

    def body(self, op, c):
        if op == 1:
            return c.ustr()
        if op in (15, 19, 21):
            return c.ustr(), self.stat(c)
        if op in (3, 5, 7):
            return self.stat(c)
        if op in (4, 16):
            return c.buf(), self.stat(c)
        if op == 6:
            acls = c.vec(lambda: (c.i32(), c.ustr(), c.ustr()))
            return acls, self.stat(c)
        if op == 8:
            return sorted(c.vec(c.ustr))
        if op == 12:
            return sorted(c.vec(c.ustr)), self.stat(c)
        if op == 9:
            return c.ustr()
        if op == 104:
            return c.i32()
        if op == 103:
            return sorted(c.vec(c.ustr))
        if op == 106:
            return c.i32()
        if op == 107:
            return sorted(c.vec(lambda: (c.ustr(), c.ustr())))
        if op in (14, 22):
            results = []
            while True:
                kind, done, err = c.i32(), c.boolean(), c.i32()
                if done:
                    return results
                if kind == -1:
                    results.append(("error", err, c.i32()))
                elif kind in (2, 13):
                    results.append((kind, err))
                else:
                    results.append((kind, err, self.body(kind, c)))
        return None

    def reply(self, op):
        """Decodes the next frame as a reply to `op` (or a notification)."""
        data = self.read()
        if data is None:
            return "closed"
        if data == b"timeout":
            return "silence"
        c = Cursor(data)
        xid, zxid, err = c.i32(), c.i64(), c.i32()
        if xid == -1:
            return ("event", self.relative(zxid), c.i32(), c.i32(), c.ustr())
        body = self.body(op, c) if err == 0 and len(c.rest()) else None
        return (xid, self.relative(zxid), err, body, c.rest().hex())

    def call(self, op, body=b"", xid=None):
        self.request(op, body, xid)
        return self.reply(op)

    def close(self):
        self.sock.close()
