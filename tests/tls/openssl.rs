//! The command `openssl` as a client: versions of TLS that rustls itself does not speak.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use janus_core::{Config, TlsVersion};

use super::Server;

/// Runs `openssl s_client` to the end.
async fn client(server: &Server, arguments: &'static [&'static str]) -> Output {
    commanded(server, arguments, "").await
}

/// Runs `openssl s_client` with these commands to the end.
async fn commanded(server: &Server, arguments: &'static [&'static str], commands: &'static str) -> Output {
    let addr = server.tls.to_string();
    tokio::task::spawn_blocking(move || {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &addr]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut client = command.spawn().expect("openssl is installed");
        // The end of the input, with the drop, ends the client. A refused client may have ended already.
        let _ = client.stdin.take().unwrap().write_all(commands.as_bytes());
        client.wait_with_output().unwrap()
    })
    .await
    .unwrap()
}

/// The line about the result, such as `New, TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384`.
fn agreed(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().find(|line| line.contains("Cipher is ")).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn old_versions_and_weak_ciphers_are_refused() {
    let server = Server::start(|config, _| config).await;
    for (arguments, expected, alert) in [
        (&["-tls1_3"][..], "TLSv1.3", ""),
        (&["-tls1_2"], "TLSv1.2", ""),
        (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], "(NONE)", "alert handshake failure"),
        (&["-tls1", "-cipher", "ALL:@SECLEVEL=0"], "(NONE)", "alert handshake failure"),
        // Without forward secrecy, and with CBC.
        (&["-tls1_2", "-cipher", "AES128-SHA"], "(NONE)", "alert handshake failure"),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"], "(NONE)", "alert handshake failure"),
        // With a key exchange, and with signatures, that have been broken or left behind.
        (&["-tls1_2", "-groups", "ffdhe2048"], "(NONE)", "alert handshake failure"),
        (&["-tls1_2", "-sigalgs", "ECDSA+SHA1", "-cipher", "ALL:@SECLEVEL=0"], "(NONE)", "alert handshake failure"),
    ] {
        let output = client(&server, arguments).await;
        assert!(agreed(&output).contains(expected), "{arguments:?}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(alert), "{arguments:?}: {output:?}");
    }
    server.janus.shutdown().await;
}

#[tokio::test]
async fn the_cipher_is_cheap_for_both_sides() {
    let server = Server::start(|config, _| config).await;
    for (arguments, expected) in [
        (&["-tls1_3"][..], "TLS_AES_128_GCM_SHA256"),
        (&["-tls1_2"], "ECDHE-ECDSA-AES128-GCM-SHA256"),
        // Clients without instructions for AES.
        (
            &["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256"],
            "TLS_CHACHA20_POLY1305_SHA256",
        ),
        (
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256"],
            "ECDHE-ECDSA-CHACHA20-POLY1305",
        ),
        // Clients with a strict policy.
        (&["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"], "TLS_AES_256_GCM_SHA384"),
    ] {
        let output = client(&server, arguments).await;
        assert!(agreed(&output).contains(expected), "{arguments:?}: {output:?}");
    }
    server.janus.shutdown().await;
}

#[tokio::test]
async fn the_oldest_accepted_version_is_a_setting() {
    let server = Server::start(|config, _| Config { tls_min_version: TlsVersion::V1_3, ..config }).await;
    assert!(agreed(&client(&server, &["-tls1_3"]).await).contains("TLSv1.3"));
    assert!(agreed(&client(&server, &["-tls1_2"]).await).contains("(NONE)"));
    server.janus.shutdown().await;
}

#[tokio::test]
async fn a_client_that_renegotiates_is_refused() {
    let server = Server::start(|config, _| config).await;
    let output = commanded(&server, &["-tls1_2"], "R\n").await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("RENEGOTIATING"), "{errors}");
    assert_eq!(output.status.code(), Some(1), "{errors}");
    server.classic().await;
    server.janus.shutdown().await;
}
