//! The worker processes of a bench: starts workers, passes lines to and from workers, and ends every worker even if the
//! bench fails.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use super::lines::{FromWorker, ToWorker};

pub(super) enum Event {
    Line(usize, FromWorker),
    /// The worker's output has ended, or contained an unknown line.
    Ended(usize),
}

pub(super) struct Crew {
    workers: Vec<Worker>,
    events: Receiver<Event>,
    sender: SyncSender<Event>,
}

/// A child process, killed when this value is dropped.
struct Worker {
    child: Child,
    input: ChildStdin,
}

impl Default for Crew {
    fn default() -> Self {
        // When the channel is full, the reading threads wait; the coordinator empties the channel all the time.
        let (sender, events) = sync_channel(1_024);
        Self { workers: Vec::new(), events, sender }
    }
}

impl Crew {
    /// Starts a worker, and sends the plan.
    pub(super) fn hire(&mut self, plan: &ToWorker) -> io::Result<()> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("bench-worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().expect("the input is piped");
        let output = child.stdout.take().expect("the output is piped");
        let index = self.workers.len();
        self.workers.push(Worker { child, input });
        let sender = self.sender.clone();
        std::thread::spawn(move || forward(index, output, &sender));
        self.workers[index].tell(plan)
    }

    pub(super) fn len(&self) -> usize {
        self.workers.len()
    }

    pub(super) fn next_event(&self, deadline: Instant) -> Option<Event> {
        self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    /// Sends a line to all workers. Errors are ignored, because a dead worker is noticed by the end of its output.
    pub(super) fn tell_all(&mut self, line: &ToWorker) {
        for worker in &mut self.workers {
            let _ = worker.tell(line);
        }
    }
}

impl Worker {
    fn tell(&mut self, line: &ToWorker) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.input.write_all(&text)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward(index: usize, output: ChildStdout, sender: &SyncSender<Event>) {
    for line in BufReader::new(output).lines() {
        let Some(line) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else { break };
        if sender.send(Event::Line(index, line)).is_err() {
            return;
        }
    }
    let _ = sender.send(Event::Ended(index));
}
