"""Started by .ci/chaos. The seed decides the faults; the nodes that they hit also depend on the leader at that moment.

Exit code 1: a wrong answer, a lost write, a node that ended by itself, replicas that differ, or an ensemble that did
not recover within a bound after a fault had ended. Logs stay in the printed folder."""

import argparse
import hashlib
import json
import pathlib
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter

import jute
from harness import BINARY, four_letters
from namespaces import Machine, die_with_parent, make_bridge

CLIENT_PORT = 2181
# From the last fault until all nodes agree: a restarted node replays its log, an emptied one fetches a snapshot.
HEAL_SECONDS_MAX = 60
# Time between the last fault and the end of the load, so that every node has recovered when the load verifies.
CALM_SECONDS = 15
STALENESS_MS = 4000
# Longer than any election, shorter than the longest pauses: some sessions expire.
SESSION_MS = 6000
# A gap of the load generator belongs to the fault within which it began, or this much after it.
GAP_SLACK_MS = 500
CONFIG = f"""tickTime=1000
initLimit=10
syncLimit=5
snapCount=20000
maxClientCnxns=0
4lw.commands.whitelist=*
quorumListenOnAllIPs=false
paddock.maxStaleness={STALENESS_MS}
"""


class Node(Machine):
    def __init__(self, number, folder):
        super().__init__(number)
        self.dir = folder / f"node-{number}"
        self.log = self.dir / "log"
        self.process = None

    def configure(self, servers):
        (self.dir / "data").mkdir(parents=True)
        (self.dir / "data/myid").write_text(f"{self.number}\n")
        (self.dir / "zoo.cfg").write_text(f"{CONFIG}dataDir={self.dir}/data\n{servers}")

    def start(self):
        with open(self.log, "ab") as log:
            command = self.command(BINARY, "serve", "--shards", 1, "--config", self.dir / "zoo.cfg")
            self.process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=die_with_parent)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def lose_disk(self):
        shutil.rmtree(self.dir / "data")
        (self.dir / "data").mkdir()
        (self.dir / "data/myid").write_text(f"{self.number}\n")

    def word(self, word):
        try:
            return four_letters(CLIENT_PORT, word, timeout=1.0, host=self.ip)
        except OSError:
            return ""

    def values(self):
        return dict(line.split("\t", 1) for line in self.word("mntr").splitlines() if "\t" in line)


class Ensemble:
    def __init__(self, voters, observers, folder):
        make_bridge()
        self.nodes = [Node(n, folder) for n in range(1, voters + observers + 1)]
        self.voters, self.observers = self.nodes[:voters], self.nodes[voters:]
        servers = ""
        for node in self.nodes:
            role = "participant" if node in self.voters else "observer"
            servers += f"server.{node.number}={node.ip}:2888:3888:{role};{node.ip}:{CLIENT_PORT}\n"
        for node in self.nodes:
            node.configure(servers)
            node.start()

    def hosts(self):
        return ",".join(f"{n.ip}:{CLIENT_PORT}" for n in self.nodes)

    def leader(self):
        told = Counter(n.values().get("paddock_leader", "0") for n in self.nodes)
        told.pop("0", None)
        number = int(told.most_common(1)[0][0]) if told else 0
        return next((n for n in self.voters if n.number == number), None)

    def is_healthy(self):
        values = [n.values() for n in self.nodes]
        heads = {(v.get("paddock_leader"), v.get("paddock_term")) for v in values}
        states = sorted(v.get("zk_server_state", "none") for v in values)
        wanted = sorted(["leader"] + ["follower"] * (len(self.voters) - 1) + ["observer"] * len(self.observers))
        # An emptied voter counts again once it has caught up and the leader has given its vote back.
        quorums = {v.get("zk_quorum_size") for v in values}
        whole = len(heads) == 1 and states == wanted and quorums == {str(len(self.voters))}
        return whole and all(n.word("isro") == "rw" for n in self.nodes)

    def wait_until_healthy(self):
        begun = time.monotonic()
        while not self.is_healthy():
            self.look_for_dead()
            if time.monotonic() - begun > HEAL_SECONDS_MAX:
                raise Failed(f"not healed {HEAL_SECONDS_MAX} s after the last fault: {self.describe()}")
            time.sleep(0.05)
        return time.monotonic() - begun

    def describe(self):
        keys = ("zk_server_state", "zk_peer_state", "paddock_leader", "paddock_term", "paddock_write_block_reason")
        return {n.number: {k: v for k, v in n.values().items() if k in keys} for n in self.nodes}

    def look_for_dead(self):
        for node in self.nodes:
            if node.process and node.process.poll() is not None:
                tail = "\n".join(node.log.read_text(errors="replace").splitlines()[-12:])
                raise Failed(f"node {node.number} ended by itself with {node.process.returncode}:\n{tail}")


