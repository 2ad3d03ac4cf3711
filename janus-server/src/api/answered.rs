//! The answers of the API by route and status: every answer passes here, whichever thread and port has sent it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::routes::ROUTES;

/// The statuses that the API gives. Every other counts as the last.
const STATUSES: [u16; 12] = [200, 400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 503];

/// Counts of answers. Both labels are closed sets, so no client can make the table grow: paths without a route count
/// together.
#[derive(Debug)]
pub(crate) struct Answered(Box<[[AtomicU64; STATUSES.len()]]>);

impl Default for Answered {
    fn default() -> Self {
        Self((0..=ROUTES.len()).map(|_| Default::default()).collect())
    }
}

impl Answered {
    /// Counts an answer to a request for this path.
    pub(super) fn note(&self, path: &str, status: u16) {
        self.count(path, status).fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self, path: &str, status: u16) -> &AtomicU64 {
        let route = ROUTES.iter().position(|(of_row, ..)| *of_row == path).unwrap_or(ROUTES.len());
        let status = STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len() - 1);
        &self.0[route][status]
    }

    /// The number of answers to requests for this path with this status.
    #[cfg(test)]
    pub(super) fn get(&self, path: &str, status: u16) -> u64 {
        self.count(path, status).load(Ordering::Relaxed)
    }
}
