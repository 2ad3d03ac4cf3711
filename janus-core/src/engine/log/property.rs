//! The rules against a plain model, on servers with failovers to copies of each other.
//!
//! The model keeps the whole past and counts each answer from the start, where the rules keep sums and trim. Both must agree, and over all servers no epoch and number may ever name two things.

use std::collections::HashMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);
const SERVERS: usize = 3;

/// An epoch not given by any step.
const STRANGE: Epoch = Epoch::new(u64::MAX);

#[derive(Clone, Debug)]
enum Step {
    Append {
        server: usize,
        node: u64,
        number: u64,
        count: u64,
        bytes: usize,
        create: bool,
        key: Option<u8>,
    },
    /// The known position: whose epoch, and how far from the last number of the server.
    Open {
        server: usize,
        known: Option<(Whose, i64)>,
        from: Option<u64>,
    },
    Report {
        server: usize,
    },
    Restart {
        server: usize,
    },
    /// Another server goes on with the data of this server.
    FailOver {
        from: usize,
        to: usize,
    },
    Empty {
        server: usize,
    },
    Evict {
        server: usize,
    },
    EvictLog {
        server: usize,
    },
    Pass {
        milliseconds: u32,
    },
}

#[derive(Clone, Copy, Debug)]
enum Whose {
    OfServer(usize),
    Strange,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let server = || 0..SERVERS;
    let append = (server(), 0..3_u64, 1..20_u64, 1..4_u64, 0..200_usize, any::<bool>(), prop::option::of(0..3_u8));
    let append = append.prop_map(|(server, node, number, count, bytes, create, key)| Step::Append {
        server,
        node,
        number,
        count,
        bytes,
        create,
        key,
    });
    let whose = prop_oneof![3 => server().prop_map(Whose::OfServer), 1 => Just(Whose::Strange)];
    let open = (server(), prop::option::of((whose, -3..4_i64)), prop::option::of(0..30_u64));
    let step = prop_oneof![
        12 => append,
        6 => open.prop_map(|(server, known, from)| Step::Open { server, known, from }),
        1 => server().prop_map(|server| Step::Report { server }),
        1 => server().prop_map(|server| Step::Restart { server }),
        2 => (server(), server()).prop_map(|(from, to)| Step::FailOver { from, to }),
        1 => server().prop_map(|server| Step::Empty { server }),
        1 => server().prop_map(|server| Step::Evict { server }),
        1 => server().prop_map(|server| Step::EvictLog { server }),
        2 => (0..2_000_u32).prop_map(|milliseconds| Step::Pass { milliseconds }),
    ];
    prop::collection::vec(step, 1..120)
}

/// A topic on a server, with the whole past.
#[derive(Clone, Debug)]
struct Plain {
    history: u64,
    life: Option<Life>,
    keys: Vec<(u8, Position, Duration)>,
}

#[derive(Clone, Debug)]
struct Life {
    first_epoch: Epoch,
    written_in: u64,
    records: Vec<Record>,
    submissions: Vec<(NodeId, u64)>,
    /// Records before this are gone, other than by trimming.
    cleared: usize,
    last_record: Duration,
    last_use: Duration,
}

impl Life {
    fn position(&self) -> Position {
        let seq = self.records.iter().map(|record| record.count).sum();
        Position { epoch: self.records.last().map_or(self.first_epoch, |record| record.epoch), seq }
    }

    fn add(&mut self, given: Given, history: u64, epoch: Epoch, count: u64, what: What) -> Record {
        let (first, time) = (self.position().seq + 1, Timestamp::from_unix(given.now));
        let record = Record { epoch, first, count, time, what };
        self.records.push(record.clone());
        (self.written_in, self.last_record, self.last_use) = (history, given.now, given.now);
        record
    }

    fn lose(&mut self, given: Given, history: u64, epoch: Epoch, count: u64) -> Record {
        let after = self.position();
        self.add(given, history, epoch, count, What::Lost { after })
    }

