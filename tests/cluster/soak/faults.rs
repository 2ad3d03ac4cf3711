//! Random faults: of the nodes, each from a thread of its own, and of the engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::super::Node;
use super::super::redis_server::{RedisServer, Reply, Sentinel};
use super::{Faults, World};

/// Ends, pauses and drains a node, up to the end of the faults; then the node is there.
pub(super) fn of_a_node(world: &Arc<World>, place: usize, mut rng: Rng) {
    let mut node = start(world, place);
    while world.pause(Duration::from_millis(rng.u64(1_500..9_000))) {
        match rng.u32(..100) {
            0..35 => {
                world.fault(format!("node {place} is killed"));
                node.server.signal("KILL");
                node = started_again(world, place, node, &mut rng);
            }
            35..70 => {
                let time = Duration::from_millis(rng.u64(500..8_000));
                world.fault(format!("node {place} is stopped for {time:?}"));
                world.ledger.count("faults: node stopped");
                node.server.signal("STOP");
                world.pause(time);
                node.server.signal("CONT");
                world.ledger.event(format!("node {place} goes on"));
            }
            _ => {
                world.fault(format!("node {place} is drained"));
                node.server.signal("TERM");
                node = started_again(world, place, node, &mut rng);
            }
        }
    }
    world.is_healed();
    world.until_over();
    node.server.signal("TERM");
    ended(world, place, node);
}

fn start(world: &World, place: usize) -> Node {
    let (name, config) = (format!("node {place}"), world.config.to_str().expect("a path in UTF-8"));
    let variables = [
        ("JANUS_ENGINE", &*world.engine),
        ("JANUS_NODE_NAME", &*name),
        ("JANUS_CONFIG", config),
        ("JANUS_RESUME_AGE", "600 s"),
        ("JANUS_LOG", "info"),
    ];
    let node = Node::with(&variables);
    world.set_node(place, Some((node.http, node.admin)));
    world.ledger.event(format!("node {place} is there, {}", node.http));
    node
}

/// The node has been told to end, one way or the other; a load balancer notices sooner or later.
fn started_again(world: &World, place: usize, node: Node, rng: &mut Rng) -> Node {
    let is_noticed = rng.bool();
    if is_noticed {
        world.set_node(place, None);
    }
    ended(world, place, node);
    world.set_node(place, None);
    world.pause(Duration::from_millis(rng.u64(..2_000)));
    start(world, place)
}

/// Waits for the end of a node, and reads the log: a node must neither panic nor fail to drain.
fn ended(world: &World, place: usize, node: Node) {
    let (status, log) = node.server.ended();
    world.ledger.count(format!("faults: node ended, {status}"));
    if log.contains("panicked at") || !(status.success() || status.code().is_none()) {
        world.ledger.breach(format!("node {place} ended with {status}:\n{log}"));
    }
    for line in log.lines().filter(|line| line.contains("ERROR")) {
        world.ledger.event(format!("node {place}: {line}"));
        world.ledger.count("errors in the logs of nodes");
    }
    if let Some(folder) = &world.logs {
        let name = format!("node-{place}-{}.log", world.ledger.counted("logs of nodes"));
        world.ledger.count("logs of nodes");
        std::fs::write(folder.join(name), &log).expect("the folder for the logs");
    }
}

/// Two servers, one of them the replica of the other, and a Sentinel with the power to promote it.
pub(super) struct Engine {
    servers: [RedisServer; 2],
    sentinel: Sentinel,
    master: usize,
}

impl Engine {
    pub(super) fn start() -> Self {
        let servers = [RedisServer::start(), RedisServer::start()];
        servers[1].follow(&servers[0]);
        let sentinel = Sentinel::with_patience(&servers[0], Duration::from_millis(1_500));
        servers[1].wait_for("the Sentinel knows the replica", || sentinel.knows_a_replica());
        Self { servers, sentinel, master: 0 }
    }

