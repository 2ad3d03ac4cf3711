//! The client's task: connects, converses, and comes back after a lost connection. Owns the socket and the clock; what is
//! said on the connection is a matter of the [`Desk`].

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::address::Address;
use super::back_off::BackOff;
use super::desk::{Command, Connection, Desk, News};
use super::error::{EXPIRED, FORBIDDEN};
use super::socket::{Received, Socket};
use super::tls::Authorities;
use super::tokens::Tokens;
use super::{ClientError, State};
use crate::wire::v1::client::{self as v1, ServerFrame};

/// A connection that has lasted for this long begins the waits anew.
const STABLE: Duration = Duration::from_secs(10);

/// The shortest time before a token is renewed, whatever the server says about the token's end.
const RENEWAL_MIN: Duration = Duration::from_secs(1);

/// The longest time before a token is renewed: a clock of decades is none.
const RENEWAL_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The time for the server's goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// What is needed for a connection.
pub(super) struct Dialer {
    pub(super) address: Address,
    pub(super) authorities: Authorities,
    /// Made with the first connection over TLS.
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) tokens: Tokens,
    /// The token of the latest session.
    pub(super) session: Option<String>,
    pub(super) timeout: Duration,
    pub(super) heartbeat: Duration,
    pub(super) back_off: BackOff,
    pub(super) reconnects: bool,
}

/// A connection whose server has sent its welcome.
pub(super) struct Opened {
    socket: Socket,
    connection: Connection,
    expires: Option<Duration>,
}

impl Dialer {
    /// Opens a connection, up to the welcome. Cancel safe: a question for a token stays.
    pub(super) async fn open(&mut self) -> Result<Opened, ClientError> {
        let token = self.tokens.for_hello().await?;
        let config = if self.address.is_tls { Some(self.tls_config().await?) } else { None };
        let time = self.timeout;
        let deadline = Instant::now() + time;
        let mut socket = Socket::open(&self.address, config, deadline, time).await?;
        let opened = async {
            let mut hello = Some(v1::hello(self.session.as_deref(), token.as_deref()));
            loop {
                let Received::Text(text) = socket.next(true, || hello.take()).await? else { continue };
                match ServerFrame::parse(&text) {
                    ServerFrame::Welcome { session, client, limits, expires, .. } => {
                        let connection = Connection { client, max_frame_bytes: limits.max_frame_bytes };
                        return Ok((session.into_owned(), connection, expires));
                    }
                    ServerFrame::Bye { code, error, message, reconnect_after } => {
                        let (error, message) = (error.into_owned(), message.into_owned());
                        return Err(ClientError::Refused { code, error, message, reconnect_after });
                    }
                    _ => {}
                }
            }
        };
        let late = |_| ClientError::Late { awaited: "welcome", time };
        let (session, connection, expires) = timeout_at(deadline, opened).await.map_err(late)??;
        self.session = Some(session);
        Ok(Opened { socket, connection, expires })
    }

    async fn tls_config(&mut self) -> Result<Arc<ClientConfig>, ClientError> {
        if let Some(config) = &self.tls {
            return Ok(Arc::clone(config));
        }
        let authorities = self.authorities.clone();
        let made = tokio::task::spawn_blocking(move || authorities.config()).await;
        let config = made.map_err(|error| ClientError::Authorities(error.to_string()))??;
        self.tls = Some(Arc::clone(&config));
        Ok(config)
    }

    /// Whether another attempt may succeed. An expired token is given up for another.
    fn may_come_back(&mut self, error: &ClientError) -> bool {
        let expired = error.code() == Some(EXPIRED) && self.tokens.expire();
        self.reconnects && (expired || !error.is_final())
    }
}

/// Why there is no connection: the latest error since the last connection.
pub(super) type Trouble = Arc<Mutex<Option<Arc<ClientError>>>>;

pub(super) struct Task {
    pub(super) dialer: Dialer,
    pub(super) desk: Desk,
    pub(super) commands: mpsc::Receiver<Command>,
    /// Woken by subscriptions.
    pub(super) changed: Arc<Notify>,
    pub(super) state: watch::Sender<State>,
    pub(super) trouble: Trouble,
}

/// Why a conversation has ended.
enum Ended {
    /// By the program.
    Closed,
    Lost(ClientError),
    /// By a token that is refused for good, or by the program's last word about tokens.
    Tokenless(ClientError),
}

impl Task {
    /// Opens the first connection, for a program that waits for it. A panic of the program's `get_token` is an error, as later.
    pub(super) async fn open(&mut self) -> Result<Opened, ClientError> {
        let opened = AssertUnwindSafe(self.dialer.open()).catch_unwind().await;
        opened.unwrap_or_else(|panic| Err(ClientError::Panicked(words_of(&*panic))))
    }

