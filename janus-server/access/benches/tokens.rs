//! The price of a token: what a client with a token costs when it connects, by algorithm.
//!
//! `refused` is what a stranger's token costs whose signature is wrong. `another library` is jsonwebtoken, which parses
//! the key for each token.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use data_encoding::BASE64;
use janus_access::tokens::{Algorithm, Keys, NewToken, Rules, SigningKey, Tokens};
use jsonwebtoken::{DecodingKey, Validation};

fn tokens(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tokens");
    group.measurement_time(Duration::from_secs(3));
    for algorithm in Algorithm::ALL {
        let key = SigningKey::generate(algorithm).expect("a key");
        let other = SigningKey::generate(algorithm).expect("a key");
        let token = NewToken::new("alice")
            .subscribe(["news", "chat:*", "user:alice:**"])
            .publish(["chat:lobby"])
            .claim("aud", "push.example")
            .good_for(Duration::from_secs(3_600));
        let (good, bad) = (key.sign(&token).expect("signed"), other.sign(&token).expect("signed"));
        let verifier = Tokens::new(Rules::default(), Keys::parse(key.public_text().as_bytes()).expect("keys"));
        group.bench_function(format!("{algorithm}/verified ({} bytes)", good.len()), |bencher| {
            bencher.iter(|| futures_executor::block_on(verifier.verify(black_box(&good))).expect("good"));
        });
        group.bench_function(format!("{algorithm}/refused"), |bencher| {
            bencher.iter(|| futures_executor::block_on(verifier.verify(black_box(&bad))).expect_err("bad"));
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

criterion_group!(benches, tokens);
criterion_main!(benches);
