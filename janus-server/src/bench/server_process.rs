//! CPU time and resident memory of the server's process, read from Linux's `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The server's process, on this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerProcess {
    pub(super) pid: u32,
}

/// The usage at one moment; `None` if unknown.
#[derive(Debug)]
pub(super) struct Look {
    /// Nanoseconds on a CPU, by thread.
    cpu: Option<BTreeMap<String, u64>>,
    pub(super) rss_bytes: Option<u64>,
}

/// The server's usage during a run.
pub(super) struct Usage {
    pub(super) process: ServerProcess,
    /// Before the first client connects.
    pub(super) before: Look,
    /// After every client was acknowledged or failed.
    pub(super) ready: Look,
    /// After every message arrived.
    pub(super) end: Look,
}

impl ServerProcess {
    /// # Errors
    ///
    /// No process has this id. Without `/proc` no process is refused, and the report says that the usage is unknown.
    pub(super) fn find(pid: u32) -> Result<Self, String> {
        if Path::new("/proc/self").exists() && !Path::new(&format!("/proc/{pid}")).exists() {
            return Err(format!(
                "--server-pid {pid}: no such process; expected the id of the server's process on this machine"
            ));
        }
        Ok(Self { pid })
    }

    pub(super) fn look(self) -> Look {
        Look { cpu: self.cpu_by_thread(), rss_bytes: self.rss_bytes() }
    }

    /// The threads' files count nanoseconds; the file of the whole process counts in steps of 10 ms.
    fn cpu_by_thread(self) -> Option<BTreeMap<String, u64>> {
        let mut threads = BTreeMap::new();
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid)).ok()? {
            let thread = thread.ok()?;
            let statistics = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            let on_cpu = statistics.split_whitespace().next()?.parse().ok()?;
            threads.insert(thread.file_name().to_string_lossy().into_owned(), on_cpu);
        }
        Some(threads)
    }

    fn rss_bytes(self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(rss.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    }
}

impl Look {
    /// Nanoseconds of CPU time since an earlier look.
    ///
    /// # Errors
    ///
    /// Why the time is unknown.
    pub(super) fn cpu_since(&self, earlier: &Self) -> Result<u64, &'static str> {
        let (Some(now), Some(before)) = (&self.cpu, &earlier.cpu) else {
            return Err("unknown: the server's /proc/PID/task/*/schedstat cannot be read (Linux only)");
        };
        // The kernel forgets the usage of a thread when the thread ends.
        if before.keys().any(|thread| !now.contains_key(thread)) {
            return Err("unknown: a thread of the server ended during the run");
        }
        Ok(now.values().sum::<u64>().saturating_sub(before.values().sum()))
    }

    /// Growth of the resident memory since an earlier look; negative if it shrank.
    pub(super) fn growth_since(&self, earlier: &Self) -> Option<i64> {
        self.rss_bytes?.checked_signed_diff(earlier.rss_bytes?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(threads: &[(&str, u64)], rss_bytes: Option<u64>) -> Look {
        let cpu = threads.iter().map(|&(thread, on_cpu)| (thread.to_owned(), on_cpu)).collect();
        Look { cpu: Some(cpu), rss_bytes }
    }

    #[test]
    fn cpu_time_includes_all_threads_even_new_threads() {
        let before = look(&[("7", 100), ("8", 50)], None);
        assert_eq!(look(&[("7", 110), ("8", 50), ("9", 5)], None).cpu_since(&before), Ok(15));
    }

    #[test]
    fn unknown_cpu_time_is_an_error_with_the_reason() {
        let before = look(&[("7", 100), ("8", 50)], None);
        assert!(look(&[("7", 300)], None).cpu_since(&before).unwrap_err().contains("ended"));
        let nothing = Look { cpu: None, rss_bytes: None };
        assert!(before.cpu_since(&nothing).unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn memory_grows_and_shrinks() {
        let (small, large) = (look(&[], Some(4_096)), look(&[], Some(8_192)));
        assert_eq!(large.growth_since(&small), Some(4_096));
        assert_eq!(small.growth_since(&large), Some(-4_096));
        assert_eq!(small.growth_since(&look(&[], None)), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_used_memory() {
        let process = ServerProcess::find(std::process::id()).unwrap();
        assert!(process.look().rss_bytes.unwrap() > 4_096);
        // Larger than any process id of Linux.
        assert!(ServerProcess::find(u32::MAX).unwrap_err().starts_with("--server-pid 4294967295"));
    }
}