class Failed(Exception):
    pass


# --- faults: each begins on a node at once, and returns the function that ends it


def kill(_ensemble, node):
    node.kill()
    return node.start


def pause(_ensemble, node):
    node.process.send_signal(signal.SIGSTOP)
    return lambda: node.process.send_signal(signal.SIGCONT)


def cut(_ensemble, node):
    node.unplug()
    return node.plug


def lose_ways(ways):
    for sender, receiver in ways:
        sender.lose_what_goes_to(receiver)
    return lambda: [sender.reach(receiver) for sender, receiver in ways]


def mute(ensemble, node):
    return lose_ways([(node, other) for other in ensemble.nodes if other is not node])


def deaf(ensemble, node):
    return lose_ways([(other, node) for other in ensemble.nodes if other is not node])


def parted(ensemble, node):
    other = ensemble.voters[node.number % len(ensemble.voters)]
    return lose_ways([(node, other), (other, node)]) if other is not node else (lambda: None)


def lose_disk(_ensemble, node):
    node.kill()
    node.lose_disk()
    return node.start


# Each kind, how often it is drawn, and how long it lasts, seconds.
SINGLE = {kill: (4, 0.2, 4), pause: (3, 1, 8), cut: (3, 1, 8), mute: (1, 1, 6), deaf: (1, 1, 6), parted: (1, 1, 6)}