    /// Runs until the program closes the client, or an error is final. A panic, such as one of the program's `get_token`, is
    /// an error, too: programs do not take a panic for a client that was closed.
    pub(super) async fn run(mut self, opened: Option<Opened>) {
        let ended = AssertUnwindSafe(self.serve(opened)).catch_unwind().await;
        let error = ended.unwrap_or_else(|panic| Some(ClientError::Panicked(words_of(&*panic))));
        self.desk.end(error.as_ref());
        self.state.send_replace(State::Closed { error });
    }

    /// Connects and comes back until the end. Returns why; `None` if the program has closed the client.
    async fn serve(&mut self, mut opened: Option<Opened>) -> Option<ClientError> {
        let mut failures = 0;
        loop {
            let next = match opened.take() {
                Some(opened) => Ok(opened),
                None => {
                    self.state.send_replace(State::Connecting);
                    match offline(&mut self.desk, &mut self.commands, &self.changed, self.dialer.open()).await {
                        Some(next) => next,
                        None => return None,
                    }
                }
            };
            let error = match next {
                Ok(opened) => {
                    let began = Instant::now();
                    let ended = self.converse(opened).await;
                    failures = if began.elapsed() > STABLE { 0 } else { failures };
                    match ended {
                        Ended::Closed => return None,
                        Ended::Tokenless(error) => return Some(error),
                        Ended::Lost(error) => error,
                    }
                }
                Err(error) => error,
            };
            let comes_back = self.dialer.may_come_back(&error);
            self.desk.left(&error, comes_back);
            if !comes_back {
                return Some(error);
            }
            failures += 1;
            let wait = self.dialer.back_off.wait(failures).max(error.not_before());
            log::warn!("{error}; next attempt at {} in {wait:.1?}", self.dialer.address.to);
            *self.trouble.lock() = Some(Arc::new(error.clone()));
            self.state.send_replace(State::Waiting { error, retry_in: wait });
            let pause = tokio::time::sleep(wait);
            offline(&mut self.desk, &mut self.commands, &self.changed, pause).await?;
        }
    }

    async fn converse(&mut self, Opened { mut socket, connection, expires }: Opened) -> Ended {
        let session = self.dialer.session.clone().unwrap_or_default();
        *self.trouble.lock() = None;
        self.state.send_replace(State::Open { client: connection.client, session });
        self.desk.opened(connection);
        let mut clock = Clock::new(&self.dialer);
        clock.renew_after(&self.dialer, expires);
        let mut alarm = pin!(sleep_until(clock.due(&socket, &self.desk, true)));
        loop {
            // Before the alarm is set: with a frame to be sent, the server must read in time.
            socket.fill(|| self.desk.next_frame());
            let may_read = self.desk.may_read();
            let due = clock.due(&socket, &self.desk, may_read);
            // A later time needs no new alarm: an early alarm finds nothing to do.
            if due < alarm.deadline() || alarm.is_elapsed() {
                alarm.as_mut().reset(due);
            }
            tokio::select! {
                received = socket.next(may_read, || self.desk.next_frame()) => {
                    clock.heard();
                    match self.received(received, &mut clock) {
                        Ok(Turn::Client) => tokio::task::consume_budget().await,
                        Ok(Turn::Program) => tokio::task::yield_now().await,
                        Ok(Turn::Last(error)) => return self.without_token(socket, error).await,
                        Err(error) => return Ended::Lost(error),
                    }
                }
                command = self.commands.recv() => {
                    if !command.is_some_and(|command| self.desk.command(command)) {
                        self.say_goodbye(socket).await;
                        return Ended::Closed;
                    }
                }
                () = self.changed.notified() => {
                    self.desk.look();
                    if !may_read && self.desk.may_read() {
                        // Silence counts from here on.
                        clock.heard();
                    }
                }
                token = self.dialer.tokens.next(), if clock.asks_for_token() => match token {
                    Ok(token) => {
                        clock.renewal = Renewal::Answered;
                        self.desk.refresh(token);
                    }
                    Err(error) if error.is_final() => return self.without_token(socket, error).await,
                    Err(error) => clock.renew_again(&self.dialer, &error),
                },
                () = alarm.as_mut() => {
                    if let Err(error) = clock.ring(&mut socket, &mut self.desk, may_read) {
                        return Ended::Lost(error);
                    }
                }
            }
        }
    }

    /// A server without a goodbye is left all the same.
    async fn say_goodbye(&mut self, mut socket: Socket) {
        let _ = timeout(GOODBYE, socket.close(|| self.desk.next_frame())).await;
    }

    /// Ends the client, which would otherwise ask for a token again and again to no avail.
    async fn without_token(&mut self, socket: Socket, error: ClientError) -> Ended {
        self.say_goodbye(socket).await;
        Ended::Tokenless(error)
    }

