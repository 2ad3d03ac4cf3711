//! Algorithms × mistakes, and the second opinion of another implementation.

use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use proptest::prelude::*;

use super::*;

/// A mistake: its name, the token made by a good key and a wrong key, and the answer.
type Case = (&'static str, fn(&SigningKey, &SigningKey) -> String, Result<(), TokenError>);

fn claim(claim: &'static str, expected: &'static str) -> Result<(), TokenError> {
    Err(TokenError::Claim { claim, expected })
}

const TIME: &str = "seconds since 1970, up to the year 9999; not milliseconds";
const USER: &str = "the user's name: 1 to 1,024 bytes without control characters";
const JANUS: &str = "an object with the keys subscribe, publish, topics, claims and info, each of them optional";

/// The good claims with a change.
fn with(key: &SigningKey, change: Value) -> String {
    let mut claims = good_claims();
    claims["aud"] = "push.example".into();
    claims["iss"] = "https://app.example".into();
    for (name, value) in change.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    token(key, &claims)
}

fn with_patterns(key: &SigningKey, patterns: Value) -> String {
    with(key, json!({"janus": {"subscribe": patterns}}))
}

fn header(key: &SigningKey, header: &str) -> String {
    let claims = with(key, json!({}));
    let claims = claims.split('.').nth(1).unwrap();
    let claims = String::from_utf8(BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap()).unwrap();
    raw(key, &header.replace("ALG", key.algorithm().name()), &claims)
}

#[rustfmt::skip]
fn times() -> Vec<Case> {
    vec![
        ("good", |key, _| with(key, json!({})), Ok(())),
        ("expired an hour ago", |key, _| with(key, json!({"exp": NOW - 3_600})), Err(TokenError::Expired)),
        ("expires now", |key, _| with(key, json!({"exp": NOW})), Err(TokenError::Expired)),
        ("expires in a second", |key, _| with(key, json!({"exp": NOW + 1})), Ok(())),
        ("expires in a second, with a fraction", |key, _| with(key, json!({"exp": NOW as f64 + 1.5})), Ok(())),
        ("expired in 2001, by 32 bits", |key, _| with(key, json!({"exp": (NOW + 60) as u32})), Err(TokenError::Expired)),
        ("expired before 1970", |key, _| with(key, json!({"exp": -5})), claim("exp", TIME)),
        ("milliseconds", |key, _| with(key, json!({"exp": (NOW + 60) * 1_000})), claim("exp", TIME)),
        ("the largest number", |key, _| with(key, json!({"exp": u64::MAX})), claim("exp", TIME)),
        ("beyond all numbers", |key, _| with(key, json!({"exp": 1e300})), claim("exp", TIME)),
        ("text", |key, _| with(key, json!({"exp": "5000000060"})), claim("exp", TIME)),
        ("the year 9999", |key, _| with(key, json!({"exp": 253_402_300_799_u64})), Ok(())),
        ("no end", |key, _| with(key, json!({"exp": null})), Err(TokenError::NoEnd)),
        ("begins within the leeway", |key, _| with(key, json!({"nbf": NOW + 30})), Ok(())),
        ("begins later", |key, _| with(key, json!({"nbf": NOW + 31})), Err(TokenError::NotYet)),
        ("issued within the leeway", |key, _| with(key, json!({"iat": NOW + 30})), Ok(())),
        ("issued later", |key, _| with(key, json!({"iat": NOW + 31})), Err(TokenError::FromTheFuture)),
    ]
}

#[rustfmt::skip]
fn names() -> Vec<Case> {
    vec![
        ("no user", |key, _| with(key, json!({"sub": null})), claim("sub", USER)),
        ("an empty user", |key, _| with(key, json!({"sub": ""})), claim("sub", USER)),
        ("a user with a line break", |key, _| with(key, json!({"sub": "alice\nroot"})), claim("sub", USER)),
        ("a long user", |key, _| with(key, json!({"sub": "x".repeat(1_025)})), claim("sub", USER)),
        ("a number as user", |key, _| with(key, json!({"sub": 7})), claim("sub", "a string")),
        ("another audience", |key, _| with(key, json!({"aud": "mail.example"})), Err(TokenError::Audience)),
        ("no audience", |key, _| with(key, json!({"aud": null})), Err(TokenError::Audience)),
        ("one of several audiences", |key, _| with(key, json!({"aud": ["mail.example", "push.example"]})), Ok(())),
        ("none of several audiences", |key, _| with(key, json!({"aud": ["a", "push.example.evil"]})), Err(TokenError::Audience)),
        ("an audience that is no text", |key, _| with(key, json!({"aud": [7]})), claim("aud", "a list of strings")),
        ("another issuer", |key, _| with(key, json!({"iss": "https://app.example/"})), Err(TokenError::Issuer)),
        ("no issuer", |key, _| with(key, json!({"iss": null})), Err(TokenError::Issuer)),
    ]
}

#[rustfmt::skip]
fn signatures() -> Vec<Case> {
    vec![
        ("another key", |_, wrong| with(wrong, json!({})), Err(TokenError::Signature)),
        ("no signature", |key, _| { let mut token = with(key, json!({})); token.truncate(token.rfind('.').unwrap() + 1); token }, Err(TokenError::Signature)),
        ("changed claims", |key, _| {
            let (good, evil) = (with(key, json!({})), with(key, json!({"sub": "root"})));
            let (good, evil): (Vec<&str>, Vec<&str>) = (good.split('.').collect(), evil.split('.').collect());
            format!("{}.{}.{}", good[0], evil[1], good[2])
        }, Err(TokenError::Signature)),
        ("the algorithm none", |key, _| header(key, r#"{"alg":"none"}"#), Err(TokenError::Algorithm)),
        ("the algorithm none, without a signature", |key, _| {
            let token = header(key, r#"{"alg":"none"}"#);
            format!("{}.", token.rsplit_once('.').unwrap().0)
        }, Err(TokenError::Algorithm)),
        ("the algorithm None", |key, _| header(key, r#"{"alg":"None"}"#), Err(TokenError::Algorithm)),
        ("an unknown algorithm", |key, _| header(key, r#"{"alg":"HS512"}"#), Err(TokenError::Algorithm)),
        ("no algorithm", |key, _| header(key, "{}"), Err(TokenError::Algorithm)),
        ("an unknown key id", |key, _| header(key, r#"{"alg":"ALG","kid":"x"}"#), Ok(())),
        ("a key id that is no text", |key, _| header(key, r#"{"alg":"ALG","kid":7}"#), Err(TokenError::Malformed("\"kid\" is not a string"))),
        ("extensions", |key, _| header(key, r#"{"alg":"ALG","crit":["b64"],"b64":false}"#), Err(TokenError::Critical)),
        ("two algorithms", |key, _| header(key, r#"{"alg":"ALG","alg":"none"}"#), Err(TokenError::DuplicateKey)),
        ("a key of the token's own", |_, wrong| header(wrong, &format!(r#"{{"alg":"ALG","jwk":{}}}"#, jwk(wrong, "x"))), Err(TokenError::Signature)),
    ]
}

#[rustfmt::skip]
fn forms() -> Vec<Case> {
    vec![
        ("9 KiB", |key, _| with(key, json!({"fill": "x".repeat(6_900)})), Err(TokenError::TooLong)),
        ("almost 8 KiB", |key, _| with(key, json!({"fill": "x".repeat(5_000)})), Ok(())),
        ("two parts", |_, _| "e30.e30".to_owned(), Err(TokenError::Malformed("expected three parts with dots between them"))),
        ("encrypted", |_, _| "e30.e30.e30.e30.e30".to_owned(), Err(TokenError::Malformed("expected three parts with dots between them"))),
        ("empty", |_, _| String::new(), Err(TokenError::Malformed("expected three parts with dots between them"))),
        ("padding", |key, _| with(key, json!({})) + "=", Err(TokenError::Malformed("a part is not base64url without padding"))),
        ("a line break", |key, _| with(key, json!({})) + "\n", Err(TokenError::Malformed("a part is not base64url without padding"))),
        ("claims that are a list", |key, _| raw(key, r#"{"alg":"HS256"}"#, "[]"), Err(TokenError::Malformed("the claims are no object"))),
        ("claims that are not JSON", |key, _| raw(key, r#"{"alg":"HS256"}"#, "{"), Err(TokenError::Malformed("the header or the claims are not JSON"))),
        ("two users", |key, _| raw(key, r#"{"alg":"HS256"}"#, r#"{"sub":"alice","sub":"root"}"#), Err(TokenError::DuplicateKey)),
        ("two users, one of them escaped", |key, _| raw(key, r#"{"alg":"HS256"}"#, r#"{"sub":"alice","\u0073ub":"root"}"#), Err(TokenError::DuplicateKey)),
        ("two rights", |key, _| raw(key, r#"{"alg":"HS256"}"#, r#"{"sub":"alice","janus":{"subscribe":[],"subscribe":["**"]}}"#), Err(TokenError::DuplicateKey)),
    ]
}

#[rustfmt::skip]
fn rights() -> Vec<Case> {
    let rights = |claim, reason: &str| Err(TokenError::Rights { claim, reason: reason.to_owned() });
    vec![
        ("100 patterns", |key, _| with_patterns(key, (0..100).map(|n| format!("topic:{n}")).collect()), Ok(())),
        ("101 patterns", |key, _| with_patterns(key, (0..101).map(|n| format!("topic:{n}")).collect()),
            rights("janus.subscribe", "more than 100 patterns: use wildcards, as in \"chat:*\"")),
        ("a part of a segment", |key, _| with_patterns(key, json!(["news", "chat:lob*"])),
            rights("janus.subscribe", "pattern number 2: \"*\" must be a whole segment, as in \"chat:*\"")),
        ("two stars inside", |key, _| with_patterns(key, json!(["a:**:b"])),
            rights("janus.subscribe", "pattern number 1: \"**\" must be the last segment, as in \"user:alice:**\"")),
        ("no patterns", |key, _| with_patterns(key, json!([])), Ok(())),
        ("patterns that are no list", |key, _| with_patterns(key, json!("news")), claim("janus.subscribe", "a list of strings")),
        ("patterns that are no text", |key, _| with_patterns(key, json!([["news"]])), claim("janus.subscribe", "a list of strings")),
        ("a mistyped right", |key, _| with(key, json!({"janus": {"subscribes": ["**"]}})), claim("janus", JANUS)),
        ("rights that are no object", |key, _| with(key, json!({"janus": ["news"]})), claim("janus", JANUS)),
        ("no rights", |key, _| with(key, json!({"janus": null})), Ok(())),
        ("a topic without a name", |key, _| with(key, json!({"janus": {"topics": ["news", ""]}})),
            rights("janus.topics", "topic number 2: topic name must not be empty")),
        ("101 topics", |key, _| with(key, json!({"janus": {"topics": (0..101).map(|n| n.to_string()).collect::<Vec<_>>()}})),
            rights("janus.topics", "more than 100 topics")),
        ("any claims", |key, _| with(key, json!({"janus": {"claims": {"team": [7, null]}}})), Ok(())),
    ]
}

#[tokio::test]
async fn each_algorithm_meets_each_mistake() {
    let (audience, issuer) = (Some("push.example".to_owned()), Some("https://app.example".to_owned()));
    let rules = Rules { audience, issuer, ..Rules::default() };
    let cases = [times(), names(), signatures(), forms(), rights()].concat();
    for algorithm in Algorithm::ALL {
        let (key, wrong) = (SigningKey::generate(algorithm).unwrap(), SigningKey::generate(algorithm).unwrap());
        let tokens = Tokens::new(rules.clone(), keys(&[&key]));
        for (name, make, expected) in &cases {
            let found = verify(&tokens, &make(&key, &wrong)).await.map(drop);
            assert_eq!(&found, expected, "{algorithm}: {name}");
        }
    }
}

#[tokio::test]
async fn the_text_of_a_public_key_is_no_secret() {
    let algorithms = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];
    for public in algorithms.map(|algorithm| SigningKey::generate(algorithm).unwrap()) {
        let tokens = Tokens::new(Rules::default(), keys(&[&public]));
        // What a confused server would take for the secret of HS256: the file of the public key, in any form.
        for secret in [public.public_text().as_bytes().to_vec(), der(public.public_text())] {
            let line = format!("HS256 {}", data_encoding::BASE64.encode(&secret));
            let forged = token(&SigningKey::parse(line.as_bytes()).unwrap(), &good_claims());
            assert_eq!(verify(&tokens, &forged).await, Err(TokenError::UnknownKey));
            let (_, signed) = forged.split_once('.').unwrap();
            let name = public.algorithm().name();
            let header = BASE64URL_NOPAD.encode(format!(r#"{{"alg":"{name}"}}"#).as_bytes());
            assert_eq!(verify(&tokens, &format!("{header}.{signed}")).await, Err(TokenError::Signature));
        }
    }
}

#[tokio::test]
async fn a_token_is_verified_with_the_keys_of_its_algorithm_alone() {
    let all = Algorithm::ALL.map(|algorithm| SigningKey::generate(algorithm).unwrap());
    let tokens = Tokens::new(Rules::default(), keys(&all.each_ref()));
    for key in &all {
        assert!(verify(&tokens, &token(key, &good_claims())).await.is_ok(), "{key:?}");
        for other in all.iter().filter(|other| other.algorithm() != key.algorithm()) {
            let header = format!(r#"{{"alg":"{}"}}"#, other.algorithm().name());
            let mixed = raw(key, &header, &good_claims().to_string());
            assert_eq!(verify(&tokens, &mixed).await, Err(TokenError::Signature), "{key:?} as {other:?}");
        }
    }
}

#[tokio::test]
async fn without_a_key_id_eight_keys_are_tried_and_with_one_the_right_key() {
    let all: Vec<SigningKey> = (0..9).map(|_| SigningKey::generate(Algorithm::Hs256).unwrap()).collect();
    let named = |index: usize| single(&all[index]).with_id(index.to_string());
    let tokens = Tokens::new(Rules::default(), Keys::new((0..9).map(named)).unwrap());
    assert!(verify(&tokens, &token(&all[7], &good_claims())).await.is_ok());
    assert_eq!(verify(&tokens, &token(&all[8], &good_claims())).await, Err(TokenError::Signature));
    let last = SigningKey::parse(all[8].private_text().as_bytes()).unwrap();
    assert!(verify(&tokens, &token(&last.with_id("8"), &good_claims())).await.is_ok());
    let first = SigningKey::parse(all[0].private_text().as_bytes()).unwrap();
    assert_eq!(verify(&tokens, &token(&first.with_id("8"), &good_claims())).await, Err(TokenError::Signature));
}

#[tokio::test]
async fn absent_rights_mean_what_the_rules_say() {
    let key = SigningKey::generate(Algorithm::Hs256).unwrap();
    let mut rules = Rules { subscribe: Grant::Ask, publish: Grant::None, ..Rules::default() };
    rules.requires_end = false;
    let tokens = Tokens::new(rules, keys(&[&key]));
    let bare = verify(&tokens, &token(&key, &json!({"sub": "alice", "jti": "t-1"}))).await.unwrap();
    assert_eq!((bare.subscribe, bare.publish, bare.expires), (Grant::Ask, Grant::None, None));
    assert_eq!((bare.user.as_str(), bare.token_id.as_deref()), ("alice", Some("t-1")));
    let long = token(&key, &json!({"sub": "alice", "jti": "t".repeat(1_025)}));
    let expected = TokenError::Claim { claim: "jti", expected: "1 to 1,024 bytes" };
    assert_eq!(verify(&tokens, &long).await, Err(expected), "such a token could not be revoked");
    let full = json!({"sub": "alice", "exp": NOW + 1, "janus": {
        "subscribe": [], "publish": ["chat:*"], "topics": ["user:alice:inbox"], "claims": {"team": 7},
        "info": {"name": "Alice"},
    }});
    let full = verify(&tokens, &token(&key, &full)).await.unwrap();
    assert_eq!((full.subscribe, full.claims), (Grant::None, json!({"team": 7})));
    assert_eq!(full.info, json!({"name": "Alice"}), "what others may see, and nothing else");
    assert!(bare.info.is_null());
    assert_eq!(full.publish, Grant::from(janus_core::hooks::Patterns::new(["chat:*"]).unwrap()));
    assert_eq!(full.topics[0].as_str(), "user:alice:inbox");
    assert_eq!(full.expires, Some(now() + Duration::from_secs(1)));
}

#[tokio::test]
async fn nothing_of_a_token_is_in_an_error_or_in_debug() {
    let key = SigningKey::generate(Algorithm::Hs256).unwrap();
    let tokens = Tokens::new(Rules::default(), keys(&[&key]));
    let secret = json!({"sub": "alice", "exp": NOW + 60, "jti": "hidden-1", "janus": {
        "subscribe": ["hidden-2"], "claims": "hidden-3", "topics": ["hidden-4"],
    }});
    let good = token(&key, &secret);
    let identity = verify(&tokens, &good).await.unwrap();
    let mut shown = vec![format!(
        "{tokens:?} {key:?} {:?} {:?}",
        Keys::parse(key.public_text().as_bytes()),
        NewToken::new("hidden")
    )];
    shown.push(format!("{:?} {:?}", identity.claims.as_str().map(str::len), identity.token_id.map(|id| id.len())));
    for broken in [
        json!({"sub": "hidden\n"}),
        json!({"sub": "a", "exp": "hidden"}),
        json!({"sub": "a", "exp": NOW + 1, "janus": {"subscribe": ["hidden*"]}}),
    ] {
        let error = verify(&tokens, &token(&key, &broken)).await.unwrap_err();
        shown.push(format!("{error} {error:?} {:?}", janus_core::hooks::Denied::from(error.clone())));
    }
    for text in shown {
        assert!(!text.contains("hidden"), "{text}");
        assert!(!text.contains(key.private_text().trim().strip_prefix("HS256 ").unwrap()), "{text}");
    }
}

/// The opinion of another implementation. Its own checks of times are switched off: its clock cannot be set.
fn second_opinion(key: &SigningKey, token: &str) -> bool {
    let (decoding, algorithm) = match key.algorithm() {
        Algorithm::Hs256 => {
            let secret = key.public_text().trim().strip_prefix("HS256 ").unwrap();
            (DecodingKey::from_secret(&keys::secret_of(secret).unwrap()).unwrap(), jsonwebtoken::Algorithm::HS256)
        }
        Algorithm::Rs256 => (DecodingKey::from_rsa_der(&der(key.public_text())), jsonwebtoken::Algorithm::RS256),
        Algorithm::Es256 => (DecodingKey::from_ec_der(&der(key.public_text())), jsonwebtoken::Algorithm::ES256),
        Algorithm::EdDsa => (DecodingKey::from_ed_der(&der(key.public_text())), jsonwebtoken::Algorithm::EdDSA),
    };
    let mut validation = Validation::new(algorithm);
    (validation.validate_exp, validation.validate_aud) = (false, false);
    validation.required_spec_claims.clear();
    jsonwebtoken::decode::<Value>(token, &decoding, &validation).is_ok()
}

#[tokio::test]
async fn another_implementation_reads_and_writes_the_same_tokens() {
    for algorithm in Algorithm::ALL {
        let key = SigningKey::generate(algorithm).unwrap();
        let ours = token(&key, &good_claims());
        assert!(second_opinion(&key, &ours), "{algorithm}");
        let (encoding, header) = match algorithm {
            Algorithm::Hs256 => {
                let secret = key.public_text().trim().strip_prefix("HS256 ").unwrap();
                (EncodingKey::from_secret(&keys::secret_of(secret).unwrap()).unwrap(), jsonwebtoken::Algorithm::HS256)
            }
            Algorithm::Es256 => (EncodingKey::from_ec_der(&der(key.private_text())), jsonwebtoken::Algorithm::ES256),
            Algorithm::EdDsa => (EncodingKey::from_ed_der(&der(key.private_text())), jsonwebtoken::Algorithm::EdDSA),
            // This library wants another form of the key.
            Algorithm::Rs256 => continue,
        };
        let theirs = jsonwebtoken::encode(&Header::new(header), &good_claims(), &encoding).unwrap();
        let tokens = Tokens::new(Rules::default(), keys(&[&key]));
        assert_eq!(verify(&tokens, &theirs).await.map(|identity| identity.user), Ok("alice".to_owned()), "{algorithm}");
    }
}

proptest! {
    #[test]
    fn a_token_changed_anywhere_is_refused(
        algorithm in 0..4_usize,
        place in any::<prop::sample::Index>(),
        with in "[A-Za-z0-9_.=-]{0,3}",
        length in 0..3_usize,
    ) {
        use std::sync::LazyLock;
        static KEYS: LazyLock<[(SigningKey, String); 4]> = LazyLock::new(|| Algorithm::ALL.map(|algorithm| {
            let key = SigningKey::generate(algorithm).unwrap();
            let token = token(&key, &good_claims());
            (key, token)
        }));
        let (key, good) = &KEYS[algorithm];
        let start = place.index(good.len());
        let mut changed = good.clone();
        changed.replace_range(start..(start + length).min(good.len()), &with);
        let tokens = Tokens::new(Rules::default(), keys(&[key]));
        let verified = futures_executor::block_on(verify(&tokens, &changed));
        prop_assert_eq!(verified.is_ok(), &changed == good);
        // A stricter reader than the other: what is good here is good there.
        prop_assert!(verified.is_err() || second_opinion(key, &changed));
    }
}
