//! The binary with `token_keys`: a file that is replaced, and a log without tokens.

use janus_access::tokens::{Algorithm, SigningKey};
use serde_json::json;

use super::{Socket, token};
use crate::api::http_address;
use crate::cli_run::{Running, janus, text};

#[tokio::test]
async fn sighup_reads_the_keys_again_and_a_wrong_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.pem");
    let [old, new] = [(); 2].map(|()| SigningKey::generate(Algorithm::Es256).unwrap());
    std::fs::write(&path, old.public_text()).unwrap();
    let arguments = ["--listen", "", "--http-listen", "127.0.0.1:0", "--token-keys", path.to_str().unwrap()];
    let server = Running::start(&arguments);
    let http = http_address(&server);
    let (old_token, new_token) = (token(&old, "alice", &["news"]), token(&new, "alice", &["news"]));
    let (mut connected, welcome) = Socket::hello(http, Some(&old_token)).await;
    assert_eq!(welcome["type"], "welcome", "{welcome}");
    assert_eq!(Socket::hello(http, Some(&new_token)).await.1["error"], "unauthorized");

    std::fs::write(&path, "HS256 c2hvcnQ=").unwrap();
    server.signal("HUP");
    let line = server.error_line("reload: token_keys = ");
    assert!(line.contains("keys.pem") && line.contains("key 1: a secret of 5 bytes"), "{line}");
    assert_eq!(Socket::hello(http, Some(&old_token)).await.1["type"], "welcome");

    std::fs::write(&path, format!("{}{}", old.public_text(), new.public_text())).unwrap();
    server.signal("HUP");
    server.error_line("reload: no setting has changed; the files of certificates and keys have been read again");
    for token in [&old_token, &new_token] {
        assert_eq!(Socket::hello(http, Some(token)).await.1["type"], "welcome");
    }
    let answer = connected.ask(json!({"type": "subscribe", "topic": "news"})).await;
    assert_eq!(answer["type"], "subscribed", "a connected client stays: {answer}");
}

#[test]
fn keys_that_cannot_be_used_end_the_start_with_the_file_and_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.pem");
    let path = path.to_str().unwrap();
    let arguments = ["--listen", "127.0.0.1:0", "--token-keys", path];
    let output = janus(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains(&format!("token_keys = {path:?}: cannot read the file")),
        "{}",
        text(&output.stderr)
    );
    std::fs::write(path, SigningKey::generate(Algorithm::EdDsa).unwrap().private_text()).unwrap();
    let output = janus(&arguments).output().unwrap();
    let expected = format!("token_keys = {path:?}: key 1: a private key: give the server the public key alone");
    assert!(text(&output.stderr).contains(&expected), "{}", text(&output.stderr));
}

#[tokio::test]
async fn no_token_and_no_claim_is_logged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let [key, wrong] = [(); 2].map(|()| SigningKey::generate(Algorithm::Hs256).unwrap());
    std::fs::write(&path, key.public_text()).unwrap();
    let server = Running::start(&[
        "--listen",
        "127.0.0.1:0",
        "--http-listen",
        "127.0.0.1:0",
        "--token-keys",
        path.to_str().unwrap(),
        "--token-in-query",
        "--log",
        "trace",
    ]);
    let http = http_address(&server);
    let good = token(&key, "alice", &["hidden:topic"]);
    let expired = janus_access::tokens::NewToken::new("alice").claim("jti", "hidden-id").claim("exp", 1);
    let bad =
        [token(&wrong, "alice", &["hidden:topic"]), key.sign(&expired).unwrap(), "hidden1.hidden2.hidden3".to_owned()];
    for token in bad.iter().chain([&good]) {
        Socket::hello(http, Some(token)).await;
        let bearer = format!("Bearer {token}");
        let mut socket =
            Socket::connect(http, &format!("/ws?access_token={token}"), &[("authorization", &bearer)]).await;
        socket.ask(json!({"type": "hello"})).await;
    }
    server.signal("TERM");
    let log = server.rest_of_errors();
    assert!(log.contains("drained"), "{log}");
    for hidden in bad.iter().chain([&good]).flat_map(|token| token.split('.')) {
        assert!(!log.contains(hidden), "{hidden} in:\n{log}");
    }
    assert!(!log.contains("hidden"), "{log}");
}
