//! The server API of Centrifugo: methods for backends, as requests of HTTP.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | API | [`ServerApi`]: who may call, and the form of requests and answers |
//! | `methods.rs` | rules | what each method does with an instance |
//! | `params.rs` | pure: values | the parameters of methods |
//! | `error.rs` | pure: a value | the errors of methods |

mod error;
mod methods;
mod params;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use janus_core::wire::{BytesMut, HttpError, HttpRequest, PathPatternError};
use janus_core::{HttpRoute, Janus, RouteRequest, RouteResponse};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::Object;
use error::ApiError;
use methods::Served;

/// The scheme of a key in the header `Authorization`.
const SCHEME: &str = "apikey";

/// Commands of a batch. A backend with more sends several batches.
const MAX_COMMANDS: usize = 1_000;

/// Bytes of answers after which no further command of a batch is carried out: a command of a few bytes may have an answer of
/// megabytes, and the answers of a batch are sent together.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// The server API, for [`Builder::route`](janus_core::Builder::route).
///
/// Each method is a `POST` to the path of the API and the name of the method, with a JSON object as body, and a key in the header
/// `X-API-Key: KEY` or `Authorization: apikey KEY`. Neither hooks nor the rates of clients apply: a caller with the key is trusted.
#[derive(Clone)]
pub struct ServerApi(Arc<Authorize>);

type Authorize = dyn Fn(&HttpRequest, Option<&str>, bool) -> Result<(), HttpError> + Send + Sync;

impl fmt::Debug for ServerApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerApi")
    }
}

impl ServerApi {
    /// The API for callers that `authorize` lets through. The function is given the head of the request, the key that the caller has shown,
    /// and whether the caller is on this machine. An error of the function is the answer, before the body is read and before the
    /// request counts as one under way ([`HttpRoute::check`]); an error with status 401 names the headers for the key. The function must
    /// not block.
    pub fn new(
        authorize: impl Fn(&HttpRequest, Option<&str>, bool) -> Result<(), HttpError> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(authorize))
    }

    /// The API for callers with this key. An empty key lets no caller through.
    #[must_use]
    pub fn with_key(key: impl Into<String>) -> Self {
        let key = key.into();
        Self::new(move |_, shown, _| match shown.is_some_and(|shown| !key.is_empty() && are_equal(shown, &key)) {
            true => Ok(()),
            false => Err(HttpError::new(401, "unauthorized", "the key is not the key of the server API")),
        })
    }

    /// The route of all methods, below this path.
    ///
    /// # Errors
    ///
    /// The path does not begin with a slash, or has characters of a query.
    pub fn route(&self, path: &str) -> Result<HttpRoute, PathPatternError> {
        let authorize = Arc::clone(&self.0);
        let served = Arc::new(Served::new());
        let route =
            HttpRoute::new("POST", format!("{path}/*").parse()?, move |request| answer(request, Arc::clone(&served)));
        Ok(route.check(move |head, is_local| {
            let shown = shown_key(head);
            authorize(head, shown, is_local).map_err(|error| refusal(error, shown.is_some()))
        }))
    }
}

/// A refusal with the headers of this API: the rule may be one of another API, whose callers show their key in another header.
fn refusal(error: HttpError, has_key: bool) -> HttpError {
    if error.status != 401 {
        return error;
    }
    let message = match has_key {
        true => error.message,
        false => "send the server's api_key in the header X-API-Key: KEY, or Authorization: apikey KEY".to_owned(),
    };
    HttpError { message, challenge: SCHEME, ..error }
}

async fn answer(request: RouteRequest, served: Arc<Served>) -> Result<RouteResponse, HttpError> {
    let body = str::from_utf8(&request.body).map_err(|_| HttpError::new(400, "bad_utf8", "the body must be UTF-8"))?;
    let mut json = BytesMut::new();
    match (&*request.rest, methods::is_known(&request.rest)) {
        ("batch", _) => batch(&request.janus, &served, body, MAX_ANSWER_BYTES, &mut json).await,
        (_, false) => return Err(HttpError::new(404, "unknown_path", "no such method of the server API")),
        (method, true) => {
            let answer = methods::call(&request.janus, &served, method, body).await;
            put(Object::new(&mut json), &answer, "result").end();
        }
    }
    Ok(RouteResponse::new(200, "application/json", json.freeze()).header("cache-control", "no-store"))
}

/// Carries out commands one after the other, until the answers have this many bytes.
async fn batch(janus: &Janus, served: &Served, body: &str, max_answer_bytes: usize, json: &mut BytesMut) {
    #[derive(Deserialize)]
    struct Batch<'a> {
        #[serde(borrow)]
        commands: Vec<std::collections::BTreeMap<&'a str, &'a RawValue>>,
    }
    let batch: Batch<'_> = match params::read(body) {
        Ok(batch) => batch,
        Err(error) => return put(Object::new(json), &Err(error), "result").end(),
    };
    if batch.commands.len() > MAX_COMMANDS {
        let error = ApiError::bad_request(format!("at most {MAX_COMMANDS} commands in a batch"));
        return put(Object::new(json), &Err(error), "result").end();
    }
    // Each answer is written before the next command, or a batch would hold all answers twice.
    json.extend_from_slice(b"{\"replies\":[");
    for (place, command) in batch.commands.iter().enumerate() {
        if place > 0 {
            json.extend_from_slice(b",");
        }
        let (method, answer) = match command.iter().next() {
            _ if json.len() >= max_answer_bytes => ("", Err(ApiError::batch_full(max_answer_bytes))),
            Some((method, params)) if command.len() == 1 && methods::is_known(method) => {
                (*method, methods::call(janus, served, method, params.get()).await)
            }
            Some((_, _)) if command.len() == 1 => ("", Err(ApiError::method_not_found())),
            _ => ("", Err(ApiError::bad_request("a command has one member, its method"))),
        };
        put(Object::new(json), &answer, method).end();
        // Other tasks of the runtime get their turn between commands.
        tokio::task::yield_now().await;
    }
    json.extend_from_slice(b"]}");
}

/// The JSON of a result, or the error.
type Answer = Result<String, ApiError>;

fn put<'o>(object: Object<'o>, answer: &Answer, key: &str) -> Object<'o> {
    match answer {
        Ok(result) => object.raw(key, result),
        Err(ApiError { code, message }) => object.object("error", |error| {
            error.number("code", (*code).into()).text("message", message).end();
        }),
    }
}

/// The key in either of the headers.
fn shown_key(head: &HttpRequest) -> Option<&str> {
    head.header("x-api-key").map(str::trim).or_else(|| {
        let (scheme, key) = head.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case(SCHEME).then(|| key.trim())
    })
}

/// In a time that depends on the lengths alone.
fn are_equal(one: &str, other: &str) -> bool {
    let differences = one.bytes().zip(other.bytes()).fold(0, |sum, (one, other)| sum | (one ^ other));
    std::hint::black_box(differences) == 0 && one.len() == other.len()
}
