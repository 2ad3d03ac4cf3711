//! End-to-end tests: everything visible to a client, an operator or an embedder.
//!
//! A single binary, so the linker runs once. Each module has a single theme:

#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect has failed, wherever it stands")]

mod access;
mod addresses;
mod admin;
mod api;
mod application;
mod backend;
mod benchmarks;
mod browser;
mod browser_run;
mod bursts;
mod churn;
mod cli_bench;
mod cli_fake_server;
mod cli_hostile;
mod cli_http;
mod cli_lists;
mod cli_log;
mod cli_log_formats;
mod cli_log_levels;
mod cli_ports;
mod cli_publish;
mod cli_run;
mod cli_serve;
mod cli_subscribe;
mod config;
mod conformance;
mod crashes;
mod dashboard;
mod devtools;
mod documented;
mod drain;
mod embed;
mod farewell;
mod full;
mod hooks;
mod hostile;
mod http;
mod http_rules;
mod in_process;
mod licences;
mod limits;
mod memory;
mod metrics;
mod protocol;
mod proxied;
mod reload;
mod resume;
mod service_manager;
mod several_topics;
mod slow;
mod strangers;
mod streams;
mod support;
mod tls;
mod tokens;
mod top;
mod trace;
mod typed;
mod websocket;
mod words;
