//! Where actors run: arbiters, which are threads of this crate, and the current thread.
//!
//! Owns [`Arbiter`], [`Place`] and the beat, from which a watchdog reads the actor of a thread. An actix `System` is
//! neither needed nor started; actors need only a tokio `LocalRuntime` or `LocalSet`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, oneshot};

use crate::exit::{ActorId, guarded};

/// Jobs that may wait for a place. A place this far behind does not answer, and is reported as down.
///
/// A supervisor submits one job for each child that is being started. All other senders need a limit of their own.
const JOBS_MAX: usize = 1 << 16;

/// Jobs that run before sockets and other tasks have their turn. Jobs come from other threads, which may keep sending,
/// and each job may be a client to serve.
const JOBS_PER_TURN: usize = 8;

/// Socket events taken from the kernel at each look. The runtime looks at least once in 61 polls.
///
/// Tokio's 1,024 would fill the run queue faster than the thread empties it: in a storm of thousands of sockets, every
/// task waits behind the events of earlier looks. With few, a socket waits in the kernel behind all other sockets of
/// the storm, most of which will only be told to wait. With 8,000 publishers, p99 of another client was 27 ms with 64,
/// and 12 ms with 256.
const EVENTS_PER_LOOK: usize = 256;

type Job = Box<dyn FnOnce() + Send>;

/// The place does not take jobs: its thread has stopped, or 65,536 jobs are waiting already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the arbiter takes no jobs: it has stopped, or 65,536 jobs are waiting")]
pub struct ArbiterDown;

/// A thread with a current-thread tokio runtime, on which actors and tasks run.
///
/// An arbiter may be started from anywhere: inside or outside a runtime, with or without an actix `System`.
///
/// ```
/// use janus_supervision::Arbiter;
///
/// let arbiter = Arbiter::start("home")?;
/// arbiter.place().run(|| println!("on {:?}", std::thread::current().name()))?;
/// arbiter.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Arbiter {
    place: Place,
    // Dropping the sender is the signal to stop.
    running: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Arbiter {
    /// Starts the thread and returns once its runtime is ready.
    ///
    /// # Errors
    ///
    /// The operating system refused a thread, or the descriptors for a runtime.
    pub fn start(name: &str) -> io::Result<Self> {
        let (place_tx, place_rx) = std::sync::mpsc::sync_channel(1);
        let (running, stop) = oneshot::channel::<()>();
        let place_name: Arc<str> = name.into();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let (place, jobs) = Place::open(place_name);
            let beat = place.beat.clone();
            let mut builder = Builder::new_current_thread();
            let (idle, awake) = (beat.clone(), beat.clone());
            builder.enable_all().on_thread_park(move || idle.pause()).on_thread_unpark(move || awake.resume());
            beat.resume();
            builder.max_io_events_per_tick(EVENTS_PER_LOOK);
            let runtime = match builder.build_local(LocalOptions::default()) {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = place_tx.send(Err(error));
                    return;
                }
            };
            beat.make_current();
            let _ = place_tx.send(Ok(place));
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = stop => {}
                    () = serve(jobs) => {}
                }
            });
            // Actors dropped from here on end with the reason `ArbiterDown`.
            beat.down.store(true, Ordering::Relaxed);
            // Not `drop`, which would wait for blocking jobs, and these may never return.
            runtime.shutdown_background();
        })?;
        let place = place_rx
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the thread of the arbiter ended during its start")))?;
        Ok(Self { place, running: Some(running), thread: Some(thread) })
    }

    /// The place of this thread, for [`ChildSpec::place`](crate::ChildSpec::place) and
    /// [`Supervisor::start`](crate::Supervisor::start).
    pub fn place(&self) -> Place {
        self.place.clone()
    }

    /// Stops the thread and waits for the end. All actors on the thread end with
    /// [`ExitReason::ArbiterDown`](crate::ExitReason).
    ///
    /// This is not a shutdown: no actor is asked to stop. Stop the supervisor first.
    ///
    /// This call blocks until the running handler returns. Async code with handlers that may hang should drop the
    /// arbiter instead: a drop does not wait. A call on the arbiter's own thread does not wait either.
    pub fn stop(mut self) {
        drop(self.running.take());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            // The thread catches every panic of foreign code; there is no second error to report.
            let _ = thread.join();
        }
    }
}

/// A handle to a thread for children. Cheap to clone; the handle does not keep the thread alive.
#[derive(Clone)]
pub struct Place {
    jobs: Arc<Sender>,
    pub(crate) beat: Arc<Beat>,
}

impl Place {
    /// The current thread, which must be running a `LocalRuntime` or `LocalSet`.
    ///
    /// For tests under paused time, where all parts must share one clock, and for programs with a `LocalSet` of their
    /// own.
    ///
    /// # Panics
    ///
    /// Outside a `LocalRuntime` or `LocalSet`.
    pub fn here() -> Self {
        let name = thread::current().name().unwrap_or("here").into();
        let (mut place, jobs) = Self::open(name);
        match Beat::current() {
            Some(beat) => place.beat = beat,
            None => place.beat.make_current(),
        }
        tokio::task::spawn_local(serve(jobs));
        place
    }

