//! `janus-server bench`: correct counts, with a server that works and with a server that misbehaves.

use std::net::TcpListener;

use serde_json::Value;
use tempfile::tempdir;

use crate::cli_fake_server::{FakeServer, Fault};
use crate::cli_run::{Running, assert_exit, janus, text};

/// Runs a bench and returns its JSON, after checking the exit code and the printed text.
#[track_caller]
fn bench(server: &FakeServer, arguments: &[&str], code: i32) -> Value {
    let folder = tempdir().unwrap();
    let json = folder.path().join("result.json");
    let mut all = vec!["bench", "--to", &server.address, "--json", json.to_str().unwrap()];
    all.extend(arguments);
    let output = janus(&all).output().unwrap();
    assert_exit(&output, code);
    assert!(text(&output.stdout).contains("p99"), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains(" ##"), "no histogram in {}", text(&output.stdout));
    serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap()
}

const TRANSPORTS: [&str; 3] = ["tcp", "ws", "sse"];

/// Runs a bench over the given transport.
#[track_caller]
fn bench_over(transport: &str, server: &FakeServer, arguments: &[&str], code: i32) -> Value {
    let result = bench(server, &[&["--transport", transport, "--http", &server.http], arguments].concat(), code);
    assert_eq!(result["transport"], transport);
    let http = if transport == "tcp" { Value::Null } else { server.http.as_str().into() };
    assert_eq!(result["http"], http);
    result
}

#[track_caller]
fn assert_counts(result: &Value, counts: &[(&str, u64)]) {
    for (name, count) in counts {
        assert_eq!(result[name].as_u64(), Some(*count), "{name} of {result:#}");
    }
}

#[test]
fn deliveries_are_counted_over_every_transport() {
    let server = FakeServer::start(Fault::None);
    for transport in TRANSPORTS {
        let arguments = ["--clients", "31", "--topics", "4", "--messages", "10", "--workers", "2", "--size", "300"];
        let result = bench_over(transport, &server, &arguments, 0);
        assert_counts(&result, &[("ready", 31), ("published", 10), ("expected", 78), ("good", 78), ("bad", 0)]);
    }
}

#[test]
fn faults_of_a_server_are_counted_over_every_transport() {
    let arguments = ["--clients", "10", "--messages", "5", "--window", "5", "--timeout", "1s"];
    for transport in TRANSPORTS {
        for (fault, counts) in [
            (Fault::Loses, [("good", 49), ("lost", 1), ("duplicated", 0), ("out_of_order", 0), ("disconnected", 0)]),
            (Fault::Repeats, [("good", 50), ("lost", 0), ("duplicated", 1), ("out_of_order", 0), ("disconnected", 0)]),
            (Fault::Reorders, [("good", 49), ("lost", 0), ("duplicated", 0), ("out_of_order", 1), ("disconnected", 0)]),
            (
                Fault::DropsClient,
                [("good", 46), ("lost", 4), ("duplicated", 0), ("out_of_order", 0), ("disconnected", 1)],
            ),
        ] {
            let result = bench_over(transport, &FakeServer::start(fault), &arguments, 1);
            assert_counts(&result, &counts);
        }
    }
}

#[test]
fn subscribers_refused_by_an_http_port_are_reported_with_the_reason() {
    let server = FakeServer::start(Fault::Refuses);
    for transport in ["ws", "sse"] {
        let arguments = ["bench", "--clients", "3", "--to", &server.address, "--transport", transport];
        let output = janus(&[&arguments[..], &["--http", &server.http]].concat()).output().unwrap();
        assert_exit(&output, 1);
        let told = text(&output.stderr);
        assert!(told.contains("3 × refused: too_many_connections: not here"), "{told}");
    }
}

#[test]
fn a_report_names_the_transports_of_clients_and_publisher() {
    let server = FakeServer::start(Fault::None);
    for (transport, expected) in [
        ("tcp", None),
        ("ws", Some(format!("ws: clients on {}, messages published on {} by", server.http, server.address))),
    ] {
        let arguments = ["bench", "--clients", "3", "--to", &server.address, "--transport", transport];
        let output = janus(&[&arguments[..], &["--http", &server.http]].concat()).output().unwrap();
        assert_exit(&output, 0);
        let told =
            text(&output.stdout).lines().find_map(|line| line.strip_prefix("transport      ").map(str::to_owned));
        assert_eq!(told.is_some(), expected.is_some());
        assert!(told.unwrap_or_default().starts_with(&expected.unwrap_or_default()));
    }
}