    fn log(&self, now: Duration, keep: Keep) -> &[Record] {
        if now >= self.last_record + keep.age {
            return &[];
        }
        let last = self.position().seq;
        let is_kept = |index: usize| {
            let behind: u64 = self.records[index + 1..].iter().map(bytes_of).sum();
            self.records[index].last().seq + keep.messages > last && behind < keep.bytes
        };
        let trimmed = (0..self.records.len()).find(|&index| is_kept(index)).unwrap_or(self.records.len());
        &self.records[trimmed.max(self.cleared)..]
    }
}

impl Plain {
    fn new(history: u64) -> Self {
        Self { history, life: None, keys: Vec::new() }
    }

    /// The beginning of each step.
    fn begin(&mut self, given: Given, keep: Keep) -> Vec<Record> {
        let now = given.now;
        self.life.take_if(|life| now >= life.last_use + keep.state);
        let Some(life) = &mut self.life else { return Vec::new() };
        if now >= life.last_record + keep.age {
            life.cleared = life.records.len();
        }
        let is_other = life.written_in != self.history;
        is_other.then(|| life.lose(given, self.history, given.fresh, 1)).into_iter().collect()
    }

    fn live(&mut self, given: Given) -> &mut Life {
        self.life.get_or_insert_with(|| Life {
            first_epoch: given.fresh,
            written_in: self.history,
            records: Vec::new(),
            submissions: Vec::new(),
            cleared: 0,
            last_record: given.now,
            last_use: given.now,
        })
    }

    fn append(
        &mut self,
        given: Given,
        keep: Keep,
        create: bool,
        submission: &Submission<'_>,
        key: Option<u8>,
    ) -> Appended {
        let mut new = self.begin(given, keep);
        let life_of_key = submission.key.map(|(_, life)| life);
        let again = self.keys.iter().rev().find(|&&(other, _, until)| Some(other) == key && given.now < until);
        let outcome = if let Some(&(_, position, _)) = again {
            Outcome::Again(position)
        } else if self.life.is_none() && !create {
            Outcome::Nobody
        } else {
            let history = self.history;
            let life = self.live(given);
            let is_known = |&(node, number): &(NodeId, u64)| node == submission.node && number >= submission.number;
            if life.submissions.iter().any(is_known) {
                Outcome::Known
            } else {
                let Position { epoch, seq } = life.position();
                let &Submission { node, number, count, payload, .. } = submission;
                life.submissions.push((node, number));
                let what = What::Messages { node, submission: number, payload: payload.clone() };
                new.push(life.add(given, history, epoch, count, what));
                let first = Position { epoch, seq: seq + 1 };
                self.keys.extend(key.zip(life_of_key).map(|(key, life)| (key, first, given.now + life)));
                Outcome::New(first)
            }
        };
        Appended { outcome: Ok(outcome), new }
    }

    fn open(&mut self, given: Given, keep: Keep, known: Option<Position>, from: Option<u64>) -> Opened {
        let mut new = self.begin(given, keep);
        let (is_fresh, history) = (self.life.is_none(), self.history);
        let life = self.live(given);
        let at = life.position();
        // A passed number says nothing of the epoch.
        let is_ahead = |known: &Position| known.seq > at.seq || known.seq == at.seq && known.epoch != at.epoch;
        if let Some(known) = known.filter(|known| is_fresh || is_ahead(known)) {
            new.push(life.lose(given, history, at.epoch, known.seq + 1 - at.seq));
        }
        life.last_use = given.now;
        let log = life.log(given.now, keep).iter();
        let records = from.map(|from| log.filter(|record| record.last().seq >= from).cloned().collect());
        Opened { position: life.position(), records: records.unwrap_or_default(), new }
    }
}

/// The servers, a model of each, and all records.
struct World {
    keep: Keep,
    name: TopicName,
    now: Duration,
    epochs: u64,
    histories: u64,
    servers: Vec<(Server, Plain)>,
    named: HashMap<(Epoch, u64), Record>,
}

