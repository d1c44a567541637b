#!/usr/bin/env python3
"""Records the replies of a real ZooKeeper, as text fixtures for tests/golden.rs.

Starts a ZooKeeper of the given class path on loopback, holds a fixed conversation with it through raw sockets,
and writes two files. No client library and no codec of Paddock takes part. The conversation is with an ensemble
of one, where reconfig works. The probes go to a standalone server, because one undecodable write stops the
pipeline of a ZooKeeper ensemble for good.

  conversation-VERSION.txt   every frame in the order of its arrival: `> OPCODE HEX` a request,
                             `< OPCODE HEX` its reply, `! HEX` a notification,
                             `c> HEX` and `c< HEX` the handshake
  probes-VERSION.txt         odd or broken requests: `OPCODE ANSWER BODY-HEX WHAT`, where ANSWER is the
                             error code of the reply, or `closed`, or `silent`

  record.py --version 3.9.4 --classpath '/path/to/jars/*'
"""
import argparse, os, shutil, socket, struct, subprocess, tempfile, time

CREATE, DELETE, EXISTS, GET, SET, GETACL, SETACL, LS, SYNC, PING, LS2, CHECK, MULTI, CREATE2 = (
    1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15)
RECONFIG, CHECKW, REMOVEW, CONTAINER, DELCONTAINER, TTL, MULTIREAD = 16, 17, 18, 19, 20, 21, 22
AUTH, SETW, SASL, EPHEMERALS, ALLCHILDREN, SETW2, ADDW, WHOAMI, CLOSE = 100, 101, 102, 103, 104, 105, 106, 107, -11
MAX = 0x7fffffff


def i(n): return struct.pack(">i", n)
def l(n): return struct.pack(">q", n)
def b(n): return bytes([n])
def buf(v): return i(-1) if v is None else i(len(v)) + v
def s(v): return buf(v.encode() if isinstance(v, str) else v)
def vec(items): return i(-1) if items is None else i(len(items)) + b"".join(items)
def strs(*items): return vec([s(x) for x in items])
def acl(perms, scheme, who): return i(perms) + s(scheme) + s(who)


OPEN = vec([acl(31, "world", "anyone")])


def create(path, data=b"", acls=OPEN, flags=0): return s(path) + buf(data) + acls + i(flags)
def create_ttl(path, ttl, flags=5): return create(path, flags=flags) + l(ttl)
def watch(path, w=0): return s(path) + b(w)
def head(kind, done=0, err=-1): return i(kind) + b(done) + i(err)


END = head(-1, 1, -1)


def multi(*ops): return b"".join(head(k) + body for k, body in ops) + END


class Server:
    def __init__(self, classpath, ensemble):
        self.dir = tempfile.mkdtemp()
        ports = []
        holders = [socket.socket() for _ in range(3)]
        for h in holders:
            h.bind(("127.0.0.1", 0))
            ports.append(h.getsockname()[1])
        for h in holders:
            h.close()
        self.port = ports[0]
        self.member = f"server.1=127.0.0.1:{ports[1]}:{ports[2]}:participant;127.0.0.1:{ports[0]}"
        os.mkdir(self.dir + "/data")
        open(self.dir + "/data/myid", "w").write("1\n")
        open(self.dir + "/zoo.cfg", "w").write(
            f"dataDir={self.dir}/data\ntickTime=2000\ninitLimit=10\nsyncLimit=5\nmaxClientCnxns=0\n"
            "reconfigEnabled=true\nextendedTypesEnabled=true\nadmin.enableServer=false\n4lw.commands.whitelist=*\n"
            + (f"standaloneEnabled=false\n{self.member}\n" if ensemble else
               f"clientPort={self.port}\nclientPortAddress=127.0.0.1\n"))
        self.log = open(self.dir + "/log", "w")
        # super:secret
        self.process = subprocess.Popen(
            ["java", "-Xmx256m", "-cp", classpath, "-Dzookeeper.DigestAuthenticationProvider.superDigest="
             "super:" + digest("super:secret"), "-Dzookeeper.extendedTypesEnabled=true",
             "org.apache.zookeeper.server.quorum.QuorumPeerMain", self.dir + "/zoo.cfg"],
            stdout=self.log, stderr=self.log, cwd=self.dir)
        deadline = time.time() + 60
        while b"Mode" not in self.word(b"srvr"):
            if time.time() > deadline or self.process.poll() is not None:
                raise SystemExit("no server:\n" + self.log_text())
            time.sleep(0.2)

    def word(self, w):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as c:
                c.sendall(w)
                out = b""
                while chunk := c.recv(65536):
                    out += chunk
                return out
        except OSError:
            return b""

    def log_text(self):
        return open(self.dir + "/log").read()[-6000:]

    def check_alive(self):
        if b"Mode" not in self.word(b"srvr"):
            raise SystemExit("the server is gone:\n" + self.log_text())

    def stop(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.dir)


