//! The limits set by the system on this process: descriptors and memory.
//!
//! Raises the descriptor limit as far as allowed and divides the descriptors between clients and other uses. Finds out
//! how much memory the process may use, from which the default of `memory_budget_bytes` follows.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use janus_core::Config;

use crate::access;
use crate::admin;
use crate::api::{MAX_LINGERING, MAX_REFUSALS};
use crate::settings::Settings;

/// Descriptors for uses other than connections: listeners, the runtimes of a server with one home arbiter, the rings of
/// 16 threads, the log, and some to spare.
pub(crate) const RESERVED_DESCRIPTORS: u64 = 64;

/// Descriptors of the runtime of each further home arbiter; a socket for each port comes on top.
const HOME_DESCRIPTORS: usize = 4;

/// What the threads of a server take beyond [`RESERVED_DESCRIPTORS`].
fn descriptors_of_threads(config: &Config) -> u64 {
    let Config { homes, threads, listen, tls_listen, http_listen, https_listen, .. } = config;
    let ports: usize = [listen, tls_listen, http_listen, https_listen].iter().map(|addrs| addrs.len()).sum();
    let further_homes = homes.min(threads).saturating_sub(1);
    (further_homes * (HOME_DESCRIPTORS + ports) + threads.saturating_sub(16)) as u64
}

/// Descriptors for TLS handshakes on a full server, as many as the core begins there.
const HANDSHAKE_DESCRIPTORS: u64 = 64;

/// Raises the soft limit to the hard limit, and returns the limit in force. A process that may not raise the limit
/// keeps its own.
pub(crate) fn raise_descriptors() -> u64 {
    rlimit::increase_nofile_limit(u64::MAX)
        .or_else(|_| rlimit::getrlimit(rlimit::Resource::NOFILE).map(|(soft, _)| soft))
        .unwrap_or(1_024)
}

/// Raises the limit, and lowers the limits in the settings to fit: a server that accepts more connections than its
/// descriptors allow can neither tell a client why the connection is refused nor serve its API. Only an operator who
/// set `max_connections` (`asked_for`) is warned, because the default is more than most machines allow.
pub(crate) fn fit_to_descriptors(settings: Settings, asked_for: bool) -> Settings {
    let (settings, fit) = fit(settings, asked_for);
    log::info!("{} descriptors allow {} clients", fit.limit, fit.clients);
    fit.warn();
    make_room(fit.needed);
    settings
}

/// As [`fit_to_descriptors`], for settings that are read while the server runs.
pub(crate) fn fit_again(settings: Settings, asked_for: bool) -> Settings {
    let (settings, fit) = fit(settings, asked_for);
    fit.warn();
    settings
}

/// What the descriptors allow.
struct Fit {
    limit: u64,
    clients: usize,
    /// Descriptors for everything that the settings allow.
    needed: u64,
    /// A `max_connections` set by the operator, and too high.
    lowered: Option<usize>,
}

impl Fit {
    fn warn(&self) {
        if let Some(asked) = self.lowered {
            log::warn!("max_connections is lowered from {asked} to {}: raise the descriptor limit", self.clients);
        }
    }
}

