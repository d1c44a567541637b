//! The machine of a run, and the CPU time of threads.
//!
//! Owns reading `/proc` and core affinity. Never fails a run: what cannot be read is reported as unknown.
//! Correct because CPU time comes from each thread's `schedstat`, which counts nanoseconds. Kernels without
//! `schedstat` have `stat`, which counts clock ticks.

use rustix::param::clock_ticks_per_second;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Description of the machine, for reports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub host: String,
    /// Model name of the processor.
    pub cpu: String,
    /// Number of online cores.
    pub cores: usize,
    /// Number of cores in this process's affinity mask.
    pub usable_cores: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    /// Frequency governor of core 0, if the kernel has one.
    pub governor: Option<String>,
    /// Whether the processor reports a hypervisor.
    pub virtual_machine: bool,
}

impl Machine {
    /// Reads `/proc` and `/sys`.
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

/// Number of cores in this process's affinity mask, at least 1.
pub fn usable_cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Pins the calling thread to `core`.
pub fn pin(core: u32) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    if core as usize >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    set.set(core as usize);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// CPU time of one thread since it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadTime {
    pub tid: u32,
    pub name: String,
    pub cpu_ns: u64,
}

/// CPU times of a process's threads at one instant.
#[derive(Clone, Debug, Default)]
pub struct CpuSample {
    /// Instant of the sample in ns. Two samples are compared on the same clock.
    pub at_ns: u64,
    /// Sorted by thread id within each process.
    pub threads: Vec<ThreadTime>,
}

impl CpuSample {
    /// Samples the threads of process `pid`; `None`: this process.
    pub fn read(pid: Option<u32>, at_ns: u64) -> io::Result<Self> {
        let tasks = match pid {
            Some(pid) => PathBuf::from(format!("/proc/{pid}/task")),
            None => PathBuf::from("/proc/self/task"),
        };
        let mut threads = Vec::new();
        for entry in fs::read_dir(tasks)? {
            // A thread may end while the directory is read.
            let Ok(entry) = entry else { continue };
            let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Some(cpu_ns) = thread_cpu_ns(&entry.path()) else { continue };
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default().trim().to_owned();
            threads.push(ThreadTime { tid, name, cpu_ns });
        }
        threads.sort_by_key(|t| t.tid);
        Ok(Self { at_ns, threads })
    }

    /// Samples the threads of several processes.
    pub fn read_all(pids: &[u32], at_ns: u64) -> io::Result<Self> {
        let mut all = Self { at_ns, threads: Vec::new() };
        for &pid in pids {
            all.threads.extend(Self::read(Some(pid), at_ns)?.threads);
        }
        Ok(all)
    }

    /// CPU time between `before` and this sample of the threads chosen by `of`.
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
    // The name may hold any character, so fields are counted from its closing bracket. Fields 14 and 15 are
    // utime and stime.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks * (1_000_000_000 / clock_ticks_per_second().max(1)))
}

/// CPU time of some threads over an interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuUsage {
    /// Length of the interval.
    pub seconds: f64,
    /// CPU time of all threads together.
    pub cpu_seconds: f64,
    /// CPU time of the busiest thread as a share of the interval.
    pub busiest: f64,
    /// Sorted by CPU time, descending.
    pub threads: Vec<ThreadUsage>,
}

/// CPU time of one thread over an interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ThreadUsage {
    pub name: String,
    pub tid: u32,
    pub cpu_seconds: f64,
    /// CPU time as a share of the interval.
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
        // Until the kernel's own accounting shows the work, however slow this machine is.
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
