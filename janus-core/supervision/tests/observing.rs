//! The tree as data, ids, and events.

use janus_supervision::{ChildSpec, EventKind, ExitReason, NodeKind, State, Strategy, Supervisor, SupervisorRef};
use tokio::sync::broadcast;

use crate::support::{Log, crash, one_for_one, puppet, state_of, virtual_time};

#[test]
fn the_tree_serialises_with_states_restarts_and_reasons() {
    virtual_time(async |here| {
        let log = Log::default();
        let (a, a_spec) = puppet("a", &log);
        let inner = Supervisor::new("inner", Strategy::RestForOne).child(puppet("b", &log).1);
        let root = one_for_one().child(a_spec).child(ChildSpec::supervisor(inner));
        let tree = root.start(&here).await.unwrap();
        crash(&a).await;
        let json = serde_json::to_value(tree.tree()).unwrap();
        let expected = serde_json::json!({
            "name": "root", "kind": "supervisor", "id": 1, "state": "running", "restarts": 0, "last_reason": null,
            "children": [
                {"name": "a", "kind": "worker", "id": 5, "state": "running", "restarts": 1,
                 "last_reason": "panicked: planned: a"},
                {"name": "inner", "kind": "supervisor", "id": 3, "state": "running", "restarts": 0, "last_reason": null,
                 "children": [{"name": "b", "kind": "worker", "id": 4, "state": "running", "restarts": 0, "last_reason": null}]},
            ],
        });
        assert_eq!(json, expected);
        assert_eq!(tree.name_of(tree.tree().find("b").unwrap().id.unwrap()).as_deref(), Some("b"));
        assert_eq!(tree.tree().find("inner").unwrap().kind, NodeKind::Supervisor);
        tree.stop().await;
        assert_eq!(state_of(&tree, "b"), Some(State::Stopped));
    });
}

#[test]
fn ids_count_from_one_in_each_tree_and_still_differ_between_trees() {
    virtual_time(async |here| {
        let ids = |tree: &SupervisorRef| tree.id().unwrap();
        let one = one_for_one().start(&here).await.unwrap();
        let other = one_for_one().start(&here).await.unwrap();
        assert_eq!((ids(&one).sequence(), ids(&other).sequence()), (1, 1));
        assert_ne!(ids(&one), ids(&other));
        one.stop().await;
        other.stop().await;
    });
}

#[test]
fn subscribers_receive_events_and_slow_subscribers_a_count_of_missed() {
    virtual_time(async |here| {
        let (a, spec) = puppet("a", &Log::default());
        let tree = one_for_one().child(spec).start(&here).await.unwrap();
        let (mut fast, mut slow) = (tree.subscribe().unwrap(), tree.subscribe().unwrap());
        crash(&a).await;
        let (ended, started) = (fast.recv().await.unwrap(), fast.recv().await.unwrap());
        assert_eq!((&*ended.supervisor, &*ended.child), ("root", "a"));
        assert!(matches!(ended.what, EventKind::Ended(ExitReason::Panicked(_))));
        assert_eq!((started.what, started.id), (EventKind::Started, a.id()));
        for _ in 0..200 {
            crash(&a).await;
        }
        assert!(matches!(slow.recv().await, Err(broadcast::error::RecvError::Lagged(146))));
        tree.stop().await;
    });
}
