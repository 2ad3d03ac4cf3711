//! What the server knows of itself, for operators: its figures, with their rates over the last minutes.

use janus_api::Query;
use janus_core::Janus;
use janus_core::wire::HttpError;
use serde::Serialize;

use super::routes::to_json;
use crate::live::{self, Figures, KEPT, Listed, Live};

/// The figures, with the samples of some seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct StatsView {
    samples: Option<usize>,
}

impl StatsView {
    pub(super) fn of(query: &str) -> Result<Self, HttpError> {
        Ok(Self { samples: Query::of(query, &["samples"])?.number("samples", KEPT)? })
    }

    /// Whether the answer takes no time to speak of.
    pub(super) fn is_short(self) -> bool {
        self.samples.is_none()
    }

    pub(super) fn answer(self, janus: &Janus, live: &Live) -> Vec<u8> {
        let (rates, samples) = {
            let samples = live.samples();
            (samples.rates(), self.samples.map(|count| samples.last(count)))
        };
        to_json(&StatsJson {
            version: env!("CARGO_PKG_VERSION"),
            time: live::unix_millis(),
            uptime_ms: millis(live.uptime()),
            stats: Figures(&janus.stats(), &rates),
            samples: samples.as_deref().map(Listed),
        })
    }
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Serialize)]
struct StatsJson<'a> {
    version: &'static str,
    time: u64,
    uptime_ms: u64,
    stats: Figures<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    samples: Option<Listed<'a>>,
}
