//! The dashboard of the admin port, in a real browser against the real server.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

use crate::cli_run::{PATIENCE, Running, binary};
use crate::cluster::redis_server::RedisServer;
use crate::devtools::Tab;

/// A topic whose name would be an element, if a script took names for HTML.
const HOSTILE: &str = "<img src=x onerror=alert(1)>";

/// A topic whose name reads backwards from its middle on.
const MIRRORED: &str = "a\u{202e}b";

const VIEWS: [&str; 5] = ["overview", "topics", "clients", "tree", "messages"];

struct Server {
    running: Running,
    http: SocketAddr,
    admin: SocketAddr,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let listen = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
        let is_free = |name| !arguments.contains(&name);
        let admin = ["--admin-listen", "127.0.0.1:0"];
        let admin = if is_free("--admin-listen") { &admin[..] } else { &[] };
        let mut command = binary(&[&listen, admin, arguments].concat());
        for (name, value) in variables {
            command.env(name, value);
        }
        let running = Running::spawn(&mut command);
        let address = |line: &str| running.error_line(line).rsplit(' ').next().unwrap().parse().unwrap();
        let (http, admin) = (address("serving HTTP on "), address("admin port on "));
        Self { running, http, admin }
    }

    fn page(&self, view: &str) -> String {
        format!("http://{}/#{view}", self.admin)
    }
}

/// A client of the modern protocol that is not ours.
struct Client(WebSocket<TcpStream>);

impl Client {
    fn subscribe(server: &Server, topics: &[&str]) -> Self {
        let mut request = format!("ws://{}/ws", server.http).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("janus.v1.json"));
        let stream = TcpStream::connect(server.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Self(client(request, stream).unwrap().0);
        client.send(&json!({"type": "hello"}));
        assert_eq!(client.next()["type"], "welcome");
        for topic in topics {
            client.send(&json!({"type": "subscribe", "id": 1, "topic": topic}));
            assert_eq!(client.next()["type"], "subscribed");
        }
        client
    }

    fn send(&mut self, frame: &Value) {
        self.0.send(Message::text(frame.to_string())).unwrap();
    }

