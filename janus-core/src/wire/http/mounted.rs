//! Requests whose head another HTTP server has read: the rules of the port, without its reading of heads.

use std::sync::Arc;

use bytes::Bytes;

use super::publishing::{check_head, error, publication_of};
use super::{HttpError, HttpPort, HttpRequest, Reader, preflight};
use crate::wire::{Codec, Decoder, ErrorCode, Limits, Publication, TopicName, WebSocket};

/// The places of [`HttpPort::mounted`].
pub(crate) const WEBSOCKET: usize = 0;
pub(crate) const STREAM: usize = 1;

impl HttpPort {
    /// The codecs of a WebSocket, of an event stream, and of an event stream with native events. The streams have no
    /// chunks, which the other server makes.
    pub(crate) fn mounted(&self) -> [Arc<dyn Codec>; 3] {
        let rules = self.rules.load();
        [Arc::clone(&self.websocket) as _, Arc::clone(&rules.streams[0]) as _, Arc::clone(&rules.streams[2]) as _]
    }

    /// The headers that answer a request to upgrade, beside the status 101.
    ///
    /// # Errors
    ///
    /// The response to a request that cannot be served.
    pub(crate) fn upgrade(&self, request: &HttpRequest) -> Result<Vec<(&'static str, String)>, Bytes> {
        let rules = self.rules.load();
        let checked = rules.allowed_origins.check(request);
        let accepted = checked.and_then(|()| WebSocket::accept_headers(request).map_err(HttpError::from));
        accepted.map_err(|error| self.refusal(&error, request))
    }

    /// The decoder of the event stream that begins with a request, and the place of its codec in [`mounted`](Self::mounted).
    ///
    /// # Errors
    ///
    /// The response to a request that begins no stream: a preflight, or a request that cannot be served.
    pub(crate) fn stream(&self, request: HttpRequest, limits: &Limits) -> Result<(usize, Box<dyn Decoder>), Bytes> {
        let rules = self.rules.load();
        let reader = Reader::of(&request, &rules.allowed_origins);
        let refused = |error: HttpError| error.response_to(&reader);
        rules.allowed_origins.check(&request).map_err(refused)?;
        if request.method == "OPTIONS" {
            return Err(preflight(&rules.allowed_origins.cors(&request)));
        }
        let native = request.query_parameter("events").is_some_and(|events| events == "native");
        let decoder = rules.streams[2 * usize::from(native)].decoder_for(request, limits).map_err(refused)?;
        Ok((STREAM + usize::from(native), decoder))
    }

    /// The message of a `POST` that publishes, with its body.
    ///
    /// # Errors
    ///
    /// The response to a request that cannot be carried out.
    pub(crate) fn submitted(
        &self,
        request: &HttpRequest,
        body: &[u8],
        limits: &Limits,
    ) -> Result<(TopicName, Publication), Bytes> {
        let checked = self.rules.load().allowed_origins.check(request);
        let read = checked.and_then(|()| check_head(request)).and_then(|()| {
            if body.len() > limits.max_frame_bytes {
                let message = format!("the body is longer than the limit of {} bytes", limits.max_frame_bytes);
                return Err(HttpError::new(413, ErrorCode::FrameTooLarge.as_str(), message));
            }
            publication_of(request, body, limits).map_err(|refused| error(refused.code, &refused.message))
        });
        read.map_err(|error| self.refusal(&error, request))
    }

    /// The response that refuses a request.
    pub(crate) fn refusal(&self, error: &HttpError, request: &HttpRequest) -> Bytes {
        error.response_to(&Reader::of(request, &self.rules.load().allowed_origins))
    }
}
