//! An instance is a guest in its process: when it is gone, so is everything it brought along.
//!
//! One test, alone in its binary, because it counts the threads and descriptors of the whole process.

use std::time::{Duration, Instant};

use janus_core::{Config, Janus};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).expect("procfs is mounted").count()
}

fn threads_and_descriptors() -> (usize, usize) {
    (entries("/proc/self/task"), entries("/proc/self/fd"))
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "current_thread")]
async fn an_instance_leaves_no_thread_and_no_descriptor_behind() {
    // The runtime's own descriptors exist before the first count.
    drop(TcpStream::connect("127.0.0.1:1").await);
    let before = threads_and_descriptors();
    for end in [shut_down, drop_last_handle] {
        let config = Config { listen: vec![([127, 0, 0, 1], 0).into()], threads: 4, ..Config::default() };
        let janus = Janus::builder().config(config).start().await.expect("starts");
        let addr = janus.local_addrs()[0];
        let mut client = TcpStream::connect(addr).await.expect("connects");
        client.write_all(b"{\"action\":\"subscribe\",\"data\":\"news\"}\0").await.expect("sends");
        let mut received = Vec::new();
        while !received.ends_with(b"ACK\x01") {
            client.read_buf(&mut received).await.expect("reads");
        }
        janus.publish("news", "x").await.expect("publishes");
        assert!(threads_and_descriptors() > before, "an instance has threads of its own");
        let ending = end(janus);
        // FIN or reset, but an end.
        while client.read_buf(&mut received).await.is_ok_and(|length| length > 0) {}
        drop(client);
        ending.await.expect("ends");
        // A thread that was joined may still be listed for a moment.
        let deadline = Instant::now() + Duration::from_secs(10);
        while threads_and_descriptors() != before && Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        assert_eq!(threads_and_descriptors(), before);
        assert!(TcpStream::connect(addr).await.is_err(), "nobody listens any more");
    }
}

fn shut_down(janus: Janus) -> JoinHandle<()> {
    tokio::spawn(async move {
        janus.shutdown().await;
    })
}

fn drop_last_handle(janus: Janus) -> JoinHandle<()> {
    drop(janus);
    tokio::spawn(async {})
}
