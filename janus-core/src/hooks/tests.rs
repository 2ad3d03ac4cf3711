use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::mpsc as std_mpsc;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};

use super::*;
use crate::supervision::{Arbiter, ChildSpec, Strategy, Supervisor};

const DEADLINE: Duration = Duration::from_secs(30);

/// The next action of a hook. Without an action, hooks allow and note.
enum Act {
    Panic,
    Hang,
    Block(std_mpsc::Receiver<()>),
    Deny(Denied),
    /// Waits for the notification.
    Wait(Arc<Notify>),
}

#[derive(Default)]
struct Scripted {
    acts: Mutex<VecDeque<Act>>,
    notes: Option<mpsc::Sender<String>>,
    /// Counts the hooks whose future was dropped or has ended.
    over: Arc<Mutex<usize>>,
}

impl Scripted {
    fn new(acts: impl IntoIterator<Item = Act>) -> Self {
        Self { acts: Mutex::new(acts.into_iter().collect()), ..Self::default() }
    }

    async fn act(&self, note: String) -> Result<(), Denied> {
        struct Over(Arc<Mutex<usize>>);
        impl Drop for Over {
            fn drop(&mut self) {
                *self.0.lock() += 1;
            }
        }
        let _over = Over(Arc::clone(&self.over));
        let act = self.acts.lock().pop_front();
        match act {
            Some(Act::Panic) => panic!("on purpose: {note}"),
            Some(Act::Hang) => std::future::pending().await,
            Some(Act::Block(released)) => drop(released.recv()),
            Some(Act::Deny(denied)) => return Err(denied),
            Some(Act::Wait(go)) => go.notified().await,
            None => {}
        }
        if let Some(notes) = &self.notes {
            let _ = notes.try_send(note);
        }
        Ok(())
    }
}

impl Hooks for Scripted {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        self.act("authenticate".to_owned()).await?;
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        Ok(Identity::user(request.auth.unwrap_or_default()).claims(thread.into()))
    }

    async fn authorize_subscribe(&self, client: &Client, topic: &TopicName) -> Result<(), Denied> {
        self.act(format!("{} subscribes to {topic}", client.identity.user)).await
    }

    async fn connected(&self, client: &Client) {
        let _ = self.act(format!("connected {}", client.connection)).await;
    }

    async fn disconnected(&self, client: &Client, _: Disconnect) {
        let _ = self.act(format!("disconnected {}", client.connection)).await;
    }
}

fn peer() -> Peer {
    SocketAddr::from(([127, 0, 0, 1], 1)).into()
}

fn request() -> ConnectRequest {
    ConnectRequest { auth: Some("alice".to_owned()), ..ConnectRequest::new(1, "classic", peer()) }
}

fn client(connection: u64, identity: Identity) -> Arc<Client> {
    Arc::new(Client::new(connection, "classic", peer(), Arc::new(identity)))
}

fn topic() -> TopicName {
    TopicName::new("news", 255).unwrap()
}

fn runner(hooks: Scripted) -> Arc<HookRunner> {
    Arc::new(HookRunner::new(Arc::new(hooks), Handle::current(), &Config::default()))
}

async fn may_subscribe(runner: &Arc<HookRunner>, identity: Identity) -> Result<(), Refused> {
    match runner.authorize_subscribe(&client(1, identity), &topic())? {
        Some(answer) => answer.await,
        None => Ok(()),
    }
}

#[tokio::test(start_paused = true)]
async fn authenticate_returns_the_identity_given_by_the_hook() {
    let identity = runner(Scripted::default()).authenticate(request()).await.unwrap();
    assert_eq!(identity.user, "alice");
}

