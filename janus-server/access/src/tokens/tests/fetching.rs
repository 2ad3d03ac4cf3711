//! Keys from a URL, with a paused clock.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, advance, sleep};

use super::*;
use crate::tokens::remote::COOLDOWN;

/// A server with keys: an answer for each fetch, and the last answer again and again.
struct Server {
    answers: Mutex<VecDeque<Result<String, String>>>,
    fresh_for: Mutex<Option<Duration>>,
    fetches: Mutex<Vec<Instant>>,
    /// An answer waits for this, if set.
    gate: Mutex<Option<Arc<Notify>>>,
    open: AtomicUsize,
}

impl Server {
    fn new(answers: impl IntoIterator<Item = Result<String, String>>) -> Arc<Self> {
        let answers = Mutex::new(answers.into_iter().collect());
        Arc::new(Self {
            answers,
            fresh_for: Mutex::default(),
            fetches: Mutex::default(),
            gate: Mutex::default(),
            open: AtomicUsize::new(0),
        })
    }

    fn tokens(self: &Arc<Self>, rules: Rules, interval: Duration) -> Tokens {
        let server = Arc::clone(self);
        let fetch: Fetch = Arc::new(move || {
            let server = Arc::clone(&server);
            Box::pin(async move { server.answer().await })
        });
        let settings = RemoteSettings { url: "http://127.0.0.1/".parse().unwrap(), interval, authorities: None };
        let remote = Some((Arc::new(Remote::new(fetch, interval)), settings));
        Tokens::with(State { rules: Arc::new(rules), keys: Arc::default(), file: None, remote, in_use: true })
    }

    async fn answer(&self) -> Result<Fetched, String> {
        self.fetches.lock().push(Instant::now());
        assert_eq!(self.open.fetch_add(1, Ordering::SeqCst), 0, "one fetch at a time");
        let gate = self.gate.lock().clone();
        match gate {
            Some(gate) => gate.notified().await,
            None => sleep(Duration::from_millis(50)).await,
        }
        self.open.fetch_sub(1, Ordering::SeqCst);
        let mut answers = self.answers.lock();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        let keys = Keys::of_url(answer.expect("an answer")?.as_bytes()).map_err(|error| error.to_string())?;
        Ok(Fetched { keys, fresh_for: *self.fresh_for.lock() })
    }

