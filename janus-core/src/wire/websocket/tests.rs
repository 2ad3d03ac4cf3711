//! The demands of RFC 6455 on a server, in the groups of the Autobahn suite, and the promise: no split of the stream
//! changes a command.

use std::time::Duration;

use proptest::prelude::*;

use bytes::BufMut;

use super::client::{self, ServerDecoder, ServerFrame};
use super::frames::HEADER_BYTES_MAX;
use super::*;
use crate::wire::{
    Command, Epoch, ErrorCode, FrameError, Limits, NumberedMessage, Open, Position, Publication, Refusal, TopicName, v1,
};

const LIMITS: Limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 255, max_topics: 128 };
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const AT: Timestamp = Timestamp { mega: 1_258, sec: 870_801, micro: 42 };

type Decoded = Vec<Result<Command, FrameError>>;

/// Any frame of a client; `first` is the header's first byte.
fn raw(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        0..=125 => frame.push(0x80 | payload.len() as u8),
        126..=65_535 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ MASK[at % 4]));
    frame
}

fn hello() -> Vec<u8> {
    client::text(r#"{"type":"hello"}"#, MASK)
}

/// A subscribe of `len` bytes.
fn subscribe_text(len: usize) -> String {
    let text = r#"{"type":"subscribe","topic":"t"}"#;
    format!("{text}{}", " ".repeat(len - text.len()))
}

fn subscribed() -> Result<Command, FrameError> {
    Ok(Command::Subscribe {
        topic: TopicName::new("t", 255).unwrap(),
        since: None,
        horizon: None,
        presence: false,
        member: None,
        id: None,
    })
}

fn opened() -> Result<Command, FrameError> {
    Ok(Command::Open(Box::default()))
}

fn pong(payload: &[u8]) -> Result<Command, FrameError> {
    let mut frame = vec![0x8a, payload.len() as u8];
    frame.extend_from_slice(payload);
    Ok(Command::Answer(frame.into()))
}

fn closed(payload: &[u8]) -> Result<Command, FrameError> {
    let mut frame = vec![0x88, payload.len() as u8];
    frame.extend_from_slice(payload);
    Ok(Command::Close(frame.into()))
}

fn decoder() -> FrameDecoder<V1Decoder> {
    FrameDecoder::new(V1Decoder::default(), Opens::WhenAsked, None)
}

#[track_caller]
fn decode_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, limits: &Limits) -> Decoded {
    let mut decoder = decoder();
    let mut decoded = Vec::new();
    for mut piece in pieces {
        while let Some(command) = decoder.decode(&mut piece, limits) {
            decoded.push(command);
        }
        assert!(piece.is_empty(), "None means that everything was taken");
        assert!(decoder.buffered() <= limits.max_frame_bytes + CONTROL_BYTES_MAX);
        assert!(decoder.buffered() == 0 || decoder.is_mid_frame());
        if let Some(framing) = &decoder.framing {
            let (message, control) = (&framing.message, &framing.control);
            assert!(!message.is_empty() || message.capacity() == 0, "nothing kept, no memory kept");
            assert!(!control.is_empty() || control.capacity() == 0, "nothing kept, no memory kept");
        }
    }
    decoded.extend(decoder.finish(limits));
    assert!(!decoder.is_mid_frame() && decoder.buffered() == 0);
    decoded
}

/// The commands after a hello, with a check that single bytes give the same commands.
#[track_caller]
fn decode(frames: &[Vec<u8>]) -> Decoded {
    let bytes = [hello(), frames.concat()].concat();
    let mut whole = decode_pieces([&bytes[..]], &LIMITS);
    assert_eq!(decode_pieces(bytes.chunks(1), &LIMITS), whole, "byte by byte");
    assert_eq!(decode_pieces(bytes.chunks(7), &LIMITS), whole, "in sevens");
    assert_eq!(whole.remove(0), opened());
    whole
}

