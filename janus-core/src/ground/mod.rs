//! The ground.

pub(crate) mod fault;
pub(crate) mod line;
pub(crate) mod trace;
