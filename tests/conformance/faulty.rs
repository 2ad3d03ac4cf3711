//! Transports with planted faults: the suite finds each fault with the responsible check.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use janus_core::conformance::{Carrier, Check, Connecting, Outcome, Suite};
use janus_core::wire::{
    BytesMut, Codec, Command, Decoder, Delimited, ErrorCode, FrameError, Heartbeat, Limits, Opens, ServerEvent,
    Timestamp, TopicName,
};
use janus_core::{Incoming, Janus};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::lines::{Lines, LinesClient};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    DropsMessages,
    DoublesMessages,
    SwapsMessages,
    LeavesLineBreaksInData,
    ForgetsTheRestOfASplitFrame,
    LeavesInputBehind,
    NeverHasEnough,
    TakesEndlessFrames,
    IsNeverInTheMiddleOfAFrame,
    TakesAnyTopic,
    IgnoresUnsubscribe,
    RefusesInSilence,
    PanicsOnGarbage,
    PanicsOnFarewell,
    NeverTellsGaps,
    TellsGapsTooShort,
    ForgetsWhereToGoOn,
    AlwaysSaysResumed,
    SharesStateBetweenConnections,
    RefusesToPublish,
    ClosesOnPublish,
    NeverSaysFarewell,
    NeverSaysWhyNotServed,
    IsSilentAboutUnfinishedFrames,
}

/// The codec of the example with a fault.
#[derive(Debug)]
struct Faulty {
    fault: Fault,
    /// The number of messages so far.
    count: AtomicU32,
    kept: std::sync::Mutex<BytesMut>,
    harmed: Arc<AtomicBool>,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        Self { fault, count: AtomicU32::new(0), kept: std::sync::Mutex::default(), harmed: Arc::default() }
    }
}

impl Codec for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        let harms = (self.fault == Fault::SharesStateBetweenConnections).then(|| Arc::clone(&self.harmed));
        Box::new(FaultyDecoder { fault: self.fault, lines: Delimited::new(b'\n'), inner: Lines.decoder(), harms })
    }

    fn encode(&self, event: &ServerEvent<'_>, at: &Timestamp, out: &mut BytesMut) {
        match (self.fault, event) {
            (Fault::DropsMessages, ServerEvent::Message(_)) if self.count.fetch_add(1, Ordering::Relaxed) % 7 == 5 => {}
            (Fault::SharesStateBetweenConnections, ServerEvent::Message(_)) if self.harmed.load(Ordering::Relaxed) => {}
            (Fault::RefusesInSilence, ServerEvent::Error { .. }) | (Fault::NeverTellsGaps, ServerEvent::Gap { .. }) => {
            }
            (Fault::NeverSaysFarewell, ServerEvent::Bye(_))
            | (Fault::NeverSaysWhyNotServed, ServerEvent::Refused(_)) => {}
            (Fault::PanicsOnFarewell, ServerEvent::Bye(_)) => panic!("planted: no farewell"),
            (Fault::DoublesMessages, ServerEvent::Message(_)) => {
                Lines.encode(event, at, out);
                Lines.encode(event, at, out);
            }
            (Fault::SwapsMessages, ServerEvent::Message(_)) => {
                let mut kept = self.kept.lock().unwrap();
                if self.count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                    Lines.encode(event, at, &mut kept);
                } else {
                    Lines.encode(event, at, out);
                    out.extend_from_slice(&kept.split());
                }
            }
            (Fault::LeavesLineBreaksInData, ServerEvent::Message(message)) => {
                let (topic, seq) = (message.topic, message.position.seq);
                out.extend_from_slice(format!("msg {topic} {seq} {}\n", message.data).as_bytes());
            }
            (Fault::TellsGapsTooShort, &ServerEvent::Gap { topic, epoch, from, to }) => {
                Lines.encode(&ServerEvent::Gap { topic, epoch, from, to: to - 1 }, at, out);
            }
            (Fault::AlwaysSaysResumed, ServerEvent::Subscribed { topic, position, .. }) => {
                out.extend_from_slice(format!("resumed {topic} {position}\n").as_bytes());
            }
            _ => Lines.encode(event, at, out),
        }
    }

    fn opens(&self) -> Opens {
        Lines.opens()
    }

    fn heartbeat(&self) -> Heartbeat {
        Lines.heartbeat()
    }
}

struct FaultyDecoder {
    fault: Fault,
    lines: Delimited,
    inner: Box<dyn Decoder>,
    harms: Option<Arc<AtomicBool>>,
}

