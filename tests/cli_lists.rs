//! `janus-server history`, `topics`, `connections` and `disconnect`: tables for people, lines of JSON for scripts.

use serde_json::{Value, json};

use crate::api::http_address;
use crate::cli_run::{Running, assert_exit, janus, text};

fn start(more: &[&str]) -> (Running, String) {
    let ports = ["--listen", "", "--http-listen", "127.0.0.1:0"];
    let server = Running::start(&[&ports, more].concat());
    let url = http_address(&server).to_string();
    (server, url)
}

/// The output and the errors of a command that succeeds.
#[track_caller]
fn run(arguments: &[&str], url: &str) -> (String, String) {
    let output = janus(&[arguments, &["--server", url]].concat()).output().unwrap();
    assert_exit(&output, 0);
    (text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn values(lines: &str) -> Vec<Value> {
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn publish(topic: &str, lines: &str, url: &str) {
    let output = janus(&["publish", topic, "-", "--server", url]).write_stdin(lines).output().unwrap();
    assert_exit(&output, 0);
}

#[test]
fn history_prints_the_latest_messages_or_those_after_a_position_page_by_page() {
    let (_server, url) =
        start(&["--history", "--history-messages", "12000", "--history-bytes", "16 MiB", "--history-age", "1 h"]);
    assert!(run(&["history", "news"], &url).1.contains("--since"));
    publish("news", "1\n{\"a\": \"\\u009b\"}\n\"\u{202e}three\"\n", &url);
    let (table, more) = run(&["history", "news", "--limit", "2"], &url);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("SEQ  TIME") && lines[0].ends_with("DATA"), "{table}");
    assert!(lines[1].trim_start().starts_with("2  20") && lines[1].ends_with("{\"a\": \"\\u009b\"}"), "{table}");
    assert!(lines[2].ends_with("\"\\u{202e}three\"") && lines.len() == 3, "{table}");
    let position = more.trim().rsplit(' ').next().unwrap();
    publish("news", "4\n", &url);
    let (lines, _) = run(&["history", "news", "--json", "--since", position], &url);
    let [message] = &values(&lines)[..] else { panic!("{lines}") };
    assert_eq!((&message["topic"], &message["seq"], &message["data"]), (&json!("news"), &json!(4), &json!(4)));

    publish("news", &"5\n".repeat(10_500), &url);
    let all = values(&run(&["history", "news", "--all", "--json"], &url).0);
    let numbers: Vec<u64> = all.iter().map(|message| message["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=10_504).collect::<Vec<_>>());
    let (_, gone) = run(&["history", "news", "--since", "00000000000000ab.7"], &url);
    assert!(gone.contains("messages after 00000000000000ab.7 are gone"), "{gone}");
}

#[test]
fn topics_are_a_table_that_says_that_more_follow_and_all_of_them_come_on_request() {
    let (_server, url) = start(&["--history"]);
    assert_eq!(run(&["topics"], &url), (String::new(), "no topics\n".to_owned()));
    for number in 0..4 {
        publish(&format!("t:{number}"), "1\n", &url);
    }
    publish("天気", "1\n", &url);
    let (table, more) = run(&["topics", "--limit", "2"], &url);
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("SUBSCRIBERS  MESSAGES/S  IN FLIGHT  MEMBERS  STATE") && lines[0].ends_with("TOPIC"),
        "{table}"
    );
    assert!(lines[1].trim_start().starts_with("0 ") && lines[1].ends_with("available  t:0"), "{table}");
    assert!(lines.len() == 3 && more.contains("--all"), "{table}{more}");
    let (lines, more) = run(&["topics", "--all", "--json"], &url);
    let names: Vec<Value> = values(&lines).into_iter().map(|topic| topic["topic"].clone()).collect();
    assert_eq!((names, &*more), (vec![json!("t:0"), json!("t:1"), json!("t:2"), json!("t:3"), json!("天気")], ""));
}

#[test]
fn a_connection_is_listed_and_closed_by_its_number() {
    let (_server, url) = start(&[]);
    let subscribe = || {
        let subscriber = Running::start(&["subscribe", "news", "--server", &url]);
        subscriber.error_line("subscribed");
        subscriber
    };
    let [returning, banned] = [subscribe(), subscribe()];
    let (table, _) = run(&["connections"], &url);
    assert!(table.starts_with("CONNECTION  TRANSPORT  ") && table.lines().count() == 3, "{table}");
    let connections = values(&run(&["connections", "--json"], &url).0);
    let [first, second] = [0, 1].map(|index| connections[index]["connection"].to_string());
    assert_eq!(run(&["disconnect", &first], &url).0, format!("{first}: closing, and told to come back\n"));
    assert_eq!(
        run(&["disconnect", "--ban", &second], &url).0,
        format!("{second}: closing, and told not to come back\n")
    );
    returning.error_line("disconnected");
    banned.error_line("banned");
    let output = janus(&["disconnect", &first, &second, "--server", &url]).output().unwrap();
    assert_exit(&output, 1);
    let error = text(&output.stderr);
    assert!(
        error.contains(&format!("{first}: ")) && error.contains("2 of 2 connections could not be closed"),
        "{error}"
    );
}

#[test]
fn a_topic_without_history_is_refused_in_the_servers_words() {
    let (_server, url) = start(&[]);
    let output = janus(&["history", "news", "--server", &url]).output().unwrap();
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("no_history: no history is kept for this topic"));
}
