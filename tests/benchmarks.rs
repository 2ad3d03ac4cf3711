//! The scripts in `docs/benchmarks`: their output for real results, and their errors for bad results.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::tempdir;

use crate::cli_fake_server::{FakeServer, Fault};
use crate::cli_run::{assert_exit, janus, text};

const BINARY: &str = env!("CARGO_BIN_EXE_janus-server");

fn script(name: &str, arguments: &[&str]) -> Output {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks").join(name);
    let mut command = Command::new("python3");
    // `-B`: Python leaves no files next to the scripts.
    command.arg("-B").arg(path).args(arguments);
    command.output().expect("python3 is installed; tests/run.sh does that")
}

/// The elements of a picture: name and class of each.
fn elements(svg: &Path) -> Vec<String> {
    let program = "import sys, xml.etree.ElementTree as tree\n\
                   for e in tree.parse(sys.argv[1]).iter(): print(e.tag.split('}')[1], e.get('class', ''))";
    let output = Command::new("python3").args(["-c", program]).arg(svg).output().unwrap();
    assert_exit(&output, 0);
    text(&output.stdout).lines().map(|line| line.trim_end().to_owned()).collect()
}

fn result(server: &FakeServer, folder: &Path, name: &str) -> PathBuf {
    let json = folder.join(name);
    let arguments = ["bench", "--to", &server.address, "--clients", "20", "--messages", "5", "--json"];
    assert_exit(&janus(&[&arguments[..], &[json.to_str().unwrap()]].concat()).output().unwrap(), 0);
    json
}

#[test]
fn a_picture_has_a_curve_for_each_result() {
    let (server, folder) = (FakeServer::start(Fault::None), tempdir().unwrap());
    let (first, second) = (result(&server, folder.path(), "a.json"), result(&server, folder.path(), "b.json"));
    let svg = folder.path().join("latency.svg");
    let first = format!("<Janus> & co={}", first.display());
    let arguments = [&first, second.to_str().unwrap(), "--out", svg.to_str().unwrap()];
    let output = script("latency.py", &arguments);
    assert_exit(&output, 0);
    assert_eq!(text(&output.stderr), "");
    let elements = elements(&svg);
    assert_eq!(elements.iter().filter(|element| *element == "polyline curve").count(), 2, "{elements:?}");
    assert!(elements.contains(&"title".to_owned()) && elements.contains(&"desc".to_owned()), "{elements:?}");
    let drawn = std::fs::read(&svg).unwrap();
    assert!(drawn.len() < 30_000, "{} bytes", drawn.len());
    assert_exit(&script("latency.py", &arguments), 0);
    assert_eq!(std::fs::read(&svg).unwrap(), drawn, "the same results make the same picture");
}

#[test]
fn a_result_that_cannot_be_drawn_is_reported_with_file_and_key() {
    let folder = tempdir().unwrap();
    for (content, expected) in [
        ("nonsense", "not JSON"),
        ("{}", "no key latency_percentiles_us"),
        ("{\"latency_percentiles_us\": [1, 2]}", "latency_percentiles_us: expected pairs"),
        ("{\"latency_percentiles_us\": []}", "nothing was delivered"),
        ("{\"latency_percentiles_us\": [[0, 2], [100, 1]]}", "expected rising pairs"),
    ] {
        let file = folder.path().join("bad.json");
        std::fs::write(&file, content).unwrap();
        let output = script("latency.py", &[file.to_str().unwrap()]);
        assert_exit(&output, 2);
        let told = text(&output.stderr);
        assert!(told.contains("bad.json: ") && told.contains(expected) && !told.contains("Traceback"), "{told}");
    }
}

#[test]
fn a_picture_of_throughput_has_a_curve_for_each_server_and_a_point_for_each_number_of_subscribers() {
    let folder = tempdir().unwrap();
    let (measured, svg) = (folder.path().join("throughput.csv"), folder.path().join("throughput.svg"));
    let rows = "server,subscribers,deliveries_per_second\n<Janus> & co,1,7e5\n<Janus> & co,100,8e6\nfloor,1,9e5\nfloor,100,1e7\nfloor,100,2e7\n";
    std::fs::write(&measured, rows).unwrap();
    let arguments = [measured.to_str().unwrap(), "--out", svg.to_str().unwrap()];
    let output = script("throughput.py", &arguments);
    assert_exit(&output, 0);
    assert_eq!(text(&output.stderr), "");
    let elements = elements(&svg);
    let count = |name: &str| elements.iter().filter(|element| *element == name).count();
    assert_eq!((count("polyline curve"), count("circle")), (2, 4), "{elements:?}");
    for (content, expected) in [
        ("", "expected the columns"),
        ("{}", "scenarios"),
        ("server,subscribers,deliveries_per_second\n", "no measurement"),
    ] {
        std::fs::write(&measured, content).unwrap();
        let output = script("throughput.py", &arguments);
        assert_exit(&output, 2);
        let told = text(&output.stderr);
        assert!(told.contains("throughput.csv: ") && told.contains(expected) && !told.contains("Traceback"), "{told}");
    }
}

#[test]
fn a_comparison_of_janus_with_itself_needs_no_other_server() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("out.json");
    let servers = format!("janus,janus2={BINARY}");
    let arguments = ["fan", "--rounds", "1", "--clients", "20", "--janus", BINARY, "--servers", &servers];
    let output = script("compare.py", &[&arguments[..], &["--out", out.to_str().unwrap()]].concat());
    assert_exit(&output, 0);
    assert!(text(&output.stdout).contains("janus/janus2 "), "{}", text(&output.stdout));
    let results: serde_json::Value = serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap();
    let round = &results["scenarios"]["fan"]["rounds"][0];
    for server in ["janus", "janus2"] {
        assert_eq!(round[server]["good"].as_u64(), Some(400), "{round:#}");
    }
}

#[test]
fn the_transports_of_janus_are_compared_with_the_first() {
    let servers = "janus,janus-ws,janus-sse";
    let arguments = ["fan", "--rounds", "2", "--clients", "20", "--janus", BINARY, "--servers", servers, "--to-first"];
    let output = script("compare.py", &arguments);
    assert_exit(&output, 0);
    let told = text(&output.stdout);
    for ratio in ["janus-ws/janus ", "janus-sse/janus "] {
        assert!(told.contains(ratio) && !told.contains("FAILED"), "{told}");
    }
}

#[test]
fn a_senseless_comparison_is_refused() {
    for (arguments, expected) in [
        (&["nothing"][..], "'nothing' is no scenario: expected one of fan, connect"),
        (&["--rounds", "0"][..], "'0': expected a whole number of at least 1"),
        (&["--servers", "kafka"][..], "'kafka' is not known: expected janus, janus-ws, janus-sse, redis"),
        (&["--servers", "janus,janus"][..], "two servers are called janus"),
        (&["--args", "other=--flag"][..], "--args: other: no server of this name"),
    ] {
        let output = script("compare.py", &[&["--janus", BINARY], arguments].concat());
        assert_ne!(output.status.code(), Some(0));
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
    assert!(text(&script("compare.py", &["--janus", "missing"]).stderr).contains("cargo build --release"));
}
