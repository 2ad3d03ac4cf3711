//! Publishes typed values and receives the values in the same program.
//!
//! `cargo run --example publish_subscribe`. Clients of any protocol could take part, and would see JSON.

use janus_core::{Config, Janus, TypedEvent};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Quote {
    symbol: String,
    price: f64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
    let janus = Janus::builder().config(config).start().await?;
    let topic = janus.topic::<Quote>("quotes:tech")?;

    let mut quotes = topic.subscribe()?;
    let reader = tokio::spawn(async move {
        while let Some(event) = quotes.next().await {
            match event {
                TypedEvent::Message(message) => {
                    let Quote { symbol, price } = &message.value;
                    println!("{:>3}  {symbol} {price:.2}", message.delivery.seq());
                }
                TypedEvent::Gap { from, to } => println!("{from} to {to} did not reach us"),
                TypedEvent::Undecodable { error, delivery } => println!("no quote: {} ({error})", delivery.data()),
                TypedEvent::Closed(why) => println!("the end: {why:?}"),
                _ => {}
            }
        }
    });

    for (symbol, price) in [("ACME", 101.5), ("INIT", 17.25), ("ACME", 101.75)] {
        let receipt = topic.publish(&Quote { symbol: symbol.to_owned(), price }).await?;
        println!("published number {} to {} subscribers", receipt.seq, receipt.subscribers);
    }
    janus.publish("quotes:tech", "not a quote").await?;

    janus.shutdown().await;
    reader.await?;
    Ok(())
}
