//! `janus-server token`: makes keys and tokens for trying a server, and shows tokens.
//!
//! `token make` verifies the new token before printing, so that no server with the same settings refuses a printed token
//! for its claims. The private key of a real issuer belongs to the issuer.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use janus_access::tokens::{
    self, Algorithm, KeyError, Keys, MAX_TOKEN_BYTES, NewToken, Rules, SetupError, SigningKey, TokenError, Tokens,
};
use janus_core::hooks::{Grant, Identity};
use serde_json::Value;

use crate::cli::{MakeToken, NewKey, ShowToken, TokenCommand};
use crate::limits::Memory;
use crate::settings::{Flags, Loaded, Problems, Settings};

#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenCommandError {
    #[error(transparent)]
    Settings(#[from] Problems),
    #[error("{path}: {error}", path = path.display())]
    Key { path: PathBuf, error: KeyError },
    #[error("cannot read {path}, the file of keys (--keys, or token_keys)", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}{}", advice(source), path = path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read the token from standard input")]
    Input(#[source] io::Error),
    #[error("no key to sign with: name a file with --keys, or set token_keys")]
    NoKey,
    #[error("no keys to verify with: name a file with --keys, or set token_keys or token_jwks_url")]
    NoKeys,
    #[error(transparent)]
    Setup(SetupError),
    #[error("HS256 has no public key: the issuer and the server share the secret; leave --public out")]
    NoPublicKey,
    #[error("a server with these settings would refuse the token: {0}")]
    Refused(TokenError),
    /// The command has said why.
    #[error("the token is not good")]
    NotGood,
    #[error("cannot set up the runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

impl TokenCommandError {
    pub(crate) fn is_usage(&self) -> bool {
        match self {
            Self::Settings(_) | Self::NoKey | Self::NoKeys | Self::NoPublicKey | Self::Refused(_) => true,
            Self::Key { .. } | Self::Read { .. } | Self::Write { .. } | Self::Input(_) | Self::Setup(_) => false,
            Self::NotGood | Self::Runtime(_) | Self::Output(_) => false,
        }
    }
}

fn advice(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::AlreadyExists { ": no key is written over; remove the file first" } else { "" }
}

pub(crate) fn run(command: &TokenCommand) -> Result<(), TokenCommandError> {
    match command {
        TokenCommand::Key(command) => new_key(command),
        TokenCommand::Make(command) => make(command),
        TokenCommand::Show(command) => show(command),
    }
}

fn new_key(command: &NewKey) -> Result<(), TokenCommandError> {
    let is_secret = command.algorithm == Algorithm::Hs256;
    if is_secret && command.public.is_some() {
        return Err(TokenCommandError::NoPublicKey);
    }
    let refused = |error| TokenCommandError::Key { path: PathBuf::from("the new key"), error };
    let key = SigningKey::generate(command.algorithm).map_err(refused)?;
    if let Some(path) = &command.public {
        write(path, key.public_text(), 0o644)?;
    }
    match &command.private {
        Some(path) => write(path, key.private_text(), 0o600),
        None => print(key.private_text()),
    }
}

/// Writes a new file, which never replaces an earlier key.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), TokenCommandError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| TokenCommandError::Write { path: path.into(), source })
}

fn make(command: &MakeToken) -> Result<(), TokenCommandError> {
    let settings = settings(command.config.as_deref())?;
    let path = command.keys.as_deref().or(settings.access.token_keys.as_deref()).ok_or(TokenCommandError::NoKey)?;
    let mut key =
        SigningKey::parse(&read(path)?).map_err(|error| TokenCommandError::Key { path: path.into(), error })?;
    if let Some(id) = &command.kid {
        key = key.with_id(id);
    }
    let mut token = NewToken::new(&command.sub).good_for(command.good_for);
    // A right that is not named stays absent, and has the meaning of the settings.
    if !command.subscribe.is_empty() {
        token = token.subscribe(&command.subscribe);
    }
    if !command.publish.is_empty() {
        token = token.publish(&command.publish);
    }
    if !command.topics.is_empty() {
        token = token.topics(&command.topics);
    }
    let rules = Rules::from(&settings.access);
    for (name, given, expected) in
        [("aud", &command.aud, &rules.audience), ("iss", &command.iss, &rules.issuer), ("jti", &command.jti, &None)]
    {
        if let Some(value) = given.as_ref().or(expected.as_ref()) {
            token = token.claim(name, value.as_str());
        }
    }
    let broken = |error| TokenCommandError::Key { path: path.into(), error };
    let text = key.sign(&token).map_err(broken)?;
    let own = Tokens::new(rules, Keys::parse(key.public_text().as_bytes()).map_err(broken)?);
    runtime()?.block_on(own.verify(&text)).map_err(TokenCommandError::Refused)?;
    print(&format!("{text}\n"))
}

fn show(command: &ShowToken) -> Result<(), TokenCommandError> {
    let settings = settings(command.config.as_deref())?;
    let token = if command.token == "-" { read_input()? } else { command.token.clone() };
    let token = token.trim();
    let parts = tokens::unverified(token);
    if let Ok((header, claims)) = &parts {
        print(&format!("header {header:#}\nclaims {claims:#}\n"))?;
    }
    // The runtime is for keys that have to be fetched first.
    let (verifier, runtime) = (verifier(command, &settings)?, runtime()?);
    let (text, outcome) = match runtime.block_on(verifier.verify(token)) {
        Ok(identity) => (good(&identity), Ok(())),
        Err(error) => {
            let claims = parts.as_ref().map_or(&Value::Null, |(_, claims)| claims);
            (bad(&error, claims, &Rules::from(&settings.access)), Err(TokenCommandError::NotGood))
        }
    };
    print(&text)?;
    outcome
}

/// The keys of the flag or of the settings. A private key has its public key inside.
fn verifier(command: &ShowToken, settings: &Settings) -> Result<Tokens, TokenCommandError> {
    let Some(path) = &command.keys else {
        let tokens = Tokens::from_settings(&settings.access).map_err(TokenCommandError::Setup)?;
        return tokens.ok_or(TokenCommandError::NoKeys);
    };
    let text = read(path)?;
    let keys = match Keys::parse(&text) {
        Err(error) => {
            SigningKey::parse(&text).and_then(|key| Keys::parse(key.public_text().as_bytes())).map_err(|_| error)
        }
        keys => keys,
    };
    let keys = keys.map_err(|error| TokenCommandError::Key { path: path.clone(), error })?;
    Ok(Tokens::new(Rules::from(&settings.access), keys))
}

fn good(identity: &Identity) -> String {
    let grant = |grant: &Grant| match grant {
        Grant::All => "every topic".to_owned(),
        Grant::None => "no topic".to_owned(),
        Grant::Ask => "the topics that the backend allows".to_owned(),
        Grant::Only(patterns) => patterns.iter().collect::<Vec<_>>().join(", "),
    };
    let mut text = format!("good: user {:?}\n", identity.user);
    let _ = writeln!(text, "  may subscribe to {}", grant(&identity.subscribe));
    let _ = writeln!(text, "  may publish to {}", grant(&identity.publish));
    if !identity.topics.is_empty() {
        let topics: Vec<&str> = identity.topics.iter().map(|topic| topic.as_str()).collect();
        let _ = writeln!(text, "  is subscribed from the start to {}", topics.join(", "));
    }
    let _ = match identity.expires {
        Some(end) => writeln!(text, "  until {}", time(end)),
        None => writeln!(text, "  without an end"),
    };
    text
}

/// The reason, with the values of the token and of the server.
fn bad(error: &TokenError, claims: &Value, rules: &Rules) -> String {
    let when = |name: &str| {
        let seconds = claims.get(name).and_then(Value::as_u64)?;
        Some(time(UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?))
    };
    let found = |name: &str| claims.get(name).map_or_else(|| "absent".to_owned(), Value::to_string);
    let detail = match error {
        TokenError::Expired => when("exp").map(|time| format!("\"exp\" is {time}")),
        TokenError::NotYet => when("nbf").map(|time| format!("\"nbf\" is {time}")),
        TokenError::FromTheFuture => when("iat").map(|time| format!("\"iat\" is {time}")),
        TokenError::Audience => rules
            .audience
            .as_ref()
            .map(|expected| format!("\"aud\" is {}, and token_aud of this server is {expected:?}", found("aud"))),
        TokenError::Issuer => rules
            .issuer
            .as_ref()
            .map(|expected| format!("\"iss\" is {}, and token_iss of this server is {expected:?}", found("iss"))),
        TokenError::Signature => Some("another key has signed the token, or its content was changed".to_owned()),
        TokenError::UnknownKey => Some("compare \"alg\" and \"kid\" above with the keys of this server".to_owned()),
        _ => None,
    };
    format!("not good: {error}{}\n", detail.map(|detail| format!(": {detail}")).unwrap_or_default())
}

/// A time with its distance from now.
fn time(at: SystemTime) -> String {
    // The year 9999 is the last that the format has.
    let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    let text = if at > last { "after the year 9999".to_owned() } else { httpdate::fmt_http_date(at) };
    match at.duration_since(SystemTime::now()) {
        Ok(left) => format!("{text} (in {})", distance(left)),
        Err(past) => format!("{text} ({} ago)", distance(past.duration())),
    }
}

fn distance(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn settings(config: Option<&Path>) -> Result<Settings, TokenCommandError> {
    let flags = Flags { file: config.map(Path::to_owned), values: Vec::new() };
    Ok(Loaded::read(&flags, std::env::vars_os(), Memory::of_this_process())?.settings)
}

fn read(path: &Path) -> Result<Vec<u8>, TokenCommandError> {
    let unreadable = |source| TokenCommandError::Read { path: path.into(), source };
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(Keys::MAX_BYTES as u64).read_to_end(&mut text).map_err(unreadable)?;
    Ok(text)
}

/// Reads at most a byte more than a token may have, and a line break.
fn read_input() -> Result<String, TokenCommandError> {
    let mut text = String::new();
    let limit = MAX_TOKEN_BYTES as u64 + 3;
    io::stdin().lock().take(limit).read_to_string(&mut text).map_err(TokenCommandError::Input)?;
    Ok(text)
}

fn print(text: &str) -> Result<(), TokenCommandError> {
    io::stdout().lock().write_all(text.as_bytes()).map_err(TokenCommandError::Output)
}

fn runtime() -> Result<tokio::runtime::Runtime, TokenCommandError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(TokenCommandError::Runtime)
}
