//! The wire formats: pure functions from bytes to commands and from events to bytes.
