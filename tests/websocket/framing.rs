//! The cases of the Autobahn test suite for a server without binary messages and without extensions: groups 1 to 7 and
//! 10. (8 is not used there, 9 is about speed, 11 to 13 about compression.)
//!
//! The suite wants an echo. Here the echo is a client that publishes on its own topic: each publish comes back as a
//! message.

use janus_core::Config;
use serde_json::json;

use super::{
    BINARY, Bystander, CLOSE, CONTINUATION, FIN, PING, PONG, Seen, Socket, TEXT, close, frame, said, serve, text,
};
use crate::support::Close;

/// The client's events, as far as the cases distinguish them.
#[derive(Debug, PartialEq)]
enum Heard {
    /// The data of a message.
    Echo(String),
    /// The code of an error.
    Error(String),
    /// The code of a `bye`.
    Bye(u64),
    Pong(Vec<u8>),
    Close(Option<u16>),
}

/// The division of frames into writes. A server must not see a difference.
#[derive(Clone, Copy, Debug)]
enum Chop {
    Whole,
    /// In the middle of each header, behind the header, and in the middle of the payload.
    Headers,
    /// Every byte alone; for long messages every 997 bytes, like the suite.
    Bytes,
}

struct Case {
    /// The case's numbers in the suite.
    number: &'static str,
    frames: Vec<Vec<u8>>,
    heard: Vec<Heard>,
}

/// Plays each case, with each division into writes, on a separate connection. After a case without a close the
/// connection continues.
async fn play(cases: impl IntoIterator<Item = Case>) {
    let (_janus, addr) = serve(Config::default()).await;
    let mut bystander = Bystander::new(addr).await;
    for Case { number, frames, heard } in cases {
        for chop in [Chop::Whole, Chop::Headers, Chop::Bytes] {
            let what = format!("case {number}, {chop:?}");
            let mut socket = Socket::open(addr).await;
            socket.subscribe("case").await;
            for piece in pieces(&frames, chop) {
                // Bytes after a violation may meet a closed connection.
                if socket.try_send(piece).await.is_err() {
                    break;
                }
            }
            for expected in &heard {
                assert_eq!(hear(&mut socket, &what).await.as_ref(), Some(expected), "{what}");
            }
            if let Some(Heard::Close(_)) = heard.last() {
                assert_eq!(hear(&mut socket, &what).await, None, "{what}");
            } else {
                socket.send(frame(FIN | PING, "still there?")).await;
                let pong = Heard::Pong(b"still there?".into());
                assert_eq!(hear(&mut socket, &what).await, Some(pong), "{what}");
            }
            bystander.is_undisturbed(&what).await;
        }
    }
}

fn pieces(frames: &[Vec<u8>], chop: Chop) -> Vec<Vec<u8>> {
    let whole = frames.concat();
    match chop {
        Chop::Whole => vec![whole],
        Chop::Headers => {
            let mut pieces = Vec::new();
            for frame in frames {
                // The last byte of a length, and of a mask, for every size of header.
                let cuts = [1, 3, 5, 6, 9, 13, frame.len() / 2, frame.len()];
                let mut from = 0;
                for cut in cuts {
                    if (from + 1..=frame.len()).contains(&cut) {
                        pieces.push(frame[from..cut].to_vec());
                        from = cut;
                    }
                }
            }
            pieces
        }
        Chop::Bytes => whole.chunks(if whole.len() > 2_000 { 997 } else { 1 }).map(<[u8]>::to_vec).collect(),
    }
}

/// The next event; `None` for the end, which must be a FIN.
async fn hear(socket: &mut Socket, what: &str) -> Option<Heard> {
    Some(match socket.next().await {
        Seen::Text(json) => {
            let string = |key: &str| json[key].as_str().unwrap_or_else(|| panic!("{what}: {json}")).to_owned();
            match json["type"].as_str() {
                Some("message") => Heard::Echo(string("data")),
                Some("error") => Heard::Error(string("error")),
                Some("bye") => Heard::Bye(json["code"].as_u64().expect("a code")),
                _ => panic!("{what}: {json}"),
            }
        }
        Seen::Pong(payload) => Heard::Pong(payload),
        Seen::Close(code, _) => Heard::Close(code),
        Seen::End(Close::Fin) => return None,
        other => panic!("{what}: {other:?}"),
    })
}

