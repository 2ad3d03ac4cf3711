//! The Janus server binary.

fn main() {}