#[tokio::test(start_paused = true)]
async fn a_panicking_hook_refuses_one_question_and_not_the_next() {
    let runner = runner(Scripted::new([Act::Panic]));
    let refused = runner.authenticate(request()).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::AuthorizationFailed);
    assert!(runner.authenticate(request()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_hanging_hook_is_dropped_at_its_timeout() {
    let hooks = Scripted::new([Act::Hang]);
    let over = Arc::clone(&hooks.over);
    let (runner, begun) = (runner(hooks), Instant::now());
    let refused = runner.authenticate(request()).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::AuthorizationFailed);
    assert_eq!(begun.elapsed().as_secs(), 5);
    tokio::task::yield_now().await;
    assert_eq!(*over.lock(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_question_of_a_client_that_left_is_dropped() {
    let hooks = Scripted::new([Act::Hang]);
    let over = Arc::clone(&hooks.over);
    let runner = runner(hooks);
    let mut question = Box::pin(runner.authenticate(request()));
    assert!(question.as_mut().now_or_never().is_none());
    tokio::task::yield_now().await;
    assert_eq!(*over.lock(), 0, "it is being asked");
    drop(question);
    tokio::task::yield_now().await;
    assert_eq!(*over.lock(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_denial_is_final_or_temporary() {
    let later = Denied::for_now("the accounts are away", Duration::from_secs(3));
    let acts = [Act::Deny(Denied::new("who are you")), Act::Deny(later.clone()), Act::Deny(Denied::new("not yours"))];
    let runner = runner(Scripted::new(acts));
    let refused =
        |code, denied: Denied| Refused { retry_after: denied.retry_after, ..Refused::new(code, denied.reason) };
    let answer = runner.authenticate(request()).await.unwrap_err();
    assert_eq!(answer, refused(ErrorCode::Unauthorized, Denied::new("who are you")));
    assert_eq!(runner.authenticate(request()).await.unwrap_err(), refused(ErrorCode::AuthorizationFailed, later));
    let answer = may_subscribe(&runner, Identity::anonymous()).await.unwrap_err();
    assert_eq!(answer, refused(ErrorCode::Forbidden, Denied::new("not yours")));
}

#[tokio::test(start_paused = true)]
async fn permissions_in_the_identity_are_not_asked_again() {
    let runner = runner(Scripted::new([Act::Panic]));
    assert_eq!(may_subscribe(&runner, Identity::user("alice").may_subscribe(true)).await, Ok(()));
    let refused = may_subscribe(&runner, Identity::user("mallory").may_subscribe(false)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Forbidden);
    let asked = may_subscribe(&runner, Identity::user("bob")).await.unwrap_err();
    assert_eq!(asked.code, ErrorCode::AuthorizationFailed, "he was asked about, and the hook panicked");
}

#[tokio::test(start_paused = true)]
async fn questions_beyond_the_limit_wait_within_their_own_timeout() {
    let go = Arc::new(Notify::new());
    let hooks = Scripted::new([Act::Wait(Arc::clone(&go)), Act::Hang]);
    let config = Config { max_hook_questions: 1, ..Config::default() };
    let runner = Arc::new(HookRunner::new(Arc::new(hooks), Handle::current(), &config));
    let first = tokio::spawn(runner.authenticate(request()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let second = tokio::spawn(runner.authenticate(request()));
    let third = tokio::spawn(runner.authenticate(request()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!first.is_finished() && !second.is_finished());
    go.notify_one();
    assert!(first.await.unwrap().is_ok());
    let asked = Instant::now();
    assert!(second.await.unwrap().is_err(), "it hangs");
    assert_eq!(asked.elapsed().as_secs(), 4, "its time has begun when it began to wait");
    assert!(third.await.unwrap().is_err(), "its time was over when its turn came");
    assert!(runner.authenticate(request()).await.is_ok());
}

#[test]
fn a_hook_that_blocks_its_runtime_is_still_given_up() {
    let (thread, handle) = HookThread::start().unwrap();
    let (release, released) = std_mpsc::channel();
    let config = Config { hook_timeout: Duration::from_millis(50), ..Config::default() };
    let runner = Arc::new(HookRunner::new(Arc::new(Scripted::new([Act::Block(released)])), handle, &config));
    let here = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    here.block_on(async {
        for _ in 0..2 {
            let refused = timeout(DEADLINE, runner.authenticate(request())).await.unwrap().unwrap_err();
            assert_eq!(refused.code, ErrorCode::AuthorizationFailed);
        }
        release.send(()).unwrap();
        // The thread is about to be free again.
        let answered = async {
            loop {
                if let Ok(identity) = runner.authenticate(request()).await {
                    return identity;
                }
            }
        };
        let identity = timeout(DEADLINE, answered).await.unwrap();
        assert_eq!(identity.claims, "janus-hooks", "it ran on the thread of the hooks");
    });
    thread.stop();
}

#[test]
fn hooks_run_on_the_named_runtime_the_callers_or_their_own_thread() {
    let config = Config::default();
    let mut settings = HookSettings::default();
    let start = |settings: &HookSettings| settings.start(&config, false).unwrap();
    let nothing = start(&settings);
    assert!(nothing.hooks.is_none() && nothing.runtime.is_none() && nothing.thread.is_none(), "there are none");
    let other = settings.start(&config, true).unwrap();
    assert!(other.hooks.is_none() && other.runtime.is_some(), "other functions of the program need it");
    other.thread.expect("a thread of their own").stop();
    settings.set(Scripted::default());
    let own = start(&settings);
    assert!(own.hooks.is_some());
    own.thread.expect("a thread of their own").stop();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("mine").build().unwrap();
    let with_runtime = HookSettings { runtime: Some(runtime.handle().clone()), ..settings.clone() };
    let given = start(&with_runtime);
    assert!(given.thread.is_none(), "a runtime was given");
    let runner = given.hooks.expect("they are set");
    // The timer of this runtime is not enabled, and the server must not need the timer.
    let here = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    assert_eq!(here.block_on(runner.authenticate(request())).unwrap().claims, "mine");
    let here = runtime.block_on(async { start(&settings) });
    assert!(here.hooks.is_some() && here.thread.is_none(), "there is a runtime here");
}

#[test]
fn a_question_is_refused_after_the_runtime_of_hooks_is_gone() {
    let theirs = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let runner = Arc::new(HookRunner::new(Arc::new(Scripted::default()), theirs.handle().clone(), &Config::default()));
    drop(theirs);
    let here = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let refused = here.block_on(runner.authenticate(request())).unwrap_err();
    assert_eq!(refused.code, ErrorCode::AuthorizationFailed);
}

/// Starts a supervised observer, as in an instance. The observer runs until the arbiter is dropped.
async fn observed(acts: impl IntoIterator<Item = Act>, queue: usize) -> (Arc<HookRunner>, Observed) {
    let (notes, told) = mpsc::channel(1_000);
    let hooks = Scripted { notes: Some(notes), ..Scripted::new(acts) };
    let config = Config { hook_queue: queue, hook_timeout: Duration::from_secs(1), ..Config::default() };
    let runner = Arc::new(HookRunner::new(Arc::new(hooks), Handle::current(), &config));
    let arbiter = Arbiter::start("observer").unwrap();
    let observer = Arc::clone(&runner);
    let spec = ChildSpec::task("observer", move || observe(Arc::clone(&observer)));
    let root = Supervisor::new("root", Strategy::OneForOne).child(spec).start(&arbiter.place()).await.unwrap();
    (runner, Observed { told, root, _arbiter: arbiter })
}

struct Observed {
    told: mpsc::Receiver<String>,
    root: crate::supervision::SupervisorRef,
    _arbiter: Arbiter,
}

impl Observed {
    async fn next(&mut self) -> String {
        timeout(DEADLINE, self.told.recv()).await.expect("it is told").expect("the hooks are there")
    }
}

fn connected(connection: u64) -> News {
    News::Connected(client(connection, Identity::anonymous()))
}

#[tokio::test]
async fn observers_are_called_one_at_a_time_in_order() {
    let go = Arc::new(Notify::new());
    let (runner, mut observed) = observed([Act::Wait(Arc::clone(&go))], 100).await;
    go.notify_one();
    for number in 1..=50 {
        runner.tell(connected(number));
        runner.tell(News::Disconnected(client(number, Identity::anonymous()), Disconnect::ByClient));
    }
    for number in 1..=50 {
        assert_eq!(observed.next().await, format!("connected {number}"));
        assert_eq!(observed.next().await, format!("disconnected {number}"));
    }
    assert_eq!(runner.lost(), 0);
}

#[tokio::test]
async fn a_failing_observer_does_not_keep_the_next_from_being_called() {
    let (runner, mut observed) = observed([Act::Panic, Act::Hang], 100).await;
    (1..=3).for_each(|number| runner.tell(connected(number)));
    assert_eq!(observed.next().await, "connected 3");
    assert_eq!(observed.root.tree().find("observer").unwrap().restarts, 0);
}

#[tokio::test]
async fn events_beyond_the_queue_are_left_out_and_counted() {
    let runner = Arc::new(HookRunner::new(
        Arc::new(Scripted::default()),
        Handle::current(),
        &Config { hook_queue: 3, ..Config::default() },
    ));
    (1..=5).for_each(|number| runner.tell(connected(number)));
    assert_eq!(runner.lost(), 2);
}

#[tokio::test]
async fn a_flood_of_topics_pushes_out_no_event_of_a_client() {
    let config = Config { hook_queue: 3, ..Config::default() };
    let runner = Arc::new(HookRunner::new(Arc::new(Scripted::default()), Handle::current(), &config));
    let topics: Vec<_> = (0..5).map(|number| TopicName::new(&number.to_string(), 255).unwrap()).collect();
    let topics: Vec<_> = topics.into_iter().map(Occupancy::new).collect();
    for topic in &topics {
        for occupied in [true, false, true] {
            topic.set(occupied);
            topic.tell(&runner);
        }
    }
    // One entry for each topic, however often it changes; and an attempt for each change of a topic without an entry.
    assert_eq!(runner.lost(), 6);
    (1..=3).for_each(|number| runner.tell(connected(number)));
    assert_eq!(runner.lost(), 6);
}

#[tokio::test]
async fn queued_events_are_told_before_the_end() {
    let go = Arc::new(Notify::new());
    let (runner, mut observed) = observed([Act::Wait(Arc::clone(&go))], 100).await;
    (1..=20).for_each(|number| runner.tell(connected(number)));
    let (root, release) = (observed.root.clone(), async {
        tokio::task::yield_now().await;
        go.notify_one();
    });
    tokio::join!(root.stop(), release);
    for number in 1..=20 {
        assert_eq!(observed.next().await, format!("connected {number}"));
    }
}
