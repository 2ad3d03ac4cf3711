//! Files of keys, and sets from a URL.

use super::*;

fn error(text: &str) -> String {
    Keys::parse(text.as_bytes()).unwrap_err().to_string()
}

fn edited(jwk: &Value, change: Value) -> Value {
    let mut jwk = jwk.clone();
    for (name, value) in change.as_object().unwrap() {
        jwk[name] = value.clone();
    }
    jwk
}

#[test]
fn a_file_may_have_a_set_or_pem_or_lines() {
    let keys = Algorithm::ALL.map(|algorithm| SigningKey::generate(algorithm).unwrap());
    let [secret, rsa, ec, ed] = &keys;
    let set = jwks(&[(secret, "a"), (rsa, "b"), (ec, "c"), (ed, "d")]);
    let pem = format!("The keys of 2026.\n{}\n{}{}", rsa.public_text(), ec.public_text(), ed.public_text());
    let windows = pem.replace('\n', "\r\n");
    let lines = format!("# of the shop\r\n\r\n{}  \n", secret.public_text().trim().to_owned() + " 2026");
    for (text, expected) in [(&*set, 4), (&format!("\n {}", jwk(ec, "x")), 1), (&pem, 3), (&windows, 3), (&lines, 1)] {
        assert_eq!(Keys::parse(text.as_bytes()).map(|keys| keys.len()), Ok(expected), "{text}");
    }
    assert_eq!(Keys::parse(lines.as_bytes()).unwrap().iter().next().unwrap().id(), Some("2026"));
    let kinds: Vec<_> = Keys::parse(set.as_bytes()).unwrap().iter().map(Key::algorithm).collect();
    assert_eq!(kinds, Algorithm::ALL);
}

#[tokio::test]
async fn each_form_of_a_key_verifies_the_same_token() {
    for algorithm in Algorithm::ALL {
        let key = SigningKey::generate(algorithm).unwrap();
        let again = SigningKey::parse(key.private_text().as_bytes()).unwrap();
        assert_eq!((again.algorithm(), again.public_text()), (algorithm, key.public_text()));
        for text in [key.public_text().to_owned(), jwks(&[(&key, "k")])] {
            let tokens = Tokens::new(Rules::default(), Keys::parse(text.as_bytes()).unwrap());
            assert!(verify(&tokens, &token(&again, &good_claims())).await.is_ok(), "{text}");
        }
    }
}

#[test]
fn a_weak_private_or_broken_key_of_a_file_is_named() {
    let ec = jwk(&SigningKey::generate(Algorithm::Es256).unwrap(), "1");
    let ed = jwk(&SigningKey::generate(Algorithm::EdDsa).unwrap(), "1");
    let rsa = jwk(&SigningKey::generate(Algorithm::Rs256).unwrap(), "1");
    let private = SigningKey::generate(Algorithm::Es256).unwrap();
    // 1,024 and 2,047 bits.
    let (small, smaller) = (BASE64URL_NOPAD.encode(&[0xff; 128]), BASE64URL_NOPAD.encode(&[&[0x7f; 256][..]].concat()));
    let set = |change: Value, jwk: &Value| json!({"keys": [ec, edited(jwk, change)]}).to_string();
    let alg = "key 2: \"alg\" is none of HS256, RS256, ES256 and EdDSA, or does not belong to \"kty\"";
    for (text, expected) in [
        (set(json!({"n": small}), &rsa), "key 2: an RSA key of 1024 bits: RS256 requires 2,048 to 8,192 bits"),
        (set(json!({"n": smaller}), &rsa), "key 2: an RSA key of 2047 bits: RS256 requires 2,048 to 8,192 bits"),
        (set(json!({"alg": "RS512"}), &rsa), alg),
        (set(json!({"alg": "HS256"}), &rsa), alg),
        (set(json!({"d": "AQ"}), &ed), "key 2: a private key: give the server the public key alone"),
        (set(json!({"x": "AQ"}), &ed), "key 2: \"x\" of the curve Ed25519 has 32 bytes"),
        (set(json!({"y": ec["x"]}), &ec), "key 2: \"x\" and \"y\" are no point of the curve P-256"),
        (set(json!({"x": "+/=="}), &ec), "key 2: \"x\" is not base64url without padding"),
        (set(json!({"kid": 7}), &ec), "key 2: \"kid\" is not a string"),
        (
            set(json!({"crv": "P-521"}), &ec),
            "key 2: \"kty\" and \"crv\" are none of oct, RSA, EC with P-256, and OKP with Ed25519",
        ),
        (
            set(json!({"kty": "oct", "k": "c2VjcmV0"}), &json!({})),
            "key 2: a secret of 6 bytes: HS256 requires 32 random bytes or more",
        ),
        (private.private_text().to_owned(), "key 1: a private key: give the server the public key alone"),
        ("HS256 c2VjcmV0".to_owned(), "key 1: a secret of 6 bytes: HS256 requires 32 random bytes or more"),
        ("\nHS256 c2Vj!".to_owned(), "key 2: the secret is not base64"),
        ("HS512 c2VjcmV0".to_owned(), "key 1: neither a JWK Set, nor PEM, nor lines such as \"HS256 c2VjcmV0…\""),
        (String::new(), "no key for signatures of tokens"),
        ("{\"keys\":[]}".to_owned(), "no key for signatures of tokens"),
        ("{\"keys\":{}}".to_owned(), "no JWK Set: expected {\"keys\":[…]}"),
        ("{\"keys\":[7]}".to_owned(), "key 1: a JWK is an object"),
        ("{\"keys\":[],\"keys\":[]}".to_owned(), "a duplicate key in an object of JSON"),
        (json!({"keys": vec![json!({}); 101]}).to_string(), "101 keys: at most 100 are accepted"),
        ("-----BEGIN NOTHING-----\nAAAA\n-----END NOTHING-----\n".to_owned(), "no block PUBLIC KEY in the PEM"),
        (
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".to_owned(),
            "key 1: no public key of a known kind: expected RSA, or the curves P-256 or Ed25519",
        ),
    ] {
        assert_eq!(error(&text), expected, "{text}");
    }
}