class Schedule:
    """Draws faults. The draws depend on the seed alone."""

    def __init__(self, ensemble, seed, lost_disks):
        self.ensemble, self.random = ensemble, random.Random(seed)
        self.kinds = dict(SINGLE)
        if lost_disks:
            self.kinds[lose_disk] = (1, 0.2, 2)
        self.count = 0

    def draw(self):
        """Begins a fault; returns (name, seconds, whether the leader was hit, the function that ends the fault)."""
        self.count += 1
        r, ensemble = self.random, self.ensemble
        roll, favoured = r.random(), r.random() < 0.5
        picked = r.choices(list(self.kinds), [k[0] for k in self.kinds.values()], k=2)
        lasts = [r.uniform(*self.kinds[kind][1:]) for kind in picked]
        order = r.sample(ensemble.nodes, len(ensemble.nodes))
        leader = ensemble.leader()
        if self.count % 12 == 5:
            return self.majority(order, r.uniform(STALENESS_MS / 1000 + 3, 10))
        if self.count % 12 == 11:
            for node in ensemble.nodes:
                node.kill()
            return "all killed", r.uniform(0.2, 2), True, lambda: [n.start() for n in ensemble.nodes]
        first = leader if favoured and leader else order[0]
        ends, names, hit = [picked[0](ensemble, first)], [picked[0].__name__], [first]
        if roll < 0.2:
            # Never a majority of the voters: with three of them only one of the two is a voter.
            both = len(ensemble.voters) >= 5 or first in ensemble.observers
            second = next((n for n in order if n is not first and (both or n in ensemble.observers)), None)
            # An emptied voter counts as lost until it has caught up. A parted node would lose a second one.
            if second and not {lose_disk, parted} & set(picked):
                ends.append(picked[1](ensemble, second))
                names.append(picked[1].__name__)
                hit.append(second)
        name = " and ".join(sorted(names))
        print(f"  {name}: node {' and '.join(str(n.number) for n in hit)}{' (leader)' if leader in hit else ''}", flush=True)
        return name, max(lasts[: len(ends)]), leader in hit, lambda: [end() for end in ends]

    def majority(self, order, seconds):
        ensemble = self.ensemble
        victims = [n for n in order if n in ensemble.voters][: len(ensemble.voters) // 2 + 1]
        for node in victims:
            node.kill()
        left = [n for n in ensemble.voters if n not in victims]

        def end():
            for node in left:
                answer = node.word("srvr")
                if "not currently serving requests" not in answer or "voters are needed" not in answer:
                    raise Failed(f"node {node.number} does not say why nothing is written: {answer!r}")
            for node in victims:
                node.start()

        return "majority killed", seconds, True, end


def walk(node):
    """Digest over every znode: path, data and stat, in order of the paths."""
    connection = jute.Connection(CLIENT_PORT, host=node.ip)
    greeted = connection.hello()
    if greeted == "closed":
        raise Failed(f"node {node.number} closed the connection for the comparison")
    connection.call(9, jute.ustr("/"))
    digest, count, todo = hashlib.sha256(), 0, ["/"]
    while todo:
        at = todo.pop()
        connection.request(4, jute.ustr(at) + jute.flag(False))
        connection.request(8, jute.ustr(at) + jute.flag(False))
        data, children = connection.read(), connection.read()
        (_, _, failed), body = struct.unpack(">iqi", data[:16]), data[16:]
        if failed:
            raise Failed(f"node {node.number}: reading {at} gives {failed}")
        digest.update(at.encode() + body)
        names = jute.Cursor(children[16:])
        todo += [at.rstrip("/") + "/" + name for name in sorted(names.vec(names.ustr))]
        count += 1
    connection.call(-11)
    connection.close()
    return digest.hexdigest(), count


def compare(ensemble):
    found = {node.number: walk(node) for node in ensemble.nodes}
    if len(set(found.values())) != 1:
        raise Failed(f"replicas differ: {found}")
    digest, count = next(iter(found.values()))
    print(f"replicas: {len(found)} with the same {count} znodes, data and stats, digest {digest[:16]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--voters", type=int, default=5)
    parser.add_argument("--observers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rate", type=int, default=3000, help="requests per second of the load")
    parser.add_argument("--keys", type=int, default=2000)
    parser.add_argument("--no-lost-disks", action="store_true", help="do not empty data directories")
    arguments = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="paddock-chaos-"))
    print(f"logs and data: {folder}; again: .ci/chaos {' '.join(sys.argv[1:])}", flush=True)
    ensemble = Ensemble(arguments.voters, arguments.observers, folder)
    failed = None
    try:
        exercise(ensemble, arguments, folder)
    except Failed as reason:
        failed = reason
    for node in ensemble.nodes:
        if node.process:
            node.process.send_signal(signal.SIGCONT)
            node.kill()
    if failed:
        print(f"FAILED: {failed}\nlogs: {folder}")
        raise SystemExit(1)
    shutil.rmtree(folder)