    /// Takes in what has come.
    fn received(&mut self, received: Result<Received, ClientError>, clock: &mut Clock) -> Result<Turn, ClientError> {
        let Received::Text(text) = received? else { return Ok(Turn::Client) };
        match self.desk.receive(&text)? {
            News::Nothing => {}
            News::Breather => return Ok(Turn::Program),
            News::Renewed(token, expires) => {
                self.dialer.tokens.renewed(token);
                clock.renew_after(&self.dialer, expires);
            }
            // The token in force is good until its end, and until then another token may be accepted: `forbidden` is also the
            // answer to a token that does not please, and an expired token is followed by another.
            News::NotRenewed(error) if error.is_final() && !matches!(error.code(), Some(EXPIRED | FORBIDDEN)) => {
                return Ok(Turn::Last(error));
            }
            News::NotRenewed(error) => clock.renew_again(&self.dialer, &error),
        }
        Ok(Turn::Client)
    }
}

/// What follows a frame.
enum Turn {
    Client,
    /// The program should take what has come.
    Program,
    /// The end: the server refuses the program's token for good.
    Last(ClientError),
}

/// The text of a panic.
fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a text").to_owned()
}

/// The times of a connection.
struct Clock {
    heartbeat: Duration,
    timeout: Duration,
    heard_at: Instant,
    /// When the ping without an answer was sent.
    pinged_at: Option<Instant>,
    renewal: Renewal,
    failed_renewals: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Renewal {
    /// The token has no end, or the client has no other.
    Never,
    At(Instant),
    /// The program is asked for a token.
    Asked,
    /// The server is asked to accept the token.
    Answered,
}

impl Clock {
    fn new(dialer: &Dialer) -> Self {
        Self {
            heartbeat: dialer.heartbeat,
            timeout: dialer.timeout,
            heard_at: Instant::now(),
            pinged_at: None,
            renewal: Renewal::Never,
            failed_renewals: 0,
        }
    }

    /// A sign of life has come.
    fn heard(&mut self) {
        self.heard_at = Instant::now();
        self.pinged_at = None;
    }

    fn asks_for_token(&self) -> bool {
        self.renewal == Renewal::Asked
    }

    /// A token is in force that ends after this time: renewed at 70 to 90 % of the time.
    fn renew_after(&mut self, dialer: &Dialer, expires: Option<Duration>) {
        self.failed_renewals = 0;
        self.renewal = match expires {
            Some(time) if dialer.tokens.is_renewable() => {
                let part = 0.7 + fastrand::f64() / 5.0;
                Renewal::At(Instant::now() + time.min(RENEWAL_MAX).mul_f64(part).max(RENEWAL_MIN))
            }
            _ => Renewal::Never,
        };
    }

    fn renew_again(&mut self, dialer: &Dialer, error: &ClientError) {
        log::warn!("the token is not renewed: {error}");
        self.failed_renewals += 1;
        let wait = dialer.back_off.wait(self.failed_renewals).max(RENEWAL_MIN.min(dialer.back_off.longest));
        self.renewal = Renewal::At(Instant::now() + wait);
    }

    /// When there is something to do. The time of silence stands still while the client itself does not read.
    fn due(&self, socket: &Socket, desk: &Desk, may_read: bool) -> Instant {
        let silence = match self.pinged_at {
            Some(pinged_at) => pinged_at + self.timeout,
            None => self.heard_at + self.heartbeat,
        };
        let far = Instant::now() + RENEWAL_MAX;
        let renewal = if let Renewal::At(at) = self.renewal { at } else { far };
        let blocked = socket.blocked_since().map_or(far, |since| since + self.timeout);
        let topics = desk.due().unwrap_or(far);
        let silence = if may_read { silence } else { far };
        silence.min(renewal).min(blocked).min(topics)
    }

    /// Does what is due.
    fn ring(&mut self, socket: &mut Socket, desk: &mut Desk, may_read: bool) -> Result<(), ClientError> {
        let now = Instant::now();
        if socket.blocked_since().is_some_and(|since| now >= since + self.timeout) {
            let unread = std::io::Error::new(std::io::ErrorKind::TimedOut, "the server does not read");
            return Err(ClientError::lost(unread));
        }
        match self.pinged_at {
            _ if !may_read => {}
            Some(pinged_at) if now >= pinged_at + self.timeout => {
                return Err(ClientError::Late { awaited: "sign of life", time: self.timeout });
            }
            None if now >= self.heard_at + self.heartbeat => {
                self.pinged_at = Some(now);
                socket.ping();
            }
            _ => {}
        }
        if matches!(self.renewal, Renewal::At(at) if now >= at) {
            self.renewal = Renewal::Asked;
        }
        desk.tick(now);
        Ok(())
    }
}

/// Waits for something while there is no connection, and carries out the program's commands. `None` if the program wants
/// the client to be closed.
async fn offline<T>(
    desk: &mut Desk,
    commands: &mut mpsc::Receiver<Command>,
    changed: &Notify,
    awaited: impl Future<Output = T>,
) -> Option<T> {
    let mut awaited = pin!(awaited);
    loop {
        tokio::select! {
            done = awaited.as_mut() => return Some(done),
            command = commands.recv() => {
                if !command.is_some_and(|command| desk.command(command)) {
                    return None;
                }
            }
            () = changed.notified() => desk.look(),
        }
    }
}
