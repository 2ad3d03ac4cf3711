//! Requests to the HTTP API and to the admin port, by path and status.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use janus_core::{Histogram, MetricFamily, MetricKind, MetricValue};

/// The statuses of answers with a count of their own; all further statuses count as [`OTHER`].
const STATUSES: &[u16] = &[200, 204, 304, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 503];

/// The label of unknown paths, and of unusual statuses. The path of a request is a stranger's text and never a label.
const OTHER: &str = "other";

/// The counts of one path.
#[derive(Debug, Default)]
struct Path {
    /// In the order of `STATUSES`, and at the end for all further statuses.
    statuses: [AtomicU64; STATUSES.len() + 1],
    times: Histogram,
}

/// The place of a path among the counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathId(usize);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Requests {
    /// The paths of the routes, each once, and [`OTHER`].
    names: Vec<&'static str>,
    paths: Vec<Path>,
}

impl Requests {
    /// For these paths; a path with several methods may stand there several times.
    pub(crate) fn new(paths: impl IntoIterator<Item = &'static str>) -> Self {
        let mut names: Vec<_> = paths.into_iter().collect();
        names.sort_unstable();
        names.dedup();
        names.push(OTHER);
        Self { paths: names.iter().map(|_| Path::default()).collect(), names }
    }

    /// The place of this path among the counts.
    pub(crate) fn path(&self, path: &str) -> PathId {
        PathId(self.names.iter().position(|name| *name == path).unwrap_or(self.names.len() - 1))
    }

    /// Counts an answer, and the time from its request.
    pub(crate) fn note(&self, path: PathId, status: u16, time: Duration) {
        self.count(path, status);
        self.paths[path.0].times.record(time);
    }

    /// Counts an answer whose time is not known.
    pub(crate) fn count(&self, path: PathId, status: u16) {
        self.of(path, status).fetch_add(1, Ordering::Relaxed);
    }

    fn of(&self, PathId(path): PathId, status: u16) -> &AtomicU64 {
        let status = STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len());
        &self.paths[path].statuses[status]
    }

    /// The number of answers to requests for this path with this status.
    #[cfg(test)]
    pub(crate) fn get(&self, path: &str, status: u16) -> u64 {
        self.of(self.path(path), status).load(Ordering::Relaxed)
    }

    pub(super) fn families(&self) -> [MetricFamily; 2] {
        let text = "Answers of the HTTP API and of the admin port, by path (other for unknown paths) and status.";
        let mut requests = MetricFamily::new("http_requests", MetricKind::Counter, text).by(["path", "status"]);
        let text = "Time from the head of a request until its answer is made, by path. A body that comes slowly \
                    counts; a client that reads slowly does not, nor do the lines of a trace. Publications over \
                    the HTTP port have no times here: the port answers them itself.";
        let mut seconds = MetricFamily::new("http_request_seconds", MetricKind::Histogram, text).by(["path"]);
        for (name, path) in self.names.iter().zip(&self.paths) {
            let statuses = STATUSES.iter().map(|status| status.to_string().into()).chain([OTHER.into()]);
            for (status, count) in statuses.zip(&path.statuses) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let labels = [("path", (*name).into()), ("status", status)];
                    requests.push(labels, MetricValue::Integer(count));
                }
            }
            let times = path.times.read();
            if times.count() > 0 {
                seconds.push([("path", (*name).into())], MetricValue::Distribution(times));
            }
        }
        [requests, seconds]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_path_or_status_is_counted_as_other() {
        let requests = Requests::new(["/b", "/a", "/b"]);
        for (path, status) in [("/b", 200), ("/b", 200), ("/a", 299), ("/b?x", 404), ("/wp-admin", 404)] {
            requests.note(requests.path(path), status, Duration::from_millis(1));
        }
        let [counts, times] = requests.families();
        let labels: Vec<_> = counts.series.iter().map(|series| (&*series.labels[0].1, &*series.labels[1].1)).collect();
        assert_eq!(labels, [("/a", "other"), ("/b", "200"), ("other", "404")]);
        assert_eq!((&counts.series[1].value, times.series.len()), (&MetricValue::Integer(2), 3));
    }
}
