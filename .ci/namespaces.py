"""Machines made of network namespaces: each has one address on a bridge in this process's namespace, and links to cut.

A namespace lives as long as the process that holds it. When this process ends, the kernel kills every process started
here. This process must not run in the machine's own namespace: .ci/chaos starts it with `unshare --net`."""

import ctypes
import os
import signal
import subprocess
import time

PREFIX = "10.77.0."
NOBODY = "02:ff:ff:ff:ff:ff"
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def run(*words):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}: {done.stderr.strip()}")


def own_namespace_only():
    devices = [line.split(":")[0].strip() for line in open("/proc/self/net/dev").readlines()[2:]]
    if devices != ["lo"]:
        raise SystemExit("this would change the machine's own network: start it with .ci/chaos")


def make_bridge():
    own_namespace_only()
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "br0", "type", "bridge")
    run("ip", "address", "add", PREFIX + "254/24", "dev", "br0")
    run("ip", "link", "set", "br0", "up")


class Machine:
    """Machine number n has the address 10.77.0.n."""

    def __init__(self, number):
        self.number = number
        self.ip = f"{PREFIX}{number}"
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], preexec_fn=die_with_parent)
        ours = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{self.holder.pid}/ns/net") == ours:
            time.sleep(0.005)
        self.port = f"node{number}"
        run("ip", "link", "add", self.port, "type", "veth", "peer", "name", "eth0", "netns", self.holder.pid)
        run("ip", "link", "set", self.port, "master", "br0", "up")
        self.inside("ip", "link", "set", "eth0", "address", f"02:00:00:00:00:{number:02x}")
        self.inside("ip", "address", "add", f"{self.ip}/24", "dev", "eth0")
        self.inside("ip", "link", "set", "eth0", "up")
        self.inside("ip", "link", "set", "lo", "up")

    def command(self, *words):
        return ["nsenter", "-t", str(self.holder.pid), "-n", "--", *map(str, words)]

    def inside(self, *words):
        run(*self.command(*words))

    def unplug(self):
        run("ip", "link", "set", self.port, "down")

    def plug(self):
        run("ip", "link", "set", self.port, "up")

    def lose_what_goes_to(self, other):
        """One way only: packets to `other` go to a hardware address that no machine has."""
        self.inside("ip", "neighbour", "replace", other.ip, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent")

    def reach(self, other):
        self.inside("ip", "neighbour", "del", other.ip, "dev", "eth0")
