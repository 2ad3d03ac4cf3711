//! The figures of the process, under the names that dashboards for any program expect.
//!
//! A figure that the system does not tell has no series.

use std::fs;
use std::time::{Duration, SystemTime};

use janus_core::{MetricFamily, MetricKind, MetricValue};
use rustix::time::{ClockId, clock_gettime};

/// Where Linux tells about this process.
const STATUS: &str = "/proc/self/status";
const DESCRIPTORS: &str = "/proc/self/fd";

pub(super) fn families(started: SystemTime) -> [MetricFamily; 6] {
    let status = fs::read_to_string(STATUS).unwrap_or_default();
    let gauge = |name, text, value: Option<u64>| {
        let family = MetricFamily::new(name, MetricKind::Gauge, text);
        match value {
            Some(value) => family.with([], MetricValue::Integer(value)),
            None => family,
        }
    };
    let cpu = MetricFamily::new("process_cpu_seconds", MetricKind::Counter, "Time of all threads on a CPU.");
    let start = "When the server started, as seconds since 1970.";
    let start = MetricFamily::new("process_start_time_seconds", MetricKind::Gauge, start);
    [
        cpu.with([], MetricValue::Float(cpu_time().as_secs_f64())),
        gauge("process_open_fds", "Open descriptors: a connection takes one.", open_descriptors()),
        gauge("process_max_fds", "The limit of open descriptors.", most_descriptors()),
        gauge("process_resident_memory_bytes", "Memory in use, as the system sees it.", bytes_of(&status, "VmRSS:")),
        gauge("process_virtual_memory_bytes", "Address space in use.", bytes_of(&status, "VmSize:")),
        start.with([], MetricValue::Float(since_1970(started))),
    ]
}

pub(super) fn since_1970(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default())
}

/// Newer kernels tell the number as the size of the folder. To count 19,000 entries takes milliseconds.
fn open_descriptors() -> Option<u64> {
    match fs::metadata(DESCRIPTORS).ok()?.len() {
        // The folder is open while it is read.
        0 => Some((fs::read_dir(DESCRIPTORS).ok()?.count() as u64).saturating_sub(1)),
        open => Some(open),
    }
}

fn most_descriptors() -> Option<u64> {
    rlimit::Resource::NOFILE.get().ok().map(|(most, _)| most)
}

/// A line such as `VmRSS:  123 kB`.
fn bytes_of(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> f64 {
        let families = families(SystemTime::now());
        let family = families.into_iter().find(|family| family.name == name).unwrap();
        match family.series[0].value {
            MetricValue::Integer(value) => value as f64,
            MetricValue::Float(value) => value,
            _ => panic!("a distribution"),
        }
    }

    #[test]
    fn the_system_tells_of_this_process() {
        let before = value("process_open_fds");
        let files: Vec<_> = (0..10).map(|_| fs::File::open(STATUS).unwrap()).collect();
        // Other tests of this process open and close descriptors, too.
        assert!(value("process_open_fds") > before - 100.0 && before < value("process_max_fds"), "{before}");
        drop(files);
        assert!((1e6..1e12).contains(&value("process_resident_memory_bytes")));
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        let cpu = value("process_cpu_seconds");
        while value("process_cpu_seconds") <= cpu {}
        assert!(value("process_start_time_seconds") > 1.7e9);
    }

    #[test]
    fn a_line_of_the_kernel_is_read_in_kilobytes() {
        let status = "Name:\tjanus\nVmSize:\t    2048 kB\nVmRSS:\t 12 kB\n";
        assert_eq!((bytes_of(status, "VmSize:"), bytes_of(status, "VmRSS:")), (Some(2_097_152), Some(12_288)));
        assert_eq!((bytes_of(status, "VmSwap:"), bytes_of("VmRSS: lots\n", "VmRSS:")), (None, None));
    }
}
