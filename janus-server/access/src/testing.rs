//! A backend for tests: HTTP over real sockets, answered by a closure.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::backend::Url;

/// Long enough for a busy machine; no passing test comes near.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A request as the backend sees it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Requests that the backend has seen, and how many of them were open at once.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) requests: Mutex<Vec<Request>>,
    open: AtomicUsize,
    pub(crate) most_open: AtomicUsize,
}

impl Seen {
    pub(crate) fn count(&self) -> usize {
        self.requests.lock().len()
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

/// A request until it is answered, or its connection is closed.
struct Open<'a>(&'a Seen);

impl<'a> Open<'a> {
    fn new(seen: &'a Seen) -> Self {
        let open = seen.open.fetch_add(1, Ordering::SeqCst) + 1;
        seen.most_open.fetch_max(open, Ordering::SeqCst);
        Self(seen)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Starts a backend, whose answers are a status and a body. A status of 0 never answers.
pub(crate) async fn backend<F>(answer: impl Fn(Request) -> F + Send + Sync + 'static) -> (Url, Arc<Seen>)
where
    F: Future<Output = (u16, String)> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/ask", listener.local_addr().unwrap()).parse().unwrap();
    let seen = Arc::new(Seen::default());
    let (answer, shared) = (Arc::new(answer), Arc::clone(&seen));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answer, seen) = (Arc::clone(&answer), Arc::clone(&shared));
            tokio::spawn(async move { drop(serve(stream, &*answer, &seen).await) });
        }
    });
    (url, seen)
}

pub(crate) async fn serve<S, F>(mut stream: S, answer: &impl Fn(Request) -> F, seen: &Seen) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = (u16, String)>,
{
    loop {
        let request = read(&mut stream).await?;
        seen.requests.lock().push(request.clone());
        let open = Open::new(seen);
        let answered = answer(request);
        // A client that goes away closes its connection, and sends nothing before the answer.
        let (status, body) = tokio::select! {
            answered = answered => answered,
            _ = stream.read_u8() => return Ok(()),
        };
        drop(open);
        let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(text.as_bytes()).await?;
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let headers: HashMap<_, _> = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await?;
    Ok(Request { headers, body: String::from_utf8(body).unwrap() })
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn until(what: &'static str, mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let looks = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(timeout(DEADLINE, looks).await.is_ok(), "{caller}: still waiting for: {what}");
    }
}
