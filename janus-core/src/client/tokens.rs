//! Tokens: the one in force, the one that has ended, and the question for the next.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{ClientError, TokenError};

type Answer = Pin<Box<dyn Future<Output = Result<String, TokenError>> + Send>>;

/// The program's function.
pub(super) type GetToken = Arc<dyn Fn() -> Answer + Send + Sync>;

pub(super) struct Tokens {
    /// What is shown to the server with the next `hello`.
    current: Option<String>,
    /// The server has called this token expired, and it must not be shown again.
    expired: Option<String>,
    source: Option<GetToken>,
    /// A question without an answer. Kept when a connection ends, so that the program is asked once for each token.
    question: Option<(Answer, Instant)>,
    timeout: Duration,
}

impl Tokens {
    pub(super) fn new(token: Option<String>, source: Option<GetToken>, timeout: Duration) -> Self {
        Self { current: token, expired: None, source, question: None, timeout }
    }

    /// Whether the client can renew its token.
    pub(super) fn is_renewable(&self) -> bool {
        self.source.is_some()
    }

    /// The token for a `hello`.
    pub(super) async fn for_hello(&mut self) -> Result<Option<String>, ClientError> {
        if self.current.is_none() && self.source.is_some() {
            let token = self.next().await?;
            self.current = Some(token);
        }
        Ok(self.current.clone())
    }

    /// Asks the program for another token. Cancel safe: the next call waits for the answer of the same question.
    pub(super) async fn next(&mut self) -> Result<String, ClientError> {
        let Some(source) = &self.source else { return std::future::pending().await };
        let timeout = self.timeout;
        let (answer, deadline) = self.question.get_or_insert_with(|| (source(), Instant::now() + timeout));
        let answer = timeout_at(*deadline, answer).await;
        self.question = None;
        let token = answer.map_err(|_| ClientError::Late { awaited: "token", time: timeout })?;
        let token = token.and_then(cleaned).map_err(|error| ClientError::Token(error.failure()))?;
        if self.expired.as_ref() == Some(&token) {
            let again = std::io::Error::other("get_token has returned the expired token again");
            return Err(ClientError::Token(TokenError::from(again).failure()));
        }
        Ok(token)
    }

    /// The server has accepted another token.
    pub(super) fn renewed(&mut self, token: String) {
        self.current = Some(token);
    }

    /// The server has called the token in force expired. Returns whether the client may come back with another.
    pub(super) fn expire(&mut self) -> bool {
        if self.source.is_some() {
            self.expired = self.current.take();
        }
        self.source.is_some()
    }
}

/// A token without the line end of the file that the token was read from.
pub(super) fn cleaned(token: String) -> Result<String, TokenError> {
    let token = token.trim_end_matches(['\r', '\n']);
    if token.is_empty() { Err(TokenError::new("the token is empty")) } else { Ok(token.to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;

    use super::*;

    fn tokens(answers: &'static [&'static str]) -> (Tokens, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let source: GetToken = Arc::new(move || {
            let answer = answers.get(count.fetch_add(1, Ordering::Relaxed));
            match answer {
                Some(&"never") | None => Box::pin(std::future::pending()),
                Some(token) => Box::pin(async { Ok((*token).to_owned()) }),
            }
        });
        (Tokens::new(None, Some(source), Duration::from_secs(10)), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_is_asked_once_until_its_time_is_over() {
        let (mut tokens, asked) = tokens(&["never", "second"]);
        assert!(tokens.next().now_or_never().is_none());
        assert!(tokens.for_hello().now_or_never().is_none());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(matches!(tokens.for_hello().await, Err(ClientError::Late { awaited: "token", .. })));
        assert_eq!(tokens.for_hello().await.unwrap().as_deref(), Some("second"));
    }

    #[tokio::test]
    async fn a_token_of_a_file_has_no_line_end_and_is_not_empty() {
        let (mut tokens, _) = tokens(&["first\r\n", "\n"]);
        assert_eq!(tokens.next().await.unwrap(), "first");
        assert_eq!(tokens.next().await.unwrap_err().to_string(), "no token: the token is empty");
    }

    #[tokio::test]
    async fn an_expired_token_is_never_shown_again() {
        let (mut tokens, _) = tokens(&["first", "first", "second"]);
        assert_eq!(tokens.for_hello().await.unwrap().as_deref(), Some("first"));
        assert!(tokens.expire());
        assert!(matches!(tokens.for_hello().await, Err(ClientError::Token(_))));
        assert_eq!(tokens.for_hello().await.unwrap().as_deref(), Some("second"));
        assert!(!Tokens::new(Some("t".to_owned()), None, Duration::ZERO).expire());
    }
}
