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
    config
}
