//! The operator's view of a server without a link: unreachable, or unfit to be an engine.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use janus_core::engine::redis::Options;
use janus_core::engine::{LinkError, Request};

use crate::node::{KEEP, connect, here, options, topic};
use crate::redis_server::RedisServer;

/// Why there is no link to this address.
async fn refusal(address: &str) -> LinkError {
    let error = connect(options(address), 1).await.err().unwrap_or_else(|| panic!("{address} was accepted"));
    assert!(!error.message.contains("secret"), "{error}");
    error
}

/// A server with this answer for each connection; the connection stays open.
fn server_that_says(text: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            stream.write_all(text.as_bytes()).unwrap();
            kept.push(stream);
        }
    });
    format!("redis://127.0.0.1:{port}")
}

#[test]
fn passwords_are_checked_and_never_shown() {
    here(async {
        let server = RedisServer::with(&["--requirepass", "right"]);
        let at = |secrets: &str| format!("redis://{secrets}127.0.0.1:{}", server.port());
        for (secrets, words) in
            [("", "asks for a password"), (":secret@", "does not know"), ("u:secret@", "does not know")]
        {
            let error = refusal(&at(secrets)).await;
            assert!(error.reason == "auth" && error.message.contains(words), "{error}");
        }
        connect(options(&at(":right@")), 1).await.unwrap();
        connect(options(&at("default:right@")), 1).await.unwrap();
        let at_socket = server.unix_url().replace("unix://", "unix://:right@");
        connect(options(&at_socket), 1).await.unwrap();
        connect(options(&format!("{at_socket}?db=3")), 1).await.unwrap();
    });
}

#[test]
fn the_database_of_the_address_is_used() {
    here(async {
        let server = RedisServer::start();
        let news = topic("news");
        let mut one = connect(options(&format!("{}/3", server.url())), 1).await.unwrap();
        one.append(&news, 1, &["1"]).await.unwrap();
        assert_eq!(one.read(&news, 1).await.len(), 1);
        assert!(server.info("keyspace", "db3").starts_with("keys=2"), "{}", server.info("keyspace", "db3"));
        let error = refusal(&format!("{}/99", server.url())).await;
        assert!(error.reason == "database" && error.message.contains("database 99"), "{error}");
    });
}

#[test]
fn a_user_with_the_documented_rights_can_do_everything() {
    here(async {
        let server = RedisServer::start();
        let rights = "~janus:* &janus:* +hello +client|setname +select +ping +subscribe +unsubscribe +publish \
                      +script|load +eval +evalsha +info +time +@hash +@stream +@string +@keyspace";
        let user: Vec<_> = ["ACL", "SETUSER", "u", "on", ">secret"].into_iter().chain(rights.split(' ')).collect();
        server.run(&user);
        let address = format!("redis://u:secret@127.0.0.1:{}/1", server.port());
        let mut one = connect(Options { timeout: Duration::from_millis(100), ..options(&address) }, 1).await.unwrap();
        let news = topic("news");
        one.open(&news, None, Some(0)).await;
        let key = Some(("key", Duration::from_secs(1)));
        one.append_with(&news, KEEP, true, 1, &["1"], key).await.unwrap();
        one.append_with(&news, janus_core::engine::Keep { messages: 0, ..KEEP }, true, 2, &["1"], None).await.unwrap();
        one.read(&news, 1).await;
        one.report(&news, 1).await;
        one.link.request(Request::Beat { about: "", valid: Duration::from_secs(1) });
        one.link.request(Request::Control { to: None, message: b"" });
        one.link.request(Request::Close { topic: &news });
        one.nodes().await;
        let idle = tokio::time::timeout(Duration::from_millis(250), one.end()).await;
        assert!(idle.is_err(), "the link has ended: {idle:?}");

        // The error names a missing right.
        server.run(&["ACL", "SETUSER", "u", "resetchannels"]);
        assert_eq!(one.end().await.reason, "closed");
        let error = refusal(&address).await;
        assert!(error.reason == "permission" && error.message.contains("channel"), "{error}");
        server.run(&["ACL", "SETUSER", "u", "&*", "-xadd"]);
        let error = refusal(&address).await;
        assert!(error.reason == "permission" && error.message.contains("can't run this command"), "{error}");
    });
}

