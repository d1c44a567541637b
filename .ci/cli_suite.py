"""ZooKeeper's own command-line client (Java) against the Paddock binary, across a restart."""

import argparse
import subprocess

from harness import PEERS, suite_arguments, suite_server

LINE_SECONDS_MAX = 60


def cli(server, *lines):
    """Runs one client with these commands on its standard input; returns everything it printed."""
    done = subprocess.run(
        ["java", "-cp", f"{PEERS}/lib/*", "org.apache.zookeeper.ZooKeeperMain", "-server", server.connect],
        input="\n".join([*lines, "quit", ""]),
        capture_output=True,
        text=True,
        timeout=LINE_SECONDS_MAX,
    )
    return done.stdout + done.stderr


def expect(output, *parts):
    for part in parts:
        assert part in output, f"'{part}' is missing in:\n{output}"


def main():
    arguments = suite_arguments(argparse.ArgumentParser(description=__doc__))
    with suite_server(arguments) as (server, name):
        output = cli(
            server,
            "create /j one",
            "create -s /j/s- x",
            "create -s /j/s- y",
            "create -e /j/eph z",
            "ls /j",
            "get -s -w /j",
            "set /j two",
            "get /j",
            "stat /j",
            "getAcl /j",
            "setAcl /j world:anyone:cdrwa",
            "create /j/tmp t",
            "delete /j/tmp",
            "get /j/tmp",
            "sync /j",
        )
        expect(output, "Created /j", "/j/s-0000000000", "/j/s-0000000001", "eph", "one", "two", "NodeDataChanged")
        expect(output, "numChildren = 3", "world,'anyone", "Node does not exist: /j/tmp", "Sync is OK")
        if server.process:
            assert server.stop() == 0
            server.start()
        output = cli(server, "get /j", "ls /j", "deleteall /j", "ls /")
        expect(output, "two", "[s-0000000000, s-0000000001]", "[zookeeper]")
    print(f"command-line client, {name}: 2 passed, 0 failed")


if __name__ == "__main__":
    main()