    pub(super) fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/tests", self.sentinel.port())
    }

    /// Harms the engine up to the end of the faults; then there are a master and a replica.
    pub(super) fn suffer(mut self, world: &Arc<World>, mut rng: Rng) {
        while world.pause(Duration::from_millis(rng.u64(1_000..7_000))) {
            match (rng.u32(..100), world.faults) {
                (0..40, _) | (_, Faults::Nodes) => self.cut_a_link(world, &mut rng),
                (40..65, _) => self.hang(world, &mut rng),
                (65..92, _) => self.fail_over(world, &mut rng),
                _ => {
                    world.engine_fault("restarts empty");
                    self.servers[self.master].restart();
                }
            }
            self.settle(world);
            world.ledger.set_isolated(false);
        }
        world.is_healed();
        world.until_over();
    }

    fn cut_a_link(&self, world: &World, rng: &mut Rng) {
        let list = self.servers[self.master].run(&["CLIENT", "LIST"]).text();
        let field = |line: &str, name: &str| {
            line.split(' ').find_map(|part| part.strip_prefix(name).map(str::to_owned)).unwrap_or_default()
        };
        let nodes: Vec<_> = list.lines().filter(|line| field(line, "name=").starts_with("janus-")).collect();
        if nodes.is_empty() {
            return;
        }
        let line = nodes[rng.usize(..nodes.len())];
        world.fault(format!("the engine ends the connection of {}", field(line, "name=")));
        world.ledger.count("faults: link to the engine cut");
        // The connection may have ended by itself.
        let _ = self.servers[self.master].command(&["CLIENT", "KILL", "ID", &field(line, "id=")]);
    }

    fn hang(&self, world: &World, rng: &mut Rng) {
        let time = Duration::from_millis(rng.u64(500..8_000));
        world.engine_fault("stopped");
        world.ledger.event(format!("the engine is stopped for {time:?}"));
        self.servers[self.master].pause();
        world.pause(time);
        // Another may have been promoted.
        world.ledger.set_isolated(true);
        self.servers[self.master].resume();
        world.ledger.event("the engine goes on");
    }

    fn fail_over(&mut self, world: &World, rng: &mut Rng) {
        world.engine_fault("killed, and a replica promoted");
        self.servers[self.master].kill();
        self.until(world, "the replica is promoted", |engine| engine.chosen() != engine.master);
        world.pause(Duration::from_millis(rng.u64(..3_000)));
        let old = self.master;
        self.servers[old].restart();
        self.servers[old].run(&["REPLICAOF", "127.0.0.1", &self.servers[1 - old].port().to_string()]);
        self.master = 1 - old;
    }

    /// The server that the Sentinel names.
    fn chosen(&self) -> usize {
        let port = self.sentinel.master();
        self.servers.iter().position(|server| Some(server.port()) == port).unwrap_or(self.master)
    }

    fn until(&self, world: &World, what: &str, condition: impl Fn(&Self) -> bool) {
        // A Sentinel trusts nothing for 30 s after a pause of its own.
        let end = Instant::now() + Duration::from_secs(120);
        while !condition(self) {
            if Instant::now() > end {
                world.ledger.breach(format!("the test's own servers: not in time: {what}"));
                return;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Waits until the Sentinel and both servers agree; there may have been a promotion in the meantime.
    fn settle(&mut self, world: &World) {
        let role = |server: &RedisServer| match server.command(&["ROLE"]) {
            Reply::List(parts) => parts.into_iter().next().map(Reply::text),
            _ => None,
        };
        self.until(world, "a master and a replica", |engine| {
            let chosen = engine.chosen();
            let (master, other) = (&engine.servers[chosen], &engine.servers[1 - chosen]);
            let [one, two] = [master, other].map(role);
            (one.as_deref(), two.as_deref()) == (Some("master"), Some("slave"))
                && other.info("replication", "master_port") == master.port().to_string()
                && other.info("replication", "master_link_status") == "up"
        });
        let chosen = self.chosen();
        if chosen != self.master {
            world.ledger.event("the Sentinel has promoted the replica");
            world.ledger.count("faults: engine promoted while it was stopped");
            self.master = chosen;
        }
    }
}
