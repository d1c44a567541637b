//! The machine a run happened on, and whose threads used how much of it.
//!
//! Owns reading `/proc`. Never fails a run: what cannot be read is reported as unknown. CPU time comes from each thread's
//! `schedstat`, which counts nanoseconds; where the kernel does not keep it, from `stat`, which counts ticks.

use rustix::param::clock_ticks_per_second;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What was there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the host.
    pub host: String,
    /// The processor's name.
    pub cpu: String,
    /// Cores that are online.
    pub cores: usize,
    /// Cores that this process may use.
    pub usable_cores: usize,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// Frequency governor of the first core, if it has one.
    pub governor: Option<String>,
    /// Whether a hypervisor is underneath.
    pub virtual_machine: bool,
}

impl Machine {
    /// Looks around.
    pub fn read() -> Self {
        let uname = rustix::system::uname();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
        };
        let governor = fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        Self {
            host: uname.nodename().to_string_lossy().into_owned(),
            cpu: field("model name").unwrap_or("unknown").to_owned(),
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            usable_cores: usable_cores(),
            memory_bytes: rustix::system::sysinfo().totalram as u64
                * u64::from(rustix::system::sysinfo().mem_unit),
            kernel: uname.release().to_string_lossy().into_owned(),
            governor: governor.ok().map(|g| g.trim().to_owned()),
            virtual_machine: field("flags").is_some_and(|flags| flags.split(' ').any(|f| f == "hypervisor")),
        }
    }
}

/// Cores that this process may use.
pub fn usable_cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Pins the calling thread to one core.
pub fn pin(core: u32) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    if core as usize >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    set.set(core as usize);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// CPU time of one thread so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadTime {
    /// Its id.
    pub tid: u32,
    /// Its name.
    pub name: String,
    /// Time on a core, ns.
    pub cpu_ns: u64,
}

/// CPU times of a process's threads at one instant.
#[derive(Clone, Debug, Default)]
pub struct CpuSample {
    /// When, on the same clock as another sample to compare with.
    pub at_ns: u64,
    /// All threads.
    pub threads: Vec<ThreadTime>,
}

impl CpuSample {
    /// The threads of `pid` (`None`: this process).
    pub fn read(pid: Option<u32>, at_ns: u64) -> io::Result<Self> {
        let tasks = match pid {
            Some(pid) => PathBuf::from(format!("/proc/{pid}/task")),
            None => PathBuf::from("/proc/self/task"),
        };
        let mut threads = Vec::new();
        for entry in fs::read_dir(tasks)? {
            // A thread that ends while we look is no error.
            let Ok(entry) = entry else { continue };
            let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Some(cpu_ns) = thread_cpu_ns(&entry.path()) else { continue };
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default().trim().to_owned();
            threads.push(ThreadTime { tid, name, cpu_ns });
        }
        threads.sort_by_key(|t| t.tid);
        Ok(Self { at_ns, threads })
    }

    /// The threads of several processes.
    pub fn read_all(pids: &[u32], at_ns: u64) -> io::Result<Self> {
        let mut all = Self { at_ns, threads: Vec::new() };
        for &pid in pids {
            all.threads.extend(Self::read(Some(pid), at_ns)?.threads);
        }
        Ok(all)
    }

    /// What the threads chosen by `of` used since `before`.
    pub fn since(&self, before: &CpuSample, of: impl Fn(u32) -> bool) -> CpuUsage {
        let seconds = self.at_ns.saturating_sub(before.at_ns) as f64 / 1e9;
        let mut threads = Vec::new();
        for now in self.threads.iter().filter(|t| of(t.tid)) {
            let then = before.threads.iter().find(|t| t.tid == now.tid).map_or(0, |t| t.cpu_ns);
            let cpu_seconds = now.cpu_ns.saturating_sub(then) as f64 / 1e9;
            let busy = if seconds > 0.0 { cpu_seconds / seconds } else { 0.0 };
            threads.push(ThreadUsage { name: now.name.clone(), tid: now.tid, cpu_seconds, busy });
        }
        threads.sort_by(|a, b| b.cpu_seconds.total_cmp(&a.cpu_seconds));
        let cpu_seconds = threads.iter().map(|t| t.cpu_seconds).sum();
        let busiest = threads.first().map_or(0.0, |t| t.busy);
        CpuUsage { seconds, cpu_seconds, busiest, threads }
    }
}

fn thread_cpu_ns(task: &Path) -> Option<u64> {
    let precise = fs::read_to_string(task.join("schedstat")).ok();
    if let Some(ns) = precise.and_then(|text| text.split(' ').next()?.parse::<u64>().ok()) {
        return Some(ns);
    }
    let stat = fs::read_to_string(task.join("stat")).ok()?;
    // The name may hold anything, so fields are counted from its closing bracket: utime and stime are the 14th and 15th.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks * (1_000_000_000 / clock_ticks_per_second().max(1)))
}

/// CPU time of some threads over a stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuUsage {
    /// The stretch.
    pub seconds: f64,
    /// Time on a core, all threads together.
    pub cpu_seconds: f64,
    /// Share of the stretch that the busiest thread was on a core.
    pub busiest: f64,
    /// Each thread, the busiest first.
    pub threads: Vec<ThreadUsage>,
}

/// CPU time of one thread over a stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ThreadUsage {
    /// Its name.
    pub name: String,
    /// Its id.
    pub tid: u32,
    /// Time on a core.
    pub cpu_seconds: f64,
    /// Share of the stretch.
    pub busy: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_described() {
        let machine = Machine::read();
        assert!(machine.cores >= 1 && machine.usable_cores >= 1 && machine.memory_bytes > 0, "{machine:?}");
        assert!(!machine.kernel.is_empty());
    }

    #[test]
    fn a_thread_that_works_is_seen_working() {
        let before = CpuSample::read(None, 0).unwrap();
        let me = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let mut x = 1u64;
        // Until the kernel's own accounting shows it, however slow this machine is.
        let after = loop {
            for _ in 0..1_000_000 {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            }
            let after = CpuSample::read(None, 1_000_000_000).unwrap();
            if after.since(&before, |tid| tid == me).cpu_seconds > 0.0 {
                break after;
            }
        };
        assert_ne!(x, 0);
        let usage = after.since(&before, |tid| tid == me);
        assert_eq!(usage.threads.len(), 1);
        assert!((usage.busiest - usage.cpu_seconds).abs() < 1e-9, "over one second they are the same number");
        assert!(after.since(&before, |_| false).threads.is_empty());
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(CpuSample::read(Some(u32::MAX), 0).is_err());
        assert!(CpuSample::read_all(&[std::process::id(), u32::MAX], 0).is_err());
    }
}
