//! Supervised actors that push messages published to topics to their subscribers.

mod config;
pub mod supervision;
pub mod wire;

pub use config::{Config, ConfigError};
