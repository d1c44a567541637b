//! One io_uring and its receive buffers.
//!
//! Owns the setup, the submission and completion queues, and the provided-buffer ring. Never knows a
//! connection.
//!
//! Correct because the kernel never touches freed memory. The buffers are unmapped after the ring is
//! closed, and only when no operation is under way. If some are (an engine panicked), the mappings are
//! leaked instead.

use crate::event_loop::{LoopCounters, LoopError, LoopKind, LoopOptions};
use io_uring::types::{BufRingEntry, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, squeue};
use rustix::mm::{MapFlags, ProtFlags};
use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// The one group of provided buffers of a ring.
pub(super) const BUFFER_GROUP: u16 = 0;

/// Completion entries per submission entry: multishot operations complete many times. The kernel stores an
/// overflow too, but slowly.
const COMPLETIONS_PER_SUBMISSION: u32 = 4;

/// `IORING_ENTER_GETEVENTS`: run deferred work and flush an overflown completion queue.
const ENTER_GETEVENTS: u32 = 1;

/// A ring with its buffers.
pub(super) struct Ring {
    // Declared before the buffers, so that it is closed before they are unmapped.
    ring: IoUring,
    pub(super) buffers: Buffers,
    /// Operations that will complete, and may touch memory until then.
    pub(super) in_kernel: usize,
    counters: Arc<LoopCounters>,
}

impl Ring {
    /// Sets everything up on the calling thread, which must be the one that uses the ring.
    pub(super) fn new(options: &LoopOptions, counters: Arc<LoopCounters>) -> Result<Ring, LoopError> {
        let entries = options.ring_entries.max(8).next_power_of_two();
        let mut builder = IoUring::builder();
        builder
            .dontfork()
            .setup_clamp()
            .setup_cqsize(entries.saturating_mul(COMPLETIONS_PER_SUBMISSION))
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag();
        // Spares an indirection; Linux 6.6.
        let mut ring =
            builder.clone().setup_no_sqarray().build(entries).or_else(|e| match e.raw_os_error() {
                Some(libc::EINVAL) => builder.build(entries),
                _ => Err(e),
            });
        if let Ok(ring) = &mut ring {
            // Spares a look-up of the descriptor in each call. Works without.
            let _ = ring.submitter().register_ring_fd();
        }
        let ring = ring.map_err(unavailable)?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(unavailable(io::Error::from_raw_os_error(libc::EINVAL)));
        }
        let buffers = Buffers::new(options.receive_buffers, options.receive_buffer_bytes)
            .map_err(LoopError::failed("mapping receive buffers"))?;
        // SAFETY: the entries are mapped, `count` of them, and stay so until the ring is closed. The field
        // order of `Ring` closes it first, and on an error here `ring` is dropped before `buffers` is
        // returned to any caller.
        let registered = unsafe {
            let at = buffers.entries.start.as_ptr() as u64;
            ring.submitter().register_buf_ring_with_flags(at, buffers.count, BUFFER_GROUP, 0)
        };
        let mut ring = Ring { ring, buffers, in_kernel: 0, counters };
        registered.map_err(unavailable)?;
        ring.buffers.publish();
        Ok(ring)
    }

    /// Queues an operation that will complete.
    ///
    /// # Safety
    /// What `entry` points to must stay where it is until the operation has completed.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) -> Result<(), LoopError> {
        // SAFETY: passed on to the caller.
        unsafe { self.push_uncounted(entry)? };
        self.in_kernel += 1;
        Ok(())
    }

    /// Queues an operation whose completion is not awaited (a cancellation).
    ///
    /// # Safety
    /// As [`Ring::push`].
    pub(super) unsafe fn push_uncounted(&mut self, entry: squeue::Entry) -> Result<(), LoopError> {
        loop {
            // SAFETY: passed on to the caller.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.enter(0, None)?;
        }
    }

    /// Whether entering the kernel would do anything: something to submit, deferred work, or overflown
    /// completions.
    pub(super) fn has_business(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Whether operations wait to be submitted.
    pub(super) fn has_submissions(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Submits what is queued, runs deferred work, and waits for `want` completions, at most for `timeout`.
    pub(super) fn enter(&mut self, want: usize, timeout: Option<Timespec>) -> Result<(), LoopError> {
        self.counters.system_calls.add(1);
        let submitter = self.ring.submitter();
        let done = match (want, timeout) {
            (0, _) => {
                let queued = self.ring.submission().len() as u32;
                // SAFETY: no argument is passed, and `queued` is the length of the queue.
                unsafe { self.ring.submitter().enter::<libc::sigset_t>(queued, 0, ENTER_GETEVENTS, None) }
            }
            (_, None) => submitter.submit_and_wait(want),
            (_, Some(timeout)) => submitter.submit_with_args(want, &SubmitArgs::new().timespec(&timeout)),
        };
        match done {
            Ok(_) => Ok(()),
            Err(e) => match e.raw_os_error() {
                // A timeout, a signal, overflown completions or a lack of memory. The caller reaps
                // completions and comes back.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(LoopError::Failed { doing: "entering io_uring", source: e }),
            },
        }
    }

    /// The next completion: (user data, result, flags).
    pub(super) fn completion(&mut self) -> Option<(u64, i32, u32)> {
        self.ring.completion().next().map(|c: cqueue::Entry| (c.user_data(), c.result(), c.flags()))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.in_kernel > 0 {
            self.buffers.leak();
        }
    }
}

/// Names the cause of a failed setup and the change that would cure it.
fn unavailable(error: io::Error) -> LoopError {
    let (reason, advice) = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => (
            "the kernel denies io_uring",
            "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile and set the sysctl kernel.io_uring_disabled=0",
        ),
        Some(libc::ENOSYS) => {
            ("the kernel has no io_uring", "use a kernel from 6.1 on, built with CONFIG_IO_URING")
        }
        Some(libc::EINVAL) => ("the kernel's io_uring is too old", "use a kernel from 6.1 on"),
        Some(libc::ENOMEM) => {
            ("there is not enough lockable memory for a ring", "raise the limit (ulimit -l, LimitMEMLOCK=)")
        }
        Some(libc::EMFILE | libc::ENFILE) => {
            ("too many files are open", "raise the limit of open files (ulimit -n, LimitNOFILE=)")
        }
        _ => ("the ring cannot be set up", "see the kernel's message"),
    };
    LoopError::Unavailable { kind: LoopKind::Uring, reason: format!("{reason}: {error}"), advice }
}

