//! Commands to a running supervisor.

use janus_supervision::{ActorRef, ChildError, ChildSpec, ExitReason, Restart, StartError};

use crate::support::{Log, Puppet, one_for_one, puppet, virtual_time};

#[test]
fn children_can_be_added_terminated_restarted_and_deleted() {
    virtual_time(async |here| {
        let log = Log::default();
        let tree = one_for_one().child(puppet("a", &log).1).start(&here).await.unwrap();
        let (_b, b) = puppet("b", &log);
        tree.start_child(b.clone()).await.unwrap();
        assert_eq!(tree.start_child(b.clone()).await, Err(StartError::AlreadyStarted("b".into())));
        assert_eq!(tree.restart_child("b").await, Err(ChildError::Running));
        assert_eq!(tree.delete_child("b").await, Err(ChildError::Running));
        tree.terminate_child("b").await.unwrap();
        tree.terminate_child("b").await.unwrap();
        assert_eq!(tree.start_child(b.clone()).await, Err(StartError::AlreadyPresent("b".into())));
        tree.restart_child("b").await.unwrap();
        tree.terminate_child("b").await.unwrap();
        tree.delete_child("b").await.unwrap();
        assert_eq!(tree.terminate_child("b").await, Err(ChildError::NotFound));
        assert_eq!(log.take(), "start:a start:b term:b start:b term:b");
        tree.start_child(b.restart(Restart::Temporary)).await.unwrap();
        tree.terminate_child("b").await.unwrap();
        assert_eq!(tree.delete_child("b").await, Err(ChildError::NotFound));
        tree.stop().await;
        assert_eq!(tree.which_children().await.unwrap_err(), ChildError::NotRunning);
        assert_eq!(tree.start_child(puppet("c", &log).1).await, Err(StartError::NotRunning));
    });
}

#[test]
fn an_added_child_that_cannot_start_is_not_kept() {
    virtual_time(async |here| {
        let tree = one_for_one().start(&here).await.unwrap();
        let broken = ChildSpec::actor(&ActorRef::<Puppet>::new("broken"), |_| Err("broken".into()));
        let error = tree.start_child(broken).await.unwrap_err();
        let reason = ExitReason::StartFailed("broken".into());
        assert_eq!(error, StartError::Failed { child: "broken".into(), reason });
        assert!(tree.which_children().await.unwrap().is_empty());
        tree.stop().await;
    });
}