impl World {
    fn new(keep: Keep) -> Self {
        let servers = (0..SERVERS as u64).map(|number| (Server::new(number), Plain::new(number))).collect();
        let (name, now) = (TopicName::new("news", 255).unwrap(), Duration::from_secs(1_000_000_000));
        Self { keep, name, now, epochs: 0, histories: SERVERS as u64, servers, named: HashMap::new() }
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        self.epochs += 1;
        let (keep, given) = (self.keep, Given { now: self.now, fresh: Epoch::new(self.epochs) });
        match *step {
            Step::Append { server, node, number, count, bytes, create, key } => {
                // No two payloads are the same.
                let payload = Payload::from_bytes(Bytes::from(format!("{} {}", self.epochs, "x".repeat(bytes))));
                let word = key.map(|key| key.to_string());
                let life = word.as_deref().map(|word| (word, 700 * MILLISECOND));
                let submission = Submission { node: NodeId::new(node), number, count, payload: &payload, key: life };
                let (server, plain) = &mut self.servers[server];
                let appended = server.append(given, &self.name, keep, create, submission);
                prop_assert_eq!(&appended, &plain.append(given, keep, create, &submission, key));
                self.name_all(&appended.new)?;
            }
            Step::Open { server, known, from } => {
                let known = known.map(|(whose, distance)| self.known(server, whose, distance));
                let (server, plain) = &mut self.servers[server];
                let opened = server.open(given, &self.name, keep, known, from);
                prop_assert_eq!(&opened, &plain.open(given, keep, known, from));
                let at = opened.position;
                let is_behind = known.is_some_and(|known| known != at && known.seq >= at.seq);
                prop_assert!(!is_behind, "{known:?} was known, and the topic is at {at:?}");
                self.name_all(&opened.new)?;
            }
            Step::Report { server } => {
                let (server, plain) = &mut self.servers[server];
                let position = server.report(self.now, &self.name, NodeId::new(1), 1, MILLISECOND).0;
                plain.life.take_if(|life| given.now >= life.last_use + keep.state);
                plain.life.iter_mut().for_each(|life| life.last_use = given.now);
                prop_assert_eq!(position, plain.life.as_ref().map(Life::position));
            }
            Step::Restart { server } => self.go_on(server, server),
            Step::FailOver { from, to } => self.go_on(from, to),
            Step::Empty { server } => {
                self.histories += 1;
                self.servers[server] = (Server::new(self.histories), Plain::new(self.histories));
            }
            Step::Evict { server } => {
                self.servers[server].0.evict(&self.name);
                self.servers[server].1.life = None;
            }
            Step::EvictLog { server } => {
                self.servers[server].0.evict_log(&self.name);
                self.servers[server].1.life.iter_mut().for_each(|life| life.cleared = life.records.len());
            }
            Step::Pass { milliseconds } => self.now += milliseconds * MILLISECOND,
        }
        Ok(())
    }

    fn known(&self, server: usize, whose: Whose, distance: i64) -> Position {
        let position = |server: usize| self.servers[server].0.position(&self.name);
        let epoch = match whose {
            Whose::OfServer(server) => position(server).map(|position| position.epoch),
            Whose::Strange => None,
        };
        let seq = position(server).map_or(3, |position| position.seq).saturating_add_signed(distance);
        Position { epoch: epoch.unwrap_or(STRANGE), seq }
    }

    /// A server goes on with the data of another, or with its own after a restart, under a new history.
    fn go_on(&mut self, from: usize, to: usize) {
        self.histories += 1;
        let (mut server, mut plain) = self.servers[from].clone();
        server.restart(self.histories);
        plain.history = self.histories;
        self.servers[to] = (server, plain);
    }

    fn name_all(&mut self, records: &[Record]) -> Result<(), TestCaseError> {
        for record in records {
            for seq in record.first..=record.last().seq {
                let other = self.named.insert((record.epoch, seq), record.clone());
                prop_assert!(other.is_none(), "one number for two things: {other:?} and {record:?}");
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn servers_do_as_the_model_and_never_name_two_things_alike(
        steps in steps(),
        messages in prop::sample::select(vec![0, 1, 4, 1_000]),
        bytes in prop::sample::select(vec![0, 500, 1 << 20]),
    ) {
        let (age, state) = (Duration::from_secs(1), Duration::from_secs(3));
        let mut world = World::new(Keep { messages, bytes, age, state });
        for step in &steps {
            world.take(step)?;
        }
    }
}