/// Anonymous memory that the kernel also writes to.
struct Mapping {
    start: NonNull<c_void>,
    bytes: NonZeroUsize,
    leaked: bool,
}

impl Mapping {
    fn new(bytes: usize) -> io::Result<Mapping> {
        let bytes = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new private mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                bytes.get(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, bytes, leaked: false })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if !self.leaked {
            // SAFETY: mapped by `new` with this length, and `Ring` ensures that the kernel is done with
            // it.
            let _ = unsafe { rustix::mm::munmap(self.start.as_ptr(), self.bytes.get()) };
        }
    }
}

/// The receive buffers and the ring in which they are offered to the kernel.
pub(super) struct Buffers {
    entries: Mapping,
    memory: Mapping,
    count: u16,
    size: u32,
    /// Index of the next entry, modulo 2^16. [`Buffers::publish`] publishes it to the kernel.
    tail: u16,
}

impl Buffers {
    fn new(count: u16, size: u32) -> io::Result<Buffers> {
        if !count.is_power_of_two() || count > 1 << 15 || size == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the number of receive buffers must be a power of two up to 32768, and their size at least 1",
            ));
        }
        let entries = Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(usize::from(count) * size as usize)?;
        let mut buffers = Buffers { entries, memory, count, size, tail: 0 };
        (0..count).for_each(|id| buffers.give_back(id));
        Ok(buffers)
    }

    /// The first `length` bytes of a buffer that the kernel has filled and that was not offered again.
    pub(super) fn filled(&self, id: u16, length: usize) -> &[u8] {
        assert!(id < self.count && length <= self.size as usize, "the kernel names one of our buffers");
        // SAFETY: inside the mapping by the assertion, and initialised (zero at first). The kernel does
        // not write to a buffer between its completion and `give_back`, which needs `&mut self`.
        unsafe {
            let start = self.memory.start.as_ptr().cast::<u8>().add(usize::from(id) * self.size as usize);
            std::slice::from_raw_parts(start, length)
        }
    }

    /// Offers a buffer to the kernel again, visible from the next [`Buffers::publish`] on.
    pub(super) fn give_back(&mut self, id: u16) {
        assert!(id < self.count, "the kernel names one of our buffers");
        let at = usize::from(self.tail & (self.count - 1));
        // SAFETY: inside both mappings by the mask and the assertion. The kernel does not read entries
        // from the published tail on, and there are never more than `count` buffers, so this entry is ours
        // to write. The tail is the `resv` field of entry 0, which is not written here.
        unsafe {
            let entry = &mut *self.entries.start.as_ptr().cast::<BufRingEntry>().add(at);
            let start = self.memory.start.as_ptr().cast::<u8>().add(usize::from(id) * self.size as usize);
            entry.set_addr(start as u64);
            entry.set_len(self.size);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Makes all returned buffers visible to the kernel.
    pub(super) fn publish(&mut self) {
        // SAFETY: the tail lies inside the first entry, is aligned for u16, and is only written here. The
        // kernel reads it atomically.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.start.as_ptr().cast::<BufRingEntry>());
            AtomicU16::from_ptr(tail.cast_mut()).store(self.tail, Ordering::Release);
        }
    }

    fn leak(&mut self) {
        self.entries.leaked = true;
        self.memory.leaked = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_ring_says_what_to_change() {
        for (errno, words) in [
            (libc::EPERM, ["seccomp", "kernel.io_uring_disabled=0"]),
            (libc::ENOSYS, ["no io_uring", "6.1"]),
            (libc::EINVAL, ["too old", "6.1"]),
            (libc::ENOMEM, ["lockable memory", "ulimit -l"]),
        ] {
            let message = unavailable(io::Error::from_raw_os_error(errno)).to_string();
            assert!(words.iter().all(|w| message.contains(w)), "{message}");
        }
    }

    #[test]
    fn a_wrong_number_of_buffers_is_an_error() {
        assert!(Buffers::new(3, 4096).is_err());
        assert!(Buffers::new(0, 4096).is_err());
        assert!(Buffers::new(4, 0).is_err());
    }

    #[test]
    fn buffers_come_back_under_their_own_names() {
        let mut buffers = Buffers::new(4, 16).unwrap();
        assert_eq!(buffers.tail, 4);
        buffers.give_back(2);
        assert_eq!(buffers.tail, 5);
        assert_eq!(buffers.filled(3, 16), [0; 16]);
    }

    #[test]
    #[should_panic(expected = "one of our buffers")]
    fn a_buffer_that_is_not_ours_is_not_read() {
        Buffers::new(4, 16).unwrap().filled(4, 1);
    }
}
