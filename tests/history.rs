//! Clients read the history of a topic: in either direction, page by page, and no more than the namespace allows.

use std::net::SocketAddr;

use janus_core::hooks::Identity;
use janus_core::{Config, Janus, Namespace, Resume};
use serde_json::{Value, json};

use crate::access::{Tokens, patterns};
use crate::support::own_address;
use crate::websocket::Socket;

/// Topics of `kept:` have a history, those of `private:` one for sessions alone.
fn config() -> Config {
    let kept = Namespace { history: true, ..Namespace::default() };
    let private = Namespace { resume: Resume::Session, ..kept.clone() };
    Config {
        namespaces: [("kept".to_owned(), kept), ("private".to_owned(), private)].into(),
        max_history_reply_messages: 3,
        ..Config::default()
    }
}

async fn serve(config: Config) -> (Janus, SocketAddr) {
    let config = Config { listen: Vec::new(), http_listen: vec![own_address()], ..config };
    let janus = Janus::builder().config(config).start().await.unwrap();
    let addr = janus.local_addrs()[0];
    (janus, addr)
}

async fn ask(socket: &mut Socket, topic: &str, more: Value) -> Value {
    let mut request = json!({"type": "history", "id": 7, "topic": topic});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = socket.ask(request).await;
    assert_eq!(answer["id"], 7, "{answer}");
    answer
}

fn seqs(answer: &Value) -> Vec<u64> {
    answer["messages"]
        .as_array()
        .unwrap_or_else(|| panic!("{answer}"))
        .iter()
        .map(|message| message["seq"].as_u64().unwrap())
        .collect()
}

fn end(answer: &Value) -> Value {
    json!({"epoch": answer["epoch"], "seq": answer["seq"]})
}

#[tokio::test]
async fn a_history_is_read_page_by_page_in_both_directions() {
    let (janus, addr) = serve(config()).await;
    for number in 1..=7 {
        janus.publish("kept:a", &number).await.unwrap();
    }
    let mut socket = Socket::open(addr).await;
    let mut page = ask(&mut socket, "kept:a", json!({"since": "start"})).await;
    let mut pages = vec![seqs(&page)];
    while page["more"] == true {
        page = ask(&mut socket, "kept:a", json!({"since": end(&page)})).await;
        assert_eq!((&page["complete"], &page["top"]), (&json!(true), &json!(7)));
        pages.push(seqs(&page));
    }
    assert_eq!(pages, [vec![1, 2, 3], vec![4, 5, 6], vec![7]], "the server's limit makes the pages");
    assert_eq!(page["messages"][0]["data"], 7);

    let mut page = ask(&mut socket, "kept:a", json!({"reverse": true, "limit": 2})).await;
    let mut pages = vec![seqs(&page)];
    while page["more"] == true {
        page = ask(&mut socket, "kept:a", json!({"reverse": true, "limit": 2, "since": end(&page)})).await;
        pages.push(seqs(&page));
    }
    assert_eq!(pages, [vec![7, 6], vec![5, 4], vec![3, 2], vec![1]]);
    janus.shutdown().await;
}

#[tokio::test]
async fn the_latest_messages_tell_all_from_a_part() {
    let limits = Config { max_history_reply_bytes: 1_024, ..config() };
    let (janus, addr) = serve(limits).await;
    let text = "x".repeat(400);
    for _ in 0..2 {
        janus.publish("kept:a", &text).await.unwrap();
    }
    let mut socket = Socket::open(addr).await;
    let all = ask(&mut socket, "kept:a", json!({})).await;
    assert_eq!((seqs(&all), &all["more"]), (vec![1, 2], &json!(false)));
    // Cut by the client's number, by the server's bytes, and by the server's number.
    let cut = ask(&mut socket, "kept:a", json!({"limit": 1})).await;
    assert_eq!((seqs(&cut), &cut["more"], &cut["seq"]), (vec![2], &json!(true), &json!(2)));
    janus.publish("kept:a", &text).await.unwrap();
    let cut = ask(&mut socket, "kept:a", json!({})).await;
    assert_eq!((seqs(&cut), &cut["more"], &cut["seq"]), (vec![2, 3], &json!(true), &json!(3)));
    for number in 0..4 {
        janus.publish("kept:b", &number).await.unwrap();
    }
    let cut = ask(&mut socket, "kept:b", json!({})).await;
    assert_eq!((seqs(&cut), &cut["more"]), (vec![2, 3, 4], &json!(true)));
    // What was cut off, page by page before the first message of the list.
    let first = json!({"epoch": cut["epoch"], "seq": 2});
    let earlier = ask(&mut socket, "kept:b", json!({"reverse": true, "since": first})).await;
    assert_eq!((seqs(&earlier), &earlier["more"]), (vec![1], &json!(false)));
    janus.shutdown().await;
}

