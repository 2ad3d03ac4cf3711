//! The log of the server: a [`log::Log`] that never blocks its caller, and never fails.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | the logger and its writer thread | standard error, the log of panics |
//! | `filter.rs` | pure | the setting `log`: levels by target |
//! | `floods.rs` | table | a count per place in the program, which limits the lines per second |
//! | `format.rs` | pure | lines as text, as JSON and for the journal |
//! | `levels.rs` | table and a task | the levels in force, and the end of changes for a while |
//! | `queue.rs` | a queue between threads | the lines on their way to the writer, and the number of lost lines |
//! | `tests.rs` | tests of the logger | a standard error whose reader can stop |
//!
//! The logging thread formats its line and puts it into a bounded [queue](queue::Queue); a separate thread writes the
//! lines to standard error. So a stopped reader (a container runtime, a terminal after Ctrl-S) stops only the writer
//! thread, and an unwritable standard error costs only log lines. A flood of lines from one place in the program is
//! [summed up](floods) once a second. Panics are logged the same way.

mod filter;
mod floods;
mod format;
mod levels;
mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::fmt;
use std::io::{self, Write};
use std::panic::{Location, PanicHookInfo};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, SystemTime};

use janus_core::supervision::in_words;
use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags};
use tokio::time::Instant;

use floods::{Kind, PANIC};
use format::CUT_OFF;
use levels::Levels;
use queue::{Queue, Work};

pub(crate) use filter::{LEVELS, LogFilter, MAX_TARGET_BYTES, is_target, lower};
pub(crate) use format::Format;
pub(crate) use levels::{Change, MAX_TIME, TooManyChanges};

/// How long the end of the process may wait for the log to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum bytes of a line. Longer lines are cut off, so that the queue has a limit in bytes, too.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// The log of this process, once started.
static LOG: OnceLock<Arc<Logger>> = OnceLock::new();

/// The levels of the log of this process.
static IN_FORCE: LazyLock<Levels> = LazyLock::new(|| Levels::new(LogFilter::level(LevelFilter::Info)));

/// When dropped, waits until the log is written, at most [`FLUSH_TIMEOUT`].
#[must_use]
pub(crate) struct Flush(());

impl Drop for Flush {
    fn drop(&mut self) {
        if let Some(logger) = LOG.get() {
            logger.queue.flush(FLUSH_TIMEOUT);
        }
    }
}

/// Installs the log of the process, for panics too. At most `lines` wait in the queue; nothing is written before
/// [`start_writing`].
pub(crate) fn start(filter: LogFilter, format: Format, lines: usize) -> Flush {
    let logger = LOG.get_or_init(|| Arc::new(Logger::new(levels(), format, lines)));
    if log::set_boxed_logger(Box::new(Arc::clone(logger))).is_ok() {
        levels().configure(filter);
        std::panic::set_hook(Box::new(log_panic));
    }
    Flush(())
}

/// The levels in force.
pub(crate) fn levels() -> &'static Levels {
    &IN_FORCE
}

/// Replaces the configured levels, the setting `log`, while the server runs. Changes for a while stay in force.
pub(crate) fn set_filter(filter: LogFilter) {
    levels().configure(filter);
}

/// Changes the level of a target, or of all targets, for a while, and says so in the log.
///
/// # Errors
///
/// As many changes are in force as may be.
pub(crate) fn change(target: Option<String>, level: LevelFilter, time: Duration) -> Result<Change, TooManyChanges> {
    let change = Change { target, level, ends: Instant::now() + time, until: SystemTime::now() + time };
    levels().change(change.clone())?;
    tell(&change, "new_level", format_args!("in force for {}", in_words(time)));
    Ok(change)
}

/// Takes back the changes that `is_meant` selects, says so in the log, and returns their number.
pub(crate) fn take_back(is_meant: impl Fn(&Change) -> bool) -> usize {
    let changes = levels().take_back(is_meant);
    changes.iter().for_each(|change| tell(change, "ended_level", format_args!("taken back")));
    changes.len()
}

/// Ends changes of the levels in time. Never ends.
pub(crate) async fn end_changes() {
    levels()
        .run(|change| tell(change, "ended_level", format_args!("over; the configured level is in force again")))
        .await;
}

/// Writes a line about a change at any level, because a change may be the reason why no line is logged.
fn tell(change: &Change, key: &str, what: fmt::Arguments<'_>) {
    let Some(logger) = LOG.get() else { return };
    let (level, target) = (lower(change.level), change.target.as_deref());
    let mut record = Record::builder();
    record.level(Level::Info).target(module_path!()).module_path_static(Some(module_path!()));
    let of = target.map_or_else(|| "the log".to_owned(), |target| format!("the log of {target}"));
    let pairs = [(key, Some(&*level)), ("of_target", target)];
    logger.write(&record.key_values(&pairs).args(format_args!("level {level} of {of}: {what}")).build());
}

/// Starts the writer thread.
///
/// # Errors
///
/// The system cannot start another thread.
pub(crate) fn start_writing() -> io::Result<()> {
    let Some(logger) = LOG.get() else { return Ok(()) };
    let write = move || logger.write_all_to(write_to_stderr);
    std::thread::Builder::new().name("janus-log".to_owned()).spawn(write)?;
    logger.queue.open();
    Ok(())
}

