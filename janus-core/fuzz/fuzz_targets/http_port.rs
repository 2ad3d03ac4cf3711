//! Any bytes of a client on the HTTP port, split anywhere, give the same commands as the same bytes in a single piece, never
//! a panic, and are kept within the limits. What the port takes for a request that publishes ends where a reader by
//! the letter of RFC 9112 finds its end, so nothing can be smuggled past a server in front.

#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use janus_core::wire::{AllowedOrigins, BodyReader, Codec, Command, HttpPort, HttpRequest, Limits, PublishRoute};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// Lengths of the pieces, used in turn.
    pieces: [u8; 4],
    parts: Vec<Part<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Part<'a> {
    Publish { body: &'a str, last: bool, key: bool },
    Chunks { body: &'a str, sizes: [u8; 3], extension: Option<&'a str> },
    Head { method: u8, path: u8, header: Option<(&'a str, &'a str)> },
    Message,
    Bytes(&'a [u8]),
}

const MESSAGE: &str = r#"{"topic":"t","data":[1]}"#;
const HEAD: &str = "POST /publish HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";

impl Part<'_> {
    fn bytes(&self) -> Vec<u8> {
        match *self {
            Self::Publish { body, last, key } => {
                let body = if body.is_empty() { MESSAGE } else { body };
                let last = if last { "Connection: close\r\n" } else { "" };
                let key = if key { "" } else { "No-Key: x\r\n" };
                format!("{HEAD}{last}{key}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
            }
            Self::Chunks { body, sizes, extension } => {
                let mut rest = if body.is_empty() { MESSAGE.as_bytes() } else { body.as_bytes() };
                let mut bytes = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
                for size in sizes.iter().cycle() {
                    let (chunk, after) = rest.split_at(usize::from(*size).clamp(1, 64).min(rest.len()));
                    let extension = extension.map(|text| format!(";{text}")).unwrap_or_default();
                    bytes.extend(format!("{:x}{extension}\r\n", chunk.len()).into_bytes());
                    bytes.extend([chunk, b"\r\n"].concat());
                    if chunk.is_empty() {
                        return bytes;
                    }
                    rest = after;
                }
                bytes
            }
            Self::Head { method, path, header } => {
                let method = ["GET", "POST", "HEAD", "OPTIONS"][usize::from(method) % 4];
                let path = ["/ws", "/events?topic=t", "/publish", "/api"][usize::from(path) % 4];
                let header = header.map(|(name, value)| format!("{name}: {value}\r\n")).unwrap_or_default();
                format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{header}\r\n").into_bytes()
            }
            Self::Message => MESSAGE.into(),
            Self::Bytes(bytes) => bytes.to_vec(),
        }
    }
}

fn port() -> HttpPort {
    let route = PublishRoute::new("/publish", |request, _| match request.header("no-key") {
        None => Ok(()),
        Some(_) => Err(janus_core::wire::HttpError::new(401, "unauthorized", "")),
    });
    HttpPort::new(AllowedOrigins::default(), Duration::ZERO).publish_route(route)
}

/// The commands up to the end of reading, without their dates.
fn decode<'a>(port: &HttpPort, pieces: impl Iterator<Item = &'a [u8]>, limits: &Limits) -> Vec<String> {
    let mut decoder = port.decoder();
    let mut decoded = Vec::new();
    for mut piece in pieces {
        while let Some(command) = decoder.decode(&mut piece, limits) {
            let command = command.expect("this port refuses with commands");
            decoded.push(match &command {
                Command::Close(response) => {
                    assert!(response.starts_with(b"HTTP/1.1 "));
                    String::from_utf8_lossy(response).lines().next().unwrap_or_default().to_owned()
                }
                Command::Become(_) => "becomes".to_owned(),
                command => format!("{command:?}"),
            });
            match command {
                Command::Admit => decoder.admit(false),
                Command::Become(_) | Command::PassOn | Command::Close(_) => return decoded,
                _ => {}
            }
        }
        assert!(piece.is_empty());
        // A head and a body, with the headers in pieces of their own.
        assert!(decoder.memory() <= 8 * 16 * 1_024 + 4 * limits.max_frame_bytes, "{}", decoder.memory());
        assert!(!decoder.is_idle() || !decoder.is_mid_frame());
    }
    decoded
}

fn cut<'a>(mut rest: &'a [u8], lengths: &'a [u8; 4]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = lengths.iter().cycle();
    std::iter::from_fn(move || {
        let length = usize::from(*lengths.next()?).clamp(1, rest.len().max(1)).min(rest.len());
        let (piece, after) = rest.split_at(length);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// A body by the letter, or nothing if a letter is wrong: a second opinion on chunks without extensions and trailers.
fn by_the_letter(mut chunks: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let line = chunks.windows(2).position(|pair| pair == b"\r\n")?;
        let digits = std::str::from_utf8(&chunks[..line]).ok()?;
        let is_size = (1..=16).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = is_size.then(|| usize::from_str_radix(digits, 16).ok()).flatten()?;
        chunks = &chunks[line + 2..];
        let end = size.checked_add(2).filter(|end| *end <= chunks.len())?;
        (chunks[size..end] == *b"\r\n").then_some(())?;
        body.extend_from_slice(&chunks[..size]);
        chunks = &chunks[end..];
        if size == 0 {
            return Some((body, chunks));
        }
    }
}

fuzz_target!(|input: Input<'_>| {
    let limits = Limits { max_frame_bytes: 256, max_topic_bytes: 32, max_topics: 8 };
    let port = port();
    let bytes: Vec<u8> = input.parts.iter().flat_map(Part::bytes).collect();
    // A word for a client that waits for it depends on what has come.
    let commands = |commands: Vec<String>| -> Vec<String> {
        commands.into_iter().filter(|command| !command.starts_with("Answer")).collect()
    };
    let (split, whole) =
        (decode(&port, cut(&bytes, &input.pieces), &limits), decode(&port, std::iter::once(&bytes[..]), &limits));
    assert_eq!(commands(split), commands(whole));

    let head = HttpRequest::new("POST", "/", [("transfer-encoding", &b"chunked"[..])]);
    let mut reader = BodyReader::of(&head, 256).expect("chunks have an end");
    let mut rest = &bytes[..];
    if let Some((body, behind)) = by_the_letter(&bytes)
        && body.len() <= 256
    {
        assert_eq!(reader.read(&mut rest), Some(Ok(body)));
        assert_eq!(rest, behind);
    }
});
