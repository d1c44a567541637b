"""A rolling restart of three nodes under load with stock clients, kazoo and ZooKeeper's Java client.

Every node is stopped and started, twice. No session may be lost. An operation may fail only by a connection loss of the
node that is being restarted just then."""

import argparse
import subprocess
import tempfile
import threading
import time

from harness import PEERS, ROOT, Ensemble
from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss, KazooException
from kazoo.retry import KazooRetry

ROUNDS = 2
SESSIONS = 6
# Operations of each kind of client between two restarts.
OPERATIONS_BETWEEN = 200
WAIT_SECONDS = 60


class Losses:
    """Connection losses with the times of their operation and the port at its begin, and all other failures."""

    def __init__(self):
        self.lock = threading.Lock()
        self.losses, self.failures = [], []
        self.done = {"kazoo": 0, "java": 0}

    def lost(self, who, begun, at, port):
        with self.lock:
            self.losses.append((who, begun, at, port))

    def failed(self, text):
        with self.lock:
            self.failures.append(text)


class Kazoo(threading.Thread):
    """One session."""

    def __init__(self, connect, number, losses):
        super().__init__(daemon=True)
        self.number, self.losses = number, losses
        self.stopping = threading.Event()
        once = KazooRetry(max_tries=0)
        self.zk = KazooClient(hosts=connect, timeout=10.0, command_retry=once, randomize_hosts=True)
        self.zk.start(timeout=WAIT_SECONDS)
        self.session = self.zk.client_id[0]
        self.own = f"/rolling/kazoo-{number}"
        self.zk.create(self.own)
        self.zk.create(self.own + "/mine", ephemeral=True)

    def port(self):
        """Port of the server to which the client is connected; 0 if none."""
        try:
            return self.zk._connection._socket.getpeername()[1]
        except (OSError, AttributeError):
            return 0

    def attempt(self, call, *arguments, **options):
        port, begun = self.port(), time.time()
        try:
            call(*arguments, **options)
        except ConnectionLoss:
            self.losses.lost("kazoo", begun, time.time(), port)
        except KazooException as error:
            self.losses.failed(f"kazoo session {self.number}: {call.__name__}: {error!r}")
        else:
            with self.losses.lock:
                self.losses.done["kazoo"] += 1

    def run(self):
        zk, own = self.zk, self.own
        while not self.stopping.is_set():
            self.attempt(zk.set, own, b"x")
            self.attempt(zk.get, own)
            self.attempt(zk.exists, own + "/mine")
            self.attempt(zk.get_children, "/rolling")
            self.attempt(zk.create, own + "/s-", b"", ephemeral=True, sequence=True)

    def finish(self):
        self.stopping.set()
        self.join(WAIT_SECONDS)
        mine = self.zk.exists(self.own + "/mine")
        if self.zk.client_id[0] != self.session or mine is None or mine.ephemeralOwner != self.session:
            self.losses.failed(f"kazoo session {self.number} was lost: {mine}")
        self.zk.stop()
        self.zk.close()


class Java:
    """All Java sessions: one process."""

    def __init__(self, connect, losses):
        self.losses = losses
        self.folder = tempfile.TemporaryDirectory()
        classes = f"{self.folder.name}:{PEERS}/lib/*"
        source = ROOT / ".ci/RollingClient.java"
        subprocess.run(["javac", "-cp", f"{PEERS}/lib/*", "-d", self.folder.name, str(source)], check=True)
        self.ready = threading.Event()
        self.process = subprocess.Popen(
            ["java", "-Xmx128m", "-cp", classes, "RollingClient", connect, str(SESSIONS)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        assert self.ready.wait(WAIT_SECONDS), "the Java client did not connect"

    def read(self):
        for line in self.process.stdout:
            kind, *words = line.split()
            if kind == "READY":
                self.ready.set()
            elif kind == "DONE":
                self.losses.done["java"] = int(words[0])
            elif kind == "LOSS":
                self.losses.lost("java", int(words[0]) / 1000, int(words[1]) / 1000, int(words[2]))
            elif kind == "FAILED":
                self.losses.failed(" ".join(words))

    def ask(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def finish(self):
        self.process.stdin.close()
        if self.process.wait(WAIT_SECONDS):
            self.losses.failed(f"the Java client exits with {self.process.returncode}")
        self.reader.join()
        self.folder.cleanup()


def wait_for_operations(losses, java):
    goal = {who: done + OPERATIONS_BETWEEN for who, done in losses.done.items()}
    deadline = time.monotonic() + WAIT_SECONDS
    while any(losses.done[who] < goal[who] for who in goal):
        assert time.monotonic() < deadline, f"operations do not go on: {losses.done}, wanted {goal}; {losses.failures}"
        java.ask()
        time.sleep(0.05)


def roll(ensemble, losses, java):
    """Restarts each node; returns (port, from, until, whether the node led) of each restart."""
    windows = []
    for _ in range(ROUNDS):
        for node in ensemble.nodes:
            wait_for_operations(losses, java)
            led, begun = node.mode() == "leader", time.time()
            assert node.stop() == 0, "SIGTERM is a clean stop"
            node.start()
            windows.append((node.port, begun, time.time(), led))
    wait_for_operations(losses, java)
    return windows


def judge(losses, windows):
    """Losses that no restart explains.

    A restart of the node to which the client was connected explains a loss. An operation may also begin during such a
    restart and wait in the client; then a restart of the client's next node explains its loss."""
    slack = 0.5
    during = lambda at: {port for port, begun, until, _ in windows if begun <= at <= until + slack}
    explained = lambda begun, at, port: (
        port in during(at) or (during(at) and (port == 0 or port in during(begun)))
    )
    return [loss for loss in losses.losses if not explained(*loss[1:])]


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    losses = Losses()
    with Ensemble(3) as ensemble:
        setup = KazooClient(hosts=ensemble.connect)
        setup.start(timeout=WAIT_SECONDS)
        setup.create("/rolling")
        setup.stop()
        setup.close()
        kazoo = [Kazoo(ensemble.connect, number, losses) for number in range(SESSIONS)]
        java = Java(ensemble.connect, losses)
        for session in kazoo:
            session.start()
        windows = roll(ensemble, losses, java)
        for session in kazoo:
            session.finish()
        java.finish()
        unexplained = judge(losses, windows)
        assert not losses.failures and not unexplained, f"failed: {losses.failures}; unexplained losses: {unexplained}"
    led = sum(w[3] for w in windows)
    print(
        f"rolling restart: {len(windows)} restarts, {led} of a leader; {2 * SESSIONS} sessions kept; operations: "
        f"{losses.done['kazoo']} by kazoo, {losses.done['java']} by Java; {len(losses.losses)} lost with the connection to "
        "the node that was restarted, none otherwise"
    )


if __name__ == "__main__":
    main()