fn fit(mut settings: Settings, asked_for: bool) -> (Settings, Fit) {
    let limit = raise_descriptors();
    let config = &mut settings.core;
    let has_tls = !config.tls_listen.is_empty() || !config.https_listen.is_empty();
    let handshakes = if has_tls { HANDSHAKE_DESCRIPTORS } else { 0 };
    let limit_of_connections = limit.saturating_sub(handshakes + descriptors_of_threads(config));
    // A few descriptors are better for clients than for questions about clients that cannot connect.
    let backend = (access::descriptors(&settings.access) as u64).min(limit / 16);
    // The checks of health come before clients.
    let operators = if settings.admin_listen.is_empty() { 0 } else { admin::MAX_CONNECTIONS as u64 };
    let limit_of_connections = limit_of_connections.saturating_sub(backend + operators.min(limit / 16));
    let has_http = !config.http_listen.is_empty() || !config.https_listen.is_empty();
    let requests = if has_http { settings.max_api_connections } else { 0 };
    let Config { reserved_connections, max_refusals, max_connections, .. } = *config;
    let shares = Shares::of(limit_of_connections, requests, reserved_connections, max_refusals, max_connections);
    let Shares { clients, requests, reserved, refusals } = shares;
    settings.max_api_connections = requests.max(1);
    config.reserved_connections = reserved;
    config.max_refusals = refusals;
    let lowered = (config.max_connections > clients && asked_for).then_some(config.max_connections);
    config.max_connections = config.max_connections.min(clients);
    let kept = RESERVED_DESCRIPTORS + (limit - limit_of_connections);
    let needed = (config.max_connections + requests + reserved + refusals) as u64 + kept;
    (settings, Fit { limit, clients, needed, lowered })
}

/// Requests to the HTTP API that are being refused, or are answered and about to close.
const ANSWERED_REQUESTS: usize = MAX_REFUSALS + MAX_LINGERING;

/// The division of descriptors. Clients never take the shares of other uses, so a full server still accepts publishers
/// and operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shares {
    /// The largest possible number of clients.
    clients: usize,
    /// Requests to the HTTP API being served.
    requests: usize,
    /// Guests: connections beyond `max_connections`.
    reserved: usize,
    /// Connections being refused.
    refusals: usize,
}

impl Shares {
    /// Divides a limit according to the settings. If the settings ask for too much, requests to the API take at most a
    /// sixteenth, and answered requests, guests and refusals a 128th each.
    fn of(limit: u64, requests: usize, reserved: usize, refusals: usize, max_connections: usize) -> Self {
        let free = usize::try_from(limit.saturating_sub(RESERVED_DESCRIPTORS)).unwrap_or(usize::MAX).max(1);
        let requests = requests.min(free / 16);
        // At least this many connections are accepted in a turn, and must not crowd each other out before they are
        // read.
        const FEWEST: usize = 16;
        let (reserved_of_few, refusals_of_few) = (reserved.min((free / 128).max(FEWEST)), refusals.min(free / 128));
        let fewer = Self { clients: 0, requests, reserved: reserved_of_few, refusals: refusals_of_few };
        let all = Self { reserved, refusals, ..fewer };
        let answered = if requests > 0 { ANSWERED_REQUESTS.min(free / 128) } else { 0 };
        let others = |shares: Self| requests + answered + shares.reserved + shares.refusals;
        let fits = max_connections.saturating_add(others(all)) <= free;
        let shares = if fits { all } else { fewer };
        Self { clients: free.saturating_sub(others(shares)).max(1), ..shares }
    }
}

/// Makes the kernel grow this process's descriptor table to its final size, while the process has a single thread.
///
/// The kernel doubles a full table. In a process with several threads, the thread that needs the room is stopped until
/// no other thread reads the old table: for 15 ms, in the middle of every crowd larger than all before.
fn make_room(descriptors: u64) {
    let last =
        descriptors.min(rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(0, |(soft, _)| soft)).saturating_sub(1);
    // A failure here is harmless: the kernel may still grow the table later.
    let _ = rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), i32::try_from(last).unwrap_or(i32::MAX));
}

/// The memory this process may use, and the file that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    bytes: u64,
    file: PathBuf,
}

impl Memory {
    /// The memory of the machine or the limit of this process's control groups, whichever is less; `None` if neither is
    /// known, as on systems other than Linux.
    pub(crate) fn of_this_process() -> Option<Self> {
        Self::from_files(|path| std::fs::read_to_string(path).ok())
    }

    fn from_files(read: impl Fn(&Path) -> Option<String>) -> Option<Self> {
        let cgroups = read(Path::new("/proc/self/cgroup")).map(|text| limit_files(&text)).unwrap_or_default();
        let limits = cgroups.into_iter().filter_map(|file| Some(Self { bytes: limit(&read(&file)?)?, file }));
        let meminfo = PathBuf::from(MEMINFO);
        let machine = read(&meminfo).and_then(|text| machine_bytes(&text)).map(|bytes| Self { bytes, file: meminfo });
        machine.into_iter().chain(limits).min_by_key(|memory| memory.bytes)
    }

