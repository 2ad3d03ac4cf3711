//! The first commands of docs/OPERATIONS.md about TLS, run as they are written, but for the port.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::tempdir;

use super::logged_address;
use crate::cli_run::{Running, assert_exit, binary, text};

const OPERATIONS: &str = include_str!("../../docs/OPERATIONS.md");
const DOCUMENTED: &str = "127.0.0.1:8443";

/// The commands of the first block after the heading.
fn commands() -> Vec<String> {
    let (_, section) = OPERATIONS.split_once("\n## TLS\n").unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    block.replace("\\\n", " ").lines().map(str::to_owned).collect()
}

fn shell(command: &str, folder: &Path) -> String {
    let output = Command::new("sh").args(["-c", command]).current_dir(folder).output().unwrap();
    assert_exit(&output, 0);
    text(&output.stdout)
}

#[test]
fn the_documented_commands_lead_to_https() {
    let folder = tempdir().unwrap();
    let commands = commands();
    let [certificate, server, request] = &commands[..] else { panic!("three commands: {commands:?}") };
    shell(certificate, folder.path());

    let flags = server.strip_prefix("cargo run --release -p janus-server -- ").unwrap();
    assert!(flags.contains(DOCUMENTED), "{flags}");
    let flags = flags.replace(DOCUMENTED, "127.0.0.1:0");
    let flags = ["--listen", "127.0.0.1:0"].into_iter().chain(flags.split_whitespace());
    let server = Running::spawn(binary(&flags.collect::<Vec<_>>()).current_dir(folder.path()));
    let https: SocketAddr = logged_address(&server.error_line("serving HTTP on "));

    let here = format!("localhost:{}", https.port());
    let request = request.replace("localhost:8443", &here);
    assert_eq!(shell(&request, folder.path()).trim(), "{\"topics\":[]}");
    // Rust's TLS is stricter about certificates than curl.
    let server = format!("https://{here}");
    let trace = ["trace", "--server", &server, "--ca", "cert.pem", "--seconds", "1"];
    assert_exit(&binary(&trace).current_dir(folder.path()).output().unwrap(), 0);
}
