//! What the system grants this process: descriptors, raised as far as they may go, with what that means for the number of
//! clients, and memory, with the budget that follows from it.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use crate::api::{MAX_LINGERING, MAX_REFUSALS};
use crate::settings::Settings;

/// Descriptors that are not for clients: listeners, the runtime's own, the log, and some to spare.
pub(crate) const RESERVED_DESCRIPTORS: u64 = 64;

/// Raises the soft limit to the hard one and returns it. Whoever may not is left with what it has.
pub(crate) fn raise_descriptors() -> u64 {
    rlimit::increase_nofile_limit(u64::MAX)
        .or_else(|_| rlimit::getrlimit(rlimit::Resource::NOFILE).map(|(soft, _)| soft))
        .unwrap_or(1_024)
}

/// Raises the limit and lowers what the settings ask for to what fits: a server that accepts more than it has descriptors for
/// can neither tell a client why it is turned away nor serve its API. Only an operator who asked for more clients
/// (`asked_for`) is warned; the default is more than most machines allow.
pub(crate) fn fit_to_descriptors(mut settings: Settings, asked_for: bool) -> Settings {
    let limit = raise_descriptors();
    let config = &mut settings.core;
    let has_http = !config.http_listen.is_empty();
    let requests = if has_http { settings.max_api_connections } else { 0 };
    let shares = Shares::of(limit, requests, config.reserved_connections, config.max_refusals, config.max_connections);
    let Shares { clients, requests, reserved, refusals } = shares;
    settings.max_api_connections = requests.max(1);
    config.reserved_connections = reserved;
    config.max_refusals = refusals;
    log::info!("{limit} descriptors allow {clients} clients");
    if config.max_connections > clients {
        if asked_for {
            log::warn!(
                "max_connections is lowered from {} to {clients}: raise the descriptor limit",
                config.max_connections
            );
        }
        config.max_connections = clients;
    }
    make_room((config.max_connections + requests + reserved + refusals) as u64 + RESERVED_DESCRIPTORS);
    settings
}

/// Requests to the HTTP API that are refused, or have their answer and are about to be closed.
const ANSWERED_REQUESTS: usize = MAX_REFUSALS + MAX_LINGERING;

/// How descriptors are divided. What is not for clients is never taken by them, so that a full server can still be
/// published to and looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shares {
    /// As many clients as there can be.
    clients: usize,
    /// Requests to the HTTP API that are being served.
    requests: usize,
    /// Connections without a place of `max_connections`.
    reserved: usize,
    /// Connections that are being refused.
    refusals: usize,
}

impl Shares {
    /// Of a limit, for what the settings ask for. Where that is too much, requests to the API take a sixteenth at most, and
    /// those that have their answer, guests and refusals a 128th each.
    fn of(limit: u64, requests: usize, reserved: usize, refusals: usize, max_connections: usize) -> Self {
        let free = usize::try_from(limit.saturating_sub(RESERVED_DESCRIPTORS)).unwrap_or(usize::MAX).max(1);
        let requests = requests.min(free / 16);
        // So many at least are accepted in one turn, and must not crowd each other out before they are read.
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

/// Has the kernel make its table of this process's descriptors as large as it will get. It doubles a table that is full,
/// and in a process of several threads it stops the thread that needs the room until no other reads the old one: for
/// 15 ms, in the middle of every crowd that is larger than all before. Now there is one thread, and nobody waits.
fn make_room(descriptors: u64) {
    let last =
        descriptors.min(rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(0, |(soft, _)| soft)).saturating_sub(1);
    // A kernel that does not give it now may give it later.
    let _ = rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), i32::try_from(last).unwrap_or(i32::MAX));
}

/// The memory this process may use, and which file says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    bytes: u64,
    file: PathBuf,
}

impl Memory {
    /// What the machine has or what the control groups of this process allow, whichever is less; `None` where no file
    /// says it, as on systems other than Linux.
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

    /// Half of it, in whole MiB, but no less than a budget may be: the other half is for what is not accounted, such as
    /// the buffers of the kernel and what the allocator keeps.
    pub(crate) fn budget(&self) -> usize {
        let half = (self.bytes / 2) >> 20 << 20;
        usize::try_from(half).unwrap_or(isize::MAX.unsigned_abs()).max(LEAST_BUDGET)
    }
}

impl fmt::Display for Memory {
    /// Says where the budget comes from.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.file == Path::new(MEMINFO) { "the machine's memory by" } else { "the limit in" };
        let file = self.file.display();
        if self.bytes / 2 < LEAST_BUDGET as u64 {
            return write!(f, "the least that is possible; half of {what} {file} would be less");
        }
        write!(f, "half of {what} {file}")
    }
}