    /// Half of the memory, in whole MiB, but at least the smallest valid budget. The other half is for memory that is
    /// not accounted, such as the buffers of the kernel and the reserves of the allocator.
    pub(crate) fn budget(&self) -> usize {
        let half = (self.bytes / 2) >> 20 << 20;
        usize::try_from(half).unwrap_or(isize::MAX.unsigned_abs()).max(LEAST_BUDGET)
    }
}

impl fmt::Display for Memory {
    /// Explains the budget.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.file == Path::new(MEMINFO) { "the machine's memory in" } else { "the limit in" };
        let file = self.file.display();
        if self.bytes / 2 < LEAST_BUDGET as u64 {
            return write!(f, "the least possible, because half of {what} {file} would be less");
        }
        write!(f, "half of {what} {file}")
    }
}

/// The files that limit the memory of a process with this `/proc/self/cgroup`: the files of its groups and of all their
/// parents, because each limit counts. Includes versions 1 and 2, because a machine may have either or a mixture.
fn limit_files(cgroup: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in cgroup.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let (mount, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // A group invisible to this process is shown with `..`; then only the root is known. In a container without a
        // cgroup namespace the groups are not mounted either, and the root is the container's own group.
        let group = Path::new(group.trim_start_matches('/'));
        let hidden = group.components().any(|part| part == Component::ParentDir);
        let group = if hidden { Path::new("") } else { group };
        files.extend(group.ancestors().map(|group| Path::new(mount).join(group).join(file)));
    }
    files
}

/// The bytes in a limit file; `None` without a limit, which version 2 writes as `max` and version 1 as a number near
/// 2^63.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|&bytes| bytes < 1 << 60)
}

/// The `MemTotal` of `/proc/meminfo`, in KiB although the unit there is kB.
fn machine_bytes(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
}

const MEMINFO: &str = "/proc/meminfo";

