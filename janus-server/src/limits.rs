//! The process's descriptor limit: raised as far as it may go, and what that means for the number of clients.

use janus_core::Config;

/// Descriptors that are not for clients: listeners, the runtime's own, the log, and some to spare.
pub(crate) const RESERVED_DESCRIPTORS: u64 = 64;

/// Raises the soft limit to the hard one and returns it. Whoever may not is left with what it has.
pub(crate) fn raise_descriptors() -> u64 {
    rlimit::increase_nofile_limit(u64::MAX)
        .or_else(|_| rlimit::getrlimit(rlimit::Resource::NOFILE).map(|(soft, _)| soft))
        .unwrap_or(1_024)
}

/// Raises the limit and lowers `max_connections` to what fits: a server that accepts more than it has descriptors for
/// cannot even tell the client why it is turned away. Only an operator who asked for more (`asked_for`) is warned; the
/// default is more than most machines allow.
pub(crate) fn fit_to_descriptors(mut config: Config, asked_for: bool) -> Config {
    let limit = raise_descriptors();
    let clients = usize::try_from(limit.saturating_sub(RESERVED_DESCRIPTORS)).unwrap_or(usize::MAX).max(1);
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
    make_room(config.max_connections as u64 + RESERVED_DESCRIPTORS);
    config
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
