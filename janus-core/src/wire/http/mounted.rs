//! Requests whose head another HTTP server has read: the rules of the port, without its reading of heads.

use std::sync::Arc;

use bytes::Bytes;

use super::publishing::{check_head, error, publication_of};
use super::{EVENTS_PREFLIGHT, HttpError, HttpPort, HttpRequest, PUBLISH_PREFLIGHT, PathPattern, Reader, preflight};
use crate::wire::websocket::Upgrade;
use crate::wire::{Codec, Decoder, ErrorCode, Limits, Publication, TopicName};

impl HttpPort {
    /// The codecs of an event stream, and of an event stream with native events. They have no chunks, which the other
    /// server makes.
    pub(crate) fn mounted_streams(&self) -> [Arc<dyn Codec>; 2] {
        let rules = self.0.rules.load();
        [0, 2].map(|form| Arc::clone(&rules.streams[form]) as _)
    }

    /// The paths of other WebSockets than those of `/ws`.
    pub(crate) fn websocket_paths(&self) -> impl Iterator<Item = &PathPattern> {
        self.0.websockets.iter().skip(1).map(|place| &place.path)
    }

    /// What becomes of a request to upgrade, with a protocol of its path: of `/ws`, unless the path is that of another.
    ///
    /// # Errors
    ///
    /// The response to a request that cannot be served.
    pub(crate) fn upgrade(&self, request: &HttpRequest) -> Result<Upgrade, Bytes> {
        let checked = self.0.rules.load().allowed_origins.check(request);
        // The first place is `/ws`, which the other server may have below a path of its own.
        let place = self.0.websockets.iter().find(|place| place.path.fits(request.path()));
        let upgrade = || place.unwrap_or(&self.0.websockets[0]).endpoint.upgrade(request.clone());
        let upgraded = checked.and_then(|()| upgrade().map_err(HttpError::from));
        upgraded.map_err(|error| self.refusal(&error, request))
    }

    /// The decoder of the event stream that begins with a request, and the place of its codec in
    /// [`mounted_streams`](Self::mounted_streams).
    ///
    /// # Errors
    ///
    /// The response to a request that begins no stream: a preflight, or a request that cannot be served.
    pub(crate) fn stream(&self, request: HttpRequest, limits: &Limits) -> Result<(usize, Box<dyn Decoder>), Bytes> {
        let rules = self.0.rules.load();
        let reader = Reader::of(&request, &rules.allowed_origins);
        let refused = |error: HttpError| error.response_to(&reader);
        rules.allowed_origins.check(&request).map_err(refused)?;
        if request.method == "OPTIONS" {
            return Err(preflight(&rules.allowed_origins.cors(&request), &EVENTS_PREFLIGHT));
        }
        let native = request.query_parameter("events").is_some_and(|events| events == "native");
        let decoder = rules.streams[2 * usize::from(native)].decoder_for(request, limits).map_err(refused)?;
        Ok((usize::from(native), decoder))
    }

    /// The response to the preflight of a page that is to publish.
    pub(crate) fn preflight_of_publication(&self, request: &HttpRequest) -> Bytes {
        let rules = self.0.rules.load();
        match rules.allowed_origins.check(request) {
            Ok(()) => preflight(&rules.allowed_origins.cors(request), &PUBLISH_PREFLIGHT),
            Err(error) => self.refusal(&error, request),
        }
    }

    /// The header lines that let the page of a request read the response.
    pub(crate) fn cors(&self, request: &HttpRequest) -> String {
        self.0.rules.load().allowed_origins.cors(request)
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
        let checked = self.0.rules.load().allowed_origins.check(request);
        let read = checked.and_then(|()| check_head(request)).and_then(|content| {
            if body.len() > limits.max_frame_bytes {
                let message = format!("the body is longer than the limit of {} bytes", limits.max_frame_bytes);
                return Err(HttpError::new(413, ErrorCode::FrameTooLarge.as_str(), message));
            }
            publication_of(request, content, body, limits).map_err(|refused| error(refused.code, &refused.message))
        });
        read.map_err(|error| self.refusal(&error, request))
    }

    /// The response that refuses a request.
    pub(crate) fn refusal(&self, error: &HttpError, request: &HttpRequest) -> Bytes {
        error.response_to(&Reader::of(request, &self.0.rules.load().allowed_origins))
    }
}
