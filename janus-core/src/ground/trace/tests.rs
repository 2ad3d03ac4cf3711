use futures_util::FutureExt as _;

use super::*;

fn tell(tracer: &Tracer, kind: TraceKind, from: &str, to: &str) {
    tracer.tell(kind, || Said { from: from.into(), to: to.into(), about: String::new() });
}

/// The waiting lines, and whether the trace then is over.
fn taken(trace: &mut Trace) -> (Vec<TraceLine>, bool) {
    let mut lines = Vec::new();
    loop {
        match trace.next().now_or_never() {
            Some(Some(line)) => lines.push(line),
            over => return (lines, over.is_some()),
        }
    }
}

fn senders(lines: &[TraceLine]) -> Vec<&str> {
    lines.iter().map(|line| &*line.from).collect()
}

#[test]
fn without_a_trace_nothing_is_put_into_words() {
    let tracer = Arc::new(Tracer::default());
    let told = || tracer.tell(TraceKind::Open, || panic!("nobody wants to know"));
    told();
    let trace = tracer.start(TraceOptions::default().kinds([TraceKind::Close]), None).unwrap();
    told();
    drop(trace);
    assert!(!tracer.is_on());
}

#[test]
fn a_trace_has_the_kinds_and_the_names_that_it_asks_for() {
    let tracer = Arc::new(Tracer::default());
    let start = |options: TraceOptions| tracer.start(options, None).unwrap();
    let mut all = start(TraceOptions::default());
    let mut kinds = start(TraceOptions::default().kinds([TraceKind::Open, TraceKind::Publish]));
    let mut names = start(TraceOptions::default().names(["client 2", "topic n*"]));
    let mut both = start(TraceOptions::default().names(["client 2"]).kinds([TraceKind::Publish]));
    tell(&tracer, TraceKind::Open, "client 1", "sessions");
    tell(&tracer, TraceKind::Open, "client 2", "sessions");
    tell(&tracer, TraceKind::Publish, "client 1", "topic news");
    tell(&tracer, TraceKind::Publish, "client 2", "topic sports");
    tell(&tracer, TraceKind::Close, "client 22", "transport_supervisor");
    let counts = [&mut all, &mut kinds, &mut names, &mut both].map(|trace| taken(trace).0.len());
    assert_eq!(counts, [5, 4, 3, 1]);
    let named = TraceKind::ALL.map(|kind| kind.as_str().parse());
    assert_eq!(named, TraceKind::ALL.map(Ok));
    assert_eq!("Open".parse::<TraceKind>(), Err(UnknownKind));
}

#[test]
fn a_trace_ends_with_its_last_line_and_lets_go_of_its_place() {
    let tracer = Arc::new(Tracer::default());
    let mut trace = tracer.start(TraceOptions::default().count(2), None).unwrap();
    for sender in ["a", "b", "c"] {
        tell(&tracer, TraceKind::Open, sender, "sessions");
    }
    assert!(!trace.is_complete());
    let (lines, is_over) = taken(&mut trace);
    assert_eq!((senders(&lines), is_over, trace.is_complete()), (vec!["a", "b"], true, true));
    assert!(!tracer.is_on());
    assert_eq!(trace.lost(), 0, "a line that nobody asked for is not lost");
}

#[test]
fn lines_that_find_no_room_are_counted_where_they_are_missing() {
    let tracer = Arc::new(Tracer::default());
    let mut slow = tracer.start(TraceOptions::default(), None).unwrap();
    let mut other = tracer.start(TraceOptions::default(), None).unwrap();
    for _ in 0..MAX_WAITING + 5 {
        tell(&tracer, TraceKind::Open, "a", "sessions");
        assert_eq!(taken(&mut other).0.len(), 1, "another reader is not held up");
    }
    assert_eq!(slow.lost(), 5);
    let (lines, is_over) = taken(&mut slow);
    assert_eq!((lines.len(), is_over), (MAX_WAITING, false));
    assert!(lines.iter().all(|line| line.lost == 0));
    tell(&tracer, TraceKind::Open, "a", "sessions");
    tell(&tracer, TraceKind::Open, "a", "sessions");
    let lost: Vec<u64> = taken(&mut slow).0.iter().map(|line| line.lost).collect();
    assert_eq!((lost, slow.lost()), (vec![5, 0], 5));
    // Long names have less room.
    let long = "x".repeat(MAX_WAITING_BYTES / 4);
    for _ in 0..4 {
        tell(&tracer, TraceKind::Open, &long, "sessions");
    }
    assert_eq!((taken(&mut slow).0.len(), slow.lost()), (3, 6));
}

#[test]
fn there_are_a_few_traces_at_a_time_and_none_after_the_end() {
    let tracer = Arc::new(Tracer::default());
    let start = || tracer.start(TraceOptions::default(), None);
    let mut traces: Vec<_> = (0..MAX_TRACES).map(|_| start().unwrap()).collect();
    assert_eq!(start().unwrap_err(), TraceError::TooMany);
    traces.pop();
    traces.push(start().unwrap());
    tell(&tracer, TraceKind::Open, "a", "sessions");
    tracer.close();
    tell(&tracer, TraceKind::Open, "b", "sessions");
    for trace in &mut traces {
        let (lines, is_over) = taken(trace);
        assert_eq!((senders(&lines), is_over, trace.is_complete()), (vec!["a"], true, false));
    }
    assert_eq!(start().unwrap_err(), TraceError::ShuttingDown);
}

#[test]
fn patterns_have_a_limit_in_number_and_in_length() {
    let tracer = Arc::new(Tracer::default());
    let start = |names: Vec<String>| tracer.start(TraceOptions::default().names(names), None).map(drop);
    assert_eq!(start(vec!["x".repeat(MAX_PATTERN_BYTES); MAX_PATTERNS]), Ok(()));
    assert_eq!(start(vec!["x".repeat(MAX_PATTERN_BYTES + 1)]), Err(TraceError::Patterns));
    assert_eq!(start(vec![String::new(); MAX_PATTERNS + 1]), Err(TraceError::Patterns));
}

#[test]
fn what_supervisors_tell_is_part_of_a_trace() {
    let tracer = Arc::new(Tracer::default());
    let (events, receiver) = broadcast::channel(4);
    let options = TraceOptions::default().kinds([TraceKind::Start, TraceKind::Exit]);
    let mut trace = tracer.start(options, Some(receiver)).unwrap();
    let event = |child: &str, what| TreeEvent::new("topic_supervisor", child, what);
    events.send(event("topic news #7", EventKind::Started)).unwrap();
    events.send(event("topic news #7", EventKind::Restarting(std::time::Duration::ZERO))).unwrap();
    events.send(event("heartbeat", EventKind::Abandoned)).unwrap();
    let (lines, is_over) = taken(&mut trace);
    let told: Vec<_> = lines.iter().map(|line| (line.kind, &*line.to)).collect();
    assert_eq!(told, [(TraceKind::Start, "topic news"), (TraceKind::Exit, "heartbeat")]);
    assert!(!is_over);
    for _ in 0..6 {
        events.send(event("heartbeat", EventKind::Started)).unwrap();
    }
    assert_eq!((taken(&mut trace).0.len(), trace.lost()), (4, 2));
}