    #[track_caller]
    fn next(&mut self) -> Value {
        loop {
            match self.0.read().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Opens a view and waits for live data.
#[track_caller]
fn open(tab: &mut Tab, server: &Server, view: &str) {
    tab.open(&server.page(view));
    tab.until("document.querySelector('#state')?.textContent === 'live'");
}

#[track_caller]
fn assert_untroubled(tab: &mut Tab) {
    let troubles = tab.troubles();
    assert!(troubles.is_empty(), "the browser complains: {troubles:#?}");
}

/// The first cells of the rows of a table, once the condition on them, `names`, holds.
#[track_caller]
fn names_once(tab: &mut Tab, table: &str, condition: &str) -> Value {
    let names = format!("[...document.querySelectorAll('#{table} tbody td.name')].map((cell) => cell.innerText)");
    tab.until(&format!("((names) => {condition})({names})"));
    tab.eval(&names)
}

#[test]
fn the_overview_has_charts_with_points_and_shows_strangers_names_as_text() {
    let server = Server::start(&[]);
    let mut publisher = Client::subscribe(&server, &[HOSTILE, MIRRORED]);
    let mut tab = Tab::start(1_400);
    open(&mut tab, &server, "overview");
    for number in 0..10 {
        publisher.send(&json!({"type": "publish", "topic": HOSTILE, "data": number}));
    }
    // Every chart has a line of several points, and the deliveries are seen.
    tab.until(
        "document.querySelectorAll('.chart').length === 8 &&
         [...document.querySelectorAll('.chart .line.s0')].every((line) => line.getAttribute('d').split('L').length > 3)",
    );
    let connections = tab.eval("document.querySelector('.chart svg').getAttribute('aria-label')");
    assert!(connections.as_str().unwrap().starts_with("Connections: open 1"), "{connections}");
    names_once(&mut tab, "busiest", &format!("names.includes({HOSTILE:?}) && names.includes('aU+202Eb')"));
    assert_eq!(tab.text("#toast"), "", "nothing has happened to the server");
    // The values of an earlier second, by the keyboard.
    tab.eval("document.querySelector('.chart svg').focus()");
    tab.press("ArrowLeft");
    tab.until("/open 1, at \\d\\d:\\d\\d:\\d\\d/.test(document.querySelector('#toast').textContent)");
    tab.click("#all-figures summary");
    names_once(&mut tab, "stats", "names.includes('connections') && names.includes('deliveries')");
    assert_eq!(tab.eval("document.querySelectorAll('img').length"), 0);
    assert_untroubled(&mut tab);
}

#[test]
fn the_overview_names_the_nodes_and_says_which_part_of_the_engine_is_away() {
    let (one, mut other) = (RedisServer::start(), RedisServer::start());
    let engine = format!("{},{}", one.url(), other.url());
    let node = |name| {
        let times = [("JANUS_ENGINE_TIMEOUT", "500 ms"), ("JANUS_ENGINE_GRACE", "500 ms")];
        Server::start_with(&[], &[&[("JANUS_ENGINE", &*engine), ("JANUS_NODE_NAME", name)], &times[..]].concat())
    };
    let (left, _right) = (node("left"), node(HOSTILE));
    let mut tab = Tab::start(1_400);
    open(&mut tab, &left, "overview");
    // A node that has just started says of itself that it is not ready yet.
    let names = [&*format!("{HOSTILE}, up "), "left, up "];
    tab.until(&format!(
        "['2 nodes: ', ...{names:?}].every((text) => document.querySelector('#nodes').textContent.includes(text))"
    ));
    other.kill();
    tab.until("document.querySelector('#state').textContent === 'degraded'");
    let banner = tab.text("#banner-text");
    assert!(banner.contains("no link to 1 of 2 servers") && banner.contains(&other.url()), "{banner}");
    other.restart();
    tab.until("document.querySelector('#state').textContent === 'live'");
    assert_untroubled(&mut tab);
}

#[test]
fn topics_are_sorted_and_filtered_by_the_server() {
    let server = Server::start(&[]);
    let _crowd = [Client::subscribe(&server, &["b:crowd"]), Client::subscribe(&server, &["b:crowd", "a:lonely"])];
    let _more = Client::subscribe(&server, &["b:crowd", "c:two", HOSTILE]);
    let _two = Client::subscribe(&server, &["c:two"]);
    let mut tab = Tab::start(1_400);
    open(&mut tab, &server, "topics");
    tab.click("#topic-table th:nth-of-type(3) button");
    let names =
        names_once(&mut tab, "topic-table", "names.length === 4 && names[0] === 'b:crowd' && names[1] === 'c:two'");
    assert!(names.as_array().unwrap().contains(&HOSTILE.into()), "{names}");
    tab.click("#topic-table th:nth-of-type(1) button");
    names_once(&mut tab, "topic-table", "names.length === 4 && names[0].startsWith('<img') && names[3] === 'c:two'");
    assert_eq!(tab.eval("document.querySelector('#topic-table th').ariaSort"), "ascending");
    tab.fill("#topic-filters input", "b:");
    assert_eq!(names_once(&mut tab, "topic-table", "names.length === 1"), json!(["b:crowd"]));
    // The address keeps the view.
    tab.reload();
    tab.until("document.querySelector('#topic-filters input')?.value === 'b:'");
    assert_eq!(names_once(&mut tab, "topic-table", "names.length === 1"), json!(["b:crowd"]));
    tab.fill("#topic-filters input", "nothing");
    tab.until(
        "document.querySelector('#topic-table td.empty')?.innerText.includes('No topic has a name that begins so')",
    );
    assert_untroubled(&mut tab);
}

#[test]
fn a_client_closed_on_the_page_is_told_so() {
    let server = Server::start(&[]);
    let mut bystander = Client::subscribe(&server, &["news"]);
    let mut closed = Client::subscribe(&server, &["sports"]);
    let mut tab = Tab::start(1_400);
    open(&mut tab, &server, "clients");
    tab.fill("#client-filters input[name=topic]", "sports");
    let names = names_once(&mut tab, "client-table", "names.length === 1");
    assert_eq!(names[0], closed.0.get_ref().local_addr().unwrap().to_string());
    // The dialog may be left without harm.
    tab.click("#client-table td.actions button");
    tab.click("#close-dialog [value=cancel]");
    tab.until("!document.querySelector('#close-dialog').open");
    tab.click("#client-table td.actions button");
    tab.until("document.querySelector('#close-dialog').open");
    assert!(tab.text("#close-facts").contains(names[0].as_str().unwrap()));
    tab.click("#close-dialog [name=reconnect]");
    tab.click("#close-dialog button.danger");
    let bye = closed.next();
    assert_eq!((&bye["type"], &bye["reconnect_after_ms"]), (&"bye".into(), &Value::Null), "{bye}");
    tab.until("/^Closing client #\\d+\\.$/.test(document.querySelector('#toast').textContent)");
    tab.until("document.querySelector('#client-table td.empty')?.innerText.includes('No client matches')");
    bystander.send(&json!({"type": "ping"}));
    assert_eq!(bystander.next()["type"], "pong");
    assert_untroubled(&mut tab);
}

#[test]
fn the_boxes_publish_and_receive_messages_byte_for_byte() {
    let server = Server::start(&[]);
    let mut subscriber = Client::subscribe(&server, &[HOSTILE]);
    let mut tab = Tab::start(1_400);
    open(&mut tab, &server, "messages");
    tab.fill("#subscribe textarea", HOSTILE);
    tab.click("#subscribe button.main");
    tab.until("document.querySelector('#subscribe-outcome').innerText.startsWith('Subscribed to <img')");
    tab.fill("#publish [name=topic]", HOSTILE);
    tab.fill("#publish [name=event]", "a \"b\"");
    tab.fill("#publish textarea", "no JSON");
    tab.click("#publish button.main");
    tab.until("document.querySelector('#publish-outcome').innerText.includes('no JSON value')");
    // The server's reason, and not the number of its status.
    tab.fill("#publish [name=topic]", &"é".repeat(200));
    tab.fill("#publish textarea", "1");
    tab.click("#publish button.main");
    tab.until(
        "document.querySelector('#publish-outcome').innerText.includes('topic name must not be longer than 255')",
    );
    tab.fill("#publish [name=topic]", HOSTILE);
    // JavaScript would make 12345678901234567000 of the number.
    let data = r#"{"n": 12345678901234567890, "html": "<b onclick=\"alert(1)\">bold</b>"}"#;
    tab.fill("#publish textarea", data);
    tab.click("#publish button.main");
    tab.until("document.querySelector('#publish-outcome').innerText.includes('as number 1, to 2 subscribers')");
    tab.until("document.querySelectorAll('#message-list .message').length === 1");
    assert_eq!(tab.text("#message-list pre"), data);
    let head = tab.text("#message-list .message p");
    assert!(head.contains(HOSTILE) && head.contains("#1") && head.contains("event a \"b\""), "{head}");
    let received = subscriber.next();
    assert_eq!(
        (&received["event"], &received["data"]["n"]),
        (&json!("a \"b\""), &json!(12_345_678_901_234_567_890_u64))
    );
    for number in 0..300 {
        subscriber.send(&json!({"type": "publish", "topic": HOSTILE, "data": number}));
    }
    tab.until("document.querySelector('#message-list pre')?.innerText === '299'");
    assert_eq!(tab.eval("document.querySelector('#message-list').children.length <= 200"), true);
    tab.click("#unsubscribe");
    tab.until("document.querySelector('#subscribe-outcome').innerText === 'Not subscribed.'");
    assert_eq!(tab.eval("document.querySelectorAll('#message-list b, img').length"), 0);
    assert_untroubled(&mut tab);
}

#[test]
fn a_crashing_topic_stands_out_in_the_tree() {
    let server = Server::start_with(&[], &[("CRASH_THE_TOPIC", "unlucky")]);
    let _subscribers = [Client::subscribe(&server, &["lucky"]), Client::subscribe(&server, &["unlucky"])];
    let mut tab = Tab::start(1_400);
    open(&mut tab, &server, "tree?trouble=yes");
    tab.until("/topic unlucky/.test(document.querySelector('#tree-table tr.bad')?.innerText)");
    let row = tab.text("#tree-table tr.bad");
    assert!(row.contains("quarantined") && row.contains("panicked"), "{row}");
    let names = names_once(&mut tab, "tree-table", "names.length > 2");
    assert!(!names.to_string().contains("topic lucky"), "{names}");
    assert!(tab.text("#tree-shown").contains("1 down"));
    tab.click("#tree-filters [name=trouble]");
    // Trouble comes before the names in their order.
    names_once(&mut tab, "tree-table", "/unlucky.* topic lucky/.test(names.join(' '))");
    // Folded, a supervisor hides its parts.
    tab.click("#tree-table tr:first-child .fold");
    names_once(&mut tab, "tree-table", "names.length === 1");
    assert_untroubled(&mut tab);
}

#[test]
fn the_page_asks_for_the_key_keeps_it_in_the_tab_and_forgets_it() {
    const KEY: &str = "correct-horse-battery";
    let server = Server::start_with(&[], &[("JANUS_API_KEY", KEY)]);
    let mut tab = Tab::start(1_400);
    tab.open(&server.page("overview"));
    tab.until("document.querySelector('#key-dialog').open");
    tab.fill("#key-form input", "wrong-horse-battery");
    tab.click("#key-form button.main");
    tab.until("document.querySelector('#key-why').innerText.includes('does not accept this key')");
    tab.fill("#key-form input", KEY);
    tab.click("#key-form button.main");
    tab.until("document.querySelector('#state').textContent === 'live' && !document.querySelector('#key-dialog').open");
    tab.until("document.querySelector('.chart .line').getAttribute('d').length > 9");
    assert_eq!(tab.eval("[sessionStorage.length, localStorage.length, document.cookie]"), json!([1, 0, ""]));
    tab.reload();
    tab.until("document.querySelector('#state')?.textContent === 'live'");
    tab.click("#forget-key");
    tab.until(
        "document.querySelector('#key-dialog').open && document.querySelector('#state').textContent === 'locked'",
    );
    assert_eq!(tab.eval("sessionStorage.length"), 0);
    tab.click("#key-dialog [value=cancel]");
    tab.until("document.querySelector('#banner').innerText.includes('The server asks for its key')");
    tab.click("#enter-key");
    tab.fill("#key-form input", KEY);
    tab.click("#key-form button.main");
    tab.until("document.querySelector('#state').textContent === 'live'");
    assert_untroubled(&mut tab);
}

#[test]
fn the_page_says_that_its_data_is_old_and_returns_to_a_new_server() {
    let server = Server::start(&[]);
    let admin = server.admin.to_string();
    let mut tab = Tab::start(1_400);
    open(&mut tab, &server, "overview");
    drop(server);
    tab.until("/^Data from \\d+(\\.\\d)? s ago; reconnecting/.test(document.querySelector('#banner-text').innerText)");
    assert_eq!(tab.text("#state"), "old data");
    assert_eq!(tab.eval("document.body.classList.contains('stale')"), true);
    let _next = Server::start(&["--admin-listen", &admin]);
    tab.until("document.querySelector('#state').textContent === 'live' && document.querySelector('#banner').hidden");
    assert_untroubled(&mut tab);
}

#[test]
fn the_page_says_that_the_server_is_ending() {
    let server = Server::start(&["--drain-delay", "60 s"]);
    let mut tab = Tab::start(1_400);
    open(&mut tab, &server, "overview");
    server.running.signal("TERM");
    tab.until("document.querySelector('#banner-text').innerText.includes('draining, the server was told to stop')");
    assert_eq!(tab.text("#state"), "not ready");
    assert_untroubled(&mut tab);
}

#[test]
fn every_view_fits_a_phone_and_is_readable_in_light_and_dark() {
    let server = Server::start(&[]);
    let long = "x".repeat(255);
    let _subscriber = Client::subscribe(&server, &[HOSTILE, &long]);
    let mut tab = Tab::start(360);
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        tab.prefer(scheme);
        for view in VIEWS {
            open(&mut tab, &server, view);
            tab.until(&format!("!document.querySelector('#view-{view}').hidden"));
            if view == "topics" {
                names_once(&mut tab, "topic-table", "names.length === 2");
            }
            assert_eq!(tab.eval("document.documentElement.scrollWidth"), 360, "{view}");
            let faint = tab.eval(FAINT);
            assert_eq!(faint, json!([]), "hard to read in {view}, {scheme}");
        }
        grounds.push(tab.eval("getComputedStyle(document.body).backgroundColor"));
    }
    assert_ne!(grounds[0], grounds[1]);
    // The switch overrules the system, and outlasts a reload.
    tab.eval("(() => { const theme = document.querySelector('#theme'); theme.value = 'light'; theme.dispatchEvent(new Event('change')); })()");
    tab.reload();
    tab.until("document.querySelector('#state')?.textContent === 'live'");
    assert_eq!(tab.eval("getComputedStyle(document.body).backgroundColor"), grounds[0]);
    assert_untroubled(&mut tab);
}

/// The texts of the page with less contrast than 4.5 to their ground (WCAG 2, 1.4.3). Controls that cannot be used are
/// left out, as there.
const FAINT: &str = r"
(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const pixel = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) {
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
    }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const faint = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest(':disabled, option, script, svg')) continue;
    const grounds = [];
    for (let of = element; of; of = of.parentElement) grounds.unshift(getComputedStyle(of).backgroundColor);
    const [text, ground] = [pixel([...grounds, getComputedStyle(element).color]), pixel(grounds)].map(light);
    const contrast = (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
    if (contrast < 4.5) faint.add(`${walker.currentNode.data.trim().slice(0, 40)}: ${contrast.toFixed(2)}`);
  }
  return [...faint];
})()";