    fn count(&self) -> usize {
        self.fetches.lock().len()
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

fn key(id: &str) -> SigningKey {
    SigningKey::generate(Algorithm::EdDsa).unwrap().with_id(id)
}

fn set(keys: &[&SigningKey], ids: &[&str]) -> Result<String, String> {
    Ok(jwks(&keys.iter().copied().zip(ids.iter().copied()).collect::<Vec<_>>()))
}

fn run(tokens: &Tokens) -> tokio::task::JoinHandle<()> {
    let tokens = tokens.clone();
    tokio::spawn(async move { tokens.run().await })
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_unknown_keys_fetches_twice_a_minute() {
    let (known, stranger) = (key("known"), SigningKey::generate(Algorithm::EdDsa).unwrap());
    let server = Server::new([set(&[&known], &["known"])]);
    let tokens = server.tokens(Rules::default(), HOUR);
    let running = run(&tokens);
    let good = token(&known, &good_claims());
    assert!(verify(&tokens, &good).await.is_ok(), "the first client waits for the keys");
    let before = server.count();
    let begun = Instant::now();
    let mut numbers = 0..;
    while begun.elapsed() < Duration::from_secs(600) {
        let kid = format!("{}", numbers.next().unwrap());
        let bad = raw(&stranger, &format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#), &good_claims().to_string());
        let error = verify(&tokens, &bad).await.unwrap_err();
        assert!(matches!(error, TokenError::UnknownKey | TokenError::KeyNotKnownYet(_)), "{error}");
        let waited = Instant::now();
        assert!(verify(&tokens, &good).await.is_ok());
        assert_eq!(waited.elapsed(), Duration::ZERO, "a client with a known key waits for nothing");
        advance(Duration::from_millis(100)).await;
    }
    let fetches = server.count() - before;
    assert!((18..=20).contains(&fetches), "{fetches} in ten minutes");
    assert_eq!(tokens.stats().fetches_for_unknown_keys, fetches as u64);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn tokens_for_other_servers_cause_no_fetch() {
    let (known, stranger) = (key("known"), key("other"));
    let server = Server::new([set(&[&known], &["known"])]);
    let mut rules = Rules::default();
    (rules.audience, rules.issuer) = (Some("push".to_owned()), Some("app".to_owned()));
    let tokens = server.tokens(rules, HOUR);
    for claims in [
        json!({"aud": "mail", "iss": "app"}),
        json!({"aud": "push", "iss": "evil"}),
        json!({"aud": "push", "iss": "app", "exp": NOW}),
    ] {
        let mut bad = good_claims();
        bad.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        verify(&tokens, &token(&stranger, &bad)).await.unwrap_err();
    }
    assert_eq!(server.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn clients_with_a_new_key_share_a_fetch_and_none_is_refused() {
    let (old, new) = (key("old"), key("new"));
    let server = Server::new([set(&[&old], &["old"]), set(&[&old, &new], &["old", "new"]), set(&[&new], &["new"])]);
    let tokens = server.tokens(Rules::default(), HOUR);
    let running = run(&tokens);
    assert!(verify(&tokens, &token(&old, &good_claims())).await.is_ok());
    let clients: Vec<_> = (0..200)
        .map(|_| {
            let (tokens, token) = (tokens.clone(), token(&new, &good_claims()));
            tokio::spawn(async move { verify(&tokens, &token).await })
        })
        .collect();
    for client in clients {
        assert!(client.await.unwrap().is_ok());
    }
    assert!(verify(&tokens, &token(&old, &good_claims())).await.is_ok(), "both keys are good");
    assert_eq!(server.count(), 2);
    advance(2 * HOUR).await;
    while server.count() < 3 || tokens.stats().fetches < 3 {
        advance(Duration::from_millis(50)).await;
    }
    assert_eq!(
        verify(&tokens, &token(&new, &good_claims())).await.map(|identity| identity.user),
        Ok("alice".to_owned())
    );
    assert!(verify(&tokens, &token(&old, &good_claims())).await.is_err(), "the old key is gone");
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_new_key_after_a_stranger_s_fetch_is_put_off_and_not_refused() {
    let (old, new, stranger) = (key("old"), key("new"), key("x"));
    let server = Server::new([set(&[&old], &["old"]), set(&[&old], &["old"]), set(&[&new], &["new"])]);
    let tokens = server.tokens(Rules::default(), HOUR);
    let running = run(&tokens);
    assert!(verify(&tokens, &token(&old, &good_claims())).await.is_ok());
    assert_eq!(verify(&tokens, &token(&stranger, &good_claims())).await, Err(TokenError::UnknownKey));
    // The stranger has used up the fetch, and the new key is published only now.
    let new = token(&new, &good_claims());
    let error = verify(&tokens, &new).await.unwrap_err();
    let after = error.retry_after().expect("the client is not refused for good");
    assert!(after <= COOLDOWN, "{after:?}");
    advance(after).await;
    assert!(verify(&tokens, &new).await.is_ok());
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn keys_are_kept_while_fetches_fail() {
    let (old, new) = (key("old"), key("new"));
    let down = || Err("down".to_owned());
    let server =
        Server::new([set(&[&old], &["old"]), down(), Ok("{\"keys\":[]}".to_owned()), down(), set(&[&new], &["new"])]);
    let tokens = server.tokens(Rules::default(), HOUR);
    let running = run(&tokens);
    assert!(verify(&tokens, &token(&old, &good_claims())).await.is_ok());
    let error = verify(&tokens, &token(&new, &good_claims())).await.unwrap_err();
    assert!(error.retry_after().is_some(), "while the fetch fails, no key can be called unknown: {error}");
    advance(HOUR + HOUR / 10).await;
    while tokens.stats().fetches_failed < 3 {
        assert!(verify(&tokens, &token(&old, &good_claims())).await.is_ok());
        advance(Duration::from_millis(200)).await;
    }
    while tokens.stats().fetches < 2 {
        advance(Duration::from_millis(200)).await;
    }
    assert!(verify(&tokens, &token(&new, &good_claims())).await.is_ok());
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn without_keys_clients_are_told_to_come_back_and_the_fetch_is_repeated() {
    let only = key("k");
    let down = || Err("down".to_owned());
    let server = Server::new([down(), down(), down(), down(), set(&[&only], &["k"])]);
    let tokens = server.tokens(Rules::default(), HOUR);
    let running = run(&tokens);
    let good = token(&only, &good_claims());
    let begun = Instant::now();
    let mut put_off = 0;
    while let Err(error) = verify(&tokens, &good).await {
        assert!(matches!(error, TokenError::NoKeys(_)), "{error}");
        assert!(!tokens.is_ready());
        put_off += 1;
        advance(Duration::from_millis(500)).await;
    }
    assert!(put_off > 3 && begun.elapsed() < Duration::from_secs(20), "{put_off}, {:?}", begun.elapsed());
    assert!(tokens.is_ready());
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_hangs_holds_few_questions_for_a_short_time() {
    let (known, other) = (key("known"), key("other"));
    let server = Server::new([set(&[&known], &["known"])]);
    let tokens = server.tokens(Rules::default(), HOUR);
    let running = run(&tokens);
    assert!(verify(&tokens, &token(&known, &good_claims())).await.is_ok());
    *server.gate.lock() = Some(Arc::default());
    let begun = Instant::now();
    let bad = token(&other, &good_claims());
    let clients: Vec<_> = (0..1_000)
        .map(|_| {
            let (tokens, bad) = (tokens.clone(), bad.clone());
            tokio::spawn(async move { (verify(&tokens, &bad).await, Instant::now()) })
        })
        .collect();
    let mut at_once = 0;
    for client in clients {
        let (error, at) = client.await.unwrap();
        assert!(error.unwrap_err().retry_after().is_some());
        at_once += usize::from(at == begun);
        assert!(at - begun <= Duration::from_secs(2), "{:?}", at - begun);
    }
    assert_eq!(at_once, 1_000 - 256);
    assert!(verify(&tokens, &token(&known, &good_claims())).await.is_ok());
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn the_answer_may_shorten_the_interval_to_a_minute() {
    for (fresh_for, least, most) in
        [(None, 300, 330), (Some(120), 120, 132), (Some(5), 60, 66), (Some(86_400), 300, 330)]
    {
        let only = key("k");
        let server = Server::new([set(&[&only], &["k"])]);
        *server.fresh_for.lock() = fresh_for.map(Duration::from_secs);
        let tokens = server.tokens(Rules::default(), Duration::from_secs(300));
        let running = run(&tokens);
        while server.count() < 3 {
            sleep(Duration::from_secs(1)).await;
        }
        let fetches = server.fetches.lock().clone();
        let pause = (fetches[2] - fetches[1]).as_secs();
        assert!((least..=most).contains(&pause), "{fresh_for:?}: {pause}");
        running.abort();
    }
}

#[test]
fn the_age_of_an_answer_comes_from_cache_control() {
    let age = |values: &[&'static str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CACHE_CONTROL, hyper::header::HeaderValue::from_static(value));
        }
        fresh_for(&headers, &CACHE_CONTROL).map(|age| age.as_secs())
    };
    assert_eq!(age(&[]), None);
    assert_eq!(age(&["public, max-age=300"]), Some(300));
    assert_eq!(age(&["Max-Age=\"300\"", "must-revalidate"]), Some(300));
    assert_eq!(age(&["max-age=300", "no-store"]), Some(0));
    assert_eq!(age(&["max-age=-1, s-maxage=5, private"]), None);
}