def exercise(ensemble, arguments, folder):
    ensemble.wait_until_healthy()
    seconds = arguments.minutes * 60
    report = folder / "load.json"
    load = start_load(ensemble, arguments, folder, seconds + CALM_SECONDS, report)
    wait_for_load(ensemble, load, folder)
    begun, faults = time.monotonic(), []
    schedule = Schedule(ensemble, arguments.seed, not arguments.no_lost_disks)
    while time.monotonic() - begun < seconds:
        at_ms = time.time() * 1000
        name, lasts, led, end = schedule.draw()
        if "killed" in name:
            print(f"  {name}", flush=True)
        rest(ensemble, load, lasts)
        end()
        healed = ensemble.wait_until_healthy()
        faults.append({"name": name, "at_ms": at_ms, "led": led, "until_ms": time.time() * 1000, "healed": healed})
        rest(ensemble, load, schedule.random.uniform(1, 3))
    try:
        code = load.wait(timeout=CALM_SECONDS + HEAL_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        load.kill()
        raise Failed("the load generator did not end") from None
    ensemble.wait_until_healthy()
    subprocess.run([BINARY, "status", ensemble.hosts()])
    print_figures(faults, report)
    if code:
        raise Failed(f"paddock-load exits with {code}:\n{(folder / 'load.log').read_text()[-3000:]}")
    compare(ensemble)


def start_load(ensemble, arguments, folder, seconds, report):
    command = [BINARY.parent / "paddock-load", "run", "--target", ensemble.hosts(), "--reads", 0.95]
    command += ["--connections", arguments.connections, "--rate", arguments.rate, "--keys", arguments.keys]
    command += ["--duration", f"{seconds:.0f}s", "--timeout-ms", SESSION_MS, "--seed", arguments.seed, "--threads", 1]
    command += ["--through-failures", "--verify-at-end", "--sessions-must-live", "--quiet", "--json", report]
    log = open(folder / "load.log", "wb")
    return subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, preexec_fn=die_with_parent)


def wait_for_load(ensemble, load, folder):
    """Until the tree is filled."""
    begun = time.monotonic()
    while load.poll() is None and time.monotonic() - begun < HEAL_SECONDS_MAX:
        ensemble.look_for_dead()
        if int(ensemble.nodes[0].values().get("zk_num_alive_connections", 0)) > 1:
            return
        time.sleep(0.1)
    raise Failed(f"no load:\n{(folder / 'load.log').read_text()[-3000:]}")


def rest(ensemble, load, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ensemble.look_for_dead()
        if load.poll() is not None:
            raise Failed(f"the load generator ended early with {load.returncode}")
        time.sleep(0.05)


def print_figures(faults, path):
    print("\nfaults, and the longest time without an answered write after each kind; of a leader: median and longest")
    report = json.loads(path.read_text()) if path.exists() else {}
    result = report.get("result", {})
    availability = result.get("availability") or {}
    began_ms = result.get("measured_from_ms", 0)
    gaps = (availability.get("write_gaps") or {}).get("list", [])
    for fault in faults:
        fault["without_writes_ms"] = max(
            (
                gap["length_ms"]
                for gap in gaps
                if fault["at_ms"] - GAP_SLACK_MS <= began_ms + gap["start_ms"] <= fault["until_ms"] + GAP_SLACK_MS
            ),
            default=0,
        )
    for name, count in sorted(Counter(f["name"] for f in faults).items()):
        some = [f for f in faults if f["name"] == name]
        led = sorted(f["without_writes_ms"] for f in some if f["led"])
        leaders = f"; {len(led)} × the leader: {led[len(led) // 2]} ms, {led[-1]} ms" if led else ""
        longest, healed = max(f["without_writes_ms"] for f in some), max(f["healed"] for f in some)
        print(f"  {count:3} × {name}: {longest} ms{leaders}; healed at most {healed:.1f} s after its end")
    if not availability:
        return
    for kind, others in (("write", "reads"), ("read", "writes")):
        found = availability[f"{kind}_gaps"]
        print(
            f"{kind}s: {found['count']} gaps over {availability['gap_threshold_ms']} ms, longest {found['longest_ms']} ms, "
            f"{found['total_ms']} ms in all; {found[others]} {others} answered meanwhile"
        )
    print(", ".join(f"{value} {key}".replace("_", " ") for key, value in availability.items() if isinstance(value, int)))
    print(f"{result['operations']} operations answered; wrong answers: {result['wrong_answers']}")
    for example in result["wrong_examples"]:
        print(f"  {example}")


if __name__ == "__main__":
    main()