/// The code in the close frame after a fatal error.
#[track_caller]
fn close_code(error: &FrameError) -> u16 {
    assert!(error.is_fatal(), "{error}");
    let refusal =
        Refusal { id: error.id, code: error.code, message: &error.message, reconnect_after: None, status: None };
    let mut out = BytesMut::new();
    WebSocket::v1().encode(&ServerEvent::Bye(refusal), &AT, &mut out);
    let mut rest = &out[..];
    let mut decoder = ServerDecoder::new();
    let mut byes = 0;
    loop {
        match decoder.decode(&mut rest) {
            Some(ServerFrame::Text(text)) => {
                assert!(text.starts_with("{\"type\":\"bye\",\"code\":"), "{text}");
                byes += 1;
            }
            Some(ServerFrame::Close { code: Some(code), reason }) => {
                assert!(rest.is_empty() && !reason.is_empty());
                assert_eq!(byes, i32::from(code >= 4_000), "a bye comes with a code of the protocol and with no other");
                return code;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The code in the close frame after these frames and a ping, which must stay unanswered, and everything decoded
/// before.
#[track_caller]
fn failed(frames: &[Vec<u8>]) -> (Decoded, u16) {
    let mut decoded = decode(&[frames, &[raw(0x89, b"unheard")]].concat());
    let Some(Err(error)) = decoded.pop() else { panic!("{decoded:?}") };
    let code = close_code(&error);
    (decoded, code)
}

#[track_caller]
fn fails(frames: &[Vec<u8>], code: u16) {
    assert_eq!(failed(frames), (Vec::new(), code));
}

mod group_1_framing {
    use super::*;

    #[test]
    fn a_text_up_to_the_limit_is_a_single_message() {
        for len in [32, 125, 126, 127, 128, 65_535, 65_536] {
            let text = subscribe_text(len);
            assert_eq!(client::text(&text, MASK), raw(0x81, text.as_bytes()), "{len}");
            assert_eq!(decode(&[client::text(&text, MASK)]), [subscribed()], "{len}");
            let bytes = [hello(), client::text(&text, MASK)].concat();
            assert_eq!(decode_pieces(bytes.chunks(997), &LIMITS), [opened(), subscribed()], "{len}");
        }
    }

    #[test]
    fn an_empty_text_is_no_json() {
        fails(&[client::text("", MASK)], ErrorCode::BadJson.number());
    }

    #[test]
    fn a_binary_message_of_any_length_is_unsupported() {
        for len in [0, 125, 126, 127, 128, 65_535, 65_536] {
            fails(&[raw(0x82, &vec![0xfe; len])], 1003);
        }
    }
}

mod group_2_pings {
    use super::*;

    #[test]
    fn a_ping_is_answered_with_its_payload() {
        for payload in [&b""[..], b"Hello, world!", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", &[0xfe; 125]] {
            assert_eq!(decode(&[raw(0x89, payload)]), [pong(payload)]);
            assert_eq!(raw(0x89, payload), client::ping(payload, MASK));
        }
    }

    #[test]
    fn a_ping_of_126_bytes_breaks_the_rules() {
        fails(&[raw(0x89, &[0xfe; 126])], 1002);
    }

    #[test]
    fn an_unasked_pong_is_only_a_sign_of_life() {
        for payload in [&b""[..], b"unsolicited"] {
            assert_eq!(decode(&[client::pong(payload, MASK), raw(0x89, b"x")]), [Ok(Command::Pong), pong(b"x")]);
        }
    }

    #[test]
    fn ten_pings_are_answered_in_their_order() {
        let payloads: Vec<_> = (0..10).map(|number| format!("payload-{number}")).collect();
        let pings: Vec<_> = payloads.iter().map(|payload| raw(0x89, payload.as_bytes())).collect();
        let pongs: Vec<_> = payloads.iter().map(|payload| pong(payload.as_bytes())).collect();
        assert_eq!(decode(&pings), pongs);
    }

    #[test]
    fn pings_are_answered_before_the_hello_and_pongs_mean_nothing_there() {
        let bytes = [raw(0x89, b"early"), raw(0x8a, b"early"), hello()].concat();
        assert_eq!(decode_pieces([&bytes[..]], &LIMITS), [pong(b"early"), opened()]);
    }
}

mod group_3_reserved_bits {
    use super::*;

    #[test]
    fn a_reserved_bit_breaks_the_rules_whatever_the_frame() {
        for rsv in 1..=7 {
            for (opcode, payload) in [(1, &b"{}"[..]), (2, &[0xff; 8]), (9, b"ping"), (10, b""), (8, b"")] {
                let good = client::text(&subscribe_text(40), MASK);
                let (before, code) = failed(&[good, raw(0x80 | rsv << 4 | opcode, payload)]);
                assert_eq!((before, code), (vec![subscribed()], 1002), "rsv {rsv}, opcode {opcode}");
            }
        }
    }
}

mod group_4_opcodes {
    use super::*;

    #[test]
    fn a_reserved_opcode_breaks_the_rules() {
        for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
            for payload in [&b""[..], b"reserved"] {
                fails(&[raw(0x80 | opcode, payload)], 1002);
                let good = client::text(&subscribe_text(40), MASK);
                assert_eq!(failed(&[good, raw(0x80 | opcode, payload)]), (vec![subscribed()], 1002));
            }
        }
    }
}

mod group_5_fragmentation {
    use super::*;

    #[test]
    fn control_frames_cannot_be_fragmented() {
        for opcode in [8, 9, 10] {
            fails(&[raw(opcode, b"frag"), raw(0x80, b"ment")], 1002);
        }
    }

    #[test]
    fn a_text_in_fragments_is_one_message() {
        let text = subscribe_text(40);
        for size in [1, 2, 13, 39, 40] {
            assert_eq!(decode(&[client::fragmented_text(&text, MASK, size)]), [subscribed()], "in frames of {size}");
        }
    }

    #[test]
    fn pings_between_fragments_are_answered_at_once() {
        let text = subscribe_text(40).into_bytes();
        let frames = [
            raw(0x01, &text[..5]),
            raw(0x89, b"one"),
            raw(0x00, &text[5..9]),
            raw(0x00, b""),
            raw(0x89, b"two"),
            raw(0x8a, b""),
            raw(0x80, &text[9..]),
        ];
        assert_eq!(decode(&frames), [pong(b"one"), pong(b"two"), Ok(Command::Pong), subscribed()]);
    }

    #[test]
    fn a_continuation_needs_something_to_continue() {
        let text = client::text(&subscribe_text(40), MASK);
        for first in [0x80, 0x00] {
            fails(&[raw(first, b"non-continuation payload"), text.clone()], 1002);
            let fragmented = client::fragmented_text(&subscribe_text(40), MASK, 20);
            let (before, code) = failed(&[fragmented, raw(first, b"nothing to continue"), text.clone()]);
            assert_eq!((before, code), (vec![subscribed()], 1002));
        }
    }

    #[test]
    fn a_message_ends_before_the_next_begins() {
        fails(&[raw(0x01, b"{\"type\":"), raw(0x81, b"\"ping\"}")], 1002);
        fails(&[raw(0x01, b"{\"type\":"), raw(0x01, b"\"ping\"}")], 1002);
        fails(&[raw(0x01, b"{\"type\":"), raw(0x82, b"\"ping\"}")], 1002);
    }

    #[test]
    fn fragments_of_a_binary_message_are_unsupported_from_the_first() {
        fails(&[raw(0x02, b"\xff"), raw(0x80, b"\xff")], 1003);
    }
}

mod group_6_utf8 {
    use super::*;

    /// Checks by the close code whether bytes are UTF-8: a valid text still fails, as bad JSON.
    #[track_caller]
    fn is_text(bytes: &[u8], expected: bool) {
        let code = if expected { ErrorCode::BadJson.number() } else { 1007 };
        fails(&[raw(0x81, bytes)], code);
        for cut in 0..=bytes.len() {
            fails(&[raw(0x01, &bytes[..cut]), raw(0x80, &bytes[cut..])], code);
        }
        assert_eq!(str::from_utf8(bytes).is_ok(), expected);
    }

    #[test]
    fn fragments_without_bytes_are_fragments() {
        fails(&[raw(0x01, b""), raw(0x00, b""), raw(0x80, b"")], ErrorCode::BadJson.number());
        let text = subscribe_text(40);
        assert_eq!(decode(&[raw(0x01, b""), raw(0x00, text.as_bytes()), raw(0x80, b"")]), [subscribed()]);
    }

    #[test]
    fn valid_text_is_taken_with_a_cut_at_any_byte() {
        let text = "{\"type\":\"subscribe\",\"topic\":\"Hello-µ@ßöäüàá-UTF-8!! κόσμε 😀\"}";
        let topic = TopicName::new("Hello-µ@ßöäüàá-UTF-8!! κόσμε 😀", 255).unwrap();
        let expected =
            [Ok(Command::Subscribe { topic, since: None, horizon: None, presence: false, member: None, id: None })];
        assert_eq!(decode(&[client::fragmented_text(text, MASK, 1)]), expected);
        for cut in 0..=text.len() {
            let (one, two) = text.as_bytes().split_at(cut);
            assert_eq!(decode(&[raw(0x01, one), raw(0x80, two)]), expected);
        }
    }

    #[test]
    fn invalid_text_is_refused_before_the_rest_comes() {
        // 6.3 and 6.4: "κόσμε", then a surrogate, respectively a code point that does not exist, then text.
        for bad in [&b"\xed\xa0\x80"[..], b"\xf4\x90\x80\x80"] {
            let start = [b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5", bad].concat();
            is_text(&[&start[..], b"edited"].concat(), false);
            // In a frame whose end does not come, and in a message whose end does not come.
            let mut cut_short = raw(0x81, &[&start[..], b"edited"].concat());
            cut_short.truncate(cut_short.len() - 6);
            for frame in [cut_short, raw(0x01, &start)] {
                let bytes = [hello(), frame].concat();
                let mut decoder = decoder();
                let mut input = &bytes[..];
                assert_eq!(decoder.decode(&mut input, &LIMITS), Some(opened()));
                let Some(Err(error)) = decoder.decode(&mut input, &LIMITS) else { panic!("it is not refused") };
                assert_eq!(close_code(&error), 1007);
            }
        }
    }

    #[test]
    fn valid_sequences_are_text() {
        for bytes in [
            &b"\xce\xba"[..],
            b"\xce\xba\xe1\xbd\xb9",
            b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5",
            b"\x00",
            b"\xc2\x80",
            b"\xe0\xa0\x80",
            b"\xf0\x90\x80\x80",
            b"\x7f",
            b"\xdf\xbf",
            b"\xef\xbf\xbf",
            b"\xf4\x8f\xbf\xbf",
            b"\xed\x9f\xbf",
            b"\xee\x80\x80",
            b"\xef\xbf\xbd",
            b"\xef\xbf\xbe",
            b"\xf0\x9f\xbf\xbe",
            b"\xf4\x8f\xbf\xbe",
            b"\xef\xbf\xb9",
            b"\xef\xbf\xbc",
        ] {
            is_text(bytes, true);
        }
    }

    #[test]
    fn invalid_sequences_are_not_text() {
        for bytes in [
            // Cut short.
            &b"\xce"[..],
            b"\xce\xba\xe1",
            b"\xce\xba\xe1\xbd",
            b"\xce\xba\xe1\xbd\xb9\xcf",
            b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce",
            // Longer than any code point.
            b"\xf8\x88\x80\x80\x80",
            b"\xfc\x84\x80\x80\x80\x80",
            b"\xf7\xbf\xbf\xbf",
            b"\xfb\xbf\xbf\xbf\xbf",
            b"\xfd\xbf\xbf\xbf\xbf\xbf",
            b"\xf4\x90\x80\x80",
            // Continuations of nothing.
            b"\x80",
            b"\xbf",
            b"\x80\xbf\x80\xbf",
            // Starts of nothing.
            b"\xc0 \xc1 ",
            b"\xe0 \xe1 ",
            b"\xf0 \xf1 ",
            b"\xfc \xfd ",
            // The last byte is missing.
            b"\xc0",
            b"\xe0\x80",
            b"\xf0\x80\x80",
            b"\xdf",
            b"\xef\xbf",
            b"\xf7\xbf\xbf",
            // Impossible bytes.
            b"\xfe",
            b"\xff",
            b"\xfe\xfe\xff\xff",
            // Longer than needed.
            b"\xc0\xaf",
            b"\xe0\x80\xaf",
            b"\xf0\x80\x80\xaf",
            b"\xf8\x80\x80\x80\xaf",
            b"\xc1\xbf",
            b"\xe0\x9f\xbf",
            b"\xf0\x8f\xbf\xbf",
            b"\xc0\x80",
            b"\xe0\x80\x80",
            b"\xf0\x80\x80\x80",
            // Surrogates.
            b"\xed\xa0\x80",
            b"\xed\xbf\xbf",
            b"\xed\xa0\x80\xed\xb0\x80",
            b"\xed\xaf\xbf\xed\xbf\xbf",
        ] {
            is_text(bytes, false);
        }
    }
}

mod group_7_close {
    use super::*;

    #[test]
    fn nothing_is_heard_after_a_close() {
        let close = client::close(1000, MASK);
        let after = [
            client::close(1000, MASK),
            raw(0x89, b"ping"),
            client::text(&subscribe_text(40), MASK),
            raw(0x80, b"continued"),
            vec![0xff; 100],
        ];
        for after in after {
            let text = client::text(&subscribe_text(40), MASK);
            let expected = [subscribed(), closed(&1000_u16.to_be_bytes())];
            assert_eq!(decode(&[text, close.clone(), after]), expected);
        }
    }

    #[test]
    fn a_close_between_fragments_ends_the_connection() {
        let frames = [raw(0x01, b"{"), client::close(1000, MASK), raw(0x80, b"}")];
        assert_eq!(decode(&frames), [closed(&1000_u16.to_be_bytes())]);
    }

    #[test]
    fn a_close_may_say_nothing_a_code_or_a_code_and_a_reason() {
        assert_eq!(decode(&[raw(0x88, b"")]), [closed(b"")]);
        assert_eq!(decode(&[raw(0x88, b"\x03\xe8")]), [closed(b"\x03\xe8")]);
        assert_eq!(decode(&[raw(0x88, b"\x03\xe8Hello World!")]), [closed(b"\x03\xe8")]);
        let longest = [&b"\x03\xe8"[..], &[b'*'; 123]].concat();
        assert_eq!(decode(&[raw(0x88, &longest)]), [closed(b"\x03\xe8")]);
    }

    #[test]
    fn a_close_of_one_byte_or_of_126_breaks_the_rules() {
        fails(&[raw(0x88, b"a")], 1002);
        fails(&[raw(0x88, &[&b"\x03\xe8"[..], &[b'*'; 124]].concat())], 1002);
    }

    #[test]
    fn a_reason_is_text() {
        fails(&[raw(0x88, b"\x03\xe8\xce\xba\xe1\xbd\xb9\xed\xa0\x80edited")], 1007);
    }

    #[test]
    fn codes_allowed_to_clients_are_echoed() {
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
            assert_eq!(decode(&[client::close(code, MASK)]), [closed(&code.to_be_bytes())], "{code}");
        }
    }

    #[test]
    fn forbidden_codes_break_the_rules() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
            fails(&[client::close(code, MASK)], 1002);
        }
    }
}

mod group_10_size_of_fragments {
    use super::*;

    #[test]
    fn a_message_of_64_kib_in_frames_of_1300_bytes_is_one() {
        let frames = client::fragmented_text(&subscribe_text(65_536), MASK, 1_300);
        assert_eq!(decode(&[frames]), [subscribed()]);
    }
}

mod limits {
    use super::*;

    #[test]
    fn a_message_over_the_limit_is_refused_by_its_header() {
        fails(&[client::text(&subscribe_text(65_537), MASK)], 1009);
        fails(&[client::fragmented_text(&subscribe_text(65_537), MASK, 1_300)], 1009);
        let mut decoder = decoder();
        let mut input: &[u8] = b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00";
        let Some(Err(error)) = decoder.decode(&mut input, &LIMITS) else { panic!("it is not refused") };
        assert_eq!(close_code(&error), 1009);
        assert_eq!((decoder.buffered(), decoder.is_mid_frame()), (0, false));
    }

    #[test]
    fn a_frame_without_a_mask_breaks_the_rules() {
        for frame in [&b"\x81\x02{}"[..], b"\x89\x00", b"\x88\x00"] {
            fails(&[frame.to_vec()], 1002);
        }
    }

    #[test]
    fn a_length_in_too_many_bytes_breaks_the_rules() {
        for header in [
            &b"\x81\xfe\x00\x02"[..],
            b"\x81\xff\x00\x00\x00\x00\x00\x00\x00\x02",
            b"\x81\xff\x00\x00\x00\x00\x00\x00\xff\xff",
            b"\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00",
            b"\x89\xfe\x00\x02",
        ] {
            fails(&[[header, &MASK, b"{}"].concat()], 1002);
        }
    }

    #[test]
    fn a_message_received_byte_by_byte_is_not_rescanned() {
        // A decoder that rescans would read 10^12 bytes here.
        let limits = Limits { max_frame_bytes: 2 << 20, ..LIMITS };
        let text = subscribe_text(1 << 20);
        for frames in [client::text(&text, MASK), client::fragmented_text(&text, MASK, 1)] {
            let bytes = [hello(), frames].concat();
            assert_eq!(decode_pieces(bytes.chunks(1), &limits), [opened(), subscribed()]);
        }
    }

    #[test]
    fn a_decoder_between_messages_is_small_and_owns_nothing() {
        assert_eq!(size_of::<FrameDecoder<V1Decoder>>(), 16);
        let request = HttpRequest { target: "/ws".into(), ..HttpRequest::default() };
        let mut decoder = FrameDecoder::new(V1Decoder::default(), Opens::WhenAsked, Some(request));
        let bytes = [hello(), raw(0x89, b"ping"), client::text(&subscribe_text(400), MASK)].concat();
        let mut input = &bytes[..];
        while decoder.decode(&mut input, &LIMITS).is_some() {}
        assert!(decoder.request().is_none() && !decoder.is_mid_frame() && decoder.framing.is_none());
        assert_eq!((decoder.buffered(), decoder.memory()), (0, 0));
    }

    #[test]
    fn the_end_of_the_stream_in_the_middle_of_a_message_is_reported() {
        let whole = client::fragmented_text(&subscribe_text(40), MASK, 20);
        for len in 1..whole.len() {
            let decoded = decode(&[whole[..len].to_vec()]);
            let [Err(error)] = &decoded[..] else { panic!("{decoded:?}") };
            assert_eq!((error.code, error.is_fatal()), (ErrorCode::UnfinishedFrame, true));
        }
        assert_eq!(decode(&[whole]), [subscribed()]);
    }
}

mod protocol {
    use super::*;

    #[test]
    fn the_request_after_a_refused_request_is_heard() {
        let decoded = decode(&[
            client::text(r#"{"type":"subscribe","id":3,"topic":""}"#, MASK),
            client::text(r#"{"type":"ping"}"#, MASK),
        ]);
        let [Ok(Command::Refused(error)), Ok(Command::Answer(answer))] = &decoded[..] else { panic!("{decoded:?}") };
        assert_eq!((error.code, error.id), (ErrorCode::BadTopic, Some(3)));
        assert_eq!(answer[..], *b"\x81\x0f{\"type\":\"pong\"}");
    }

    #[test]
    fn input_before_the_hello_is_refused_and_closes() {
        let bytes = [client::text(r#"{"type":"ping"}"#, MASK), hello()].concat();
        let decoded = decode_pieces([&bytes[..]], &LIMITS);
        let [Err(error)] = &decoded[..] else { panic!("{decoded:?}") };
        assert_eq!(close_code(error), ErrorCode::BadOpen.number());
    }

    #[test]
    fn the_open_has_the_request_at_the_start_of_the_connection() {
        let request = HttpRequest { method: "GET".into(), target: "/ws?a=b".into(), ..HttpRequest::default() };
        let mut decoder = WebSocket::v1().decoder_for(request.clone());
        let bytes = hello();
        let open = Open { request: Some(Box::new(request)), ..Open::default() };
        assert_eq!(decoder.decode(&mut &bytes[..], &LIMITS), Some(Ok(Command::Open(Box::new(open)))));
        assert_eq!(WebSocket::v1().decoder().decode(&mut &bytes[..], &LIMITS), Some(opened()));
    }

    #[test]
    fn a_message_is_one_text_frame_of_any_length() {
        let topic = TopicName::new("news", 255).unwrap();
        let empty = encoded(&topic, "").len();
        for len in [0, 125 - empty, 126 - empty, 65_535 - empty, 65_536 - empty, 100_000] {
            let data = "x".repeat(len);
            let text = encoded(&topic, &data);
            assert!(text.ends_with(&format!("\"data\":\"{data}\"}}")));
        }
    }

    /// The text of an encoded message, with a check of its frame.
    fn encoded(topic: &TopicName, data: &str) -> String {
        let data = format!("\"{data}\"");
        let publication = Publication::new(topic, "1", "2", &data).unwrap();
        let message = NumberedMessage {
            topic,
            topic_json: publication.topic_json(),
            position: Position { epoch: Epoch::new(1), seq: 2 },
            horizon: None,
            timestamp: AT,
            event: publication.event(),
            message_id: publication.message_id(),
            data: publication.data(),
            base64: publication.base64(),
        };
        let mut out = BytesMut::from(&b"before"[..]);
        WebSocket::v1().encode(&ServerEvent::Message(message), &AT, &mut out);
        let mut rest = out.strip_prefix(b"before").unwrap();
        let mut decoder = ServerDecoder::new();
        let Some(ServerFrame::Text(text)) = decoder.decode(&mut rest) else { panic!("it is no text") };
        assert!(rest.is_empty());
        text.to_owned()
    }

    #[test]
    fn events_unknown_to_the_protocol_are_no_frames() {
        let mut out = BytesMut::new();
        WebSocket::v1().encode(&ServerEvent::Attached { topics: &[], session: "" }, &AT, &mut out);
        assert!(out.is_empty());
    }

    #[test]
    fn a_long_reason_is_cut_to_the_size_of_a_close() {
        let message = format!("{}é", "x".repeat(122));
        let refusal =
            Refusal { id: None, code: ErrorCode::BadFrame, message: &message, reconnect_after: None, status: None };
        let mut out = BytesMut::new();
        WebSocket::v1().encode(&ServerEvent::Refused(refusal), &AT, &mut out);
        let mut decoder = ServerDecoder::new();
        let reason = &message[..122];
        assert_eq!(decoder.decode(&mut &out[..]), Some(ServerFrame::Close { code: Some(1002), reason }));
    }

    #[test]
    fn every_code_closes_with_a_number_allowed_to_servers() {
        for code in ErrorCode::ALL.iter().copied() {
            let closed = close_code(&FrameError::new(code, "for people").into_fatal());
            let expected = match code {
                ErrorCode::BadFrame => 1002,
                ErrorCode::UnsupportedFrame => 1003,
                ErrorCode::BadUtf8 => 1007,
                ErrorCode::FrameTooLarge => 1009,
                code => code.number(),
            };
            assert_eq!(closed, expected, "{code}");
        }
    }

    #[test]
    fn a_heartbeat_is_a_ping_without_payload() {
        let Heartbeat::Always(ping) = WebSocket::v1().heartbeat() else { panic!("silence is not probed") };
        assert_eq!(ServerDecoder::new().decode(&mut &ping[..]), Some(ServerFrame::Ping(b"")));
        assert_eq!((WebSocket::v1().opens(), WebSocket::v1().tells_gaps()), (Opens::WhenAsked, true));
    }
}

mod with_a_client_library {
    use std::io::{self, Read, Write};

    use tungstenite::protocol::frame::coding::CloseCode;
    use tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

    use super::*;

    /// The output of the library, and its unread input.
    #[derive(Default)]
    struct Stream {
        sent: Vec<u8>,
        unread: BytesMut,
    }

    impl Read for Stream {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(self.unread.len());
            buffer[..length].copy_from_slice(&self.unread.split_to(length));
            Ok(length)
        }
    }

    impl Write for Stream {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.sent.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn both_sides_understand_each_other() {
        let config = WebSocketConfig::default();
        let mut client = tungstenite::WebSocket::from_raw_socket(Stream::default(), Role::Client, Some(config));
        client.send(Message::text(v1::client::hello(None, None))).unwrap();
        client.send(Message::text(subscribe_text(300))).unwrap();
        client.send(Message::text(subscribe_text(65_536))).unwrap();
        client.send(Message::Ping("are you there?".into())).unwrap();
        let sent = std::mem::take(&mut client.get_mut().sent);
        let decoded = decode_pieces([&sent[..]], &LIMITS);
        assert_eq!(decoded, [opened(), subscribed(), subscribed(), pong(b"are you there?")]);

        let Some(Ok(Command::Answer(answer))) = decoded.last() else { panic!("{decoded:?}") };
        let mut out = BytesMut::from(&answer[..]);
        let topic = TopicName::new("t", 255).unwrap();
        WebSocket::v1().encode(&ServerEvent::Unsubscribed { id: None, topic: &topic }, &AT, &mut out);
        let refusal = Refusal { id: None, code: ErrorCode::Banned, message: "no", reconnect_after: None, status: None };
        WebSocket::v1().encode(&ServerEvent::Bye(refusal), &AT, &mut out);
        client.get_mut().unread = out;
        assert_eq!(client.read().unwrap(), Message::Pong("are you there?".into()));
        assert_eq!(client.read().unwrap(), Message::text(r#"{"type":"unsubscribed","topic":"t"}"#));
        assert_eq!(
            client.read().unwrap(),
            Message::text(r#"{"type":"bye","code":4417,"error":"banned","message":"no"}"#)
        );
        let close = CloseFrame { code: CloseCode::Library(4417), reason: "banned".into() };
        assert_eq!(client.read().unwrap(), Message::Close(Some(close)));
    }
}

mod upgrade {
    use super::*;

    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");

    fn request(changes: &[(&str, &str)]) -> HttpRequest {
        let mut headers = vec![
            ("host", "localhost"),
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-version", "13"),
            KEY,
        ];
        headers.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
        headers.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        HttpRequest { method: "GET".into(), target: "/ws".into(), headers, ..HttpRequest::default() }
    }

    #[track_caller]
    fn accepted(changes: &[(&str, &str)]) -> String {
        let head = WebSocket::v1().accept(&request(changes)).unwrap();
        String::from_utf8(head.into()).unwrap()
    }

    #[track_caller]
    fn status(changes: &[(&str, &str)]) -> u16 {
        WebSocket::v1().accept(&request(changes)).unwrap_err().status
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let head = accepted(&[]);
        let (answer, date) = head.split_once("date: ").unwrap();
        assert_eq!(
            answer,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        );
        assert!(httpdate::parse_http_date(date.trim_end()).is_ok(), "{date}");
    }

    #[test]
    fn tokens_are_found_in_lists_whatever_their_case() {
        let head = accepted(&[
            ("connection", "keep-alive"),
            ("connection", "foo , UPGRADE"),
            ("upgrade", "h2c, WebSocket"),
            ("sec-websocket-version", " 13 "),
        ]);
        assert!(head.starts_with("HTTP/1.1 101 "));
    }

    #[test]
    fn our_subprotocol_is_chosen_among_the_offered_subprotocols() {
        let line = "\r\nSec-WebSocket-Protocol: janus.v1.json\r\n";
        let name = "sec-websocket-protocol";
        for named in
            [&[(name, SUBPROTOCOL)][..], &[(name, "chat, janus.v1.json")], &[(name, "chat"), (name, SUBPROTOCOL)]]
        {
            assert!(accepted(named).contains(line), "{named:?}");
        }
        assert!(!accepted(&[(name, ", ")]).contains("Protocol:"));
        for named in ["chat", "janus.v2.json", "JANUS.V1.JSON", "janus.v1.json2"] {
            assert_eq!(status(&[(name, named)]), 400, "{named}");
        }
    }

    #[test]
    fn a_missing_part_of_a_request_is_told_with_a_status() {
        assert_eq!(status(&[("upgrade", "")]), 426);
        assert_eq!(status(&[("upgrade", "websockets")]), 426);
        assert_eq!(status(&[("connection", "")]), 400);
        assert_eq!(status(&[("connection", "keep-alive")]), 400);
        for version in ["", "8", "12", "013", "13, 8"] {
            assert_eq!(status(&[("sec-websocket-version", version)]), 426, "{version}");
        }
        for key in [
            "",
            "x",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZQo5",
            "SGVsbG8sIHdvcmxkIQ==",
            "dGhlIHNhbXBsZSBub25j*Q==",
        ] {
            assert_eq!(status(&[("sec-websocket-key", key)]), 400, "{key}");
        }
        assert_eq!(status(&[KEY, KEY]), 400);
        let post = HttpRequest { method: "POST".into(), ..request(&[]) };
        assert_eq!(WebSocket::v1().accept(&post).unwrap_err().headers(), [("allow", "GET")]);
        let old = WebSocket::v1().accept(&request(&[("sec-websocket-version", "8")])).unwrap_err();
        assert!(old.headers().contains(&("sec-websocket-version", "13")));
    }

    #[test]
    fn the_request_built_by_the_client_is_accepted() {
        let bytes = client::upgrade("localhost", "/ws", KEY.1);
        let text = str::from_utf8(&bytes).unwrap();
        let mut lines = text.strip_suffix("\r\n\r\n").unwrap().split("\r\n");
        assert_eq!(lines.next(), Some("GET /ws HTTP/1.1"));
        let headers = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        let request = HttpRequest {
            method: "GET".into(),
            target: "/ws".into(),
            headers: headers.collect(),
            ..HttpRequest::default()
        };
        let head = WebSocket::v1().accept(&request).unwrap();
        assert!(String::from_utf8_lossy(&head).contains("\r\nSec-WebSocket-Protocol: janus.v1.json\r\n"));
    }
}

mod reading_the_server {
    use super::*;

    fn frames(bytes: &[u8], size: usize) -> Vec<String> {
        let mut decoder = ServerDecoder::with_max_frame_bytes(200);
        let mut frames = Vec::new();
        for mut piece in bytes.chunks(size) {
            while let Some(frame) = decoder.decode(&mut piece) {
                frames.push(format!("{frame:?}"));
            }
            assert!(piece.is_empty());
            assert!(decoder.buffered() <= 214);
        }
        frames
    }

    #[test]
    fn frames_are_the_same_at_any_split() {
        let mut bytes = BytesMut::from(&b"\x89\x00\x8a\x01x"[..]);
        MessageWriter::new(&mut bytes).text(&"a".repeat(126));
        MessageWriter::new(&mut bytes).text(&"b".repeat(200));
        bytes.put_slice(b"\x88\x00\x88\x04\x03\xe8ok");
        let whole = frames(&bytes, bytes.len());
        assert_eq!(whole.len(), 6, "{whole:?}");
        for size in 1..bytes.len() {
            assert_eq!(frames(&bytes, size), whole, "in pieces of {size}");
        }
    }

    #[test]
    fn unexpected_frames_end_the_reading() {
        for frame in [
            &b"\x81\x81\x00\x00\x00\x00a"[..],
            b"\x01\x01a",
            b"\x81\x01\xff",
            b"\x81\x7e\x00\xc9",
            b"\xc1\x00",
            b"\x83\x00",
        ] {
            for size in 1..=frame.len() {
                let bytes = [frame, b"\x89\x00"].concat();
                assert_eq!(frames(&bytes, size), ["Unexpected"], "{frame:?}");
            }
        }
    }
}

/// Frames as sent by clients, and frames forbidden to clients.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let texts = proptest::sample::select(vec![
        r#"{"type":"hello"}"#,
        r#"{"type":"ping"}"#,
        r#"{"type":"publish","id":1,"topic":"é","data":[1]}"#,
        r#"{"type":"subscribe","topic":""}"#,
        "{",
        "😀",
    ]);
    let payload = proptest::collection::vec(any::<u8>(), 0..130);
    prop_oneof![
        4 => (texts.clone(), any::<[u8; 4]>(), 1_usize..40)
            .prop_map(|(text, mask, size)| client::fragmented_text(text, mask, size)),
        4 => (texts, any::<[u8; 4]>()).prop_map(|(text, mask)| client::text(text, mask)),
        2 => payload.clone().prop_map(|payload| client::ping(&payload[..payload.len().min(125)], MASK)),
        1 => (any::<u8>(), payload.clone()).prop_map(|(first, payload)| raw(first, &payload)),
        1 => any::<u16>().prop_map(|code| client::close(code, MASK)),
        1 => payload,
    ]
}

proptest! {
    #[test]
    fn no_cut_of_the_stream_changes_a_command(
        frames in proptest::collection::vec(any_frame(), 0..8),
        sizes in proptest::collection::vec(1_usize..50, 1..6),
        small in any::<bool>(),
    ) {
        let limits = Limits { max_frame_bytes: if small { 40 } else { 4_096 }, ..LIMITS };
        let bytes = [hello(), frames.concat()].concat();
        let whole = decode_pieces([&bytes[..]], &limits);
        let mut rest = &bytes[..];
        let mut sizes = sizes.iter().cycle();
        let pieces = std::iter::from_fn(|| {
            let (piece, after) = rest.split_at((*sizes.next()?).min(rest.len()));
            rest = after;
            (!piece.is_empty()).then_some(piece)
        });
        prop_assert_eq!(decode_pieces(pieces, &limits), whole);
    }

    #[test]
    fn any_bytes_are_decoded_without_a_panic_and_within_the_limit(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        size in 1_usize..400,
    ) {
        let limits = Limits { max_frame_bytes: 64, ..LIMITS };
        decode_pieces(bytes.chunks(size), &limits);
        let mut decoder = ServerDecoder::with_max_frame_bytes(64);
        for mut piece in bytes.chunks(size) {
            while decoder.decode(&mut piece).is_some() {}
            prop_assert!(decoder.buffered() <= 64 + HEADER_BYTES_MAX);
        }
    }

    #[test]
    fn a_masked_message_is_unmasked_again(text in "\\PC*", mask in any::<[u8; 4]>(), size in 1_usize..64) {
        let quoted = serde_json::Value::from(text.clone()).to_string();
        let hello = v1::client::hello(None, Some(&text));
        prop_assert!(hello.contains(&quoted));
        let bytes = client::fragmented_text(&hello, mask, size);
        let open = Open { auth: Some(text), ..Open::default() };
        prop_assert_eq!(decode_pieces([&bytes[..]], &LIMITS), [Ok(Command::Open(Box::new(open)))]);
    }
}

#[test]
fn a_gap_and_a_bye_are_whole_frames() {
    let topic = TopicName::new("t", 255).unwrap();
    let mut out = BytesMut::new();
    WebSocket::v1().encode(&ServerEvent::Gap { topic: &topic, epoch: Epoch::new(1), from: 2, to: 3 }, &AT, &mut out);
    let refusal = Refusal {
        id: None,
        code: ErrorCode::ServerDraining,
        message: "later",
        reconnect_after: Some(Duration::from_secs(1)),
        status: None,
    };
    WebSocket::v1().encode(&ServerEvent::Bye(refusal), &AT, &mut out);
    let mut decoder = ServerDecoder::new();
    let mut rest = &out[..];
    assert!(matches!(decoder.decode(&mut rest), Some(ServerFrame::Text(text)) if text.contains("\"gap\"")));
    assert!(
        matches!(decoder.decode(&mut rest), Some(ServerFrame::Text(text)) if text.contains("\"reconnect_after_ms\":1000"))
    );
    let close = ServerFrame::Close { code: Some(4002), reason: "server_draining" };
    assert_eq!(decoder.decode(&mut rest), Some(close));
    assert!(rest.is_empty());
}

mod other_protocols {
    use super::*;
    use crate::wire::ClientId;

    /// Takes binary messages, in which each byte is a request: the length of an answer. A 0 is no request.
    #[derive(Clone, Debug)]
    struct Lengths(Opens);

    #[derive(Debug, Default)]
    struct LengthsDecoder {
        name: Option<ClientId>,
    }

    impl MessageProtocol for Lengths {
        type Decoder = LengthsDecoder;

        fn name(&self) -> &'static str {
            "lengths"
        }

        fn decoder(&self, _: Option<&HttpRequest>) -> LengthsDecoder {
            LengthsDecoder::default()
        }

        fn encode(&self, event: &ServerEvent<'_>, _: &Timestamp, out: &mut MessageWriter<'_>) {
            if let ServerEvent::Bye(_) = event {
                out.text("two");
                out.binary(b"words");
            }
        }

        fn opens(&self) -> Opens {
            self.0
        }

        fn heartbeat(&self, _: &mut MessageWriter<'_>) -> Answers {
            Answers::Never
        }
    }

    impl MessageDecoder for LengthsDecoder {
        type Scratch = Vec<u8>;

        const TAKES: Takes = Takes::Binary;

        fn opened(&mut self, _: &str, client: ClientId) {
            self.name = Some(client);
        }

        fn decode(
            &mut self,
            message: &mut ClientMessage<'_>,
            reading: &mut Reading<'_, Vec<u8>>,
        ) -> Option<Result<Command, FrameError>> {
            let (first, rest) = match message.bytes() {
                // The last length first, and then those in the middle.
                [254, rest @ .., last] => (last, rest),
                // A rest that is no part of the message.
                [253, ..] => (&4, &[1][..]),
                bytes => bytes.split_first()?,
            };
            *message = ClientMessage::Binary(rest);
            reading.scratch.push(*first);
            match first {
                0 => None,
                255 => Some(Err(FrameError::new(ErrorCode::BadRequest, "too long"))),
                length => {
                    Some(Ok(Command::Answer(MessageWriter::bytes(|out| out.binary(&vec![b'x'; usize::from(*length)])))))
                }
            }
        }
    }

    fn answers(bytes: &[u8], size: usize, opens: Opens) -> Vec<String> {
        let mut decoder = WebSocket::new(Lengths(opens)).decoder();
        let mut seen = Vec::new();
        for mut piece in bytes.chunks(size) {
            while let Some(decoded) = decoder.decode(&mut piece, &LIMITS) {
                seen.push(match decoded {
                    Ok(Command::Answer(answer)) => format!("{} bytes", answer.len()),
                    Ok(Command::Open(_)) => "open".to_owned(),
                    Ok(Command::Refused(error)) | Err(error) => error.code.to_string(),
                    other => format!("{other:?}"),
                });
            }
            assert!(piece.is_empty());
        }
        assert_eq!((decoder.buffered(), decoder.memory()), (0, 0));
        seen
    }

    #[test]
    fn a_message_with_several_requests_gives_as_many_commands_at_any_split() {
        let bytes =
            [raw(0x82, &[3, 255, 5]), raw(0x02, &[1]), raw(0x89, b""), raw(0x80, &[2, 0, 9]), raw(0x82, &[])].concat();
        // A ping between the frames of a message is answered first.
        let expected = ["open", "5 bytes", "bad_request", "7 bytes", "2 bytes", "3 bytes", "4 bytes"];
        for size in [1, 2, 7, 1_000] {
            assert_eq!(answers(&bytes, size, Opens::AtOnce), expected, "in pieces of {size}");
        }
        assert_eq!(answers(&bytes, 5, Opens::WhenAsked), expected[1..]);
        assert_eq!(answers(&raw(0x81, b"text"), 100, Opens::WhenAsked), ["unsupported_frame"]);
    }

    #[test]
    fn the_rest_of_a_message_may_be_any_part_of_it_or_none() {
        for size in [1, 1_000] {
            let read = |message: &[u8]| answers(&raw(0x82, message), size, Opens::WhenAsked);
            assert_eq!(read(&[254, 3, 4, 5]), ["7 bytes", "5 bytes", "6 bytes"]);
            assert_eq!(read(&[254, 254, 3, 4, 5]), ["7 bytes", "6 bytes", "5 bytes"]);
            assert_eq!(read(&[253, 9, 9]), ["6 bytes", "3 bytes"]);
            assert_eq!(read(&[7, 253, 9, 9]), ["9 bytes", "6 bytes", "3 bytes"]);
        }
    }

    #[test]
    fn a_connection_is_opened_at_once_with_its_request_and_before_any_input() {
        let codec = WebSocket::new(Lengths(Opens::AtOnce));
        assert_eq!(codec.opens(), Opens::WhenAsked, "its decoder opens it");
        let request = HttpRequest { target: "/lengths".into(), ..HttpRequest::default() };
        let mut decoder = codec.decoder_for(request.clone());
        assert_eq!(decoder.request(), Some(&request));
        let open = Open { request: Some(Box::new(request)), ..Open::default() };
        assert_eq!(decoder.decode(&mut &[][..], &LIMITS), Some(Ok(Command::Open(Box::new(open)))));
        assert_eq!((decoder.decode(&mut &[][..], &LIMITS), decoder.request(), decoder.memory()), (None, None, 0));
    }

    #[test]
    fn a_farewell_of_several_messages_comes_before_the_close() {
        let codec = WebSocket::new(Lengths(Opens::AtOnce));
        assert_eq!((codec.heartbeat(), codec.answers()), (Heartbeat::Never, Answers::Never));
        let bye = |code| {
            let refusal = Refusal { id: None, code, message: "m", reconnect_after: None, status: None };
            let mut out = BytesMut::new();
            codec.encode(&ServerEvent::Bye(refusal), &AT, &mut out);
            out
        };
        let words = b"\x81\x03two\x82\x05words";
        assert!(bye(ErrorCode::Banned).starts_with(&[&words[..], b"\x88\x08\x11\x41banned"].concat()));
        assert_eq!(bye(ErrorCode::BadFrame)[..], *b"\x88\x03\x03\xeam", "nothing can be trusted after such a frame");
    }
}
