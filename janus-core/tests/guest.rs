//! An instance is a guest in its process: the instance touches nothing outside, and leaves nothing behind.
//!
//! One test, alone in its binary, because the test looks at the threads, descriptors, signals and hooks of the whole
//! process.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use janus_core::hooks::Hooks;
use janus_core::supervision::ChildSpec;
use janus_core::{Builder, Config, Janus};

/// The names of the threads, and the targets of the descriptors.
fn threads_and_descriptors() -> (Vec<String>, Vec<String>) {
    let list = |folder: &str, of: fn(&std::path::Path) -> Option<String>| {
        let entries = std::fs::read_dir(folder).expect("procfs is mounted");
        // An entry may be gone again: the descriptor of this very listing is.
        let mut list: Vec<String> = entries.filter_map(|entry| of(&entry.ok()?.path())).collect();
        list.sort();
        list
    };
    let threads = list("/proc/self/task", |task| std::fs::read_to_string(task.join("comm")).ok());
    let descriptors = list("/proc/self/fd", |fd| {
        let target = std::fs::read_link(fd).ok()?.to_string_lossy().into_owned();
        (!target.contains("/fd")).then_some(target)
    });
    (threads, descriptors)
}

/// The blocked, ignored and caught signals.
fn signals() -> Vec<String> {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("procfs is mounted");
    status.lines().filter(|line| line.starts_with("Sig") && !line.starts_with("SigQ")).map(str::to_owned).collect()
}

fn builder() -> Builder {
    let config = Config {
        listen: vec![([127, 0, 0, 1], 0).into()],
        threads: 4,
        drain_period: Duration::ZERO,
        ..Config::default()
    };
    struct AllowAll;
    impl Hooks for AllowAll {}
    Janus::builder()
        .config(config)
        .hooks(AllowAll)
        .child(ChildSpec::task("guest of the guest", || async { std::future::pending().await }))
}

/// A client with a subscription.
fn connect(addr: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(addr).expect("connects");
    client.write_all(b"{\"action\":\"subscribe\",\"data\":\"news\"}\0").expect("sends");
    let (mut received, mut part) = (Vec::new(), [0; 1024]);
    while !received.ends_with(b"ACK\x01") {
        let length = client.read(&mut part).expect("reads");
        assert!(length > 0, "closed after {:?}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&part[..length]);
    }
    client
}

/// Runs blocking work on a separate thread: the hooks may need this thread.
async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || drop(done.send(work())));
    result.await.expect("it succeeds")
}

/// An instance's whole life, from a caller with a runtime or without a runtime.
async fn live(end_by_shutdown: bool) {
    let before = signals();
    let janus = builder().start().await.expect("starts");
    let addr = janus.local_addrs()[0];
    let mut client = elsewhere(move || connect(addr)).await;
    assert_eq!(janus.publish("news", "x").await.expect("publishes").subscribers, 1);
    assert_eq!(signals(), before, "it waits for no signal and ignores none");
    let (threads, _) = threads_and_descriptors();
    assert!(threads.iter().any(|name| name.starts_with("janus-home")), "it has threads of its own: {threads:?}");
    if end_by_shutdown {
        janus.shutdown().await;
    }
    drop(janus);
    // FIN or reset, but an end.
    while client.read(&mut [0; 1024]).is_ok_and(|length| length > 0) {}
    drop(client);
    if end_by_shutdown {
        assert!(TcpStream::connect(addr).is_err(), "nobody listens any more");
    }
    // Without a shutdown, no caller has waited for the end; the descriptors tell.
}

/// Waits until threads and descriptors are the same as `before`: joined threads may still be listed for a moment, and
/// without a shutdown no caller has waited for the threads.
fn until_nothing_is_left(before: &(Vec<String>, Vec<String>)) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while threads_and_descriptors() != *before && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(threads_and_descriptors(), *before);
}

#[test]
fn an_instance_leaves_nothing_behind_and_touches_nothing_of_its_process() {
    static PANICS: AtomicU32 = AtomicU32::new(0);
    std::panic::set_hook(Box::new(|panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        eprintln!("{panic}");
    }));
    // The first runtime of a program with tokio's `signal` feature makes two sockets, which belong to tokio and stay.
    drop(tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    let nothing = threads_and_descriptors();
    for end_by_shutdown in [true, false] {
        // The hooks have a separate thread.
        futures_executor::block_on(live(end_by_shutdown));
        until_nothing_is_left(&nothing);

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let runtime_alone = threads_and_descriptors();
            live(end_by_shutdown).await;
            until_nothing_is_left(&runtime_alone);
            // Aborted tasks of the runtime are dropped at their next turn.
            tokio::task::yield_now().await;
            assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
        });
        drop(runtime);
        until_nothing_is_left(&nothing);
    }
    assert_eq!(PANICS.load(Ordering::Relaxed), 0);
    let _ = std::panic::catch_unwind(|| panic!("on purpose: is the panic hook still the program's?"));
    assert_eq!(PANICS.load(Ordering::Relaxed), 1);
    log::set_logger(&NoLogger).expect("the program's logger is the first");
}

struct NoLogger;

impl log::Log for NoLogger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        false
    }

    fn log(&self, _: &log::Record<'_>) {}

    fn flush(&self) {}
}
