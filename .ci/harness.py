"""Starts and stops servers for the suites: the Paddock binary, or a real ZooKeeper. Loopback only."""

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


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def four_letters(port, word, timeout=2.0):
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as s:
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

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command(), cwd=self.dir, stdout=log, stderr=log, env=self.environment())
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                if re.search(r"^Mode: ", four_letters(self.port, "srvr"), re.M):
                    return self
            except OSError:
                pass
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