impl Decoder for FaultyDecoder {
    fn decode(&mut self, input: &mut &[u8], limits: &Limits) -> Option<Result<Command, FrameError>> {
        let before = *input;
        let decoded = match self.fault {
            Fault::TakesEndlessFrames => {
                let endless = Limits { max_frame_bytes: usize::MAX, ..*limits };
                self.inner.decode(input, &endless)
            }
            Fault::TakesAnyTopic => self.lines.next(input, limits.max_frame_bytes).map(|line| {
                let line = String::from_utf8_lossy(&line?).into_owned();
                let (_, topic) = line.split_once(' ').unwrap_or_default();
                Ok(Command::subscribe(TopicName::new(topic, usize::MAX)?))
            }),
            _ => self.inner.decode(input, limits),
        };
        match (self.fault, &decoded) {
            (Fault::ForgetsTheRestOfASplitFrame, None) => self.inner = Lines.decoder(),
            (Fault::LeavesInputBehind, None) if !before.is_empty() => *input = &before[before.len() - 1..],
            (Fault::NeverHasEnough, Some(Err(_))) => *input = before,
            (Fault::PanicsOnGarbage, Some(Err(error))) => panic!("planted: {error}"),
            (Fault::IgnoresUnsubscribe, Some(Ok(Command::Unsubscribe { .. }))) => return Some(Ok(Command::Ping)),
            (Fault::ForgetsWhereToGoOn, Some(Ok(Command::Subscribe { topic, .. }))) => {
                return Some(Ok(Command::subscribe(topic.clone())));
            }
            (Fault::RefusesToPublish, Some(Ok(Command::Publish { .. }))) => {
                return Some(Ok(Command::Refused(FrameError::new(ErrorCode::PublishNotAllowed, "planted"))));
            }
            (Fault::ClosesOnPublish, Some(Ok(Command::Publish { .. }))) => {
                return Some(Err(FrameError::new(ErrorCode::Internal, "planted")));
            }
            _ => {}
        }
        decoded
    }

    fn finish(&mut self, limits: &Limits) -> Option<Result<Command, FrameError>> {
        (self.fault != Fault::IsSilentAboutUnfinishedFrames).then(|| self.inner.finish(limits)).flatten()
    }

    fn buffered(&self) -> usize {
        self.inner.buffered()
    }

    fn memory(&self) -> usize {
        self.inner.memory()
    }

    fn is_mid_frame(&self) -> bool {
        self.fault != Fault::IsNeverInTheMiddleOfAFrame && self.inner.is_mid_frame()
    }
}

impl Drop for FaultyDecoder {
    fn drop(&mut self) {
        if let Some(harmed) = &self.harms {
            harmed.store(true, Ordering::Relaxed);
        }
    }
}

/// The outcome of a check over pipes.
async fn outcome(suite: Suite, check: Check) -> Outcome {
    let report = suite.checks(&[check]).deadline(Duration::from_secs(2)).seed(7).run().await;
    eprintln!("{report}");
    report.results[0].outcome.clone()
}

async fn assert_found(fault: Fault, checks: &[Check]) {
    for &check in checks {
        let suite = || Suite::new(Faulty::new(fault), LinesClient).carrier(Carrier::pipe());
        let found = outcome(suite(), check).await;
        assert!(matches!(found, Outcome::Failed(_)), "{fault:?} was not found by {check}: {found:?}");
        let unfounded = Suite::new(Faulty::new(Fault::None), LinesClient).carrier(Carrier::pipe());
        assert_eq!(outcome(unfounded, check).await, Outcome::Passed, "without a fault, {check}");
    }
}

macro_rules! found {
    ($($test:ident: $fault:ident by $($check:ident),+;)+) => {
        $(
            #[tokio::test]
            async fn $test() {
                assert_found(Fault::$fault, &[$(Check::$check),+]).await;
            }
        )+
    };
}

found! {
    a_codec_that_drops_messages_is_found: DropsMessages by Order, TopicCrash;
    a_codec_that_sends_messages_twice_is_found: DoublesMessages by Order, Drain;
    a_codec_that_swaps_messages_is_found: SwapsMessages by Order;
    a_codec_whose_data_can_end_frames_is_found: LeavesLineBreaksInData by Text;
    a_codec_that_forgets_the_rest_of_a_split_frame_is_found: ForgetsTheRestOfASplitFrame by Splits;
    a_decoder_that_leaves_input_behind_is_found: LeavesInputBehind by Splits;
    a_decoder_that_never_has_enough_is_found: NeverHasEnough by Garbage;
    a_codec_that_keeps_frames_of_any_length_is_found: TakesEndlessFrames by FrameLimit;
    a_decoder_that_denies_unfinished_frames_is_found: IsNeverInTheMiddleOfAFrame by FrameTimeout;
    a_codec_that_does_not_check_topics_is_found: TakesAnyTopic by TopicNames;
    a_codec_that_ignores_an_unsubscribe_is_found: IgnoresUnsubscribe by Unsubscribe;
    a_codec_that_refuses_in_silence_is_found: RefusesInSilence by Garbage, TopicLimit, TopicNames;
    a_codec_that_panics_on_garbage_is_found: PanicsOnGarbage by Garbage, RandomInput;
    a_codec_that_panics_on_a_farewell_is_found: PanicsOnFarewell by Drain;
    a_codec_that_never_tells_gaps_is_found: NeverTellsGaps by Gaps;
    a_codec_that_tells_gaps_too_short_is_found: TellsGapsTooShort by Gaps;
    a_codec_that_forgets_the_resume_position_is_found: ForgetsWhereToGoOn by Resume;
    a_codec_that_always_reports_resumed_is_found: AlwaysSaysResumed by ResumeTooLate;
    a_codec_without_farewells_is_found: NeverSaysFarewell by Farewell;
    a_codec_that_does_not_tell_refused_clients_why_is_found: NeverSaysWhyNotServed by Farewell;
    a_codec_that_is_silent_about_unfinished_frames_is_found: IsSilentAboutUnfinishedFrames by Unfinished;
    a_codec_that_shares_state_between_connections_is_found: SharesStateBetweenConnections by ConnectionCrash, Truncated;
}