#[test]
fn a_weak_rsa_key_in_pem_is_refused() {
    let algorithm = [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    let mut der =
        [&[0x30, 0x81, 0x9f][..], &algorithm, &[0x03, 0x81, 0x8d, 0x00, 0x30, 0x81, 0x89, 0x02, 0x81, 0x81, 0x00]]
            .concat();
    der.extend([0xff; 128]);
    der.extend([0x02, 0x03, 0x01, 0x00, 0x01]);
    let error = Key::from_der(&der).unwrap_err().to_string();
    assert_eq!(error, "an RSA key of less than 2,048 bits, or a broken RSA key");
}

#[test]
fn a_set_from_a_url_is_used_as_far_as_possible() {
    let [secret, rsa, ec, ed] = Algorithm::ALL.map(|algorithm| jwk(&SigningKey::generate(algorithm).unwrap(), "k"));
    let left_out = [
        secret,
        edited(&rsa, json!({"use": "enc"})),
        edited(&rsa, json!({"alg": "PS256"})),
        edited(&rsa, json!({"n": BASE64URL_NOPAD.encode(&[0xff; 128])})),
        edited(&ec, json!({"key_ops": ["deriveKey"]})),
        edited(&ec, json!({"crv": "P-384"})),
        json!({"kty": "AKP"}),
    ];
    let set = |keys: &[Value]| json!({"keys": keys}).to_string();
    let used = [rsa, edited(&ec, json!({"key_ops": ["verify"]})), ed];
    assert_eq!(Keys::of_url(set(&[&left_out[..], &used].concat()).as_bytes()).map(|keys| keys.len()), Ok(3));
    let nothing = Keys::of_url(set(&left_out).as_bytes()).unwrap_err();
    assert_eq!(nothing.to_string(), "no key for signatures of tokens");
}

#[test]
fn a_file_that_is_missing_too_large_or_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let file = KeyFile::new(&path);
    let missing = file.read().unwrap_err().to_string();
    assert!(missing.starts_with(&format!("token_keys = {path:?}: cannot read the file: ")), "{missing}");
    std::fs::write(&path, "#".repeat(Keys::MAX_BYTES + 1)).unwrap();
    assert!(file.read().unwrap_err().to_string().ends_with(": the file has more than 256 KiB"));
    std::fs::write(&path, "HS256 c2VjcmV0").unwrap();
    assert!(
        file.read()
            .unwrap_err()
            .to_string()
            .ends_with(": key 1: a secret of 6 bytes: HS256 requires 32 random bytes or more")
    );
}

#[tokio::test]
async fn a_file_is_read_again_and_a_wrong_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let [old, new] = [(); 2].map(|()| SigningKey::generate(Algorithm::EdDsa).unwrap());
    std::fs::write(&path, old.public_text()).unwrap();
    let settings = AccessSettings { token_keys: Some(path.clone()), ..AccessSettings::default() };
    let tokens = Tokens::from_settings(&settings).unwrap().unwrap();
    assert_eq!((tokens.file(), tokens.is_ready()), (Some(path.clone()), true));
    let old = token(&old, &good_claims());
    assert!(verify(&tokens, &old).await.is_ok());
    std::fs::write(&path, "broken").unwrap();
    assert!(tokens.reload().is_err());
    assert!(verify(&tokens, &old).await.is_ok(), "the earlier keys stay");
    std::fs::write(&path, new.public_text()).unwrap();
    assert_eq!(tokens.reload().unwrap(), 1);
    assert_eq!(verify(&tokens, &old).await, Err(TokenError::Signature));
    assert!(verify(&tokens, &token(&new, &good_claims())).await.is_ok());
    assert!(Tokens::from_settings(&AccessSettings::default()).unwrap().is_none());
}
