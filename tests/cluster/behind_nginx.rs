//! Two nodes behind nginx with the configuration of docs/CLUSTER.md.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use super::*;
use crate::cli_run::{PATIENCE, assert_exit, janus};
use crate::proxied::Nginx;

/// The first block of this language in docs/CLUSTER.md.
pub(super) fn block(language: &str) -> &'static str {
    let document = include_str!("../../docs/CLUSTER.md");
    let (_, rest) = document.split_once(&format!("\n```{language}\n")).expect("a block of the language");
    rest.split_once("```\n").expect("the end of the block").0
}

/// nginx in front of the HTTP ports of two nodes.
fn nginx(left: SocketAddr, right: SocketAddr) -> (Nginx, SocketAddr) {
    let address = SocketAddr::new(own_address().ip(), 8080);
    let mut configuration = block("nginx").to_owned();
    for (documented, here) in [("127.0.0.1:8001", left), ("127.0.0.1:8002", right), ("127.0.0.1:8080", address)] {
        assert_eq!(configuration.matches(documented).count(), 1, "{documented} is in the documented configuration");
        configuration = configuration.replace(documented, &here.to_string());
    }
    (Nginx::with(&configuration, address), address)
}

fn node(redis: &RedisServer, name: &str, http: SocketAddr) -> Node {
    let engine = redis.url();
    let proxy = http.ip().to_string();
    let variables = [("JANUS_ENGINE", &*engine), ("JANUS_NODE_NAME", name), ("JANUS_TRUSTED_PROXIES", &proxy)];
    Node::at(http, &variables, |command| command).ready()
}

/// The head of the answer to a request, and the rest of the stream, which stays open.
fn get(address: SocketAddr, target: &str, accept: &str) -> (String, BufReader<TcpStream>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nhost: {address}\r\naccept: {accept}\r\n\r\n").unwrap();
    let mut answer = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(answer.read_line(&mut head).unwrap() > 0, "the end within {head:?}");
    }
    (head, answer)
}

fn publish(node: &Node, text: &str) {
    let output = janus(&["publish", "news", text, "--server", &format!("http://{}", node.http)])
        .env("JANUS_API_KEY", KEY)
        .output()
        .unwrap();
    assert_exit(&output, 0);
}

#[test]
fn a_subscriber_comes_back_through_the_other_node_and_misses_nothing() {
    let redis = RedisServer::start();
    let (left, right) = (node(&redis, "left", own_address()), node(&redis, "right", own_address()));
    let (_nginx, address) = nginx(left.http, right.http);
    let url = format!("http://{address}");
    let subscriber = Running::start(&["subscribe", "news", "--reconnect", "--server", &url]);
    subscriber.error_line("subscribed");
    publish(&left, "1");
    assert!(subscriber.line().contains("\"data\":1"));
    // nginx has chosen one of the two. The other takes over, and goes the same way.
    let (left_http, right_http) = (left.http, right.http);
    left.server.signal("KILL");
    left.server.wait();
    publish(&right, "2");
    assert!(subscriber.line().contains("\"data\":2"));
    let left = node(&redis, "left", left_http);
    right.server.signal("KILL");
    right.server.wait();
    publish(&left, "3");
    assert!(subscriber.line().contains("\"data\":3"));
    let _right = node(&redis, "right", right_http);
}

#[test]
fn nginx_refuses_no_stream_while_a_node_is_up() {
    let redis = RedisServer::start();
    let (left, right) = (node(&redis, "left", own_address()), node(&redis, "right", own_address()));
    let (_nginx, address) = nginx(left.http, right.http);
    let right_http = right.http;
    right.server.signal("KILL");
    right.server.wait();
    let connected = |count| -> Vec<_> {
        let streams = (0..count).map(|_| get(address, "/events?topic=news", "text/event-stream"));
        streams
            .inspect(|(head, _)| {
                assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/event-stream"), "{head}")
            })
            .collect()
    };
    // Streams that nginx has first offered to the node that is away, and that do not end.
    let mut streams = connected(4);
    let right = node(&redis, "right", right_http);
    left.server.signal("KILL");
    left.server.wait();
    streams.extend(connected(12));
    for (_, stream) in &mut streams[4..] {
        let lines: Vec<_> = stream.lines().map(Result::unwrap).take_while(|line| !line.starts_with("data: ")).collect();
        assert!(!lines.contains(&"event: bye".to_owned()), "the stream of a node: {lines:?}");
    }
    assert!(get(address, "/api/topics", "*/*").0.starts_with("HTTP/1.1 404 "), "the API is not passed on");
    right.server.signal("KILL");
    right.server.wait();
    let (head, stream) = get(address, "/events?topic=news", "text/event-stream");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let lines: Vec<_> = stream.lines().map(Result::unwrap).take(3).collect();
    assert_eq!(lines[..2], ["event: bye", "retry: 2000"]);
    let (head, _) = get(address, "/events?topic=news", "*/*");
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nRetry-After: 2\r\n"), "{head}");
}