#[test]
fn a_wrong_http_port_is_reported_with_the_flags_that_set_the_port() {
    let server = FakeServer::start(Fault::None);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for transport in ["ws", "sse"] {
        for (http, expected) in [
            (&server.address, "(see --transport and --http): it sent \"{"),
            (&nobody, "(is the server running, and is --http its http_listen?)"),
        ] {
            let arguments = ["bench", "--clients", "3", "--to", &server.address, "--transport", transport];
            let output = janus(&[&arguments[..], &["--http", http]].concat()).output().unwrap();
            assert_exit(&output, 1);
            assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
        }
    }
}

#[test]
fn every_delivery_is_counted_once() {
    let server = FakeServer::start(Fault::None);
    let result = bench(&server, &["--clients", "100", "--messages", "20"], 0);
    assert_counts(&result, &[("ready", 100), ("published", 20), ("expected", 2_000), ("good", 2_000), ("bad", 0)]);
    let latency = &result["latency_ns"];
    let at = |name: &str| latency[name].as_u64().unwrap();
    assert!(0 < at("min") && at("min") <= at("p50") && at("p50") <= at("p99") && at("p99") <= at("max"), "{latency}");
    // The slowest delivery of all is the last delivery of its message; the histogram keeps three digits.
    let worst = result["last_delivery_ns"]["worst"].as_u64().unwrap();
    assert!(worst.abs_diff(at("max")) <= at("max") / 100, "{result:#}");
    assert!(at("min") < at("p99"), "2,000 deliveries do not take the same time: {latency}");
    let histogram = result["histogram_ns"].as_array().unwrap();
    assert_eq!(histogram.iter().map(|row| row[2].as_u64().unwrap()).sum::<u64>(), 2_000);
}

#[test]
fn clients_and_messages_are_spread_over_topics_and_workers() {
    let server = FakeServer::start(Fault::None);
    let arguments = ["--clients", "31", "--topics", "4", "--messages", "10", "--workers", "3", "--window", "5"];
    // Topics 0, 1 and 2 have 8 clients and topic 3 has 7; messages 0 to 9 go to topics 0, 1, 2, 3, 0, 1, 2, 3, 0, 1.
    let expected = 3 * 8 + 3 * 8 + 2 * 8 + 2 * 7;
    let result = bench(&server, &arguments, 0);
    assert_counts(&result, &[("workers", 3), ("expected", expected), ("good", expected)]);
}

#[test]
fn messages_are_published_at_the_requested_rate() {
    let server = FakeServer::start(Fault::None);
    let result = bench(&server, &["--clients", "5", "--messages", "40", "--rate", "200", "--size", "2000"], 0);
    assert_counts(&result, &[("good", 200)]);
    // 39 intervals of 5 ms: the rate is not exceeded, and the time is included.
    assert!(result["deliveries_per_second"].as_f64().unwrap() < 5.0 * 40.0 / 0.195, "{result:#}");
    assert!(result["publisher_late_ns"]["max"].is_u64());
}

#[test]
fn messages_can_be_published_the_classic_way() {
    let server = FakeServer::start(Fault::None);
    let result = bench(&server, &["--clients", "10", "--messages", "5", "--classic-publish"], 0);
    assert_counts(&result, &[("good", 50)]);
}

#[test]
fn a_lost_message_is_counted_and_fails_the_bench() {
    let server = FakeServer::start(Fault::Loses);
    let arguments = ["--clients", "10", "--messages", "5", "--window", "5", "--timeout", "1s"];
    let result = bench(&server, &arguments, 1);
    assert_counts(&result, &[("expected", 50), ("good", 49), ("lost", 1), ("bad", 1), ("duplicated", 0)]);
    assert_eq!(result["stalled"], true);
}

#[test]
fn a_repeated_message_is_counted_and_fails_the_bench() {
    let server = FakeServer::start(Fault::Repeats);
    let result = bench(&server, &["--clients", "10", "--messages", "5"], 1);
    assert_counts(&result, &[("expected", 50), ("good", 50), ("duplicated", 1), ("lost", 0)]);
}

#[test]
fn a_message_out_of_order_is_counted_and_fails_the_bench() {
    let server = FakeServer::start(Fault::Reorders);
    let result = bench(&server, &["--clients", "10", "--messages", "5", "--window", "5"], 1);
    assert_counts(&result, &[("expected", 50), ("good", 49), ("out_of_order", 1), ("lost", 0)]);
}

