"""io_uring denied: the server logs one line and serves over epoll. Asked for io_uring by name, the server refuses."""

import subprocess
import sys

import kazoo_suite
from harness import BINARY, Paddock, ROOT

WRAPPER = [sys.executable, str(ROOT / ".ci/deny_uring.py")]


def main():
    with Paddock("--transport", "auto", wrapper=WRAPPER) as server:
        log = server.log.read_text()
        assert log.count("io_uring is not available, using epoll") == 1, log
        kazoo_suite.conversations(server)
    refused = subprocess.run(
        [*WRAPPER, str(BINARY), "serve", "--transport", "uring", "--listen", "127.0.0.1:0", "--data-dir", str(server.dir)],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert refused.returncode == 3 and "choose another transport" in refused.stderr, refused
    server.remove()
    print("io_uring denied: 2 passed, 0 failed")


if __name__ == "__main__":
    main()