#[test]
fn what_is_not_redis_is_named() {
    here(async {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = refusal(&format!("redis://u:secret@127.0.0.1:{closed}")).await;
        assert_eq!(error.reason, "refused");
        assert!(!error.message.contains("127.0.0.1"), "the server is named by the engine: {error}");

        let error = refusal(&server_that_says("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(error.reason, "not_redis");
        assert!(error.message.ends_with("this is not Redis; it answered \"HTTP/1.1 400 Bad Request\""), "{error}");
        let error = refusal(&server_that_says("\x15\x03\x03\0\x02\x02")).await;
        assert!(error.reason == "not_redis" && error.message.contains("rediss://"), "{error}");
        let error = refusal("unix:///nowhere/redis.sock").await;
        assert!(error.reason == "network" && !error.message.is_empty(), "{error}");
        let error = refusal("redis://host.invalid").await;
        assert!(error.reason == "network" && error.message.contains("lookup"), "{error}");
    });
}

#[test]
fn a_server_that_is_too_old_or_of_another_kind_is_refused() {
    here(async {
        let hello = |version: &str, mode: &str, role: &str| -> &'static str {
            let part = |text: &str| format!("${}\r\n{text}\r\n", text.len());
            let texts = ["server", "redis", "version", version, "mode", mode, "role", role];
            let texts: String = texts.into_iter().map(part).collect();
            format!("%6\r\n{texts}$5\r\nproto\r\n:3\r\n$7\r\nmodules\r\n*0\r\n").leak()
        };
        let resp2 = "*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:2\r\n";
        for (answer, reason, words) in [
            ("-ERR unknown command 'HELLO', with args beginning with: '3'\r\n", "version", "RESP3"),
            ("-NOPROTO unsupported protocol version\r\n", "version", "RESP3"),
            ("+OK\r\n", "version", "RESP3"),
            (resp2, "version", "RESP3"),
            (hello("6.0.16", "standalone", "master"), "version", "release 6.0.16 is too old"),
            (hello("", "standalone", "master"), "version", "too old"),
            (hello("7.0.15", "standalone", "replica"), "read_only", "must be a master"),
            (hello("7.0.15", "sentinel", "master"), "mode", "redis+sentinel://"),
            (hello("7.0.15", "cluster", "master"), "mode", "redis+cluster://"),
            ("-LOADING Redis is loading the dataset in memory\r\n", "loading", "loading"),
            ("-ERR max number of clients reached\r\n", "refused", "max number of clients"),
        ] {
            let error = refusal(&server_that_says(answer)).await;
            assert!(error.reason == reason && error.message.contains(words), "{answer:?}: {error}");
        }
        let replica = RedisServer::with(&["--replicaof", "127.0.0.1 1"]);
        assert_eq!(refusal(&replica.url()).await.reason, "read_only");
        let server = RedisServer::start();
        let error = refusal(&format!("redis+sentinel://127.0.0.1:{}/main", server.port())).await;
        assert!(error.reason == "mode" && error.message.contains("no Sentinel at this port"), "{error}");
    });
}

#[test]
fn a_server_that_forbids_scripts_is_refused() {
    here(async {
        let server = RedisServer::start();
        server.run(&["ACL", "SETUSER", "u", "on", ">secret", "~*", "&*", "+@all", "-script"]);
        let error = refusal(&format!("redis://u:secret@127.0.0.1:{}", server.port())).await;
        assert!(error.reason == "permission" && error.message.contains("script"), "{error}");
        let server = RedisServer::with(&["--rename-command", "EVAL", ""]);
        let error = refusal(&server.url()).await;
        assert!(error.reason == "unfit" && error.message.contains("INFO in a script"), "{error}");
    });
}

#[test]
fn a_user_without_a_right_is_refused_with_the_right_in_words() {
    here(async {
        let server = RedisServer::start();
        let user = |name: &str, rules: &[&str]| {
            let set = ["ACL", "SETUSER", name, "on", ">secret"];
            server.run(&[&set[..], rules].concat());
            format!("redis://{name}:secret@127.0.0.1:{}", server.port())
        };
        for (name, rules) in [
            ("keys", &["~other:*", "&*", "+@all"][..]),
            ("channels", &["~*", "&other:*", "+@all"]),
            ("publish", &["~*", "&*", "+@all", "-publish"]),
            ("streams", &["~*", "&*", "+@all", "-xadd"]),
        ] {
            let address = user(name, rules);
            // The instance tries again at once, and must not find what the first check has left.
            for _ in 0..2 {
                let error = refusal(&address).await;
                assert_eq!(error.reason, "permission", "{name}: {error}");
                assert!(!error.message.contains("user_script"), "{name}: {error}");
            }
        }
        let commands = ["+@connection", "+@scripting", "+@pubsub", "+@stream", "+@read", "+@write", "+info", "+time"];
        let enough = [&["~janus:*", "&janus:*", "-@all"][..], &commands].concat();
        connect(options(&user("enough", &enough)), 1).await.unwrap();
        // A full server serves subscribers, and refuses messages.
        server.run(&["CONFIG", "SET", "maxmemory", "1"]);
        connect(options(&server.url()), 1).await.unwrap();
    });
}