#[test]
fn a_client_that_is_cut_off_loses_the_rest_and_delays_no_client() {
    let server = FakeServer::start(Fault::DropsClient);
    let result = bench(&server, &["--clients", "10", "--messages", "5"], 1);
    assert_counts(&result, &[("expected", 50), ("good", 46), ("lost", 4), ("disconnected", 1), ("published", 5)]);
    assert_eq!(result["stalled"], false);
    assert_eq!(result["errors"][0], "1 × the server closed the connection");
}

#[test]
fn a_refusal_to_publish_is_reported_without_waiting_for_the_timeout() {
    let server = FakeServer::start(Fault::Refuses);
    let output = janus(&["bench", "--clients", "3", "--to", &server.address]).output().unwrap();
    assert_exit(&output, 1);
    assert!(text(&output.stdout).contains("publish_not_allowed: not here"), "{}", text(&output.stdout));
}

#[test]
fn a_refused_message_is_not_expected_at_any_subscriber() {
    let server = FakeServer::start(Fault::RefusesTheRest);
    let result = bench(&server, &["--clients", "10", "--messages", "10", "--window", "10", "--workers", "2"], 1);
    assert_counts(&result, &[("published", 2), ("refused", 8), ("expected", 20), ("good", 20), ("bad", 0)]);
    assert!(result["errors"].to_string().contains("topic_unavailable"), "{result:#}");
    assert_eq!(result["stalled"], false);
}

#[test]
fn a_message_lost_before_the_server_refuses_is_still_lost() {
    let server = FakeServer::start(Fault::LosesAndDrains);
    let result = bench(&server, &["--clients", "10", "--messages", "10", "--window", "10"], 1);
    assert_counts(&result, &[("published", 2), ("refused", 8), ("expected", 20), ("good", 19), ("lost", 1)]);
    assert!(result["errors"].to_string().contains("server_draining"), "{result:#}");
}

#[test]
fn a_server_that_does_not_answer_is_reported_after_the_timeout() {
    let server = FakeServer::start(Fault::SaysNothing);
    let output = janus(&["bench", "--clients", "3", "--to", &server.address, "--timeout", "300ms"]).output().unwrap();
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("not acknowledged within 300 ms"), "{}", text(&output.stderr));
}

#[test]
fn a_refused_connect_is_reported_with_advice() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = janus(&["bench", "--clients", "3", "--to", &address]).output().unwrap();
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("is the server running?"), "{}", text(&output.stderr));
}

#[test]
fn the_result_has_the_whole_distribution_and_every_message() {
    let server = FakeServer::start(Fault::None);
    let result = bench(&server, &["--clients", "50", "--messages", "20"], 0);
    let points: Vec<(f64, f64)> = serde_json::from_value(result["latency_percentiles_us"].clone()).unwrap();
    assert!(points.len() > 100, "{points:?}");
    assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1), "{points:?}");
    let latency = |name: &str| result["latency_ns"][name].as_f64().unwrap() / 1e3;
    assert_eq!((points[0], points[points.len() - 1]), ((0.0, latency("min")), (100.0, latency("max"))));
    assert!(points.contains(&(50.0, latency("p50"))), "{points:?}");
    let last: Vec<f64> = serde_json::from_value(result["last_delivery_us_by_message"].clone()).unwrap();
    assert_eq!(last.len(), 20);
    assert!(last.contains(&latency("max")), "the slowest delivery is the last of its message: {last:?}");
    assert!(result["server_process"].is_null());
}

#[test]
fn a_message_missing_at_a_subscriber_has_no_last_delivery() {
    let server = FakeServer::start(Fault::Loses);
    let arguments = ["--clients", "10", "--messages", "3", "--window", "3", "--timeout", "1s"];
    let result = bench(&server, &arguments, 1);
    let last = result["last_delivery_us_by_message"].as_array().unwrap();
    assert_eq!(last.iter().map(Value::is_null).collect::<Vec<_>>(), [false, true, false], "{last:?}");
}

#[test]
#[cfg(target_os = "linux")]
fn the_resources_used_by_the_server_are_reported() {
    let server = FakeServer::start(Fault::None);
    // The fake server lives in this process.
    let pid = std::process::id().to_string();
    let result = bench(&server, &["--clients", "10", "--messages", "5", "--server-pid", &pid], 0);
    let usage = &result["server_process"];
    assert_eq!(usage["pid"].as_u64(), Some(std::process::id().into()));
    assert!(usage["rss_bytes_before"].as_u64().unwrap() > 0, "{usage}");
    // Threads of other tests may end in between, and their use is then unknown.
    assert!(usage["cpu_ns_per_delivery"].is_number() != usage["cpu_note"].is_string(), "{usage}");
}

