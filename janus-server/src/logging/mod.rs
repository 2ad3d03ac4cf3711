//! The log of the server: a [`log::Log`] that never blocks its caller, and never fails.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | the logger and its writer thread | formatting, standard error, the log of panics |
//! | `floods.rs` | table | a count per place in the program, which limits the lines per second |
//! | `queue.rs` | a queue between threads | the lines on their way to the writer, and the number of lost lines |
//! | `tests.rs` | tests of the logger | a standard error whose reader can stop |
//!
//! The logging thread formats its line and puts it into a bounded [queue](queue::Queue); a separate thread writes the
//! lines to standard error. So a stopped reader (a container runtime, a terminal after Ctrl-S) stops only the writer
//! thread, and an unwritable standard error costs only log lines. A flood of lines from one place in the program is
//! [summed up](floods) once a second. Panics are logged the same way.

mod floods;
mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::io::{self, IsTerminal as _, Write};
use std::panic::{Location, PanicHookInfo};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags};

use floods::{Kind, PANIC};
use queue::{Queue, Work};

/// How long the end of the process may wait for the log to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum bytes of a line. Longer lines are cut off, so that the queue has a limit in bytes, too.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// Marks the end of a line that was cut off.
const CUT_OFF: &[u8] = b" (cut off)\n";

/// The log of this process, once started.
static LOG: OnceLock<Arc<Logger>> = OnceLock::new();

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
pub(crate) fn start(level: LevelFilter, lines: usize) -> Flush {
    let logger = LOG.get_or_init(|| Arc::new(Logger::new(level, lines)));
    if log::set_boxed_logger(Box::new(Arc::clone(logger))).is_ok() {
        log::set_max_level(level);
        std::panic::set_hook(Box::new(log_panic));
    }
    Flush(())
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

/// Tells the user on standard error why the program ends. Waits for [`FLUSH_TIMEOUT`] at most. An unwritable standard
/// error does not change how the program ends.
pub(crate) fn last_words(text: String) {
    if let Some(logger) = LOG.get().filter(|logger| logger.queue.is_open()) {
        logger.queue.push_last(text.into_bytes());
        return logger.queue.flush(FLUSH_TIMEOUT);
    }
    let (written, is_written) = sync_channel(1);
    let write = move || {
        let _ = write_to_stderr(text.as_bytes());
        let _ = written.send(());
    };
    if std::thread::Builder::new().spawn(write).is_ok() {
        let _ = is_written.recv_timeout(FLUSH_TIMEOUT);
    }
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
    level: LevelFilter,
    /// Formats records, and leaves the lines in [`LINE`].
    format: env_logger::Logger,
    queue: Queue,
}

impl Logger {
    fn new(level: LevelFilter, lines: usize) -> Self {
        let colored = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let style = if colored { env_logger::WriteStyle::Always } else { env_logger::WriteStyle::Never };
        let format = env_logger::Builder::new()
            // The formatter must not filter: `level` is checked before, and panics are logged even with the log off.
            .filter_level(LevelFilter::Trace)
            .format_timestamp_millis()
            .write_style(style)
            .target(env_logger::Target::Pipe(Box::new(Line)))
            .build();
        Self { level, format, queue: Queue::new(lines) }
    }

    fn line(&self, record: &Record<'_>) -> Vec<u8> {
        self.format.log(record);
        let mut line = LINE.try_with(RefCell::take).unwrap_or_default();
        if line.len() > MAX_LINE_BYTES {
            let begins_a_character = |at: &usize| line[*at] & 0xc0 != 0x80;
            line.truncate((0..=MAX_LINE_BYTES).rev().find(begins_a_character).unwrap_or_default());
            line.extend_from_slice(CUT_OFF);
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
        let note = |target: &str, level, text: std::fmt::Arguments<'_>| {
            self.line(&Record::builder().target(target).level(level).args(text).build())
        };
        loop {
            match self.queue.next() {
                Work::Line(line) => self.queue.written(1, write(&line).is_ok()),
                Work::Flood(kind, lines) => {
                    let at = kind.place();
                    let text = format_args!("{lines} more lines from {at} were suppressed within a second");
                    // A failed write loses all the lines in the sum.
                    self.queue.written(lines, write(&note(kind.target(), kind.level(), text)).is_ok());
                }
                Work::Lost(lines) => {
                    let text = format_args!(
                        "{lines} log lines were lost, because standard error was not read or could not be written"
                    );
                    self.queue.written(lines, write(&note(module_path!(), Level::Warn, text)).is_ok());
                }
            }
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
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
