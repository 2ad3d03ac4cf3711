//! The route that reads the settings again, on the admin port.

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use janus_core::wire::HttpError;

use super::Api;
use super::routes::json;
use crate::reload::WeakReloader;

impl Api {
    pub(super) async fn reload(&self) -> Result<Response<Full<Bytes>>, HttpError> {
        let Some(reloader) = self.reloader.get().and_then(WeakReloader::upgrade) else {
            return Err(HttpError::new(503, "not_started", "the server has not started yet; try again"));
        };
        let changes = reloader.reload().await;
        let changes = changes.map_err(|mistakes| HttpError::new(422, "bad_settings", mistakes.to_string()))?;
        Ok(json(&changes))
    }
}