#[test]
fn contradicting_flags_are_reported_with_the_expected_values() {
    for (arguments, expected) in [
        (&["--protocol", "amqp"][..], "possible values: janus, redis, nats, mqtt"),
        (&["--transport", "udp"][..], "possible values: tcp, ws, cbor, sse"),
        (&["--transport", "ws", "--protocol", "nats"][..], "expected --protocol janus, not nats"),
        (&["--protocol", "WebSocket"][..], "possible values: janus, redis, nats, mqtt"),
        (&["--transport", "sse", "--http", "8080"][..], "8080 is not an address: expected HOST:PORT"),
        (&["--protocol", "redis", "--classic-publish"][..], "expected --protocol janus, not redis"),
        (&["--server-pid", "4294967295"][..], "--server-pid 4294967295: no such process"),
        (&["--server-pid", "0"][..], "0 is not in 1..="),
        (&["--connecting", "0"][..], "0 is not in 1..="),
    ] {
        let output = janus(&[&["bench"], arguments].concat()).output().unwrap();
        assert_exit(&output, 2);
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
}

#[test]
fn a_server_of_another_protocol_is_reported_with_its_bytes() {
    let server = FakeServer::start(Fault::None);
    for protocol in ["redis", "nats", "mqtt"] {
        let arguments = ["--protocol", protocol, "--to", &server.address, "--clients", "3"];
        let output = janus(&[&["bench"][..], &arguments].concat()).output().unwrap();
        assert_exit(&output, 1);
        let expected = format!("the server does not speak {protocol} (see --protocol): it sent \"{{");
        assert!(text(&output.stderr).contains(&expected), "{}", text(&output.stderr));
    }
}

/// The real server, with its addresses for the classic protocol and for HTTP.
fn real_server(settings: &[&str]) -> (Running, [String; 2]) {
    let listen = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    let server = Running::start(&[&listen[..], settings].concat());
    let lines = ["listening on ", "serving HTTP on "].map(|line| server.error_line(line));
    let addresses = lines.map(|line| line.rsplit(' ').next().unwrap().to_owned());
    (server, addresses)
}

#[test]
fn the_real_server_delivers_over_every_transport() {
    let (_server, [to, http]) = real_server(&[]);
    let folder = tempdir().unwrap();
    let json = folder.path().join("result.json");
    for transport in TRANSPORTS {
        let at = ["bench", "--to", &to, "--http", &http, "--transport", transport, "--json", json.to_str().unwrap()];
        let load = ["--clients", "60", "--topics", "3", "--messages", "300", "--window", "30", "--size", "40"];
        assert_exit(&janus(&[&at[..], &load].concat()).output().unwrap(), 0);
        let result = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        assert_counts(&result, &[("ready", 60), ("published", 300), ("expected", 6_000), ("good", 6_000), ("bad", 0)]);
    }
}

#[test]
fn refusals_of_the_real_server_are_reported_over_every_transport() {
    for transport in TRANSPORTS {
        let (_server, [to, http]) = real_server(&["--max-connections", "5"]);
        let arguments = ["bench", "--to", &to, "--http", &http, "--transport", transport, "--clients", "6"];
        let output = janus(&arguments).output().unwrap();
        assert_exit(&output, 1);
        let report = text(&output.stdout);
        assert!(report.contains("5 ready, 1 failed"), "{transport}: {report}");
        assert!(report.contains("1 × refused: too_many_connections: "), "{transport}: {report}");
    }
}

#[test]
fn a_server_full_of_bench_clients_serves_the_publisher() {
    let server = Running::start(&["--listen", "127.0.0.1:0", "--max-connections", "5"]);
    let line = server.error_line("listening on ");
    let to = line.rsplit(' ').next().unwrap();
    let output = janus(&["bench", "--clients", "5", "--messages", "10", "--to", to]).output().unwrap();
    assert_exit(&output, 0);
    assert!(text(&output.stdout).contains("5 ready, 0 failed"), "{}", text(&output.stdout));
}

#[test]
fn a_worker_cannot_be_started_by_hand() {
    assert_exit(&janus(&["bench-worker"]).write_stdin("").output().unwrap(), 2);
}
