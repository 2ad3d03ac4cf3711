use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use log::kv;

use super::*;

/// Far longer than any test takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A standard error whose reader takes a line only when told to, and the lines taken so far.
struct Reader {
    take: Sender<io::Result<()>>,
    lines: Arc<Mutex<Vec<String>>>,
}

/// Starts a log whose writer thread writes to the reader.
fn log_to_a_reader(limit: usize) -> (Arc<Logger>, Reader) {
    log_in_a_format(Format::Text, limit)
}

fn log_in_a_format(format: Format, limit: usize) -> (Arc<Logger>, Reader) {
    let levels = Box::leak(Box::new(Levels::new(LogFilter::level(LevelFilter::Info))));
    let logger = Arc::new(Logger::new(levels, format, limit));
    let (take, taken): (_, Receiver<io::Result<()>>) = channel();
    let lines = Arc::new(Mutex::new(Vec::new()));
    std::thread::spawn({
        let (logger, lines) = (Arc::clone(&logger), Arc::clone(&lines));
        move || {
            logger.write_all_to(|line| {
                // Waits until the reader takes a line; a dropped reader takes every line.
                taken.recv().unwrap_or(Ok(()))?;
                lines.lock().unwrap().push(String::from_utf8(line.to_vec()).unwrap());
                Ok(())
            });
        }
    });
    (logger, Reader { take, lines })
}

impl Reader {
    /// Reads everything from now on, and returns the lines when all are written.
    fn read_all(self, logger: &Logger) -> Vec<String> {
        drop(self.take);
        logger.queue.flush(PATIENCE);
        self.lines.lock().unwrap().clone()
    }
}

fn log(logger: &Logger, level: Level, line: u32, text: &str) {
    let mut record = Record::builder();
    record.level(level).target("a::b").module_path_static(Some("a::b")).file_static(Some("src/a/b.rs"));
    logger.log(&record.line(Some(line)).args(format_args!("{text}")).build());
}

/// The number at the beginning of a line's text.
fn number(line: &str) -> usize {
    line.split("] ").nth(1).and_then(|text| text.split(' ').next()?.parse().ok()).expect("a line with a number")
}

#[test]
fn a_line_has_its_time_its_level_and_its_place() {
    let (logger, reader) = log_to_a_reader(10);
    log(&logger, Level::Warn, 1, "hello");
    log(&logger, Level::Debug, 2, "not wanted");
    let lines = reader.read_all(&logger);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("[2") && lines[0].ends_with("Z WARN  a::b] hello\n"), "{lines:?}");
}

#[test]
fn logging_does_not_wait_for_a_stopped_reader() {
    let (logger, reader) = log_to_a_reader(64);
    // Each line has its own place, so that the queue overflows rather than the limit of a place.
    (0..10_000).for_each(|line| log(&logger, Level::Info, line, "hello"));
    let lines = reader.read_all(&logger);
    let (lost, written): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.contains("log lines were lost"));
    assert_eq!(written.len() + lost.into_iter().map(|line| number(line)).sum::<usize>(), 10_000);
    // The writer may hold a line in addition to the queue.
    assert!((64..=65).contains(&written.len()), "{}", written.len());
}

#[test]
fn a_flood_becomes_one_line_that_counts_it() {
    let (logger, reader) = log_to_a_reader(1_000);
    (0..5_000).for_each(|_| log(&logger, Level::Warn, 7, "hello"));
    log(&logger, Level::Warn, 8, "another place");
    let lines = reader.read_all(&logger);
    let sums: Vec<_> = lines.iter().filter(|line| line.contains("were suppressed within a second")).collect();
    assert!(sums[0].contains("WARN  a::b] ") && sums[0].contains(" more lines from b.rs:7 "), "{sums:?}");
    let summed: usize = sums.into_iter().map(|line| number(line)).sum();
    let written = lines.iter().filter(|line| line.ends_with("hello\n")).count();
    assert_eq!(written + summed, 5_000);
    assert_eq!(lines.iter().filter(|line| line.contains("another place")).count(), 1);
}

#[test]
fn a_line_of_any_length_has_a_limit() {
    let (logger, reader) = log_to_a_reader(10);
    log(&logger, Level::Warn, 1, &"x".repeat(1 << 20));
    let lines = reader.read_all(&logger);
    assert_eq!(lines[0].len(), MAX_LINE_BYTES + CUT_OFF.len() + 1);
}

/// What strangers may get into a name, a reason or an address of theirs.
const HOSTILE: [&str; 10] = [
    "a\n[2026-01-01T00:00:00.000Z ERROR janus] forged",
    "a\r\n<0>forged",
    "\u{1b}[2J\u{1b}]0;title\u{7}",
    "\",\"level\":\"error\",\"x\":\"",
    "\\",
    "a\0b\u{7f}\u{85}\u{9b}31m",
    "\u{2028}\u{2029}",
    "{}%s${jndi:x}",
    "\u{202e}ltr \u{fffd} 𝄞",
    "",
];

/// Logs a hostile name in a message and in key-values.
fn log_name(logger: &Logger, name: &str) {
    let mut record = Record::builder();
    record.level(Level::Warn).target("a::b").module_path_static(Some("a::b"));
    let pairs: [(&str, &dyn kv::ToValue); 5] =
        [("topic", &name), ("conn", &7_u64), ("gone", &false), ("user", &None::<&str>), ("msg", &"second")];
    logger.log(&record.key_values(&pairs).args(format_args!("topic {name}: closed")).build());
}