/// Text with data that comes back.
fn echoed(data: impl AsRef<[u8]>) -> Vec<u8> {
    [br#"{"type":"publish","topic":"case","data":""#, data.as_ref(), br#""}"#].concat()
}

/// Text of `bytes` bytes, and its data, which comes back.
fn echoed_in(bytes: usize) -> (Vec<u8>, Heard) {
    let data = "*".repeat(bytes - echoed("").len());
    (echoed(&data), Heard::Echo(data))
}

fn echo(data: &str) -> Heard {
    Heard::Echo(data.to_owned())
}

fn pong(payload: impl AsRef<[u8]>) -> Heard {
    Heard::Pong(payload.as_ref().to_vec())
}

fn case(
    number: &'static str,
    frames: impl IntoIterator<Item = Vec<u8>>,
    heard: impl IntoIterator<Item = Heard>,
) -> Case {
    Case { number, frames: frames.into_iter().collect(), heard: heard.into_iter().collect() }
}

/// A case at the end of which the server closes with this code.
fn fails(number: &'static str, frames: impl IntoIterator<Item = Vec<u8>>, code: u16) -> Case {
    case(number, frames, [Heard::Close(Some(code))])
}

/// A text in fragments.
fn fragments<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let pieces = pieces.into_iter().collect::<Vec<_>>();
    let last = pieces.len() - 1;
    let fragment = |(at, piece): (usize, &&[u8])| {
        let opcode = if at == 0 { TEXT } else { CONTINUATION };
        frame(if at == last { FIN | opcode } else { opcode }, piece)
    };
    pieces.iter().enumerate().map(fragment).collect()
}

#[tokio::test]
async fn a_text_of_any_length_is_one_message() {
    let lengths = [
        ("1.1.2", 125),
        ("1.1.3", 126),
        ("1.1.4", 127),
        ("1.1.5", 128),
        ("1.1.6", 65_535),
        ("1.1.7 and 1.1.8", 65_536),
    ];
    play(lengths.map(|(number, bytes)| {
        let (sent, heard) = echoed_in(bytes);
        case(number, [text(sent)], [heard])
    }))
    .await;
}

#[tokio::test]
async fn an_empty_text_is_a_message_of_invalid_json() {
    let heard = || [Heard::Bye(4400), Heard::Close(Some(4400))];
    play([
        case("1.1.1 and 6.1.1", [text("")], heard()),
        case("6.1.2", fragments([&b""[..], b"", b""]), heard()),
        // Here the first and the last fragments are empty, but not the text.
        case("6.1.3", fragments([&b""[..], &echoed("x"), b""]), [echo("x")]),
    ])
    .await;
}

#[tokio::test]
async fn a_binary_message_of_any_length_is_refused_by_its_header() {
    let numbers = ["1.2.1", "1.2.2", "1.2.3", "1.2.4", "1.2.5", "1.2.6", "1.2.7 and 1.2.8"];
    let lengths = [0, 125, 126, 127, 128, 65_535, 65_536];
    let whole = numbers
        .into_iter()
        .zip(lengths)
        .map(|(number, bytes)| fails(number, [frame(FIN | BINARY, vec![0xfe; bytes])], 1003));
    let fragmented = fails("5.3 to 5.8, binary", [frame(BINARY, "one"), frame(FIN | CONTINUATION, "two")], 1003);
    play(whole.chain([fragmented])).await;
}

