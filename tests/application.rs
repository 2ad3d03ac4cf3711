//! The embedder's own actors in the tree: started, restarted, escalated and stopped like the actors of Janus.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use actix::prelude::*;
use janus_core::supervision::{
    ActorRef, BoxError, ChildSpec, ExitReason, Shutdown, State, Strategy, Supervisor, stop_requested,
};
use janus_core::{Builder, Config, Janus, PublishError, StartupError, WeakJanus};
use tokio::time::timeout;

use crate::support::{Client, Close, DEADLINE, own_address, until};

/// Counts its lives, and panics or hangs on request.
struct Desk {
    stopped: Arc<AtomicU32>,
}

impl Actor for Desk {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        self.stopped.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Message)]
#[rtype(result = "String")]
struct Ask;

impl Handler<Ask> for Desk {
    type Result = String;

    fn handle(&mut self, _: Ask, _: &mut Context<Self>) -> String {
        std::thread::current().name().unwrap_or_default().to_owned()
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Panic;

impl Handler<Panic> for Desk {
    type Result = ();

    fn handle(&mut self, _: Panic, _: &mut Context<Self>) {
        panic!("on purpose: an actor of the embedder's");
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct BlockUntil(mpsc::Receiver<()>);

impl Handler<BlockUntil> for Desk {
    type Result = ();

    fn handle(&mut self, BlockUntil(released): BlockUntil, _: &mut Context<Self>) {
        let _ = released.recv();
    }
}

fn desk() -> (ActorRef<Desk>, ChildSpec, Arc<AtomicU32>) {
    let (desk, stopped) = (ActorRef::new("desk"), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&stopped);
    let spec = ChildSpec::actor(&desk, move |_| Ok(Desk { stopped: Arc::clone(&count) }));
    (desk, spec, stopped)
}

fn builder() -> Builder {
    Janus::builder().config(Config { listen: vec![own_address()], drain_period: Duration::ZERO, ..Config::default() })
}

#[tokio::test]
async fn an_actor_that_panics_is_restarted_listed_and_stopped_at_shutdown() {
    let (desk, spec, stopped) = desk();
    let janus = builder().child(spec).start().await.unwrap();
    assert_eq!(desk.call(Ask).await.unwrap(), "janus-application");
    let first = desk.id();
    desk.cast(Panic).unwrap();
    timeout(DEADLINE, desk.when_up(first)).await.unwrap();
    until("its supervisor knows that it is up", || {
        let tree = janus.tree();
        let desk = tree.find("application").and_then(|application| application.find("desk"));
        desk.is_some_and(|desk| desk.state == State::Running && desk.restarts == 1)
    })
    .await;
    assert_eq!(janus.publish("news", "x").await.unwrap().subscribers, 0);
    janus.shutdown().await;
    assert!(!desk.is_running());
    assert_eq!(stopped.load(Ordering::Relaxed), 1, "the one that panicked was only dropped");
}

#[tokio::test]
async fn a_child_that_keeps_crashing_ends_the_instance_and_is_named() {
    let starts = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&starts);
    let crash = ChildSpec::task("crasher", move || {
        count.fetch_add(1, Ordering::Relaxed);
        async {
            tokio::task::yield_now().await;
            Err("on purpose: it cannot work".into())
        }
    });
    let janus = builder().child(crash).start().await.unwrap();
    let addr = janus.local_addrs()[0];
    let reason = timeout(DEADLINE, janus.wait()).await.unwrap();
    let ExitReason::MaxRestarts { child, last } = &reason else { panic!("{reason:?}") };
    assert_eq!(&**child, "application");
    let last = last.to_string();
    assert!(last.contains("crasher") && last.contains("it cannot work"), "{last}");
    assert_eq!(starts.load(Ordering::Relaxed), 36, "six lives of the supervisor, with six of the child each");
    assert_eq!(janus.publish("news", "x").await, Err(PublishError::ShuttingDown));
    janus.shutdown().await;
    assert!(tokio::net::TcpStream::connect(addr).await.is_err(), "nothing listens any more");
}

async fn farewell(janus: WeakJanus) -> Result<(), BoxError> {
    stop_requested().await;
    let janus = janus.upgrade().ok_or("the instance is gone")?;
    janus.publish("news", "farewell").await?;
    Ok(())
}

#[tokio::test]
async fn a_child_being_stopped_can_still_publish_to_clients() {
    let janus = builder()
        .child_with(|janus| ChildSpec::task("farewell", move || farewell(janus.clone())))
        .start()
        .await
        .unwrap();
    let mut client = Client::connect(janus.local_addrs()[0]).await;
    client.subscribe("news").await;
    janus.shutdown().await;
    assert_eq!(client.json().await["data"], "farewell");
    assert_eq!(client.close().await, Close::Fin);
}

#[tokio::test]
async fn children_are_up_before_any_port_is_open() {
    let (seen, listened) = mpsc::channel();
    let look = move |janus: WeakJanus| {
        let seen = seen.clone();
        ChildSpec::task("look", move || {
            let tree = janus.upgrade().expect("the handle exists").tree();
            let _ = seen.send(tree.children.iter().any(|child| child.name.starts_with("acceptor")));
            std::future::pending()
        })
    };
    let janus = builder().child_with(look).start().await.unwrap();
    assert!(!listened.recv().unwrap(), "no acceptor has been started yet");
    assert!(janus.tree().children.last().unwrap().name.starts_with("acceptor"));
    janus.shutdown().await;
}

#[tokio::test]
async fn a_blocking_actor_delays_neither_the_server_nor_its_shutdown() {
    let (desk, spec, _) = desk();
    let config = Config { listen: vec![own_address()], drain_timeout: Duration::from_secs(2), ..Config::default() };
    let janus = Janus::builder().config(Config { drain_period: Duration::ZERO, ..config }).child(spec).start().await;
    let janus = janus.unwrap();
    let (release, released) = mpsc::channel();
    desk.cast(BlockUntil(released)).unwrap();
    let mut client = Client::connect(janus.local_addrs()[0]).await;
    client.subscribe("news").await;
    assert_eq!(janus.publish("news", "x").await.unwrap().subscribers, 1);
    assert_eq!(client.json().await["data"], "x");
    timeout(DEADLINE, janus.shutdown()).await.unwrap();
    assert_eq!(timeout(DEADLINE, janus.wait()).await.unwrap(), ExitReason::Shutdown);
    release.send(()).unwrap();
}

#[tokio::test]
async fn the_instance_ends_with_its_last_handle_even_if_children_hold_one() {
    struct Dropped(mpsc::Sender<()>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (ended, end) = mpsc::channel();
    let child = move |janus: WeakJanus| {
        let ended = ended.clone();
        ChildSpec::task("child", move || {
            let (_janus, dropped) = (janus.clone(), Dropped(ended.clone()));
            async move {
                let _dropped = dropped;
                std::future::pending().await
            }
        })
    };
    let janus = builder().child_with(child).start().await.unwrap();
    let weak = janus.downgrade();
    assert!(weak.upgrade().is_some());
    drop(janus);
    assert!(weak.upgrade().is_none());
    end.recv_timeout(DEADLINE).expect("the child has ended");
}

#[tokio::test]
async fn an_instance_whose_child_fails_to_start_fails_and_names_the_child() {
    let broken = ChildSpec::task("broken", || async { Err("on purpose: no database".into()) });
    let error = builder().child(broken).start().await.unwrap_err();
    assert!(
        matches!(&error, StartupError::Tree(why) if why.contains("broken") && why.contains("no database")),
        "{error}"
    );
    let (one, two) = (ChildSpec::task("twin", std::future::pending), ChildSpec::task("twin", std::future::pending));
    let error = builder().child(one).child(two).start().await.unwrap_err();
    assert!(matches!(&error, StartupError::Tree(why) if why.contains("twin")), "{error}");
}

#[tokio::test]
async fn an_embedders_supervisor_keeps_a_crash_from_the_rest() {
    let (desk, spec, _) = desk();
    let own = Supervisor::new("own", Strategy::OneForOne).intensity(1_000, Duration::from_secs(1)).child(spec);
    let janus = builder().child(ChildSpec::supervisor(own).shutdown(Shutdown::Infinity)).start().await.unwrap();
    for _ in 0..50 {
        let before = desk.id();
        desk.cast(Panic).unwrap();
        timeout(DEADLINE, desk.when_up(before)).await.unwrap();
    }
    assert_eq!(desk.call(Ask).await.unwrap(), "janus-application");
    assert_eq!(janus.tree().find("application").unwrap().restarts, 0);
    janus.shutdown().await;
}
