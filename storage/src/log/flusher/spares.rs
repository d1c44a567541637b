//! Spare files: filled before they are needed, recycled from retired segments.
//!
//! Owns the decision to stop writes when the disk has no room for a spare, and to resume them. Never
//! fills a file on the flusher's thread unless a rotation needs it now, or the log has no thread of its
//! own.

#![forbid(unsafe_code)]

use std::io;
use std::sync::atomic::Ordering;

use super::Flusher;
use crate::log::recovery::SPARES_MAX;
use crate::log::segment::{self, Segment, Spare};
use crate::log::{Flushing, State};

impl Flusher {
    /// Waits for the spare that is being filled, or fills one on this thread. Returns whether there is one.
    pub(super) fn obtain_spare(&mut self, retry: &mut bool) -> bool {
        if let Some(filling) = self.filling.take() {
            let _ = filling.join();
            let prepared = self.shared.queue().prepared.take();
            if let Some(prepared) = prepared {
                self.prepared(prepared);
            }
        } else if *retry || self.shared.state() == State::Running {
            *retry = false;
            let number = self.next_spare();
            let made = segment::make_spare(&*self.options.disk, &self.options.dir, number, self.file_bytes());
            self.prepared(made);
        }
        !self.spares.is_empty()
    }

    /// Turns a retired segment into a spare, or removes it if there are enough.
    pub(super) fn recycle(&mut self, segment: &Segment) -> io::Result<()> {
        let (disk, file_bytes) = (self.options.disk.clone(), self.file_bytes());
        if segment.header.file_bytes == file_bytes && self.spares.len() < SPARES_MAX {
            let name = segment::spare_name(self.next_spare());
            let path = self.options.dir.join(name);
            disk.rename(&segment.path, &path)?;
            disk.sync_dir(&self.options.dir)?;
            self.spares.push(Spare { path, file_bytes });
        } else {
            disk.remove(&segment.path)?;
            disk.sync_dir(&self.options.dir)?;
        }
        Ok(())
    }

    /// Prepares a spare for the next rotation, or stops writes when the disk has no room for one.
    pub(super) fn keep_spare(&mut self, retry: bool) {
        if !self.spares.is_empty() {
            self.news |= self.shared.set_state(State::Running);
            return;
        }
        if self.filling.is_some() || !(retry || self.shared.state() == State::Running) {
            return;
        }
        let number = self.next_spare();
        let (disk, dir, bytes) = (self.options.disk.clone(), self.options.dir.clone(), self.file_bytes());
        if self.options.flushing == Flushing::Manual {
            let made = segment::make_spare(&*disk, &dir, number, bytes);
            self.prepared(made);
            return;
        }
        // Filling takes as long as writing a whole segment. Commits must not wait for it.
        let shared = self.shared.clone();
        let spawned = std::thread::Builder::new().name("paddock-spare".to_owned()).spawn(move || {
            let made = segment::make_spare(&*disk, &dir, number, bytes);
            shared.queue().prepared = Some(made);
            shared.news.notify_one();
        });
        match spawned {
            Ok(filling) => self.filling = Some(filling),
            Err(error) => self.prepared(Err(error)),
        }
    }

    /// Takes a filled spare and resumes writes, or stops writes if filling failed.
    pub(super) fn prepared(&mut self, made: io::Result<Spare>) {
        if let Some(filling) = self.filling.take() {
            let _ = filling.join();
        }
        match made {
            Ok(spare) => {
                self.spares.push(spare);
                self.news |= self.shared.set_state(State::Running);
            }
            Err(error) => {
                if self.shared.state() == State::Running {
                    self.allow_late_entries();
                }
                let reason = format!(
                    "no room for a log segment of {} bytes in {}: {error}",
                    self.file_bytes(),
                    self.options.dir.display()
                );
                let news = self.shared.set_state(State::WritesStopped { reason: reason.as_str().into() });
                if news {
                    // Logged once for each reason, not for each retry: the server's log file may lie on
                    // the full disk.
                    tracing::warn!(%reason, "writes are stopped");
                }
                self.news |= news;
            }
        }
    }

    /// Sets how many bytes of entries may still be appended after writes stop.
    ///
    /// The core learns of the stop a moment later, and may append entries until then. A refused entry
    /// would block all later records of the core, its votes too. So they are taken as far as the active
    /// segment has room beside a full queue.
    fn allow_late_entries(&self) {
        let file_bytes = self.active.header.file_bytes;
        let used = self.end() + self.shared.queued_bytes.load(Ordering::Acquire);
        let taken = used + self.options.queue_bytes_max + segment::reserve(file_bytes);
        self.shared.late_bytes.store(file_bytes.saturating_sub(taken), Ordering::Release);
    }

    fn next_spare(&mut self) -> u64 {
        self.next_spare += 1;
        self.next_spare - 1
    }

    fn file_bytes(&self) -> u64 {
        segment::file_bytes(self.options.segment_bytes)
    }
}