#[test]
fn the_pure_parts_of_the_page_keep_their_promises() {
    let server = Server::start(&[]);
    let mut tab = Tab::start(800);
    open(&mut tab, &server, "messages");
    let results = tab.eval(
        r#"(async () => {
             const { bytes, duration, rate, short, visible } = await import("/dashboard/text.js");
             const { Samples } = await import("/dashboard/samples.js");
             const { rawData } = await import("/dashboard/messages.js");
             const samples = new Samples(["count"]);
             const add = (second, value) => samples.add(1_000 * second, { count: { value } });
             for (let second = 1; second <= 10_000; second += 1) add(second, 5 * second);
             const kept = [samples.time.length, samples.time[0], samples.rate("count", 1).at(-1)];
             add(10_010, 50_050);
             add(10_011, 50_053);
             add(10_012, 1);
             add(10_012, 2);
             add(10_012.003, 500);
             return {
               texts: [visible("a\u202eb\n\ud800"), bytes(1_536), rate(0.25), short(1_234_567), short(99_999), rate(NaN)],
               times: [duration(250), duration(12_345), duration(90_000), duration(90_000_000)],
               raw: rawData('{"topic":"\\"data\\":1","data_":2,"data":{"data":[1, 2.50],"x":"}\\""}}'),
               kept,
               rates: samples.rate("count", 5).slice(-4),
               places: [samples.time.length, samples.nearest(0), samples.time[samples.nearest(10_004_000)]],
             };
           })()"#,
    );
    assert_eq!(results["texts"], json!(["a‹U+202E›b‹U+000A›‹U+D800›", "1.5 KiB", "0.3/s", "1.23M", "99,999", "–"]));
    assert_eq!(results["times"], json!(["250 ms", "12 s", "1 min 30 s", "1 d 1 h"]));
    assert_eq!(results["raw"], r#"{"data":[1, 2.50],"x":"}\""}"#);
    assert_eq!(results["kept"], json!([600, 9_401_000, 5]));
    // Nothing is known across a hole, nor where a counter falls.
    assert_eq!(results["rates"], json!([5, null, 3, null]));
    assert_eq!(results["places"], json!([600, 0, 10_000_000]));
    assert_untroubled(&mut tab);
}

#[test]
fn a_browser_gets_the_page_with_strict_headers_and_a_program_the_index() {
    let server = Server::start(&[]);
    let get = |path: &str, accept: &str| {
        let mut stream = TcpStream::connect(server.admin).unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{accept}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let browser = "Accept: text/html,application/xhtml+xml,*/*;q=0.8";
    let page = get("/", browser);
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("<title>Janus</title>"), "{page}");
    let policy = "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                  img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none';";
    for header in [
        policy,
        "x-content-type-options: nosniff\r\n",
        "referrer-policy: no-referrer\r\n",
        "cache-control: no-store\r\n",
    ] {
        assert!(page.contains(header), "{header} is missing:\n{page}");
    }
    let index = get("/", "Accept: */*");
    assert!(index.contains("GET, HEAD /api/topics\n") && !index.contains("<title>"), "{index}");
    let script = get("/dashboard/main.js", browser);
    assert!(script.contains("content-type: text/javascript") && script.contains("nosniff"), "{script}");
    assert!(get("/dashboard/nothing.js", browser).starts_with("HTTP/1.1 404 "));
}
