//! Links over TLS.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use janus_core::engine::redis::Options;
use janus_core::rustls::pki_types::CertificateDer;
use janus_core::rustls::{ClientConfig, RootCertStore};

use crate::node::{connect, here, options, texts, topic};
use crate::redis_server::{RedisServer, free_port};

fn trust(certificate: &CertificateDer<'static>) -> Option<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    Some(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}

#[test]
fn a_link_over_tls_trusts_the_given_certificates_only() {
    here(async {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let (certificate, key, port) = (path("cert.pem"), path("key.pem"), free_port().to_string());
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let files = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &certificate];
        let settings = ["--tls-port", &port, "--tls-auth-clients", "no"];
        let server = RedisServer::with(&[&settings[..], &files[..]].concat());
        let address = format!("rediss://localhost:{port}");

        let good = Options { tls: trust(made.cert.der()), ..options(&address) };
        let mut one = connect(good, 1).await.unwrap();
        let news = topic("news");
        one.open(&news, None, None).await;
        // More than one record of TLS in both directions.
        let data = format!("\"{}\"", "x".repeat(300_000));
        one.append(&news, 1, &["1", &data]).await.unwrap();
        assert_eq!(texts(&news, &one.records(&news, 1).await), ["1", &data]);
        assert_eq!(texts(&news, &one.read(&news, 1).await), ["1", &data]);

        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let strange = Options { tls: trust(other.cert.der()), ..options(&address) };
        let error = connect(strange, 1).await.err().unwrap();
        assert!(error.reason == "tls" && error.message.contains("certificate"), "{error}");
        let by_number = format!("rediss://127.0.0.1:{port}");
        let error = connect(Options { tls: trust(made.cert.der()), ..options(&by_number) }, 1).await.err().unwrap();
        assert!(error.reason == "tls" && error.message.contains("not valid for name"), "{error}");

        // Each kind of client at the port of the other kind.
        let plain = connect(options(&format!("redis://localhost:{port}")), 1).await.err().unwrap();
        assert!(["not_redis", "closed"].contains(&plain.reason), "{plain}");
        let to_plain = format!("rediss://localhost:{}", server.port());
        let timeout = Duration::from_millis(100);
        let tls = trust(made.cert.der());
        let error = connect(Options { tls, timeout, ..options(&to_plain) }, 1).await.err().unwrap();
        assert!(error.reason == "timeout" && error.message.contains("no TLS"), "{error}");
    });
}
