//! The figures of the server for a monitoring system: OpenMetrics at `/metrics` of the admin port.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | formats | the text of a scrape, and its two formats |
//! | `collector.rs` | a reader | reads all figures at each scrape |
//! | `document.rs` | tests | `docs/METRICS.md` |
//! | `process.rs` | a reader | the figures of the process that the system knows |
//! | `requests.rs` | table | requests to the HTTP API, by path and status |
//!
//! Nothing is kept for a scrape: the figures are counted at the place of each event, and read at the scrape. A scrape costs
//! the same with any number of topics and clients.

mod collector;
#[cfg(test)]
mod document;
mod process;
mod requests;

use hyper::header;
use hyper::http::HeaderMap;
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::registry::Registry;

pub(crate) use collector::Sources;
pub(crate) use requests::Requests;

/// The exported figures.
#[derive(Debug)]
pub(crate) struct Metrics {
    sources: Sources,
    registry: Registry,
}

/// The format of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    OpenMetrics,
    /// The older text format of Prometheus, for programs without OpenMetrics.
    Text,
}

impl Format {
    /// OpenMetrics, unless the client asks for plain text and not for OpenMetrics.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let accepts = |kind: &str| {
            let values = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
            let mut kinds = values.flat_map(|value| value.split(',')).map(|part| part.split(';').next().unwrap_or(""));
            kinds.any(|accepted| accepted.trim().eq_ignore_ascii_case(kind))
        };
        match accepts("text/plain") && !accepts("application/openmetrics-text") && !accepts("*/*") {
            true => Self::Text,
            false => Self::OpenMetrics,
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            // Prometheus shows the help texts of an answer with exactly this content type.
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

impl Metrics {
    pub(crate) fn new(sources: Sources) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(sources.clone()));
        Self { sources, registry }
    }

    /// The same figures, with a change of their owners.
    pub(crate) fn with(&self, change: impl FnOnce(Sources) -> Sources) -> Self {
        Self::new(change(self.sources.clone()))
    }

    /// The figures of this moment.
    pub(crate) fn scrape(&self, format: Format) -> String {
        let mut text = String::with_capacity(64 * 1024);
        let written = match format {
            Format::OpenMetrics => text::encode(&mut text, &self.registry),
            Format::Text => prometheus_text::encode(&mut text, &self.registry),
        };
        written.expect("a string takes every text");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_open_metrics_unless_it_wants_plain_text_alone() {
        let of = |accept: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for accept in accept {
                headers.append(header::ACCEPT, accept.parse().unwrap());
            }
            Format::of(&headers)
        };
        let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for accept in [&[][..], &["*/*"], &[prometheus], &["text/plain;q=0.5", "application/OpenMetrics-Text"]] {
            assert_eq!(of(accept), Format::OpenMetrics, "{accept:?}");
        }
        for accept in [&["text/plain"][..], &["text/html, Text/Plain;version=0.0.4;q=0.3"]] {
            assert_eq!(of(accept), Format::Text, "{accept:?}");
        }
    }
}
