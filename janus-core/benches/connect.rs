//! The time for a client to connect and subscribe (connect, greeting, subscribe, ACK), compared with a bare accept
//! loop.
//!
//! In the bare loop, a single thread accepts, sends a greeting, reads, and sends an ACK, for each client in turn: four
//! system calls and nothing else. The loop has neither sessions nor topics, and a single silent client would stop the
//! loop for all. The times include the client's side, which is the same for both. With 500 at once, all clients connect
//! and subscribe before the first answer is read, and the time is divided by 500. In the other comparison each client
//! has its answer before the next client begins, so the time is per client.
//!
//! The bare loop waits for each request, and Janus continues with any client whose request has arrived: at once, Janus
//! can be faster.

mod client;
mod interleaved;

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

use client::Client;
use interleaved::{Comparison, rounds};
use janus_core::wire::Timestamp;
use janus_core::wire::classic::client::{ServerFrame, subscribe};
use janus_core::wire::classic::{ACK, encode_greeting};
use janus_core::{Config, Janus};

const TOPIC: &str = "news";
const CLIENTS: usize = 500;

fn main() -> Result<(), Box<dyn Error>> {
    // Both ends of every connection are in this process.
    rlimit::increase_nofile_limit(u64::MAX)?;
    let bare = bare_accept_loop()?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
    let janus = runtime.block_on(Janus::builder().config(config).start())?;

    compare("500 clients at once, per client", bare, &janus, rounds(100), |server| {
        let mut clients = Vec::with_capacity(CLIENTS);
        for _ in 0..CLIENTS {
            clients.push(asking(server)?);
        }
        clients.iter_mut().try_for_each(subscribed)?;
        Ok(clients)
    });
    compare("500 clients one after the other, per client", bare, &janus, rounds(40), |server| {
        let mut clients = Vec::with_capacity(CLIENTS);
        for _ in 0..CLIENTS {
            let mut client = asking(server)?;
            subscribed(&mut client)?;
            clients.push(client);
        }
        Ok(clients)
    });
    runtime.block_on(janus.shutdown());
    Ok(())
}

fn compare(
    title: &str,
    bare: SocketAddr,
    janus: &Janus,
    rounds: usize,
    connect: impl Fn(SocketAddr) -> io::Result<Vec<Client>>,
) {
    let turn = |server| {
        let start = Instant::now();
        let clients = connect(server).expect("every client is greeted and gets its ACK");
        (start.elapsed(), clients)
    };
    Comparison::new(title, CLIENTS as u32)
        .contender("bare accept loop", None, || turn(bare).0)
        .contender("Janus", Some("bare accept loop"), || {
            let (time, clients) = turn(janus.local_addrs()[0]);
            assert_eq!(
                janus.topic_info(TOPIC).map(|topic| topic.subscribers),
                Some(CLIENTS),
                "an ACK is a subscription"
            );
            drop(clients);
            // The next turn must not pay for the end of this turn.
            while janus.stats().connections > 0 {
                std::thread::yield_now();
            }
            time
        })
        .run(rounds);
}

/// Connects a client and sends its request.
fn asking(server: SocketAddr) -> io::Result<Client> {
    let mut client = Client::connect(server)?;
    client.send(&subscribe(TOPIC))?;
    Ok(client)
}

fn subscribed(client: &mut Client) -> io::Result<()> {
    client.read_until(|frame| *frame == ServerFrame::Ack)
}

/// Starts the bare loop, which runs until the process ends.
fn bare_accept_loop() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    // The backlog of the standard library is shorter than the number of simultaneous connects.
    socket2::SockRef::from(&listener).listen(Config::default().backlog as i32)?;
    let addr = listener.local_addr()?;
    let mut greeting = Vec::new();
    encode_greeting(&mut greeting, &Timestamp::default(), "0123456789abcdef0123456789abcdef", None);
    std::thread::spawn(move || -> io::Result<()> {
        let mut clients = Vec::with_capacity(CLIENTS);
        loop {
            let (mut client, _) = listener.accept()?;
            client.set_nodelay(true)?;
            client.write_all(&greeting)?;
            // Requests are small and arrive in one piece.
            let _ = client.read(&mut [0; 256])?;
            client.write_all(ACK)?;
            clients.push(client);
            if clients.len() == CLIENTS {
                // The last client of a turn has its answer.
                clients.clear();
            }
        }
    });
    Ok(addr)
}
