"""Runs a command with io_uring's system calls denied by seccomp, as container runtimes do by default."""

import ctypes
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD_NUMBER, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, DENY_EPERM = 0x7FFF0000, 0x00050001
IO_URING_CALLS = (425, 426, 427)  # setup, enter, register: the same numbers on x86_64 and aarch64


def main():
    assert platform.machine() in ("x86_64", "aarch64")
    steps = [struct.pack("HBBI", LOAD_NUMBER, 0, 0, 0)]
    for i, number in enumerate(IO_URING_CALLS):
        to_deny = len(IO_URING_CALLS) - i
        steps.append(struct.pack("HBBI", JUMP_EQUAL, to_deny, 0, number))
    steps += [struct.pack("HBBI", RETURN, 0, 0, ALLOW), struct.pack("HBBI", RETURN, 0, 0, DENY_EPERM)]
    code = ctypes.create_string_buffer(b"".join(steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)):
        if libc.prctl(*call):
            raise OSError(ctypes.get_errno(), "prctl")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
