//! End-to-end tests: everything a client, an operator or an embedder can see.
//!
//! One binary, so that it links once. Each module is about one thing:

mod crashes;
mod drain;
mod licences;
mod limits;
mod protocol;
mod support;