/// A stream with an unlimited buffer, which reports every byte as sent and forgets the unsent bytes at its end.
struct Hoarder {
    inner: DuplexStream,
    hoard: Vec<u8>,
}

impl Hoarder {
    fn write_some(&mut self, cx: &mut Context<'_>) {
        while !self.hoard.is_empty() {
            let Poll::Ready(Ok(length)) = Pin::new(&mut self.inner).poll_write(cx, &self.hoard) else { return };
            self.hoard.drain(..length);
        }
    }
}

impl AsyncRead for Hoarder {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.write_some(cx);
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Hoarder {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.hoard.extend_from_slice(bytes);
        self.write_some(cx);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write_some(cx);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.hoard.clear();
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A carrier over pipes, with a wrapper at the server's end.
fn piped<S: AsyncRead + AsyncWrite + Send + 'static>(
    name: &str,
    at_the_server: impl Fn(DuplexStream) -> S + Copy + Send + Sync + 'static,
) -> Carrier {
    Carrier::own(name, move |builder, codec| {
        let connect = move |janus: &Janus| -> Connecting {
            let (client, server) = tokio::io::duplex(4_096);
            let served = janus.serve(Incoming::stream(at_the_server(server)), &codec, None);
            Box::pin(async move { served.map(|()| Box::pin(client) as _).map_err(io::Error::other) })
        };
        (builder, Box::new(connect))
    })
}

#[tokio::test]
async fn a_stream_with_an_unlimited_buffer_is_found() {
    for check in [Check::SlowClient, Check::Drain] {
        let suite = Suite::new(Lines, LinesClient);
        let found = outcome(suite.carrier(piped("hoard", |inner| Hoarder { inner, hoard: Vec::new() })), check).await;
        assert!(matches!(found, Outcome::Failed(_)), "{check}: {found:?}");
        let honest = Suite::new(Lines, LinesClient).carrier(piped("honest", |inner| inner));
        assert_eq!(outcome(honest, check).await, Outcome::Passed);
    }
}

#[tokio::test]
async fn a_failure_of_a_subscriber_names_the_answer_to_the_publisher() {
    let told = [(Fault::RefusesToPublish, "publish_not_allowed"), (Fault::ClosesOnPublish, "internal")];
    for (fault, code) in told {
        for check in [Check::Order, Check::FrameLimit] {
            let suite = Suite::new(Faulty::new(fault), LinesClient).carrier(Carrier::pipe());
            let Outcome::Failed(reason) = outcome(suite, check).await else {
                panic!("{fault:?} was not found by {check}")
            };
            assert!(reason.contains("nothing more came") && reason.contains(code), "{fault:?}, {check}: {reason}");
        }
    }
}

#[tokio::test]
async fn a_report_names_each_check_and_its_outcome() {
    let suite = Suite::new(Faulty::new(Fault::DoublesMessages), LinesClient).carrier(piped("own", |inner| inner));
    let checks = [Check::Order, Check::Blanks, Check::TopicNames, Check::ConnectionCrash];
    let report = suite.checks(&checks).seed(7).run().await;
    assert_eq!(report.results.iter().map(|result| result.check).collect::<Vec<_>>(), checks);
    assert_eq!((report.failures().count(), report.skipped().count()), (1, 2));
    let table = report.to_string();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("faulty: 1 passed, 1 failed, 2 skipped") && lines[0].ends_with("(seed 7)"), "{table}");
    assert!(lines[1].contains("own    order              FAILED") && lines[1].contains("came twice"), "{table}");
    assert!(lines[2].contains("text.blanks        skipped") && lines[2].contains("blanks"), "{table}");
    assert!(lines[3].contains("limits.names       passed"), "{table}");
    let panic = std::panic::catch_unwind(|| report.assert_passed()).unwrap_err();
    assert!(panic.downcast_ref::<String>().unwrap().contains("came twice"));
}