def digest(user_password):
    import base64, hashlib
    return base64.b64encode(hashlib.sha1(user_password.encode()).digest()).decode()


class Connection:
    def __init__(self, server, out=None, read_only=b"\0", session=0, password=b"\0" * 16, zxid=0):
        self.socket = socket.create_connection(("127.0.0.1", server.port), 5)
        self.out, self.xid = out, 0
        request = i(0) + l(zxid) + i(30000) + l(session) + buf(password) + read_only
        self.note("c>", buf(request))
        self.socket.sendall(buf(request))
        answer = self.frame()
        self.note("c<", buf(answer))
        self.session, = struct.unpack(">q", answer[8:16])
        self.password = answer[20:36]

    def note(self, kind, frame):
        if self.out is not None:
            self.out.append(f"{kind} {frame.hex()}")

    def exactly(self, n):
        got = b""
        while len(got) < n:
            chunk = self.socket.recv(n - len(got))
            if not chunk:
                raise EOFError
            got += chunk
        return got

    def frame(self):
        return self.exactly(*struct.unpack(">i", self.exactly(4)))

    def ask(self, opcode, body=b"", xid=None):
        """Sends a request, records every frame up to the reply, and returns the err of the reply."""
        if xid is None:
            self.xid += 1
            xid = self.xid
        request = buf(i(xid) + i(opcode) + body)
        self.note(f"> {opcode}", request)
        self.socket.sendall(request)
        while True:
            answer = self.frame()
            got, _, err = struct.unpack(">iqi", answer[:16])
            if got == -1 and xid != -1:
                self.note("!", buf(answer))
            else:
                self.note(f"< {opcode}", buf(answer))
                return err

    def close(self):
        self.socket.close()


def conversation(server):
    out = []
    c = Connection(server, out)
    c.ask(AUTH, i(0) + s("digest") + buf(b"bob:pw"), -4)
    c.ask(AUTH, i(0) + s("digest") + buf(b"super:secret"), -4)
    c.ask(WHOAMI)
    c.ask(PING, xid=-2)
    for body in (create("/a", b"hello"), create("/a/null", None), create("/a/empty", b""), create("/a/seq-", b"1", flags=2),
                 create("/a/e", b"x", flags=1), create("/a/es-", b"x", flags=3), create("/a", b"again"),
                 create("/no/parent"), create("/a/acl", b"x", vec([acl(31, "auth", ""), acl(1, "world", "anyone"),
                                                                 acl(3, "ip", "127.0.0.1/8")])),
                 create("/bad", acls=vec([])), create("/bad", acls=vec(None)), create("/a/ü-日本", b"\x00\xff"),
                 create("/a/big", bytes(range(256)) * 2)):
        c.ask(CREATE, body)
    c.ask(CREATE2, create("/a/two", b"stat"))
    c.ask(CONTAINER, create("/a/container", b"", flags=4))
    c.ask(TTL, create_ttl("/a/ttl", 3600000))
    c.ask(TTL, create_ttl("/a/ttl-seq-", 3600000, 6))
    for path in ("/a", "/a/null", "/a/empty", "/a/big", "/a/e", "/a/container", "/none", ""):
        for w in (0, 1):
            c.ask(GET, watch(path, w))
            c.ask(EXISTS, watch(path, w))
            c.ask(LS, watch(path, w))
            c.ask(LS2, watch(path, w))
        c.ask(GETACL, s(path))
        c.ask(ALLCHILDREN, s(path))
    c.ask(GETACL, s("/a/acl"))
    c.ask(SET, s("/a") + buf(b"new") + i(-1))
    c.ask(SET, s("/a") + buf(None) + i(1))
    c.ask(SET, s("/a") + buf(b"x") + i(77))
    c.ask(SETACL, s("/a/two") + vec([acl(31, "world", "anyone"), acl(5, "digest", "bob:x")]) + i(-1))
    c.ask(SETACL, s("/a/two") + OPEN + i(9))
    c.ask(CREATE, create("/none"))
    c.ask(DELETE, s("/none") + i(0))
    c.ask(DELETE, s("/a") + i(-1))
    c.ask(DELETE, s("/a/e") + i(-1))
    c.ask(SYNC, s("/a"))
    c.ask(SYNC, s("any thing"))
    c.ask(EPHEMERALS, s("/"))
    c.ask(EPHEMERALS, s("/nothing"))
    c.ask(EPHEMERALS, s(None))
    for mode in (0, 1):
        c.ask(ADDW, s("/w") + i(mode))
    c.ask(CREATE, create("/w"))
    c.ask(CREATE, create("/w/x"))
    c.ask(SET, s("/w/x") + buf(b"1") + i(-1))
    c.ask(DELETE, s("/w/x") + i(-1))
    for kind in (1, 2, 3):
        c.ask(CHECKW, s("/w") + i(kind))
        c.ask(REMOVEW, s("/w") + i(kind))
    c.ask(SETW, l(1) + strs("/a", "/gone") + strs("/w", "/absent") + strs("/gone"), -8)
    c.ask(SETW2, l(1) + strs("/a") + strs() + strs("/w") + strs("/p", "/q") + strs("/r"), -8)
    c.ask(SETW, l(0) + strs() + strs() + strs())
    c.ask(MULTI, multi())
    c.ask(MULTI, multi((CREATE, create("/m", b"d")), (CHECK, s("/m") + i(0)), (SET, s("/m") + buf(b"2") + i(0)),
                       (CREATE2, create("/m/two")), (CONTAINER, create("/m/c", flags=4)),
                       (TTL, create_ttl("/m/t", 1000000)), (DELETE, s("/m/two") + i(-1))))
    c.ask(MULTI, multi((CREATE, create("/n")), (SET, s("/n") + buf(b"") + i(5)), (DELETE, s("/n") + i(0))))
    c.ask(MULTIREAD, multi((GET, watch("/a")), (LS, watch("/a")), (GET, watch("/absent")), (LS, watch("/absent")),
                           (GET, watch("/a/null"))))
    c.ask(MULTIREAD, multi())
    c.ask(DELCONTAINER, s("/m/c"))
    c.ask(RECONFIG, s(None) + s(None) + s(server.member) + l(-1))
    c.ask(RECONFIG, s("") + s("9") + s(None) + l(5))
    c.ask(SASL, buf(b""))
    # A session that is taken over, by a client that does not know the readOnly field.
    d = Connection(server, out, b"", c.session, c.password)
    d.ask(GET, watch("/a"))
    d.ask(CLOSE)
    # A session that is gone is refused.
    Connection(server, out, b"\1", c.session, c.password).close()
    e = Connection(server, out)
    e.ask(AUTH, i(0) + s("nope") + buf(b"x"), -4)
    e = Connection(server, out)
    e.ask(999)
    return out


