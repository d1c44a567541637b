"""Starts and stops servers for the suites: the Paddock binary, or a real ZooKeeper. Loopback only."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEERS = pathlib.Path(os.environ.get("PEERS", pathlib.Path.home() / ".cache/paddock-peers"))
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/paddock"
START_SECONDS_MAX = 30


def free_ports(count):
    """Free ports, bound all at once, so that no two are equal."""
    held = [socket.socket() for _ in range(count)]
    for s in held:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


def free_port():
    return free_ports(1)[0]


def four_letters(port, word, timeout=2.0, host="127.0.0.1"):
    with socket.create_connection((host, port), timeout=timeout) as s:
        s.sendall(word.encode())
        answer = b""
        while chunk := s.recv(65536):
            answer += chunk
    return answer.decode()


class Server:
    """One server process on one directory; start() again after stop() or kill() resumes on the same data."""

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="paddock-ci-"))
        self.port = free_port()
        self.process = None
        self.log = self.dir / "server.log"

    @property
    def connect(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        self.launch()
        return self.wait_until_serving()

    def launch(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command(), cwd=self.dir, stdout=log, stderr=log, env=self.environment())

    def mode(self):
        """The mode that `srvr` names; None while the server serves no client."""
        try:
            found = re.search(r"^Mode: (.*)$", four_letters(self.port, "srvr"), re.M)
        except OSError:
            return None
        return found and found[1]

    def wait_until_serving(self):
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            if self.mode():
                return self
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"server did not start:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.02)

    def environment(self):
        return dict(os.environ)

    def stop(self):
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def remove(self):
        if self.process and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, _value, _trace):
        if kind is not None and self.log.exists():
            print("--- server log:\n" + self.log.read_text(errors="replace")[-4000:])
        self.remove()


class Paddock(Server):
    def __init__(self, *flags, config=None, wrapper=()):
        super().__init__()
        self.flags = flags
        self.config = config
        self.wrapper = list(wrapper)

    def command(self):
        command = [*self.wrapper, str(BINARY), "serve"]
        if self.config is not None:
            path = self.dir / "zoo.cfg"
            path.write_text(f"dataDir={self.dir}/data\nclientPort={self.port}\n{self.config}")
            command += ["--config", str(path)]
        else:
            command += ["--listen", f"127.0.0.1:{self.port}", "--data-dir", str(self.dir / "data")]
        return command + list(self.flags)


class Ensemble:
    """Paddock nodes that are all voters; `follower()` is a server like any other for the suites."""

    def __init__(self, count, *flags, config=""):
        ports = free_ports(3 * count)
        lines = "".join(
            f"server.{n}=127.0.0.1:{peer}:{election};127.0.0.1:{client}\n"
            for n, (client, peer, election) in enumerate(zip(*[iter(ports)] * 3), 1)
        )
        common = f"tickTime=1000\ninitLimit=10\nsyncLimit=5\nmaxClientCnxns=0\n4lw.commands.whitelist=*\n{config}{lines}"
        self.nodes = []
        for n in range(1, count + 1):
            node = Paddock(*flags, config=f"clientPortAddress=127.0.0.1\n{common}")
            node.port = ports[3 * (n - 1)]
            (node.dir / "data").mkdir()
            (node.dir / "data/myid").write_text(f"{n}\n")
            self.nodes.append(node)

    @property
    def connect(self):
        return ",".join(node.connect for node in self.nodes)

    def start(self):
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_until_serving()
        return self

    def with_mode(self, mode):
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            for node in self.nodes:
                if node.mode() == mode:
                    return node
            time.sleep(0.02)
        raise SystemExit(f"no {mode} within {START_SECONDS_MAX} s")

    def leader(self):
        return self.with_mode("leader")

    def follower(self):
        return self.with_mode("follower")

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, value, trace):
        for node in self.nodes:
            node.__exit__(kind, value, trace)


class Elsewhere:
    """A server that runs already: the suite neither starts nor stops it."""

    process = None

    def __init__(self, connect):
        self.connect = connect
        self.port = int(connect.split(",")[0].rpartition(":")[2])


def suite_arguments(parser):
    parser.add_argument("--transport", default="auto")
    parser.add_argument("--nodes", type=int, default=1, help="from 3: against a follower of an ensemble of so many")
    parser.add_argument("--connect", metavar="HOST:PORT", help="a server that runs already; the restart is left out")
    return parser.parse_args()


@contextlib.contextmanager
def suite_server(arguments):
    """Yields the server for a suite, and the server's name for the suite's last line."""
    flags = ("--transport", arguments.transport)
    if arguments.connect:
        yield Elsewhere(arguments.connect), arguments.connect
    elif arguments.nodes > 1:
        with Ensemble(arguments.nodes, *flags) as ensemble:
            yield ensemble.follower(), f"a follower of {arguments.nodes} nodes, transport {arguments.transport}"
    else:
        with Paddock(*flags) as server:
            yield server, f"transport {arguments.transport}"


class ZooKeeper(Server):
    def __init__(self, config="", cores=None):
        super().__init__()
        self.config = config
        self.cores = cores

    def command(self):
        path = self.dir / "zoo.cfg"
        path.write_text(
            f"tickTime=2000\ndataDir={self.dir}/data\nclientPort={self.port}\nclientPortAddress=127.0.0.1\n"
            f"4lw.commands.whitelist=*\nadmin.enableServer=false\nmaxClientCnxns=0\n{self.config}"
        )
        pin = ["taskset", "-c", self.cores] if self.cores else []
        classes = f"{PEERS}/lib/*"
        return [*pin, "java", "-cp", classes, "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(path)]