fn parsed(line: &str) -> serde_json::Value {
    assert!(line.ends_with("}\n") && line.len() <= MAX_LINE_BYTES, "{line}");
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// A program that reads lines finds one in each text: no character in the text ends a line for any of them.
fn is_one_line(line: &str) -> bool {
    let ends = |character: char| character.is_control() || matches!(character, '\u{2028}' | '\u{2029}');
    !line.trim_end_matches('\n').contains(ends)
}

#[test]
fn a_line_of_json_is_one_object_whatever_a_name_contains() {
    for name in HOSTILE {
        let (logger, reader) = log_in_a_format(Format::Json, 10);
        log_name(&logger, name);
        let lines = reader.read_all(&logger);
        assert!(lines.len() == 1 && is_one_line(&lines[0]), "{lines:?}");
        let line = parsed(&lines[0]);
        assert_eq!(line["topic"], name);
        assert!(line.get("user").is_none(), "a key-value without a value");
        assert_eq!(line["msg"], format!("topic {name}: closed"));
        assert_eq!((&line["conn"], &line["gone"], &line["msg_"]), (&7.into(), &false.into(), &"second".into()));
        assert_eq!((&line["level"], &line["target"], &line["cut"]), (&"warn".into(), &"a::b".into(), &().into()));
        let time = line["ts"].as_str().unwrap();
        assert!(time.len() == 24 && time.starts_with("2") && time.ends_with('Z') && &time[19..20] == ".", "{time}");
    }
}

#[test]
fn a_line_of_json_that_is_too_long_is_cut_within_its_strings() {
    for (message, value) in [(1 << 20, 1), (1, 1 << 20), (1 << 20, 1 << 20), (16_000, 4_000)] {
        let (logger, reader) = log_in_a_format(Format::Json, 10);
        let (message, value) = ("\n\u{7}é".repeat(message), "\"".repeat(value));
        let pairs: [(&str, &str); 2] = [("topic", &value), ("code", "last")];
        let mut record = Record::builder();
        record.level(Level::Warn).target("a").key_values(&pairs);
        logger.log(&record.args(format_args!("{message}")).build());
        let line = parsed(&reader.read_all(&logger)[0]);
        assert_eq!(line["cut"], true);
        assert!(
            message.starts_with(line["msg"].as_str().unwrap()) && value.starts_with(line["topic"].as_str().unwrap())
        );
    }
}

#[test]
fn lost_lines_and_floods_are_told_in_json_as_well() {
    let (logger, reader) = log_in_a_format(Format::Json, 64);
    (0..1_000).for_each(|line| log(&logger, Level::Info, line, "hello"));
    (0..1_000).for_each(|_| log(&logger, Level::Warn, 2_000, "hello"));
    let lines: Vec<_> = reader.read_all(&logger).iter().map(|line| parsed(line)).collect();
    let sum = |words: &str| -> u64 {
        let told = lines.iter().filter(|line| line["msg"].as_str().unwrap().contains(words));
        told.map(|line| line["lines"].as_u64().unwrap()).sum()
    };
    let written = lines.iter().filter(|line| line["msg"] == "hello").count() as u64;
    assert!(sum("were suppressed") > 0 && sum("were lost") > 0, "{lines:?}");
    assert_eq!(written + sum("were suppressed") + sum("were lost"), 2_000);
}

#[test]
fn each_line_for_the_journal_has_the_priority_and_no_time() {
    for (level, priority) in [(Level::Error, "<3>"), (Level::Warn, "<4>"), (Level::Info, "<6>")] {
        let (logger, reader) = log_in_a_format(Format::Journald, 10);
        log(&logger, level, 1, "first\n<0>second");
        assert_eq!(reader.read_all(&logger), [format!("{priority}a::b: first\n{priority}    <0>second\n")]);
    }
    for name in HOSTILE {
        let (logger, reader) = log_in_a_format(Format::Journald, 10);
        log_name(&logger, name);
        let text = reader.read_all(&logger).concat();
        let mut lines = text.lines();
        assert!(lines.next().is_some_and(|line| line.starts_with("<4>a::b: topic ")), "{text:?}");
        assert!(lines.all(|line| line.starts_with("<4>    ")), "{text:?}");
        assert!(text.split('\n').all(is_one_line), "{text:?}");
    }
    let (logger, reader) = log_in_a_format(Format::Journald, 10);
    log(&logger, Level::Warn, 1, &"\n\u{7}".repeat(1 << 20));
    let text = reader.read_all(&logger).concat();
    assert!(text.len() <= MAX_LINE_BYTES && text.ends_with(&format!("{CUT_OFF}\n")), "{}", text.len());
    assert!(text.lines().all(|line| line.starts_with("<4>")), "{text:?}");
}

#[test]
fn no_name_reaches_a_terminal_with_control_characters() {
    for name in HOSTILE {
        let (logger, reader) = log_to_a_reader(10);
        log_name(&logger, name);
        let text = reader.read_all(&logger).concat();
        assert!(text.lines().skip(1).all(|line| line.starts_with("    ")), "{text:?}");
        assert!(text.split('\n').all(is_one_line), "{text:?}");
        assert!(!text.contains("conn="), "key-values are for programs: {text:?}");
    }
}

#[test]
fn a_change_of_the_levels_takes_effect_at_once() {
    let (logger, reader) = log_to_a_reader(10);
    let now = Instant::now() + Duration::from_secs(60);
    let change = Change { target: Some("a".into()), level: LevelFilter::Debug, ends: now, until: SystemTime::now() };
    log(&logger, Level::Debug, 1, "too early");
    logger.levels.change(change).unwrap();
    log(&logger, Level::Debug, 2, "in time");
    logger.levels.configure(LogFilter::level(LevelFilter::Off));
    log(&logger, Level::Debug, 3, "still in time");
    logger.levels.take_back(|_| true);
    log(&logger, Level::Error, 4, "too late");
    let lines = reader.read_all(&logger);
    assert!(lines.len() == 2 && lines.iter().all(|line| line.contains("in time")), "{lines:?}");
}