#[tokio::test]
async fn a_ping_is_answered_with_its_payload_and_a_pong_means_nothing() {
    let binary = [0x00, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0x00, 0xff];
    let numbered = (0..10_u8).map(|number| frame(FIN | PING, format!("payload-{number}")));
    let pongs = (0..10_u8).map(|number| pong(format!("payload-{number}")));
    play([
        case("2.1", [frame(FIN | PING, "")], [pong("")]),
        case("2.2", [frame(FIN | PING, "Hello, world!")], [pong("Hello, world!")]),
        case("2.3", [frame(FIN | PING, binary)], [pong(binary)]),
        case("2.4 and 2.6", [frame(FIN | PING, [0xfe; 125])], [pong([0xfe; 125])]),
        case("2.7", [frame(FIN | PONG, "")], []),
        case("2.8", [frame(FIN | PONG, "unsolicited pong payload")], []),
        case("2.9", [frame(FIN | PONG, "unsolicited"), frame(FIN | PING, "ping")], [pong("ping")]),
        case("2.10 and 2.11", numbered, pongs),
    ])
    .await;
}

#[tokio::test]
async fn a_ping_or_pong_of_126_bytes_is_a_protocol_error() {
    play([
        fails("2.5", [frame(FIN | PING, [0xfe; 126])], 1002),
        fails("2.5, pong", [frame(FIN | PONG, [0xfe; 126])], 1002),
    ])
    .await;
}

#[tokio::test]
async fn a_reserved_bit_is_a_protocol_error_in_any_frame() {
    let good = || text(echoed("good"));
    let ping = || frame(FIN | PING, "ping");
    let broken = |number, rsv: u8| {
        let frames = [good(), frame(FIN | TEXT | rsv << 4, echoed("bad")), ping()];
        case(number, frames, [echo("good"), Heard::Close(Some(1002))])
    };
    play([
        fails("3.1", [frame(FIN | TEXT | 0x10, echoed("bad"))], 1002),
        broken("3.2", 2),
        broken("3.3", 3),
        broken("3.4", 4),
        fails("3.5", [frame(FIN | BINARY | 0x50, [0; 8])], 1002),
        fails("3.6", [frame(FIN | PING | 0x60, "ping")], 1002),
        fails("3.7", [frame(FIN | CLOSE | 0x70, [])], 1002),
    ])
    .await;
}

#[tokio::test]
async fn a_reserved_opcode_is_a_protocol_error_with_or_without_payload() {
    let data = [("4.1.1", 3), ("4.1.2", 4), ("4.1.3", 5), ("4.1.4", 6), ("4.1.5", 7)];
    let control = [("4.2.1", 11), ("4.2.2", 12), ("4.2.3", 13), ("4.2.4", 14), ("4.2.5", 15)];
    let cases = data.into_iter().chain(control).flat_map(|(number, opcode)| {
        let ping = || frame(FIN | PING, "");
        let after = [text(echoed("good")), frame(FIN | opcode, "reserved opcode payload"), ping()];
        [
            fails(number, [frame(FIN | opcode, "")], 1002),
            fails(number, [frame(FIN | opcode, "reserved opcode payload"), ping()], 1002),
            case(number, after, [echo("good"), Heard::Close(Some(1002))]),
        ]
    });
    play(cases).await;
}

#[tokio::test]
async fn pings_pongs_and_closes_cannot_be_fragmented() {
    play([
        fails("5.1", [frame(PING, "frag"), frame(FIN | CONTINUATION, "ment")], 1002),
        fails("5.2", [frame(PONG, "frag"), frame(FIN | CONTINUATION, "ment")], 1002),
        fails("5.2, close", [frame(CLOSE, 1000_u16.to_be_bytes())], 1002),
    ])
    .await;
}

#[tokio::test]
async fn pings_between_fragments_of_a_text_are_answered_at_once() {
    let sent = echoed("fragment1fragment2");
    let two = || fragments(sent.chunks(sent.len().div_ceil(2)));
    let five = || fragments(sent.chunks(sent.len().div_ceil(5)));
    let with_pings = |frames: Vec<Vec<u8>>| {
        let last = frames.len() - 1;
        let ping = move |at: usize| (at < last).then(|| frame(FIN | PING, format!("ping {at}")));
        frames.into_iter().enumerate().flat_map(move |(at, frame)| [Some(frame), ping(at)]).flatten()
    };
    let heard = || echo("fragment1fragment2");
    let pings = |count: usize| (0..count).map(|number| pong(format!("ping {number}")));
    play([
        case("5.3 to 5.5", two(), [heard()]),
        case("5.6 to 5.8", with_pings(two()), pings(1).chain([heard()])),
        case("5.19 and 5.20", with_pings(five()), pings(4).chain([heard()])),
    ])
    .await;
}