/// The smallest budget that `janus_core::Config` accepts.
const LEAST_BUDGET: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// The result for a machine with 8 GiB and these files.
    fn memory(files: &[(&str, &str)]) -> Memory {
        let read = |path: &Path| {
            let meminfo = [("/proc/meminfo", "Buffers: 1 kB\nMemTotal:        8388608 kB\nMemFree: 5 kB\n")];
            let mut all = files.iter().chain(&meminfo);
            all.find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).to_owned())
        };
        Memory::from_files(read).unwrap()
    }

    #[track_caller]
    fn assert_memory(files: &[(&str, &str)], mib: u64, file: &str) {
        assert_eq!(memory(files), Memory { bytes: mib << 20, file: file.into() });
    }

    #[test]
    fn descriptors_are_kept_for_the_api_guests_and_refusals() {
        let divided = |limit, max_connections| {
            let Shares { clients, requests, reserved, refusals } = Shares::of(limit, 256, 256, 1_024, max_connections);
            let all = clients + requests + reserved + refusals;
            assert!(all as u64 + RESERVED_DESCRIPTORS <= limit, "{limit}");
            (clients, requests, reserved, refusals)
        };
        assert_eq!(divided(20_000, 100_000), (19_242, 256, 155, 155));
        assert_eq!(divided(20_000, 5_000), (18_272, 256, 256, 1_024), "all shares are granted in full if they fit");
        assert_eq!(divided(1_064, 100_000), (908, 62, 16, 7));
        assert_eq!(divided(1 << 20, 100_000).0, (1 << 20) - 64 - 1_664);
        assert_eq!(Shares::of(10, 256, 256, 1_024, 1), Shares { clients: 1, requests: 0, reserved: 16, refusals: 0 });
    }

    #[test]
    fn each_further_home_and_many_threads_have_descriptors_of_their_own() {
        let taken = |homes, threads| {
            let listen = vec![([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into()];
            descriptors_of_threads(&Config { homes, threads, listen, http_listen: Vec::new(), ..Config::default() })
        };
        assert_eq!([taken(1, 2), taken(1, 16), taken(2, 4), taken(8, 4), taken(32, 64)], [0, 0, 6, 18, 31 * 6 + 48]);
    }

    #[test]
    fn without_a_limit_the_machines_memory_counts() {
        assert_memory(&[], 8_192, "/proc/meminfo");
        assert_memory(&[("/proc/self/cgroup", "0::/\n")], 8_192, "/proc/meminfo");
        let unlimited = [("/proc/self/cgroup", "0::/a\n"), ("/sys/fs/cgroup/a/memory.max", "max\n")];
        assert_memory(&unlimited, 8_192, "/proc/meminfo");
        let beyond = [("/proc/self/cgroup", "0::/a\n"), ("/sys/fs/cgroup/a/memory.max", "17179869184\n")];
        assert_memory(&beyond, 8_192, "/proc/meminfo");
    }

    #[test]
    fn the_lowest_limit_of_a_group_and_its_parents_counts() {
        let parent = "/sys/fs/cgroup/system.slice/memory.max";
        let own = "/sys/fs/cgroup/system.slice/janus.service/memory.max";
        let cgroup = ("/proc/self/cgroup", "0::/system.slice/janus.service\n");
        assert_memory(&[cgroup, (own, "1073741824\n"), (parent, "2147483648\n")], 1_024, own);
        assert_memory(&[cgroup, (own, "max\n"), (parent, "2147483648\n")], 2_048, parent);
        assert_memory(&[cgroup, ("/sys/fs/cgroup/memory.max", "536870912\n")], 512, "/sys/fs/cgroup/memory.max");
    }

    #[test]
    fn in_version_1_memory_may_share_a_line_with_other_controllers() {
        let own = "/sys/fs/cgroup/memory/docker/7f/memory.limit_in_bytes";
        let root = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
        for line in ["5:memory:/docker/7f\n", "4:cpu,memory:/docker/7f\n3:pids:/docker/7f\n0::/\n"] {
            let cgroup = ("/proc/self/cgroup", line);
            assert_memory(&[cgroup, (own, "1073741824\n"), (root, "9223372036854771712\n")], 1_024, own);
            assert_memory(&[cgroup, (root, "536870912\n")], 512, root);
        }
        let other = ("/proc/self/cgroup", "5:memory_other:/docker/7f\nnonsense\n");
        assert_memory(&[other, (own, "1073741824\n")], 8_192, "/proc/meminfo");
    }

    #[test]
    fn for_an_invisible_group_only_the_root_is_read() {
        assert_eq!(limit_files("0::/../../other:1\n"), [PathBuf::from("/sys/fs/cgroup/memory.max")]);
    }

    #[test]
    fn without_any_file_the_memory_is_unknown() {
        assert_eq!(Memory::from_files(|_| None), None);
        assert_eq!(machine_bytes("MemTotal: lots\n"), None);
    }

    #[test]
    fn the_budget_is_half_and_the_core_accepts_it() {
        let limited = |bytes| memory(&[("/proc/self/cgroup", "0::/"), ("/sys/fs/cgroup/memory.max", bytes)]);
        let expected = [
            ("1073741824", 512, "half of the limit in /sys/fs/cgroup/memory.max"),
            ("1073741823", 511, "half of the limit in /sys/fs/cgroup/memory.max"),
            ("99999999999", 4_096, "half of the machine's memory in /proc/meminfo"),
            ("0", 16, "the least possible, because half of the limit in /sys/fs/cgroup/memory.max would be less"),
        ];
        for (bytes, mib, source) in expected {
            let memory = limited(bytes);
            assert_eq!((memory.budget(), memory.to_string()), (mib << 20, source.to_owned()));
            assert_eq!(Config { memory_budget_bytes: memory.budget(), ..Config::default() }.validate(), Ok(()));
        }
    }
}