    /// The name of the thread.
    pub fn name(&self) -> &Arc<str> {
        &self.beat.name
    }

    /// How often the thread has found no task to run, and has looked for events or slept. Counted for threads of an
    /// [`Arbiter`] only; wraps around. While the number stays the same, there has always been another task.
    pub fn pauses(&self) -> u64 {
        self.beat.pauses.load(Ordering::Relaxed)
    }

    /// Whether the thread waits for events, with no task to run. By the time the answer is read, the thread may have
    /// begun to work. Counted for threads of an [`Arbiter`] only; true for any other thread.
    pub fn is_paused(&self) -> bool {
        self.beat.awake_since.load(Ordering::Relaxed) == Beat::PAUSED
    }

    /// How long the thread has worked since its start, the work under way included, as opposed to waiting for events.
    /// Counted for threads of an [`Arbiter`] only. Two readings tell how busy the thread has been in between:
    ///
    /// ```
    /// use janus_supervision::Arbiter;
    ///
    /// let arbiter = Arbiter::start("home")?;
    /// let before = arbiter.place().busy();
    /// arbiter.place().run(|| println!("at work"))?;
    /// assert!(arbiter.place().busy() >= before);
    /// arbiter.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn busy(&self) -> Duration {
        self.beat.busy()
    }

    /// Calls `tell` on the place's thread before each pause, with the time since the last pause: how long a task that
    /// became ready in the meantime may have waited. Must be quick and not block. For threads of an [`Arbiter`] only.
    /// Returns whether the call had an effect: a thread has one such function, and the first stays.
    pub fn on_pause(&self, tell: impl Fn(Duration) + Send + Sync + 'static) -> bool {
        self.beat.on_pause.set(OnPause(Box::new(tell))).is_ok()
    }

    /// Runs `job` on the place's thread, after the jobs submitted before. A panic in the job is logged and has no other
    /// effect.
    ///
    /// # Errors
    ///
    /// [`ArbiterDown`]; `job` is dropped. An accepted job is still dropped unrun if the place stops before the job's
    /// turn.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) -> Result<(), ArbiterDown> {
        self.jobs.0.push(Box::new(job))
    }

    fn open(name: Arc<str>) -> (Self, Receiver) {
        let jobs = Jobs {
            queue: Mutex::new(Some(VecDeque::new())),
            abandoned: AtomicBool::new(false),
            changed: Notify::new(),
        };
        let jobs = Arc::new(jobs);
        let receiver = Receiver(jobs.clone());
        (Self { jobs: Arc::new(Sender(jobs)), beat: Arc::new(Beat::new(name)) }, receiver)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.beat.name).finish()
    }
}

async fn serve(jobs: Receiver) {
    loop {
        for _ in 0..JOBS_PER_TURN {
            let Some(job) = jobs.next().await else { return };
            if let Err(reason) = guarded(job) {
                log::error!("{}: a job failed: {reason}", Beat::here().name);
            }
        }
        tokio::task::yield_now().await;
    }
}

/// The jobs of a place.
///
/// Not tokio's channel: the channel keeps jobs sent during the drop of the receiver, and the start of a child lost in
/// there would never be known to have ended. Here a job is either refused, run or dropped.
struct Jobs {
    // `None` once the place is down.
    queue: Mutex<Option<VecDeque<Job>>>,
    // True once the last sender is gone.
    abandoned: AtomicBool,
    changed: Notify,
}

impl Jobs {
    fn push(&self, job: Job) -> Result<(), ArbiterDown> {
        {
            let mut queue = self.queue.lock();
            match &mut *queue {
                Some(queue) if queue.len() < JOBS_MAX => queue.push_back(job),
                _ => return Err(ArbiterDown),
            }
        }
        self.changed.notify_one();
        Ok(())
    }

    fn close(&self) -> Option<VecDeque<Job>> {
        self.queue.lock().take()
    }
}

/// Shared by all handles, and dropped with the last of them.
struct Sender(Arc<Jobs>);

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.abandoned.store(true, Ordering::Release);
        self.0.changed.notify_one();
    }
}

struct Receiver(Arc<Jobs>);

