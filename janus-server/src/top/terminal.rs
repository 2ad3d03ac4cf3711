//! The terminal: taken over at the start, and given back at every end, for any reason. Also the sources of events:
//! keys, and signals that end the program.

use std::io;
use std::sync::mpsc::SyncSender;
use std::thread;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{Event as Input, KeyEvent, KeyEventKind, read};
use tokio::signal::unix::{SignalKind, signal};

/// News from the terminal or the system.
#[derive(Debug)]
pub(super) enum Told {
    Key(KeyEvent),
    /// The terminal has another size.
    Resized,
    /// The program is to end.
    End,
    /// The terminal is gone.
    Lost(io::Error),
}

/// The terminal in raw mode on the alternate screen. Dropping the value gives the terminal back in its earlier state; a
/// panic of any thread does the same first, so the message of the panic can be read.
pub(super) struct Screen {
    pub(super) terminal: DefaultTerminal,
}

impl Screen {
    pub(super) fn take() -> io::Result<Self> {
        Ok(Self { terminal: ratatui::try_init()? })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The cursor is hidden while the screen is drawn.
        let _ = self.terminal.show_cursor();
        // A terminal can be gone, and then needs nothing back.
        let _ = ratatui::try_restore();
    }
}

/// Sends every key and every new size.
pub(super) fn watch_keys<E: From<Told> + Send + 'static>(events: SyncSender<E>) -> io::Result<()> {
    let watch = move || {
        loop {
            let told = match read() {
                // Some terminals report releases, and every key would count twice.
                Ok(Input::Key(key)) if key.kind != KeyEventKind::Release => Told::Key(key),
                Ok(Input::Resize(..)) => Told::Resized,
                Ok(_) => continue,
                Err(error) => Told::Lost(error),
            };
            let is_lost = matches!(told, Told::Lost(_));
            if events.send(told.into()).is_err() || is_lost {
                return;
            }
        }
    };
    thread::Builder::new().name("keys".to_owned()).spawn(watch).map(drop)
}

/// Sends the signals to end. From now on these signals no longer end the program by default, and leave the terminal in
/// raw mode.
pub(super) fn watch_signals<E: From<Told> + Send + 'static>(events: SyncSender<E>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::hangup()];
    let [mut terminate, mut interrupt, mut quit, mut hangup] = {
        let _runtime = runtime.enter();
        let [terminate, interrupt, quit, hangup] = kinds.map(signal);
        [terminate?, interrupt?, quit?, hangup?]
    };
    let watch = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = quit.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        let _ = events.send(Told::End.into());
    };
    thread::Builder::new().name("signals".to_owned()).spawn(watch).map(drop)
}
