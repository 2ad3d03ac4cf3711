//! Reloads of a running server: each setting that may change is changed, and its effect seen over a socket or the API.
//!
//! [`CHECKS`] has an entry for every setting that docs/SETTINGS.md, made from the tables of settings, does not mark with
//! a restart. Settings of the core are changed by `Janus::reload`, all others in the file of the real binary.

mod access;
mod backend;
mod binary;
mod connections;
mod delivery;
mod topics;
mod whole;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use janus_core::engine::{Engine, Link, LinkError, NodeId};
use janus_core::hooks::Hooks;
use janus_core::{Builder, Config, Janus, Reloaded};
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::support::{Client, DEADLINE, own_address};

/// A check of one setting.
type Check = fn() -> Pin<Box<dyn Future<Output = ()>>>;

/// Checks with the names of their settings. A check of a setting without a namesake is named in front.
macro_rules! checks {
    ($($module:ident: $($setting:ident $(= $check:ident)?),+;)+) => {
        &[$($((stringify!($setting), || Box::pin(checks!(@call $module $setting $($check)?))),)+)+]
    };
    (@call $module:ident $setting:ident) => { $module::$setting() };
    (@call $module:ident $setting:ident $check:ident) => { $module::$check() };
}

const CHECKS: &[(&str, Check)] = checks! {
    connections: accept_rate, max_handshakes, proxy_protocol, trusted_proxies, forwarded_header,
        max_connections_per_ip, connect_rate_per_ip, unlimited_networks, tls_cert = tls_pair, tls_key = tls_pair,
        tls_client_ca, tls_client, tls_min_version, allowed_origins, sse_retry, max_connections, reserved_connections,
        max_refusals, max_frame_bytes, frame_timeout, heartbeat_interval, pong_timeout, tcp_keepalive, tcp_user_timeout,
        send_buffer_bytes, client_bytes_rate, client_subscribe_rate, rate_patience, max_connections_per_user, user_limit;
    topics: max_topics, max_topic_bytes, max_topics_per_client, address_share, topic_idle, allow_publish, session_ttl,
        max_detached_sessions, idempotency_ttl, max_idempotency_keys, resume_messages, resume_bytes, resume_age, history, history_messages, history_bytes,
        history_age, max_history_reply_messages = history_reply, max_history_reply_bytes = history_reply, clustered, presence, presence_linger, presence_interval, max_presence_members,
        max_presence_member_bytes, resume, slow_consumer, client_publish_rate, anonymous_subscribe, topic_quarantine;
    delivery: inline_subscribers, coalesce_bytes, coalesce_max_bytes, max_inflight_frames, max_inflight_bytes, max_queue_frames,
        max_queue_bytes, write_timeout, stall_timeout, memory_budget_bytes, input_share, drain_timeout, drain_period,
        restart_time, token_grace, max_revocations, hook_timeout, max_hook_questions, hook_queue;
    binary: api_key, max_api_connections, api_idle_timeout, drain_delay, log;
    access: token_keys, token_jwks_url, token_jwks_interval, token_exp, token_aud, token_iss, token_default_subscribe,
        token_default_publish, token_cookie, token_in_query, anonymous;
    backend: ask_connect, ask_timeout, ask_concurrency, ask_headers, ask_cache, backend_secret, backend_ca, ask_subscribe,
        ask_publish, webhook_url, webhook_linger, webhook_queue;
};

/// The settings that docs/SETTINGS.md marks as taken over by a running server.
fn reloadable() -> BTreeSet<&'static str> {
    let rows = include_str!("../docs/SETTINGS.md").lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.split(" | ").collect::<Vec<_>>());
    let reloadable = cells.filter(|cells| {
        assert!(["at once", "new connections", "restart"].contains(&cells[3]), "{cells:?}");
        cells[3] != "restart"
    });
    reloadable.filter_map(|cells| cells[0].split('`').nth(1)).collect()
}

#[test]
fn every_setting_that_a_reload_takes_over_has_a_check() {
    let checked: BTreeSet<&str> = CHECKS.iter().map(|(setting, _)| *setting).collect();
    assert_eq!(checked, reloadable());
}

