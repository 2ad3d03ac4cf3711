//! `GET /api/trace`: messages between the actors of the tree, a line each, until time or count are up.
//!
//! A separate task reads the trace, and ends in time even if the client does not read the answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame};
use hyper::{Method, Request, Response, header};
use janus_api::{bad_request, busy, digits};
use janus_core::wire::HttpError;
use janus_core::{Trace, TraceError, TraceKind, TraceOptions};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::{Api, Incoming};

/// How long a trace takes: by default, and at most.
pub(super) const DEFAULT_SECONDS: u64 = 10;
pub(super) const MAX_SECONDS: u64 = 3_600;

/// Lines of a trace: by default, and at most.
pub(super) const DEFAULT_COUNT: u64 = 10_000;
pub(super) const MAX_COUNT: u64 = 1_000_000;

/// Lines on the way from the trace to the connection; further lines wait in the trace, which has a limit.
const LINES_UNDER_WAY: usize = 64;

/// A body of lines, or of the events of a stream.
#[derive(Debug)]
pub(crate) struct Lines(mpsc::Receiver<Bytes>);

impl Lines {
    pub(super) fn new(lines: mpsc::Receiver<Bytes>) -> Self {
        Self(lines)
    }
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

/// The last line of an answer.
#[derive(Debug, Serialize)]
struct Ended {
    /// The limit reached, `count` or `seconds`, or the end of the `server`.
    end: &'static str,
    lines: u64,
    lost: u64,
}

impl Api {
    /// Starts a trace, and puts the time of the trace into `lasts`.
    pub(super) fn trace(
        &self,
        request: &Request<Incoming>,
        lasts: &OnceLock<Duration>,
    ) -> Result<Response<Lines>, HttpError> {
        let Asked { options, seconds } = Asked::of(request.uri().query().unwrap_or_default())?;
        let (sender, lines) = mpsc::channel(LINES_UNDER_WAY);
        if request.method() != Method::HEAD {
            let trace = self.janus.trace(options).map_err(|error| match error {
                TraceError::TooMany | TraceError::ShuttingDown => busy(&error.to_string()),
                _ => bad_request(error.to_string()),
            })?;
            let time = *lasts.get_or_init(|| Duration::from_secs(seconds));
            tokio::spawn(pump(trace, Instant::now() + time, sender));
        }
        let response = Response::builder().header(header::CONTENT_TYPE, "application/x-ndjson");
        let response = response.header(header::CACHE_CONTROL, "no-store, no-transform");
        Ok(response.body(Lines(lines)).expect("the headers are right"))
    }
}

async fn pump(mut trace: Trace, deadline: Instant, lines: mpsc::Sender<Bytes>) {
    let (mut count, mut unsent) = (0, 0);
    let end = loop {
        match timeout_at(deadline, trace.next()).await {
            Ok(Some(line)) => match timeout_at(deadline, lines.send(to_line(&line))).await {
                Ok(Ok(())) => count += 1,
                // The connection is gone.
                Ok(Err(_)) => return,
                Err(_) => {
                    unsent = 1;
                    break "seconds";
                }
            },
            Ok(None) if trace.is_complete() => break "count",
            Ok(None) => break "server",
            Err(_) => break "seconds",
        }
    };
    // The place is free for another trace, even if the client does not read the rest.
    let lost = trace.end() + unsent;
    let _ = lines.send(to_line(&Ended { end, lines: count, lost })).await;
}

fn to_line(line: &impl Serialize) -> Bytes {
    let mut line = serde_json::to_vec(line).expect("a line is made of numbers and texts");
    line.push(b'\n');
    line.into()
}

/// The query of a request.
#[derive(Debug)]
struct Asked {
    options: TraceOptions,
    seconds: u64,
}

impl Asked {
    fn of(query: &str) -> Result<Self, HttpError> {
        let (mut kinds, mut names): (Option<Vec<TraceKind>>, _) = (None, Vec::new());
        let (mut seconds, mut count) = (None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let is_first = match &*name {
                "kinds" => kinds.replace(self::kinds(&value)?).is_none(),
                "name" => {
                    names.push(value.into_owned());
                    true
                }
                "seconds" => seconds.replace(number("seconds", &value, MAX_SECONDS)?).is_none(),
                "count" => count.replace(number("count", &value, MAX_COUNT)?).is_none(),
                _ => return Err(bad_request("the query: expected only kinds, name, seconds and count")),
            };
            if !is_first {
                return Err(bad_request(format!("the query: duplicate parameter {name}; only name may be repeated")));
            }
        }
        let options = TraceOptions::default().kinds(kinds.unwrap_or_default()).names(names);
        Ok(Self { options: options.count(count.unwrap_or(DEFAULT_COUNT)), seconds: seconds.unwrap_or(DEFAULT_SECONDS) })
    }
}

fn kinds(list: &str) -> Result<Vec<TraceKind>, HttpError> {
    let kind = |name: &str| {
        name.parse().map_err(|_| {
            let known = TraceKind::ALL.map(TraceKind::as_str).join(", ");
            bad_request(format!("kinds: unknown kind {name:?}; expected {known}"))
        })
    };
    list.split(',').map(kind).collect()
}

fn number(name: &str, text: &str, max: u64) -> Result<u64, HttpError> {
    let number = digits(text).filter(|number| (1..=max).contains(number));
    number.ok_or_else(|| bad_request(format!("{name}: expected a whole number from 1 to {max}")))
}
