use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

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
    let logger = Arc::new(Logger::new(LevelFilter::Info, limit));
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
    assert_eq!(lines[0].len(), MAX_LINE_BYTES + CUT_OFF.len());
}
