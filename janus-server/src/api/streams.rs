//! Answers that do not end: their places, and the ends that a stream may come to.
//!
//! A stream has a place of its own kind, so that pages left open take no place from requests. It ends when the client is
//! gone, when the server has drained, and when the settings of a reload would refuse its request.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::body::Bytes;
use hyper::{Response, header};
use janus_api::busy;
use janus_core::wire::{ErrorCode, HttpError, HttpRequest, Refusal, Sse};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::Lines;
use super::access::Access;

/// Streams at once, of all kinds. A further request gets status 503.
pub(crate) const MAX_STREAMS: usize = 16;

/// When the client of a stream that has ended for the sake of the server may come back.
const RETRY: Duration = Duration::from_secs(2);

/// The places of streams.
#[derive(Debug)]
pub(super) struct Streams {
    places: Arc<Semaphore>,
    /// Whether all streams are to end.
    over: watch::Sender<bool>,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_STREAMS)), over: watch::Sender::new(false) }
    }

    /// A place, if there is one.
    pub(super) fn take(&self) -> Result<OwnedSemaphorePermit, HttpError> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_| {
            busy(&format!(
                "{MAX_STREAMS} streams are open already, as many as the admin port serves; close one, or try again later"
            ))
        })
    }

    /// Whether the place is that of a stream.
    pub(super) fn has(&self, place: &OwnedSemaphorePermit) -> bool {
        Arc::ptr_eq(place.semaphore(), &self.places)
    }

    /// Ends all streams, and waits until their last bytes are written.
    pub(super) async fn end(&self) {
        self.over.send_replace(true);
        let all = u32::try_from(MAX_STREAMS).unwrap_or(u32::MAX);
        let _ = self.places.acquire_many(all).await;
    }

    /// How many further streams could be served now.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.places.available_permits()
    }

    /// The condition of a stream, for a request that has just been granted.
    pub(super) fn keep(&self, access: &Arc<ArcSwap<Access>>, request: HttpRequest, is_local: bool) -> Kept {
        Kept { over: self.over.subscribe(), access: Arc::clone(access), request, is_local }
    }
}

/// What keeps a stream going.
#[derive(Debug)]
pub(super) struct Kept {
    over: watch::Receiver<bool>,
    access: Arc<ArcSwap<Access>>,
    /// The request, which must show a key that is still good.
    request: HttpRequest,
    is_local: bool,
}

impl Kept {
    /// Waits until the server ends all streams.
    pub(super) async fn over(&mut self) -> Bytes {
        // Without a sender, the server is gone.
        let _ = self.over.wait_for(|over| *over).await;
        bye(ErrorCode::ServerDraining, "the server is shutting down")
    }

    /// The last event of a stream whose request would be refused by now.
    pub(super) fn check(&self) -> Result<(), Bytes> {
        self.access.load().check(&self.request, self.is_local).map_err(|_| {
            bye(ErrorCode::Unauthorized, "the settings have changed, and this request would be refused by now")
        })
    }
}

/// The last event of a stream, in the form of the event streams of clients.
pub(super) fn bye(code: ErrorCode, message: &str) -> Bytes {
    let reconnect_after = (code != ErrorCode::Unauthorized).then_some(RETRY);
    Sse::farewell(&Refusal { id: None, code, message, reconnect_after, status: None })
}

/// The head of a stream, with room for this many events on the way to the connection.
pub(super) fn response(room: usize) -> (mpsc::Sender<Bytes>, Response<Lines>) {
    let (sender, lines) = mpsc::channel(room);
    let response = Response::builder()
        .header(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")
        .header(header::CACHE_CONTROL, "no-store, no-transform")
        // Without this header nginx would hold events back.
        .header("x-accel-buffering", "no")
        .body(Lines::new(lines));
    (sender, response.expect("the headers are right"))
}