def probes():
    """(opcode, body, what)"""
    path = "/probe"
    bodies = {
        CREATE: create(path), CREATE2: create(path), CONTAINER: create(path, flags=4), TTL: create_ttl(path, 100),
        DELETE: s(path) + i(-1), EXISTS: watch(path), GET: watch(path), SET: s(path) + buf(b"d") + i(0),
        GETACL: s(path), SETACL: s(path) + OPEN + i(0), LS: watch(path), LS2: watch(path), SYNC: s(path),
        MULTI: multi((CREATE, create(path)), (DELETE, s(path) + i(0)), (SET, s(path) + buf(b"x") + i(0)),
                     (CHECK, s(path) + i(0))),
        MULTIREAD: multi((GET, watch(path)), (LS, watch(path))), RECONFIG: s("a") + s("b") + s("c") + l(0),
        CHECKW: s(path) + i(1), REMOVEW: s(path) + i(1), SETW: l(0) + strs("/x") + strs("/y") + strs("/z"),
        SETW2: l(0) + strs("/x") + strs("/y") + strs("/z") + strs("/p") + strs("/q"), ADDW: s(path) + i(0),
        EPHEMERALS: s("/"), ALLCHILDREN: s(path),
    }
    for opcode, body in bodies.items():
        for n in range(len(body)):
            yield opcode, body[:n], f"cut to {n}"
        if opcode != RECONFIG:
            yield opcode, body + b"junk behind it", "junk"
    for opcode in (EXISTS, GET, LS, LS2, GETACL, SYNC, ALLCHILDREN, EPHEMERALS, DELETE, SET, ADDW, CHECKW, REMOVEW):
        tail = bodies[opcode][4 + len(path):] if opcode != EPHEMERALS else b""
        for length, what in ((-2, "length -2"), (MAX, "length max"), (-MAX - 1, "length min"), (-1, "null path")):
            yield opcode, i(length) + tail, what
    for opcode in (CREATE, CREATE2, CONTAINER):
        yield opcode, create(None), "null path"
    for opcode in (EXISTS, GET, LS, LS2):
        for byte in (1, 2, 0x80, 0xff):
            yield opcode, watch(path, byte), f"watch byte {byte}"
    yield SETACL, s(None) + OPEN + i(0), "null path"
    for what, acls in (("null", i(-1)), ("count -2", i(-2)), ("count max", i(MAX)), ("empty", i(0)),
                       ("null scheme", vec([acl(31, None, "x")])), ("null id", vec([acl(31, "digest", None)])),
                       ("auth with null id", vec([acl(31, "auth", None)])),
                       ("id length -2", vec([i(31) + s("digest") + i(-2)]))):
        yield CREATE, create(path, acls=acls), "acl " + what
        yield SETACL, s("/") + acls + i(-1), "acl " + what
    for k in range(3):
        for what, bad in (("null", i(-1)), ("count -2", i(-2)), ("count max", i(MAX)), ("null string", vec([s(None)]))):
            lists = [strs("/x") for _ in range(3)]
            lists[k] = bad
            yield SETW, l(0) + b"".join(lists), f"list {k} {what}"
    for k in range(5):
        for what, bad in (("null", i(-1)), ("count -2", i(-2)), ("null string", vec([s(None)]))):
            lists = [strs("/x") for _ in range(5)]
            lists[k] = bad
            yield SETW2, l(0) + b"".join(lists), f"list {k} {what}"
    for mode in (-1, 2, MAX):
        yield ADDW, s(path) + i(mode), f"mode {mode}"
    for opcode in (CHECKW, REMOVEW):
        for kind in (-1, 0, 1, 2, 3, 4, 5, 6):
            yield opcode, s(path) + i(kind), f"kind {kind}"
    for opcode in (CREATE, CREATE2, CONTAINER):
        for flags in (-1, 0, 1, 2, 3, 4, 5, 6, 7, 100):
            yield MULTI, multi((opcode, create("/probe-multi", flags=flags)),
                               (CHECK, s("/never") + i(0))), f"op {opcode} flags {flags}"
    for flags in (-1, 0, 1, 2, 3, 4, 5, 6, 7, 100):
        yield MULTI, multi((TTL, create_ttl("/probe-multi", 5000, flags)),
                           (CHECK, s("/never") + i(0))), f"op 21 flags {flags}"
    for ttl in (0, 2 ** 40):
        yield MULTI, multi((TTL, create_ttl("/probe-multi", ttl)), (CHECK, s("/never") + i(0))), f"ttl {ttl}"
    check = (CHECK, s("/never") + i(0))
    for opcode, body in bodies.items():
        yield MULTI, multi((opcode, body), check), f"holds {opcode} then check"
        yield MULTI, multi(check, (opcode, body)), f"holds check then {opcode}"
        yield MULTIREAD, multi((opcode, body)), f"read holds {opcode}"
        yield MULTIREAD, multi((GET, watch("/")), (opcode, body)), f"read holds get then {opcode}"
    for opcode in (0, -1, -11, PING, DELCONTAINER, AUTH, WHOAMI, 999):
        yield MULTI, multi((opcode, b""), check), f"holds {opcode}"
        yield MULTIREAD, multi((opcode, b"")), f"read holds {opcode}"
    one = s("/never") + i(0)
    for what, end in (("done 2", head(-1, 2, -1)), ("done, type 13", head(CHECK, 1, -1)), ("done, err 7", head(-1, 1, 7)),
                      ("not done", head(-1, 0, -1)), ("absent", b""), ("junk behind", END + b"junk")):
        yield MULTI, head(CHECK) + one + end, "terminator " + what
    yield MULTI, head(CHECK, 0, 55) + one + END, "op header err 55"
    yield MULTI, multi((CHECK, s(None) + i(0))), "null path in check"
    yield MULTI, multi((CREATE, create(None))), "null path in create"
    yield MULTIREAD, multi((GET, watch(None))), "null path in get"
    for fill in (b"\0" * 2, b"\xff" * 64, b"\x7f" * 64):
        for opcode in bodies:
            yield opcode, fill, "filled"
    yield WHOAMI, b"junk", "junk"
    yield PING, b"junk", "junk"
    for opcode in (0, -1, 10, 23, 99, 108, 999, -2, -MAX - 1, MAX):
        yield opcode, b"", "unknown"


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--version", required=True)
    options.add_argument("--classpath", required=True)
    options = options.parse_args()
    here = os.path.dirname(os.path.abspath(__file__))
    about = f"# Recorded from Apache ZooKeeper {options.version} by record.py; do not edit.\n"
    server = Server(options.classpath, ensemble=True)
    try:
        lines = conversation(server)
    except BaseException:
        print(server.log_text())
        raise
    finally:
        server.stop()
    open(f"{here}/conversation-{options.version}.txt", "w").write(about + "\n".join(lines) + "\n")
    server = Server(options.classpath, ensemble=False)
    lines, c = [], None
    try:
        for opcode, body, what in probes():
            c = c or Connection(server)
            try:
                answer = c.ask(opcode, body)
            except (EOFError, ConnectionError):
                answer = "closed"
            except TimeoutError:
                answer = "silent"
                server.check_alive()
            if answer in ("closed", "silent", -6, -115):
                c.close()
                c = None
            lines.append(f"{opcode} {answer} {body.hex() or '-'} {what}")
    except BaseException:
        print(lines[-1:], server.log_text())
        raise
    finally:
        server.stop()
    open(f"{here}/probes-{options.version}.txt", "w").write(about + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