#[tokio::test]
async fn a_continuation_without_a_beginning_is_a_protocol_error() {
    let good = || text(echoed("good"));
    let mut ended = fragments([&echoed("good")[..20], &echoed("good")[20..]]);
    ended.extend([frame(CONTINUATION, "nothing to continue"), good()]);
    play([
        fails("5.9 to 5.11", [frame(FIN | CONTINUATION, "nothing to continue"), good()], 1002),
        fails("5.12 to 5.14", [frame(CONTINUATION, "nothing to continue"), good()], 1002),
        case("5.15", ended, [echo("good"), Heard::Close(Some(1002))]),
        fails(
            "5.16 and 5.17",
            [frame(CONTINUATION, "fragment1"), frame(TEXT, "fragment2"), frame(FIN | CONTINUATION, "fragment3")],
            1002,
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_new_message_within_a_message_is_a_protocol_error() {
    play([
        fails("5.18", [frame(TEXT, "fragment1"), frame(FIN | TEXT, "fragment2")], 1002),
        fails("5.18, unended", [frame(TEXT, "fragment1"), frame(TEXT, "fragment2")], 1002),
        fails("5.18, binary", [frame(TEXT, "fragment1"), frame(FIN | BINARY, "fragment2")], 1002),
    ])
    .await;
}

#[tokio::test]
async fn a_frame_without_a_mask_is_a_protocol_error() {
    let hello = br#"{"type":"ping"}"#;
    let bare = [&[FIN | TEXT, hello.len() as u8], &hello[..]].concat();
    play([fails("RFC 6455, 5.1", [bare], 1002), fails("RFC 6455, 5.1, ping", [vec![FIN | PING, 0]], 1002)]).await;
}

#[tokio::test]
async fn a_length_must_use_the_fewest_bytes() {
    let long = |size: u8, length: &[u8]| [&[FIN | TEXT, 0x80 | size][..], length, &[0; 4], b"{}"].concat();
    play([
        fails("RFC 6455, 5.2", [long(126, &2_u16.to_be_bytes())], 1002),
        fails("RFC 6455, 5.2", [long(127, &2_u64.to_be_bytes())], 1002),
        fails("RFC 6455, 5.2, with the highest bit", [long(127, &(1_u64 << 63 | 2).to_be_bytes())], 1002),
    ])
    .await;
}

const GREEK: &str = "κόσμε";

#[tokio::test]
async fn text_comes_through_for_every_cut_of_its_fragments() {
    let hello = "Hello-µ@ßöäüàá-UTF-8!!";
    let (sent, greek) = (echoed(hello), echoed(GREEK));
    let at = sent.windows(2).position(|window| window == "ß".as_bytes()).expect("it is in there");
    play([
        case("6.2.1", [text(&sent)], [echo(hello)]),
        case("6.2.2", fragments([&sent[..at], &sent[at..]]), [echo(hello)]),
        case("6.2.2, within a character", fragments([&sent[..=at], &sent[at + 1..]]), [echo(hello)]),
        case("6.2.3", fragments(sent.chunks(1)), [echo(hello)]),
        case("6.2.4", fragments(greek.chunks(1)), [echo(GREEK)]),
    ])
    .await;
}

#[tokio::test]
async fn every_valid_utf8_sequence_comes_through() {
    let texts = [
        ("6.5.1 to 6.5.5", GREEK),
        ("6.7.1 to 6.7.4", "\u{7f}\u{80}\u{800}\u{10000}"),
        ("6.9.1 to 6.9.4", "\u{7f}\u{7ff}\u{ffff}\u{10ffff}"),
        ("6.11.1 to 6.11.5", "\u{d7ff}\u{e000}\u{fffd}\u{10ffff}"),
        ("6.22.1 to 6.22.17", "\u{fffe}\u{ffff}\u{1fffe}\u{1ffff}\u{2fffe}\u{2ffff}\u{7fffe}\u{7ffff}\u{8fffe}"),
        ("6.22.18 to 6.22.34", "\u{9fffe}\u{9ffff}\u{efffe}\u{effff}\u{ffffe}\u{fffff}\u{10fffe}\u{10ffff}"),
        ("6.23.1 to 6.23.7", "\u{fff9}\u{fffa}\u{fffb}\u{fffc}\u{fffd}\u{fffe}\u{ffff}"),
    ];
    let whole = texts.into_iter().map(|(number, data)| case(number, [text(echoed(data))], [echo(data)]));
    // A text with a control character in a string is valid text, but invalid JSON.
    let control = case("6.7.1", [text(echoed("\0"))], [Heard::Bye(4400), Heard::Close(Some(4400))]);
    play(whole.chain([control])).await;
}

#[tokio::test]
async fn invalid_utf8_closes_with_1007() {
    let sequences: [(&str, &[&[u8]]); 15] = [
        ("6.3.1 and 6.3.2", &[b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"]),
        ("6.8", &[b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"]),
        ("6.10", &[b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"]),
        ("6.11.5", &[b"\xf4\x90\x80\x80"]),
        ("6.12", &[b"\x80", b"\xbf", b"\x80\xbf", b"\x80\xbf\x80\xbf\x80\xbf\x80"]),
        ("6.13", &[b"\xc0 \xc1 \xc2 ", b"\xe0 \xe1 \xef ", b"\xf0 \xf1 \xf7 ", b"\xf8 \xfb ", b"\xfc \xfd "]),
        ("6.14", &[b"\xc2", b"\xe0\xa0", b"\xf0\x90\x80", b"\xdf", b"\xef\xbf", b"\xf4\x8f\xbf", b"\xfb\xbf\xbf\xbf"]),
        ("6.15", &[b"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80\xfc\x80\x80\x80\x80\xdf\xef\xbf\xf7\xbf\xbf"]),
        ("6.16", &[b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"]),
        (
            "6.17",
            &[b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf8\x80\x80\x80\xaf", b"\xfc\x80\x80\x80\x80\xaf"],
        ),
        ("6.18", &[b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf8\x87\xbf\xbf\xbf"]),
        ("6.19", &[b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xf8\x80\x80\x80\x80"]),
        (
            "6.20",
            &[b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xaf\xbf", b"\xed\xb0\x80", b"\xed\xbf\xbf"],
        ),
        ("6.21", &[b"\xed\xa0\x80\xed\xb0\x80", b"\xed\xad\xbf\xed\xbf\xbf"]),
        ("6.21.8", &[b"\xed\xaf\xbf\xed\xbf\xbf"]),
    ];
    let cases = sequences.into_iter().flat_map(|(number, sequences)| {
        sequences.iter().map(move |sequence| fails(number, [text(echoed(sequence))], 1007))
    });
    let alone = [
        // A message cannot end within a character, nor can a character begin in the next message.
        fails("6.14, at the end", [text(b"\"\xce")], 1007),
        fails("6.14, at the end", [frame(TEXT, b"\"\xf0\x9f"), frame(FIN | CONTINUATION, b"\x92")], 1007),
    ];
    play(cases.chain(alone)).await;
}

#[tokio::test]
async fn a_prefix_of_a_text_is_valid_unless_it_cuts_a_character() {
    let cases = (1..=GREEK.len()).map(|end| match GREEK.get(..end) {
        Some(prefix) => case("6.6", [text(echoed(prefix))], [echo(prefix)]),
        None => fails("6.6", [text(echoed(&GREEK.as_bytes()[..end]))], 1007),
    });
    play(cases).await;
}

#[tokio::test]
async fn invalid_utf8_is_refused_before_the_rest_arrives() {
    let bad = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80";
    let (valid, invalid) = bad.split_at(11);
    // The frame announces more bytes, which never come.
    let begun = |bytes: &[u8]| {
        let mut frame = text([bytes, &b"edited"[..]].concat());
        frame.truncate(frame.len() - 6);
        frame
    };
    play([
        fails("6.4.1", [frame(TEXT, valid), frame(CONTINUATION, invalid)], 1007),
        fails("6.4.2", [frame(TEXT, [valid, &invalid[..1]].concat()), frame(CONTINUATION, &invalid[1..])], 1007),
        fails("6.4.3", [begun(bad)], 1007),
        // The second byte already shows that this cannot become a character.
        fails("6.4.4", [begun(&bad[..13])], 1007),
    ])
    .await;
}

#[tokio::test]
async fn a_close_is_answered_with_its_code_and_later_frames_are_ignored() {
    let after = || text(echoed("too late"));
    let closed = |code| [Heard::Close(code)];
    play([
        case("7.1.2", [close(1000), close(1000)], closed(Some(1000))),
        case("7.1.3", [close(1000), frame(FIN | PING, "too late")], closed(Some(1000))),
        case("7.1.4", [close(1000), after()], closed(Some(1000))),
        case("7.1.5", [frame(TEXT, "fragment"), close(1000), frame(FIN | CONTINUATION, "s")], closed(Some(1000))),
        case("7.1.6, after the close", [close(1000), text(vec![b'*'; 65_536]), close(1000)], closed(Some(1000))),
        case("7.3.1", [frame(FIN | CLOSE, "")], closed(None)),
        case("7.3.3", [close(1000)], closed(Some(1000))),
        case("7.3.4", [frame(FIN | CLOSE, b"\x03\xe8Hello World!")], closed(Some(1000))),
        case("7.3.5", [frame(FIN | CLOSE, [&b"\x03\xe8"[..], &[b'*'; 123]].concat())], closed(Some(1000))),
    ])
    .await;
}

#[tokio::test]
async fn frames_before_a_close_take_effect() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut bystander = Socket::open(addr).await;
    bystander.subscribe("case").await;
    for (number, count) in [("7.1.1", 1), ("7.1.6", 4)] {
        let (sent, heard) = echoed_in(65_536);
        let mut socket = Socket::open(addr).await;
        socket.send([text(sent).repeat(count), close(1000), frame(FIN | PING, "")].concat()).await;
        assert_eq!(hear(&mut socket, number).await, Some(Heard::Close(Some(1000))));
        assert_eq!(hear(&mut socket, number).await, None);
        for _ in 0..count {
            assert_eq!(hear(&mut bystander, number).await.as_ref(), Some(&heard));
        }
    }
}

#[tokio::test]
async fn an_invalid_close_is_a_protocol_error() {
    play([
        fails("7.3.2", [frame(FIN | CLOSE, [0x03])], 1002),
        fails("7.3.6", [frame(FIN | CLOSE, [&b"\x03\xe8"[..], &[b'*'; 124]].concat())], 1002),
        fails(
            "7.5.1",
            [frame(FIN | CLOSE, [&b"\x03\xe8"[..], b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80edited"].concat())],
            1007,
        ),
    ])
    .await;
}

#[tokio::test]
async fn valid_close_codes_come_back_and_others_are_protocol_errors() {
    let good = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
    let bad = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535];
    let good = good.map(|code| fails("7.7.1 to 7.7.13", [close(code)], code));
    let bad = bad.map(|code| fails("7.9.1 to 7.9.11, 7.13.1 and 7.13.2", [close(code)], 1002));
    play(good.into_iter().chain(bad)).await;
}

#[tokio::test]
async fn a_message_of_64_kib_in_frames_of_1300_bytes_is_one_message() {
    let (sent, heard) = echoed_in(65_536);
    play([case("10.1.1", fragments(sent.chunks(1_300)), [heard])]).await;
}

#[tokio::test]
async fn a_refused_request_does_not_affect_the_next_request() {
    let bad = said(&json!({"type": "subscribe", "topic": ""}));
    let unknown = said(&json!({"type": "dance"}));
    let heard = [Heard::Error("bad_topic".into()), Heard::Error("unknown_action".into()), echo("good")];
    play([case("not in the suite", [bad, unknown, text(echoed("good"))], heard)]).await;
}
