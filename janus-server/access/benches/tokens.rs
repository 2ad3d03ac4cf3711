//! The price of a token when a client connects, by algorithm.
//!
//! In `tokens`, `refused` is the price of a stranger's token with a wrong signature, and `another library` is
//! jsonwebtoken, with a key that is parsed for each token. In `connect`, a client opens a WebSocket, says `hello` and
//! reads the `welcome`, one client after the other.

use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use data_encoding::BASE64;
use futures_executor::block_on;
use janus_access::tokens::{Algorithm, Keys, NewToken, Rules, SigningKey, TokenHooks, Tokens};
use janus_core::wire::v1::client::hello;
use janus_core::{Config, Janus};
use jsonwebtoken::{DecodingKey, Validation};

fn tokens(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tokens");
    group.measurement_time(Duration::from_secs(3));
    for algorithm in Algorithm::ALL {
        let key = SigningKey::generate(algorithm).expect("a key");
        let other = SigningKey::generate(algorithm).expect("a key");
        let token = token();
        let (good, bad) = (key.sign(&token).expect("signed"), other.sign(&token).expect("signed"));
        let verifier = Tokens::new(Rules::default(), Keys::parse(key.public_text().as_bytes()).expect("keys"));
        group.bench_function(format!("{algorithm}/verified ({} bytes)", good.len()), |bencher| {
            bencher.iter(|| block_on(verifier.verify(black_box(&good))).expect("good"));
        });
        group.bench_function(format!("{algorithm}/refused"), |bencher| {
            bencher.iter(|| block_on(verifier.verify(black_box(&bad))).expect_err("bad"));
        });
        let (decoding, validation) = other_library(&key);
        group.bench_function(format!("{algorithm}/another library"), |bencher| {
            bencher.iter(|| {
                jsonwebtoken::decode::<serde_json::Value>(black_box(&good), &decoding, &validation).expect("good")
            });
        });
    }
    group.finish();
}

fn other_library(key: &SigningKey) -> (DecodingKey, Validation) {
    let text: String = key.public_text().lines().filter(|line| !line.starts_with('-')).collect();
    let bytes = BASE64.decode(text.trim_start_matches("HS256 ").as_bytes()).expect("base64");
    let (decoding, algorithm) = match key.algorithm() {
        Algorithm::Rs256 => (DecodingKey::from_rsa_der(&bytes), jsonwebtoken::Algorithm::RS256),
        Algorithm::Es256 => (DecodingKey::from_ec_der(&bytes), jsonwebtoken::Algorithm::ES256),
        Algorithm::EdDsa => (DecodingKey::from_ed_der(&bytes), jsonwebtoken::Algorithm::EdDSA),
        _ => (DecodingKey::from_secret(&bytes).expect("a secret"), jsonwebtoken::Algorithm::HS256),
    };
    let mut validation = Validation::new(algorithm);
    validation.validate_aud = false;
    (decoding, validation)
}

fn token() -> NewToken {
    NewToken::new("alice")
        .subscribe(["news", "chat:*", "user:alice:**"])
        .publish(["chat:lobby"])
        .claim("aud", "push.example")
        .good_for(Duration::from_secs(3_600))
}

fn connect(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("connect");
    group.measurement_time(Duration::from_secs(3));
    let config = || {
        let http_listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        Config { listen: Vec::new(), http_listen, drain_period: Duration::ZERO, ..Config::default() }
    };
    let janus = block_on(Janus::builder().config(config()).start()).expect("it starts");
    let addr = janus.local_addrs()[0];
    group.bench_function("without tokens", |bencher| bencher.iter(|| open(addr, None)));
    block_on(janus.shutdown());
    for algorithm in Algorithm::ALL {
        let key = SigningKey::generate(algorithm).expect("a key");
        let verifier = Tokens::new(Rules::default(), Keys::parse(key.public_text().as_bytes()).expect("keys"));
        let builder = Janus::builder().config(config()).hooks(TokenHooks::new(verifier));
        let janus = block_on(builder.start()).expect("it starts");
        let (addr, token) = (janus.local_addrs()[0], key.sign(&token()).expect("signed"));
        group.bench_function(algorithm.name(), |bencher| bencher.iter(|| open(addr, Some(&token))));
        block_on(janus.shutdown());
    }
    group.finish();
}

/// Opens a WebSocket up to the `welcome`, and resets the connection: a close would leave a port in TIME_WAIT.
fn open(addr: SocketAddr, token: Option<&str>) {
    let mut stream = TcpStream::connect(addr).expect("connected");
    let socket = socket2::SockRef::from(&stream);
    socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER is set");
    stream.set_nodelay(true).expect("TCP_NODELAY is set");
    // Blanks around JSON have no meaning, and 126 bytes or more have a length of 16 bits.
    let hello = format!("{:<126}", hello(None, token));
    let length = u16::try_from(hello.len()).expect("a short frame").to_be_bytes();
    // A text message, with a length of 16 bits and a mask of zeros.
    let head = [&[0x81, 0x80 | 126][..], &length, &[0; 4]].concat();
    let upgrade = format!(
        "GET /ws HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: janus.v1.json\r\n\r\n"
    );
    let frame = [&head, hello.as_bytes()].concat();
    stream.write_all(&[upgrade.as_bytes(), &frame].concat()).expect("sent");
    let (mut received, mut piece) = (Vec::new(), [0; 1_024]);
    while !received.windows(9).any(|window| window == b"\"welcome\"") {
        let length = stream.read(&mut piece).expect("read");
        assert_ne!(length, 0, "refused: {}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&piece[..length]);
    }
}

criterion_group!(benches, tokens, connect);
criterion_main!(benches);
