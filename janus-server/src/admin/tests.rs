//! Tests of the admin port over real sockets.

use std::time::Instant;

use janus_core::{Config, Janus};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Far longer than any test takes: only a hang gets here.
const PATIENCE: Duration = Duration::from_secs(30);

const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

struct Server {
    janus: Janus,
    health: Arc<Health>,
    admin: Arc<Admin>,
    addr: SocketAddr,
}

fn settings() -> Settings {
    let any_port = vec![SocketAddr::from((LOOPBACK, 0))];
    let core = Config { listen: any_port.clone(), ..Config::default() };
    Settings { core, admin_listen: any_port, ..Settings::default() }
}

async fn serve(settings: &Settings) -> Server {
    let janus = Janus::builder().config(settings.core.clone()).start().await.unwrap();
    let health = Arc::new(Health::new(janus.clone(), None));
    let admin = Arc::new(Admin::new(
        &Api::new(janus.clone(), settings, &crate::api::Shared::new(settings), None),
        settings,
        Arc::clone(&health),
    ));
    let addr = admin.serve(listen(&settings.admin_listen).unwrap()).unwrap()[0];
    Server { janus, health, admin, addr: SocketAddr::from((LOOPBACK, addr.port())) }
}

/// A connection of a client that keeps the connection.
struct Client(TcpStream);

impl Client {
    async fn connect(server: &Server) -> Self {
        Self(TcpStream::connect(server.addr).await.unwrap())
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The status and the body of the next answer, which has a length.
    async fn answer(&mut self) -> (u16, String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(PATIENCE, self.0.read_u8()).await.expect("an answer").unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.split("\r\ncontent-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        timeout(PATIENCE, self.0.read_exact(&mut body)).await.expect("a body").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), String::from_utf8(body).unwrap())
    }

    async fn get(&mut self, path: &str) -> (u16, String) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        self.answer().await
    }

    async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        matches!(timeout(PATIENCE, self.0.read(&mut byte)).await.expect("an end"), Ok(0) | Err(_))
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "still waiting for: {what}");
        yield_now().await;
    }
}

#[tokio::test]
async fn a_connection_is_kept_and_serves_the_api_and_the_paths_of_operators() {
    let server = serve(&settings()).await;
    let mut client = Client::connect(&server).await;
    let (status, index) = client.get("/").await;
    assert_eq!(status, 200);
    assert!(index.contains("GET, HEAD /api/topics\n") && index.contains("POST      /api/publish\n"), "{index}");
    assert_eq!(client.get("/api/topics").await, (200, "{\"topics\":[]}".to_owned()));
    let body = r#"{"topic":"news","data":1}"#;
    let head = "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length";
    client.send(format!("{head}: {}\r\n\r\n{body}", body.len())).await;
    let (status, receipt) = client.answer().await;
    assert!(status == 200 && receipt.contains("\"subscribers\":0"), "{receipt}");
    assert_eq!(client.get("/nothing").await.0, 404);
    assert_eq!(client.get("/").await, (200, index));
}

#[tokio::test]
async fn without_a_key_a_request_through_a_proxy_is_refused() {
    let server = serve(&settings()).await;
    let mut client = Client::connect(&server).await;
    client.send("GET /api/topics HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n").await;
    let (status, answer) = client.answer().await;
    assert!(status == 403 && answer.contains("api_key_required"), "{answer}");
    client.send("GET / HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n").await;
    assert_eq!(client.answer().await.0, 200);
}

#[tokio::test]
async fn on_a_full_port_the_connection_idle_for_longest_makes_room() {
    let server = serve(&settings()).await;
    let mut clients = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut client = Client::connect(&server).await;
        assert_eq!(client.get("/").await.0, 200);
        clients.push(client);
    }
    // The first client is idle for the shortest time now; a slow head does not count.
    assert_eq!(clients[0].get("/").await.0, 200);
    clients[1].send("GET / HTTP/1.1\r\nHost: loc").await;
    let mut further = Client::connect(&server).await;
    assert_eq!(further.get("/").await.0, 200);
    assert!(clients[1].is_closed().await);
    for still in [0, 2] {
        assert_eq!(clients[still].get("/").await.0, 200);
    }
}