/// Checks at once. Most of them wait for ticks.
const AT_ONCE: usize = 6;

#[test]
fn the_effect_of_every_reloadable_setting_is_seen() {
    let only = std::env::var("RELOAD_CHECK").ok();
    let chosen = CHECKS.iter().filter(|(setting, _)| only.as_ref().is_none_or(|only| only == setting));
    let (chosen, failed) = (Mutex::new(chosen), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some((setting, check)) = chosen.lock().next() else { return };
                    let outcome = std::panic::catch_unwind(|| run(*check));
                    if !outcome.is_ok_and(|ended| ended) {
                        failed.lock().push(*setting);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert!(failed.is_empty(), "no effect of {failed:?}; the panics above say more");
}

/// Whether the check ends in time.
fn run(check: Check) -> bool {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { timeout(2 * DEADLINE, check()).await.is_ok() })
}

/// A running instance whose settings change.
struct Live {
    janus: Janus,
    classic: SocketAddr,
    http: SocketAddr,
    config: Config,
}

impl Live {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_with(change, NoHooks).await
    }

    /// A node of a cluster whose engine never answers.
    async fn start_in_cluster() -> Self {
        Self::start_of(Janus::builder().engine(Silent), |_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Config), hooks: impl Hooks) -> Self {
        Self::start_of(Janus::builder().hooks(hooks), change).await
    }

    async fn start_of(builder: Builder, change: impl FnOnce(&mut Config)) -> Self {
        let _ = env_logger::builder().is_test(true).try_init();
        let mut config = Config { drain_period: Duration::ZERO, threads: 2, ..Config::default() };
        (config.listen, config.http_listen) = (vec![own_address()], vec![own_address()]);
        change(&mut config);
        let janus = builder.config(config.clone()).start().await.unwrap();
        let addrs = janus.local_addrs();
        let http = *addrs.last().unwrap();
        Self { classic: addrs[0], http, janus, config }
    }

    /// Changes settings, of which this must be told as taken over.
    #[track_caller]
    fn reload(&mut self, setting: &str, change: impl FnOnce(&mut Config)) -> Reloaded {
        change(&mut self.config);
        let reloaded = self.janus.reload(self.config.clone()).unwrap();
        let told = reloaded.applied.iter().chain(&reloaded.new_connections);
        let is_told = told.into_iter().any(|name| name.rsplit('.').next() == Some(setting));
        assert!(is_told && reloaded.needs_restart.is_empty(), "{setting}: {reloaded:?}");
        reloaded
    }

    async fn client(&self) -> Client {
        Client::connect(self.classic).await
    }

    async fn subscriber(&self, topic: &str) -> Client {
        let mut client = self.client().await;
        client.subscribe(topic).await;
        client
    }

    /// A subscriber that reads nothing further, with a small receive buffer.
    async fn sluggish(&self, topic: &str) -> Client {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let stream = timeout(DEADLINE, socket.connect(self.classic)).await.unwrap().unwrap();
        let mut client = Client::of(stream).greeted().await;
        client.subscribe(topic).await;
        client
    }

    /// Publishes so many messages of 10,000 bytes.
    async fn flood(&self, topic: &str, messages: usize) {
        for _ in 0..messages {
            self.janus.publish(topic, &"x".repeat(10_000)).await.unwrap();
        }
    }

    /// The code of the error with which a new connection begins.
    async fn refusal(&self) -> String {
        Client::connect_silently(self.classic).await.error_code().await
    }
}

/// An engine that never answers.
#[derive(Debug)]
struct Silent;

impl Engine for Silent {
    fn name(&self) -> &'static str {
        "silent"
    }

    fn connect(&self, _: usize, _: NodeId) -> LocalBoxFuture<'static, Result<Box<dyn Link>, LinkError>> {
        Box::pin(std::future::pending())
    }
}

/// Hooks that are not needed.
struct NoHooks;

impl Hooks for NoHooks {
    fn are_needed(&self) -> bool {
        false
    }
}