impl Receiver {
    /// `None` when there is no job and no sender left.
    async fn next(&self) -> Option<Job> {
        loop {
            // Read first: a handle may send a last job before the handle is dropped.
            let abandoned = self.0.abandoned.load(Ordering::Acquire);
            if let Some(job) = self.0.queue.lock().as_mut().and_then(VecDeque::pop_front) {
                return Some(job);
            }
            if abandoned {
                return None;
            }
            self.0.changed.notified().await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let left = self.0.close();
        // Values in a job may panic in their drop, and each job must get its own chance to report that it was not run.
        for job in left.into_iter().flatten() {
            let _ = guarded(|| drop(job));
        }
    }
}

/// The actor that a thread is running, written by that thread and read by watchdogs.
///
/// Three relaxed stores per poll and no clock; the clock is read before and after a pause. Only the owning thread
/// writes, so a count needs no read-modify-write.
#[derive(Debug)]
pub(crate) struct Beat {
    name: Arc<str>,
    polls: AtomicU64,
    pauses: AtomicU64,
    actor: AtomicU64,
    down: AtomicBool,
    begun: Instant,
    /// The end of the last pause, in nanoseconds since `begun`; [`PAUSED`](Self::PAUSED) in a pause.
    awake_since: AtomicU64,
    /// The time between pauses, in nanoseconds, without the time since the last pause.
    busy: AtomicU64,
    on_pause: OnceLock<OnPause>,
}

/// Is told of the time between two pauses.
struct OnPause(Box<dyn Fn(Duration) + Send + Sync>);

impl fmt::Debug for OnPause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnPause")
    }
}

impl Beat {
    fn new(name: Arc<str>) -> Self {
        Self {
            name,
            polls: AtomicU64::new(0),
            pauses: AtomicU64::new(0),
            actor: AtomicU64::new(0),
            down: AtomicBool::new(false),
            begun: Instant::now(),
            awake_since: AtomicU64::new(Self::PAUSED),
            busy: AtomicU64::new(0),
            on_pause: OnceLock::new(),
        }
    }

    /// Stands for a thread that waits for events.
    const PAUSED: u64 = u64::MAX;

    fn pause(&self) {
        self.pauses.store(self.pauses.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        let since = self.awake_since.swap(Self::PAUSED, Ordering::Relaxed);
        let worked = self.now().saturating_sub(since);
        self.busy.store(self.busy.load(Ordering::Relaxed) + worked, Ordering::Relaxed);
        if let Some(OnPause(tell)) = self.on_pause.get() {
            tell(Duration::from_nanos(worked));
        }
    }

    fn resume(&self) {
        self.awake_since.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        // Nanoseconds last for 584 years.
        self.begun.elapsed().as_nanos() as u64
    }

    /// See [`Place::busy`]. Between the two loads the thread may pause or resume; then the result is off by the time
    /// since the last pause, once.
    fn busy(&self) -> Duration {
        let (since, busy) = (self.awake_since.load(Ordering::Relaxed), self.busy.load(Ordering::Relaxed));
        Duration::from_nanos(busy + self.now().saturating_sub(since))
    }

    fn make_current(self: &Arc<Self>) {
        BEAT.with(|beat| *beat.borrow_mut() = Some(self.clone()));
    }

    fn current() -> Option<Arc<Self>> {
        BEAT.try_with(|beat| beat.borrow().clone()).ok().flatten()
    }

    /// The beat of this thread, made on first use for threads of no arbiter.
    pub(crate) fn here() -> Arc<Self> {
        Self::current().unwrap_or_else(|| {
            let beat = Arc::new(Self::new(thread::current().name().unwrap_or("here").into()));
            beat.make_current();
            beat
        })
    }

    /// Marks this thread as busy with an actor until the guard is dropped.
    pub(crate) fn enter(id: ActorId) -> Busy {
        let enter = |beat: &Self| {
            let outer = beat.actor.load(Ordering::Relaxed);
            beat.actor.store(id.to_bits(), Ordering::Relaxed);
            beat.polls.store(beat.polls.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
            Busy { outer }
        };
        // Borrowed, not cloned: two changes of a shared count would be a good part of a short poll.
        let known = BEAT.try_with(|beat| beat.borrow().as_deref().map(enter)).ok().flatten();
        known.unwrap_or_else(|| enter(&Self::here()))
    }

    /// The number of the current poll and its actor, unless the thread runs no actor.
    ///
    /// The values are read in sequence: right after a change they may belong to different polls. This does no harm to a
    /// watchdog, which waits until the same pair is read again.
    pub(crate) fn sample(&self) -> Option<(u64, ActorId)> {
        let poll = self.polls.load(Ordering::Relaxed);
        match self.actor.load(Ordering::Relaxed) {
            0 => None,
            bits => Some((poll, ActorId::from_bits(bits))),
        }
    }

    /// Whether the arbiter of this thread has stopped.
    pub(crate) fn is_down_here() -> bool {
        Self::current().is_some_and(|beat| beat.down.load(Ordering::Relaxed))
    }
}

/// Marks the thread as busy with an actor until dropped.
pub(crate) struct Busy {
    outer: u64,
}

impl Drop for Busy {
    fn drop(&mut self) {
        // A thread that is ending is watched no longer.
        let _ = BEAT.try_with(|beat| {
            if let Some(beat) = &*beat.borrow() {
                beat.actor.store(self.outer, Ordering::Relaxed);
            }
        });
    }
}

thread_local! {
    static BEAT: RefCell<Option<Arc<Beat>>> = const { RefCell::new(None) };
}
