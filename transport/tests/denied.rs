//! The kernel denies io_uring, as the default seccomp profiles of container runtimes do.
//!
//! The danger: a server that does not start there, or that changes to another transport silently or
//! against an explicit choice. A filter like theirs is installed for the whole process, hence one test in
//! this file.

mod support;

use paddock_transport::event_loop::{Choice, LoopError, LoopKind, choose};
use support::{Family, echo_server};

/// Number of `io_uring_setup`, equal on every architecture that has it.
const IO_URING_SETUP: u32 = 425;

fn deny_io_uring() {
    let statement = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        // A filter's input begins with the number of the system call.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, IO_URING_SETUP, 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: both calls only read their arguments, and the program outlives them.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    assert!(installed, "no filter: {}", std::io::Error::last_os_error());
}

#[test]
fn auto_falls_back_with_a_reason_and_a_name_is_an_error() {
    deny_io_uring();
    let (kind, reason) = choose(Choice::Auto).unwrap();
    assert_eq!(kind, LoopKind::Epoll);
    assert!(reason.unwrap().contains("denies io_uring"));
    let error = choose(Choice::Uring).unwrap_err();
    assert!(matches!(error, LoopError::Unavailable { kind: LoopKind::Uring, .. }));
    assert!(error.to_string().contains("seccomp"), "{error}");
    assert_eq!(choose(Choice::Epoll).unwrap(), (LoopKind::Epoll, None));
    // Threads made from here on are under the filter too.
    let server = echo_server(kind, Family::Tcp);
    server.dial().exchange(b"still here");
}
