//! The memory for answers: an answer of megabytes takes room until its last byte is sent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use janus_core::wire::HttpError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory for all large answers that clients are still reading, unless said otherwise.
pub const MAX_ANSWERS_BYTES: usize = 64 << 20;

/// Room for large answers, shared by its clones. An answer that does not fit is refused with status 503.
#[derive(Clone, Debug)]
pub struct Room(Arc<Semaphore>);

impl Room {
    /// Room for this many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))))
    }

    /// How many bytes are free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.0.available_permits()
    }

    /// Refuses an answer of at least this many bytes if the room is taken. Called first where building the answer is
    /// costly.
    ///
    /// # Errors
    ///
    /// The refusal, with status 503.
    pub fn check(&self, bytes: usize) -> Result<(), HttpError> {
        if bytes <= self.free() { Ok(()) } else { Err(full()) }
    }

    /// The bytes of an answer, which take room until they are dropped.
    ///
    /// # Errors
    ///
    /// The refusal, with status 503.
    pub fn take(&self, mut body: Vec<u8>) -> Result<Bytes, HttpError> {
        body.shrink_to_fit();
        let bytes = u32::try_from(body.len()).ok();
        let permit = bytes.and_then(|bytes| Arc::clone(&self.0).try_acquire_many_owned(bytes).ok());
        let permit = permit.ok_or_else(full)?;
        Ok(Bytes::from_owner(Large { body, _room: permit }))
    }
}

/// The body of a large answer, with its share of the room.
struct Large {
    body: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// A refusal by one of the API's own limits; the client may try again.
#[must_use]
pub fn busy(message: &str) -> HttpError {
    let mut error = HttpError::new(503, "too_many_requests", message);
    error.retry_after = Some(Duration::from_secs(1));
    error
}

fn full() -> HttpError {
    busy("other clients' large answers take all the memory reserved for answers; try again later, or ask for less")
}
