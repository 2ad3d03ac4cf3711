//! The client against servers that answer badly.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const LIMITS: Limits = Limits { time: Duration::from_secs(10), body: ANSWER_BYTES };

fn url(text: &str) -> Url {
    text.parse().unwrap()
}

/// A server whose connections are handled by `serve` after the head of a request.
async fn server<F: Future<Output = ()> + Send>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let serve = Arc::clone(&serve);
            tokio::spawn(async move {
                read_head(&mut stream).await;
                serve(stream).await;
            });
        }
    });
    url(&format!("http://{address}/ask"))
}

async fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
}

async fn ask(url: &Url, limits: Limits) -> Result<Answer, CallError> {
    let client = Client::new(None, 4).unwrap();
    client.post(url, HeaderMap::new(), Bytes::new(), limits).await
}

#[tokio::test]
async fn an_answer_without_an_end_is_cut_at_the_limit() {
    for head in ["content-length: 1000000000", "transfer-encoding: chunked"] {
        let url = server(move |mut stream| async move {
            let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").as_bytes()).await;
            let chunk = [b"1000\r\n", &[b'x'; 4_096][..], b"\r\n"].concat();
            // Ends when the client has closed the connection, and not before.
            while stream.write_all(&chunk).await.is_ok() {}
        });
        let error = ask(&url.await, LIMITS).await.unwrap_err();
        assert!(matches!(error, CallError::TooLong(ANSWER_BYTES)), "{head}: {error}");
    }
}

#[tokio::test]
async fn a_head_without_an_end_is_cut() {
    let url = server(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(&[b'x'; 4_096]).await.is_ok() {}
    });
    assert!(matches!(ask(&url.await, LIMITS).await.unwrap_err(), CallError::Failed(_)));
}

#[tokio::test]
async fn a_dripping_answer_ends_with_the_time() {
    let url = server(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n").await;
        while stream.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let limits = Limits { time: Duration::from_millis(100), ..LIMITS };
    assert!(matches!(ask(&url.await, limits).await.unwrap_err(), CallError::TooLate(_)));
}

#[tokio::test]
async fn an_answer_cut_short_is_an_error() {
    let url = server(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n{\"allow\":true}").await;
    });
    assert!(matches!(ask(&url.await, LIMITS).await.unwrap_err(), CallError::Failed(_)));
    let url = server(|stream| async move { drop(stream) });
    assert!(matches!(ask(&url.await, LIMITS).await.unwrap_err(), CallError::Failed(_)));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let metadata = format!("http://{}/latest/meta-data/", trap.local_addr().unwrap());
    let url = server(move |mut stream| {
        let answer = format!("HTTP/1.1 307 Moved\r\nlocation: {metadata}\r\ncontent-length: 0\r\n\r\n");
        async move { drop(stream.write_all(answer.as_bytes()).await) }
    });
    let answer = ask(&url.await, LIMITS).await.unwrap();
    assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
    tokio::select! {
        biased;
        _ = trap.accept() => panic!("the redirect was followed"),
        () = std::future::ready(()) => {}
    }
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = url(&format!("http://{}/", listener.local_addr().unwrap()));
    let client = Client::new(None, 4).unwrap();
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        loop {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    };
    let ask = async {
        for _ in 0..3 {
            let answer = client.post(&url, HeaderMap::new(), Bytes::new(), LIMITS).await.unwrap();
            assert_eq!(answer.body, "ok");
        }
    };
    tokio::select! {
        () = ask => {}
        () = serve => {}
    }
}

/// A server with a certificate for `localhost`, and the file of its authority.
async fn tls_server(names: &[&str]) -> (Url, tempfile::NamedTempFile) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    io::Write::write_all(&mut file, cert.pem().as_bytes()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = url(&format!("https://localhost:{}/", listener.local_addr().unwrap().port()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let answer = |_| std::future::ready((200, "over TLS".to_owned()));
                drop(crate::testing::serve(stream, &answer, &crate::testing::Seen::default()).await);
            });
        }
    });
    (url, file)
}

#[tokio::test]
async fn a_certificate_must_be_of_a_trusted_authority_and_of_the_host() {
    let (url, authority) = tls_server(&["localhost"]).await;
    let trusting = Client::new(Some(authority.path()), 4).unwrap();
    let answer = trusting.post(&url, HeaderMap::new(), Bytes::new(), LIMITS).await.unwrap();
    assert_eq!(answer.body, "over TLS");
    let error = ask(&url, LIMITS).await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "of no authority of the system: {error}");

    let (url, authority) = tls_server(&["another.example"]).await;
    let trusting = Client::new(Some(authority.path()), 4).unwrap();
    let error = trusting.post(&url, HeaderMap::new(), Bytes::new(), LIMITS).await.unwrap_err().to_string();
    assert!(error.contains("not valid for name"), "{error}");
}

#[test]
fn a_file_without_authorities_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in [file.path(), Path::new("/nonexistent.pem")] {
        let error = Client::new(Some(path), 4).unwrap_err().to_string();
        assert!(error.starts_with(&format!("backend_ca = \"{}\": expected certificates", path.display())), "{error}");
    }
}
