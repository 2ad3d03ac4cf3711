//! The library as a guest: in any runtime or none, together with other instances.

use futures_executor::block_on;
use janus_core::wire::classic::client::attach;
use janus_core::{Config, Janus};

use crate::support::{Client, own_address, serve};

fn config() -> Config {
    Config { listen: vec![own_address()], ..Config::default() }
}

#[tokio::test]
async fn two_instances_do_not_see_each_other() {
    let (one, addr_one) = serve(Config::default()).await;
    let (two, addr_two) = serve(Config::default()).await;
    let mut client = Client::connect_silently(addr_one).await;
    let token = client.json().await["token"].as_str().unwrap().to_owned();
    client.subscribe("news").await;
    let mut subscriber = two.subscribe("quotes").unwrap();
    assert_eq!(two.publish("news", "x").await.unwrap().subscribers, 0);
    assert_eq!(one.publish("quotes", "x").await.unwrap().subscribers, 0);

    let topics = |janus: &Janus| janus.topics().into_iter().map(|topic| topic.name.to_string()).collect::<Vec<_>>();
    assert_eq!((topics(&one), topics(&two)), (vec!["news".to_owned()], vec!["quotes".to_owned()]));
    assert_eq!((one.sessions().await.len(), two.sessions().await.len()), (1, 0));
    let counted = |janus: &Janus| (janus.stats().connections, janus.stats().connections_accepted);
    assert_eq!((counted(&one), counted(&two)), ((1, 1), (0, 0)));
    // A session of the first instance is unknown to the second.
    let mut stranger = Client::connect(addr_two).await;
    stranger.send(attach(&token, [("news", 0)])).await;
    let answer = stranger.json().await;
    assert_eq!(answer["attached"]["news"]["resumed"], false, "{answer}");

    two.shutdown().await;
    assert_eq!(subscriber.next().await, Some(janus_core::Event::Closed(janus_core::Closed::ShutDown)));
    one.publish("news", "y").await.unwrap();
    assert_eq!(client.json().await["data"], "y");
}

#[test]
fn an_instance_starts_and_publishes_without_any_runtime_of_the_caller() {
    let janus = block_on(Janus::builder().config(config()).start()).unwrap();
    assert_eq!(block_on(janus.publish("news", "x")).unwrap().subscribers, 0);
    assert_eq!(block_on(janus.sessions()).len(), 0);
    block_on(janus.shutdown());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_starts_in_a_runtime_with_many_threads() {
    let janus = Janus::builder().config(config()).start().await.unwrap();
    let publisher = janus.clone();
    let receipt = tokio::spawn(async move { publisher.publish("news", "x").await }).await.unwrap().unwrap();
    assert_eq!(receipt.subscribers, 0);
    janus.shutdown().await;
}

#[actix_rt::test]
async fn an_instance_starts_inside_an_actix_system() {
    let janus = Janus::builder().config(config()).start().await.unwrap();
    assert_eq!(janus.publish("news", "x").await.unwrap().subscribers, 0);
    janus.shutdown().await;
    assert!(actix_rt::System::try_current().is_some(), "its host goes on");
}
