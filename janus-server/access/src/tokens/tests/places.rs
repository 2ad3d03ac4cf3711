//! Where a request carries its token.

use janus_core::wire::HttpRequest;

use super::*;
use crate::tokens::source::Sources;

type Headers<'a> = &'a [(&'a str, &'a str)];

fn found(sources: &Sources, auth: Option<&str>, target: &str, headers: Headers<'_>) -> Option<String> {
    let headers = headers.iter().map(|&(name, value)| (name, value.as_bytes()));
    sources.find_in(auth.map(str::to_owned), Some(&HttpRequest::new("GET", target, headers)))
}

const ALL: &str = "/ws?topic=news&access_token=query";
const BEARER: (&str, &str) = ("Authorization", "Bearer header");
const COOKIE: (&str, &str) = ("Cookie", "theme=dark; token=cookie");
const OWN: (&str, &str) = ("Origin", "http://push.example");
const HOST: (&str, &str) = ("Host", "push.example");

fn sources(origins: &[&str]) -> Sources {
    let origins = janus_core::wire::AllowedOrigins::new(origins.iter().copied());
    Sources { cookie: Some("token".to_owned()), origins, query: true }
}

#[test]
fn the_first_place_with_a_token_counts() {
    let all = sources(&[]);
    let headers = [HOST, OWN, BEARER, COOKIE];
    assert_eq!(found(&all, Some("hello"), ALL, &headers).as_deref(), Some("hello"));
    assert_eq!(found(&all, Some(""), ALL, &headers).as_deref(), Some("header"), "an empty text is none");
    assert_eq!(found(&all, None, ALL, &[HOST, OWN, COOKIE]).as_deref(), Some("cookie"));
    assert_eq!(found(&all, None, ALL, &[HOST, OWN]).as_deref(), Some("query"));
    assert_eq!(found(&all, None, "/ws", &[HOST, OWN]), None);
    assert_eq!(
        found(&all, None, "/ws", &[("Authorization", "Basic YTpi"), HOST, OWN, COOKIE]).as_deref(),
        Some("cookie")
    );
    for bearer in ["bearer  header ", "BEARER header"] {
        assert_eq!(found(&all, None, "/ws", &[("Authorization", bearer)]).as_deref(), Some("header"), "{bearer}");
    }
    assert_eq!(found(&all, None, "/ws", &[("Authorization", "Bearer ")]), None);
}

#[test]
fn cookies_and_queries_are_off_by_default() {
    let none = Sources::default();
    assert_eq!(found(&none, None, ALL, &[HOST, OWN, COOKIE]), None);
    assert_eq!(found(&none, None, ALL, &[HOST, OWN, BEARER]).as_deref(), Some("header"));
}

#[test]
fn pages_of_strangers_cannot_use_the_cookie_of_their_visitors() {
    let listed = sources(&["https://app.example"]);
    let with = |sources: &Sources, extra: Headers<'_>| found(sources, None, "/ws", &[&[HOST, COOKIE], extra].concat());
    for extra in [&[OWN][..], &[("Origin", "https://app.example")], &[("Sec-Fetch-Site", "same-origin")]] {
        assert_eq!(with(&listed, extra).as_deref(), Some("cookie"), "{extra:?}");
    }
    for extra in [
        &[][..],
        &[("Origin", "https://evil.example")],
        &[("Origin", "null")],
        &[("Origin", "https://evil.example"), ("Sec-Fetch-Site", "same-origin")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site")],
        &[("Sec-Fetch-Site", "none")],
    ] {
        assert_eq!(with(&listed, extra), None, "{extra:?}");
    }
    let tokens = Tokens::new(Rules::default(), keys(&[&SigningKey::generate(Algorithm::Hs256).unwrap()]));
    let any = TokenHooks::new(tokens).cookie("token", ["*", "https://app.example"]);
    assert_eq!(with(&any.sources, &[("Origin", "https://evil.example")]), None, "* is no leave to use cookies");
    assert_eq!(with(&any.sources, &[("Origin", "https://app.example")]).as_deref(), Some("cookie"));
}

#[test]
fn a_cookie_is_found_by_its_whole_name() {
    let all = sources(&[]);
    let with = |cookie: &str| found(&all, None, "/ws", &[HOST, OWN, ("Cookie", cookie)]);
    for cookie in ["token=cookie", "a=b;token=cookie", " token = \"cookie\" ; x=y", "token=cookie; token=later"] {
        assert_eq!(with(cookie).as_deref(), Some("cookie"), "{cookie}");
    }
    for cookie in ["xtoken=cookie", "Token=cookie", "token", "tokens=cookie", "a=token=cookie", "token=", ""] {
        assert_eq!(with(cookie), None, "{cookie}");
    }
    let headers = [HOST, OWN, ("Cookie", "a=b"), ("Cookie", "token=cookie")];
    assert_eq!(found(&all, None, "/ws", &headers).as_deref(), Some("cookie"), "in the second header");
}
