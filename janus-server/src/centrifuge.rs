//! Clients and backends of Centrifugo, where the settings want these.

use janus_centrifuge::{Centrifuge, ServerApi};
use janus_core::Builder;

use crate::api::Shared;
use crate::settings::Settings;

/// Where the libraries of Centrifugo connect unless told otherwise.
const CLIENTS: &str = "/connection/websocket";

/// Not `/api`: those paths are of Janus itself.
const BACKENDS: &str = "/centrifuge/api";

/// Adds both paths to the HTTP port. The keys of backends are those of the HTTP API, and follow its reloads.
pub(crate) fn add(builder: Builder, settings: &Settings, shared: &Shared) -> Builder {
    if !settings.centrifuge {
        return builder;
    }
    let backends = ServerApi::new(shared.authorize()).route(BACKENDS).expect("it is a path");
    builder.websocket(CLIENTS.parse().expect("it is a path"), Centrifuge::websocket()).route(backends)
}