#[tokio::test]
async fn a_client_continues_with_a_subscription_where_a_page_ends() {
    let (janus, addr) = serve(config()).await;
    for number in 1..=3 {
        janus.publish("kept:a", &number).await.unwrap();
    }
    let mut socket = Socket::open(addr).await;
    let page = ask(&mut socket, "kept:a", json!({"since": "start", "limit": 2})).await;
    let subscribed = socket.ask(json!({"type": "subscribe", "topic": "kept:a", "since": end(&page)})).await;
    assert_eq!((&subscribed["resumed"], &subscribed["missed"]), (&json!(true), &json!(1)));
    assert_eq!(socket.json().await["seq"], 3);
    janus.shutdown().await;
}

#[tokio::test]
async fn positions_without_their_messages_are_told_as_incomplete() {
    let mut config = config();
    config.namespaces.get_mut("kept").unwrap().history_messages = 2;
    (config.resume_messages, config.max_history_reply_messages) = (0, 10);
    let (janus, addr) = serve(config).await;
    for number in 1..=5 {
        janus.publish("kept:a", &number).await.unwrap();
    }
    let mut socket = Socket::open(addr).await;
    let all = ask(&mut socket, "kept:a", json!({})).await;
    assert_eq!((seqs(&all), &all["complete"]), (vec![4, 5], &json!(true)));
    for (seq, expected, complete) in [(1, vec![4, 5], false), (3, vec![4, 5], true), (5, vec![], true)] {
        let page = ask(&mut socket, "kept:a", json!({"since": {"epoch": all["epoch"], "seq": seq}})).await;
        assert_eq!((seqs(&page), &page["complete"]), (expected, &json!(complete)), "{seq}");
    }
    let foreign = ask(&mut socket, "kept:a", json!({"since": {"epoch": "00000000000000ab", "seq": 4}})).await;
    assert_eq!((seqs(&foreign), &foreign["complete"]), (vec![4, 5], &json!(false)));
    let unknown = ask(&mut socket, "kept:none", json!({})).await;
    assert_eq!((seqs(&unknown), &unknown["seq"], &unknown["top"]), (vec![], &json!(0), &json!(0)));
    janus.shutdown().await;
}

#[tokio::test]
async fn only_clients_that_may_subscribe_and_resume_read_a_history() {
    let tokens = Tokens::new([("a", Identity::user("alice").subscribe(patterns(["kept:a", "private:*"])))]);
    let (janus, _, addr) = tokens.serve(config()).await;
    for topic in ["kept:a", "kept:b", "private:a", "other"] {
        janus.publish(topic, &1).await.unwrap();
    }
    let mut socket = Socket::upgraded(addr).await;
    assert_eq!(socket.ask(json!({"type": "hello", "auth": "a"})).await["type"], "welcome");
    assert_eq!(seqs(&ask(&mut socket, "kept:a", json!({})).await), [1]);
    for (topic, code) in [("kept:b", "forbidden"), ("private:a", "no_history"), ("other", "forbidden")] {
        let refused = ask(&mut socket, topic, json!({})).await;
        assert_eq!(
            (&refused["type"], &refused["error"], &refused["topic"]),
            (&json!("error"), &json!(code), &json!(topic))
        );
    }
    janus.shutdown().await;
}