/// Tells the user on standard error why the program ends, or a warning, each line after `what`. A server that logs in
/// another format than text says so in that format. Waits for [`FLUSH_TIMEOUT`] at most. An unwritable standard error
/// does not change how the program ends.
pub(crate) fn last_words(what: &str, text: &str) {
    let bytes = match LOG.get().filter(|logger| logger.format != Format::Text) {
        Some(logger) => {
            let mut record = Record::builder();
            logger.line(&record.level(Level::Error).target("janus_server").args(format_args!("{text}")).build())
        }
        None => text.lines().flat_map(|line| format!("{what}: {line}\n").into_bytes()).collect(),
    };
    if let Some(logger) = LOG.get().filter(|logger| logger.queue.is_open()) {
        logger.queue.push_last(bytes);
        return logger.queue.flush(FLUSH_TIMEOUT);
    }
    let (written, is_written) = sync_channel(1);
    let write = move || {
        let _ = write_to_stderr(&bytes);
        let _ = written.send(());
    };
    if std::thread::Builder::new().spawn(write).is_ok() {
        let _ = is_written.recv_timeout(FLUSH_TIMEOUT);
    }
}

/// A number of things in words: `1 key`, `2 keys`.
pub(crate) fn counted(count: usize, noun: &str) -> impl fmt::Display {
    fmt::from_fn(move |f| write!(f, "{count} {noun}{}", if count == 1 { "" } else { "s" }))
}

/// Writes all bytes without the lock of the standard library's handle: a blocked write must not hold up other threads
/// that print.
fn write_to_stderr(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(io::stderr(), bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            // Another process has made the pipe or the terminal non-blocking.
            Err(rustix::io::Errno::AGAIN) => {
                let stderr = io::stderr();
                let _ = rustix::event::poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

struct Logger {
    levels: &'static Levels,
    format: Format,
    /// Formats records, and leaves the lines in [`LINE`].
    formatter: env_logger::Logger,
    queue: Queue,
}

impl Logger {
    fn new(levels: &'static Levels, format: Format, lines: usize) -> Self {
        Self { levels, format, formatter: format.formatter(), queue: Queue::new(lines) }
    }

    fn line(&self, record: &Record<'_>) -> Vec<u8> {
        self.format.log(record, &self.formatter);
        let mut line = LINE.try_with(RefCell::take).unwrap_or_default();
        // The other formats keep the limit by themselves, so that a line stays whole.
        if self.format == Format::Text && line.len() > MAX_LINE_BYTES {
            let begins_a_character = |at: &usize| line[*at] & 0xc0 != 0x80;
            line.truncate((0..=MAX_LINE_BYTES).rev().find(begins_a_character).unwrap_or_default());
            line.extend_from_slice(CUT_OFF.as_bytes());
            line.push(b'\n');
        }
        line
    }

    /// Queues a record of any level, or counts the record as part of a flood.
    fn write(&self, record: &Record<'_>) {
        if self.queue.admits(Kind::of(record)) {
            self.queue.push(self.line(record));
        }
    }

    /// Writes lines from the queue, for ever.
    fn write_all_to(&self, mut write: impl FnMut(&[u8]) -> io::Result<()>) {
        // The number is a key-value, too, for programs that add up.
        let note = |target: &str, level, lines: u64, text: fmt::Arguments<'_>| {
            let mut record = Record::builder();
            let number = [("lines", lines)];
            self.line(&record.target(target).level(level).key_values(&number).args(text).build())
        };
        loop {
            match self.queue.next() {
                Work::Line(line) => self.queue.written(1, write(&line).is_ok()),
                Work::Flood(kind, lines) => {
                    let at = kind.place();
                    let text = format_args!("{lines} more lines from {at} were suppressed within a second");
                    // A failed write loses all the lines in the sum.
                    self.queue.written(lines, write(&note(kind.target(), kind.level(), lines, text)).is_ok());
                }
                Work::Lost(lines) => {
                    let text = format_args!(
                        "{lines} log lines were lost, because standard error was not read or could not be written"
                    );
                    self.queue.written(lines, write(&note(module_path!(), Level::Warn, lines, text)).is_ok());
                }
            }
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.levels.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.write(record);
        }
    }

    fn flush(&self) {
        self.queue.flush(FLUSH_TIMEOUT);
    }
}

thread_local! {
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The formatter's target: the [`LINE`] of the current thread.
struct Line;

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A thread past the destruction of its locals can no longer log.
        let _ = LINE.try_with(|line| line.borrow_mut().extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs a panic. The standard library's hook would write to standard error directly, and could block. Panics are logged
/// at every level, even with the log off: a panic may be the last output of the process.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let Some(logger) = LOG.get() else { return };
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    let trace = Backtrace::capture();
    let trace = if trace.status() == BacktraceStatus::Captured { format!("\n{trace}") } else { String::new() };
    let place = panic.location().map_or_else(String::new, |place| format!(" at {place}"));
    let why = panic.payload_as_str().unwrap_or("(the panic's value is not text)");
    let line = panic.location().map(Location::line);
    let mut record = Record::builder();
    record.level(Level::Error).target(PANIC).line(line);
    logger.write(&record.args(format_args!("thread {name} panicked{place}: {why}{trace}")).build());
}

#[cfg(test)]
mod tests;