/// The files that limit the memory of a process with this `/proc/self/cgroup`: those of its groups and of all their
/// parents, since each of them counts. Of version 2 and of version 1, as a machine may have either or a mixture.
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
        // A group outside of what this process may see is shown with `..`, and then only the root is known. In a
        // container without a cgroup namespace the groups are not there either, and the root is the container's own.
        let group = Path::new(group.trim_start_matches('/'));
        let hidden = group.components().any(|part| part == Component::ParentDir);
        let group = if hidden { Path::new("") } else { group };
        files.extend(group.ancestors().map(|group| Path::new(mount).join(group).join(file)));
    }
    files
}

/// The bytes in a limit file; version 2 writes no limit as `max`, version 1 as a number near 2^63.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|&bytes| bytes < 1 << 60)
}

/// The `MemTotal` of `/proc/meminfo`, which is in KiB although it says kB.
fn machine_bytes(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
}

const MEMINFO: &str = "/proc/meminfo";

/// What `janus_core::Config` takes at least.
const LEAST_BUDGET: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use janus_core::Config;

    use super::*;

    /// The memory of a machine with 8 GiB and these files.
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
    fn what_clients_cannot_take_is_there_for_api_guests_and_refusals() {
        let divided = |limit, max_connections| {
            let Shares { clients, requests, reserved, refusals } = Shares::of(limit, 256, 256, 1_024, max_connections);
            let all = clients + requests + reserved + refusals;
            assert!(all as u64 + RESERVED_DESCRIPTORS <= limit, "{limit}");
            (clients, requests, reserved, refusals)
        };
        assert_eq!(divided(20_000, 100_000), (19_242, 256, 155, 155));
        assert_eq!(divided(20_000, 5_000), (18_272, 256, 256, 1_024), "where all of it fits, all is there");
        assert_eq!(divided(1_064, 100_000), (908, 62, 16, 7));
        assert_eq!(divided(1 << 20, 100_000).0, (1 << 20) - 64 - 1_664);
        assert_eq!(Shares::of(10, 256, 256, 1_024, 1), Shares { clients: 1, requests: 0, reserved: 16, refusals: 0 });
    }

    #[test]
    fn without_a_limit_it_is_the_machines_memory() {
        assert_memory(&[], 8_192, "/proc/meminfo");
        assert_memory(&[("/proc/self/cgroup", "0::/\n")], 8_192, "/proc/meminfo");
        let unlimited = [("/proc/self/cgroup", "0::/a\n"), ("/sys/fs/cgroup/a/memory.max", "max\n")];
        assert_memory(&unlimited, 8_192, "/proc/meminfo");
        let beyond = [("/proc/self/cgroup", "0::/a\n"), ("/sys/fs/cgroup/a/memory.max", "17179869184\n")];
        assert_memory(&beyond, 8_192, "/proc/meminfo");
    }

    #[test]
    fn of_a_group_and_its_parents_the_lowest_limit_counts() {
        let parent = "/sys/fs/cgroup/system.slice/memory.max";
        let own = "/sys/fs/cgroup/system.slice/janus.service/memory.max";
        let cgroup = ("/proc/self/cgroup", "0::/system.slice/janus.service\n");
        assert_memory(&[cgroup, (own, "1073741824\n"), (parent, "2147483648\n")], 1_024, own);
        assert_memory(&[cgroup, (own, "max\n"), (parent, "2147483648\n")], 2_048, parent);
        assert_memory(&[cgroup, ("/sys/fs/cgroup/memory.max", "536870912\n")], 512, "/sys/fs/cgroup/memory.max");
    }

    #[test]
    fn version_1_has_a_line_for_memory_alone_or_with_others() {
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
    fn a_group_that_is_out_of_sight_leaves_the_root() {
        assert_eq!(limit_files("0::/../../other:1\n"), [PathBuf::from("/sys/fs/cgroup/memory.max")]);
    }

    #[test]
    fn where_no_file_says_it_there_is_no_answer() {
        assert_eq!(Memory::from_files(|_| None), None);
        assert_eq!(machine_bytes("MemTotal: lots\n"), None);
    }

    #[test]
    fn the_budget_is_half_and_the_core_accepts_it() {
        let limited = |bytes| memory(&[("/proc/self/cgroup", "0::/"), ("/sys/fs/cgroup/memory.max", bytes)]);
        let expected = [
            ("1073741824", 512, "half of the limit in /sys/fs/cgroup/memory.max"),
            ("1073741823", 511, "half of the limit in /sys/fs/cgroup/memory.max"),
            ("99999999999", 4_096, "half of the machine's memory by /proc/meminfo"),
            ("0", 16, "the least that is possible; half of the limit in /sys/fs/cgroup/memory.max would be less"),
        ];
        for (bytes, mib, source) in expected {
            let memory = limited(bytes);
            assert_eq!((memory.budget(), memory.to_string()), (mib << 20, source.to_owned()));
            assert_eq!(Config { memory_budget_bytes: memory.budget(), ..Config::default() }.validate(), Ok(()));
        }
    }
}
