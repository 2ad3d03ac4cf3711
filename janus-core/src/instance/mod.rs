//! The instance.

pub(crate) mod application;
pub(crate) mod drain;
pub(crate) mod janus;
pub(crate) mod memory;
pub(crate) mod shared;