#[tokio::test]
async fn requests_that_are_carried_out_keep_their_connections_on_a_full_port() {
    let server = serve(&settings()).await;
    let mut busy = Vec::new();
    for _ in 0..MAX_REQUESTS {
        let mut client = Client::connect(&server).await;
        let head = "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        client.send(format!("{head}Content-Length: 2\r\n\r\n{{")).await;
        busy.push(client);
    }
    until("all places of requests are taken", || server.admin.free_places() == 0).await;
    let mut idle = Vec::new();
    for _ in 0..2 * MAX_CONNECTIONS {
        let mut client = Client::connect(&server).await;
        let (status, answer) = client.get("/api/topics").await;
        assert!(status == 503 && answer.contains("too_many_requests"), "{answer}");
        assert_eq!(client.get("/").await.0, 200);
        idle.push(client);
    }
    for client in &mut busy {
        client.send("}").await;
        assert_eq!(client.answer().await.0, 400);
    }
    assert_eq!(busy[0].get("/api/topics").await.0, 200);
}

#[tokio::test]
async fn a_head_request_has_the_head_of_a_get_request_without_a_body() {
    let server = serve(&settings()).await;
    let mut client = Client::connect(&server).await;
    client.send("HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let mut answer = String::new();
    timeout(PATIENCE, client.0.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(answer.contains("\r\ncontent-length: ") && answer.contains("\r\ncache-control: no-store\r\n"), "{answer}");
}

#[tokio::test]
async fn a_server_is_alive_and_ready_until_it_is_told_to_stop_and_alive_until_its_end() {
    let server = serve(&settings()).await;
    let mut client = Client::connect(&server).await;
    let (live, ready) = ("{\"live\":true,\"checks\":{}}".to_owned(), "{\"ready\":true,\"checks\":{}}".to_owned());
    for path in ["/livez", "/health/live"] {
        assert_eq!(client.get(path).await, (200, live.clone()), "{path}");
    }
    for path in ["/readyz", "/healthz", "/health/ready"] {
        assert_eq!(client.get(path).await, (200, ready.clone()), "{path}");
    }
    server.health.stop();
    let (status, answer) = client.get("/readyz").await;
    assert_eq!(
        (status, &*answer),
        (503, r#"{"ready":false,"checks":{"draining":"the server was told to stop 0 s ago"}}"#)
    );
    assert_eq!(client.get("/livez").await, (200, live.clone()));
    server.janus.shutdown().await;
    server.health.drained();
    assert_eq!(client.get("/livez").await, (200, live));
}

#[tokio::test]
async fn a_server_without_room_is_alive_and_not_ready() {
    let mut settings = settings();
    settings.core.max_connections = 1;
    settings.core.memory_budget_bytes = 16 << 20;
    let server = serve(&settings).await;
    let mut client = Client::connect(&server).await;
    assert_eq!(client.get("/readyz").await.0, 200);
    let mut subscriber = TcpStream::connect(server.janus.local_addrs()[0]).await.unwrap();
    subscriber.write_all(&janus_core::wire::classic::client::subscribe("news")).await.unwrap();
    until("the only place is taken", || !server.janus.has_place()).await;
    let (status, answer) = client.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(answer.contains("\"connections\":\"all places of max_connections are taken\""), "{answer}");
    server.janus.inject(janus_core::Fault::MemoryTaken(16 << 20));
    let answer = client.get("/readyz").await.1;
    assert!(answer.contains("\"memory\":\"100 % of memory_budget_bytes"), "{answer}");
    assert_eq!(client.get("/livez").await.0, 200);
}

#[tokio::test]
async fn a_server_without_keys_for_tokens_is_not_ready() {
    let janus = Janus::builder().config(settings().core).start().await.unwrap();
    let rules = janus_access::tokens::Rules::from(&settings().access);
    let tokens = janus_access::tokens::Tokens::new(rules, janus_access::tokens::Keys::default());
    let ready = serde_json::to_string(&Health::new(janus, Some(tokens)).ready()).unwrap();
    assert!(ready.contains("\"keys\":\"no key for tokens yet"), "{ready}");
}

/// Lets the actors hang, and publishes. Returns the answer of a server that is not ready, and the publisher, whose answer
/// is awaited; `None` if the actors run again before such an answer.
async fn hang_and_look(server: &Server, client: &mut Client) -> Option<(String, Client)> {
    server.janus.inject(janus_core::Fault::Hang(Duration::from_secs(4)));
    // A tick lasts a second at most.
    until("the actors hang", || server.janus.since_last_tick() > Duration::from_secs(2)).await;
    // A handler that waits for the actors.
    let mut publisher = Client::connect(server).await;
    let body = r#"{"topic":"news","data":1}"#;
    let head = "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length";
    publisher.send(format!("{head}: {}\r\n\r\n{body}", body.len())).await;
    loop {
        assert_eq!(client.get("/livez").await.0, 200);
        // Before the question: behind the answer the actors may run again.
        let has_answer = publisher.0.try_read(&mut [0]).is_ok();
        let (status, answer) = client.get("/readyz").await;
        match (status, has_answer) {
            (503, false) => return Some((answer, publisher)),
            (503, true) => panic!("the handler has an answer while the actors hang"),
            (_, true) => return None,
            (_, false) => {}
        }
    }
}

#[tokio::test]
async fn a_server_whose_actors_hang_is_told_apart_and_still_answers() {
    let server = serve(&settings()).await;
    let _subscriber = server.janus.subscribe("news").unwrap();
    let mut client = Client::connect(&server).await;
    let begun = Instant::now();
    let (ready, mut publisher) = loop {
        if let Some(seen) = hang_and_look(&server, &mut client).await {
            break seen;
        }
        // The actors ran again before this thread, on a machine with much else to do, looked at their health.
        assert!(begun.elapsed() < PATIENCE, "the server is ready while its actors hang");
    };
    assert!(ready.contains("\"arbiter\":\"the thread of the actors has been silent for 3 s\""), "{ready}");
    assert_eq!(publisher.answer().await.0, 200);
    while client.get("/readyz").await.0 != 200 {
        assert!(begun.elapsed() < PATIENCE, "the server is not ready although its actors run");
    }
}

#[tokio::test]
async fn an_operator_sees_the_figures_the_tree_and_the_slow_clients() {
    let server = serve(&settings()).await;
    let _subscribers = ["news", "sports", "weather"].map(|topic| server.janus.subscribe(topic).unwrap());
    let running = |topic: &&str| server.janus.tree().to_string().contains(&format!("topic {topic} #"));
    until("three topics run", || ["news", "sports", "weather"].iter().all(running)).await;
    until("none is starting", || !server.janus.tree().to_string().contains("starting")).await;
    let mut client = Client::connect(&server).await;
    let mut json = async |path: &str| -> serde_json::Value {
        let (status, body) = client.get(path).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    };
    let stats = json("/api/stats").await;
    let figures = stats["stats"].as_object().unwrap();
    assert!(server.janus.stats().metrics().all(|metric| figures[metric.name]["text"] == metric.text), "{stats}");
    assert_eq!((&figures["topics"]["value"], &figures["topics"]["kind"]), (&3.into(), &"gauge".into()));

    let whole = json("/api/tree").await;
    assert_eq!((&whole["tree"]["name"], &whole["unlisted"]), (&"janus".into(), &0.into()));
    let cut = json("/api/tree?limit=2").await;
    assert_eq!(cut["tree"]["children"].as_array().unwrap().len(), 2);
    assert!(cut["unlisted"].as_u64().unwrap() > 5, "{cut}");
    assert_eq!(json("/api/slow?limit=5").await, serde_json::json!({"clients": []}));

    let (_, picture) = client.get("/api/tree?format=text").await;
    assert_eq!(picture, format!("{}\n", server.janus.tree()));
    assert!(picture.contains("── topic news #1: running\n"), "{picture}");
    let (_, picture) = client.get("/api/tree?format=text&limit=2").await;
    assert!(picture.contains(" further nodes are not listed; limit=N"), "{picture}");
    for bad in ["/api/tree?format=xml", "/api/tree?limit=0", "/api/slow?format=text", "/api/slow?limit=5&limit=6"] {
        assert_eq!(client.get(bad).await.0, 400, "{bad}");
    }
}

#[tokio::test]
async fn a_trace_is_answered_line_by_line() {
    let server = serve(&settings()).await;
    let mut client = Client::connect(&server).await;
    let path = "/api/trace?seconds=20&count=1&kinds=connect";
    client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await;
    until("the trace holds a place", || server.admin.free_places() < MAX_REQUESTS).await;
    let _connection = TcpStream::connect(server.janus.local_addrs()[0]).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, client.0.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.contains("\"kind\":\"connect\"") && answer.contains("{\"end\":\"count\""), "{answer}");
    until("the place is free", || server.admin.free_places() == MAX_REQUESTS).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_answer_is_not_read_is_cut_after_a_while() {
    let places = Arc::new(Places::new(1));
    for (reads, is_cut) in [(true, false), (false, true)] {
        let place = Places::take(&places);
        let task = tokio::spawn(std::future::pending::<()>());
        place.may_be_cut_by(task.abort_handle());
        let cut = place.cut_after(EXCHANGE_TIMEOUT);
        sleep(EXCHANGE_TIMEOUT / 2).await;
        if reads {
            drop(cut);
        }
        sleep(EXCHANGE_TIMEOUT).await;
        assert_eq!(task.is_finished(), is_cut);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_cut_once_no_part_of_it_is_read_for_a_while() {
    let places = Arc::new(Places::new(1));
    let place = Places::take(&places);
    let task = tokio::spawn(std::future::pending::<()>());
    place.may_be_cut_by(task.abort_handle());
    let cut = place.cut_if_unread_for(EXCHANGE_TIMEOUT);
    for _ in 0..5 {
        sleep(EXCHANGE_TIMEOUT / 10 * 9).await;
        cut.note_read();
    }
    assert!(!task.is_finished(), "a stream has no end of its own");
    sleep(EXCHANGE_TIMEOUT + Duration::from_secs(1)).await;
    assert!(task.is_finished());
}
