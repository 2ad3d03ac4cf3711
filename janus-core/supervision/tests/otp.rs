//! Our supervisor against OTP's own. The scenarios, and the logs of `supervisor.erl` of OTP 25, are in `otp/`.
//!
//! Three bugs, planted one at a time, showed that this test can fail:
//!
//! - siblings stopped first to last instead of last to first: 443 lines differ;
//! - failed restarts not counted against the intensity: 426 lines differ;
//! - temporary children kept and restarted when a sibling's strategy stops them: 342 lines differ.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use janus_supervision::{
    ActorRef, ChildSpec, ExitReason, Place, Restart, Shutdown, State, Strategy, Supervisor, SupervisorRef,
};

use crate::support::{Leave, Log, Panic, Puppet, end, virtual_time};

#[test]
fn four_thousand_scenarios_end_as_they_do_in_otp() {
    let scenarios = include_str!("otp/scenarios.txt").lines();
    let expected = include_str!("otp/expected.txt").lines();
    let mut differences = 0;
    let mut compared = 0;
    virtual_time(async |here| {
        for (line, (scenario, expected)) in scenarios.zip(expected).enumerate() {
            compared += 1;
            let ours = play(&Scenario::parse(scenario), &here).await;
            if ours != expected {
                differences += 1;
                if differences <= 5 {
                    eprintln!("line {}: {scenario}\n  OTP:  {expected}\n  ours: {ours}", line + 1);
                }
            }
        }
    });
    assert_eq!(compared, 4000);
    assert_eq!(differences, 0, "of {compared} scenarios");
}

struct Scenario<'a> {
    strategy: Strategy,
    max_restarts: u32,
    children: Vec<Planned<'a>>,
    deaths: Vec<(&'a str, &'a str)>,
}

pub(crate) struct Planned<'a> {
    pub(crate) name: &'a str,
    pub(crate) restart: Restart,
    pub(crate) failing_attempts: Vec<u32>,
}

impl<'a> Scenario<'a> {
    /// Reads `{Strategy, MaxRestarts, [{Id, Restart, [N]}], [{Id, How}]}.`
    fn parse(line: &'a str) -> Self {
        let mut terms = Terms(line);
        terms.expect("{");
        let strategy = terms.strategy();
        terms.expect(",");
        let max_restarts = terms.number();
        terms.expect(",");
        let children = terms.list(|terms| terms.planned(","));
        terms.expect(",");
        let deaths = terms.deaths();
        terms.expect("}.");
        assert!(terms.0.is_empty(), "left over: {}", terms.0);
        Self { strategy, max_restarts, children, deaths }
    }
}

/// The rest of a line of Erlang terms.
pub(crate) struct Terms<'a>(pub(crate) &'a str);

impl<'a> Terms<'a> {
    pub(crate) fn strategy(&mut self) -> Strategy {
        match self.word() {
            "one_for_one" => Strategy::OneForOne,
            "one_for_all" => Strategy::OneForAll,
            "rest_for_one" => Strategy::RestForOne,
            other => panic!("unknown strategy {other}"),
        }
    }

    pub(crate) fn restart(&mut self) -> Restart {
        match self.word() {
            "permanent" => Restart::Permanent,
            "transient" => Restart::Transient,
            "temporary" => Restart::Temporary,
            other => panic!("unknown restart {other}"),
        }
    }

    /// `{Id, Restart, [N]}`, with the text `settings` before the list.
    pub(crate) fn planned(&mut self, settings: &str) -> Planned<'a> {
        self.expect("{");
        let name = self.word();
        self.expect(",");
        let restart = self.restart();
        self.expect(settings);
        let failing_attempts = self.list(Terms::number);
        self.expect("}");
        Planned { name, restart, failing_attempts }
    }

    /// `[{Id, How}]`.
    pub(crate) fn deaths(&mut self) -> Vec<(&'a str, &'a str)> {
        self.list(|terms| {
            terms.expect("{");
            let name = terms.word();
            terms.expect(",");
            let how = terms.word();
            terms.expect("}");
            (name, how)
        })
    }

    pub(crate) fn expect(&mut self, text: &str) {
        self.0 = self.0.strip_prefix(text).unwrap_or_else(|| panic!("no {text:?} at {:?}", self.0));
    }

    pub(crate) fn word(&mut self) -> &'a str {
        let end = self.0.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word
    }

    pub(crate) fn number(&mut self) -> u32 {
        self.word().parse().unwrap()
    }

    pub(crate) fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let mut items = Vec::new();
        self.expect("[");
        while !self.0.starts_with(']') {
            if !items.is_empty() {
                self.expect(",");
            }
            items.push(item(self));
        }
        self.expect("]");
        items
    }
}

/// Plays a scenario and writes the log line in the format of the recording.
async fn play(scenario: &Scenario<'_>, here: &Place) -> String {
    let log = Log::default();
    let mut supervisor =
        Supervisor::new("sup", scenario.strategy).intensity(scenario.max_restarts, Duration::from_secs(1_000_000));
    let mut actors = Vec::new();
    for child in &scenario.children {
        let actor = ActorRef::<Puppet>::new(child.name);
        supervisor = supervisor.child(spec(child, &actor, &log));
        actors.push((child.name, actor));
    }
    let mut line = String::new();
    let Ok(supervisor) = supervisor.start(here).await else {
        write!(line, "{} | no_start ", log.take()).unwrap();
        return line;
    };
    for (name, how) in &scenario.deaths {
        let (_, actor) = actors.iter().find(|(known, _)| known == name).unwrap();
        if !actor.is_running() {
            continue;
        }
        end(actor, |actor| die(actor, how)).await;
        if !settled(&supervisor).await {
            write!(line, "{} | gave_up ", log.take()).unwrap();
            return line;
        }
    }
    let up: Vec<&str> = actors.iter().filter(|(_, actor)| actor.is_running()).map(|(name, _)| *name).collect();
    write!(line, "{} | up {}", log.take(), up.join(",")).unwrap();
    supervisor.stop().await;
    line
}

/// Ends an actor in the way a scenario names.
pub(crate) fn die(actor: &ActorRef<Puppet>, how: &str) {
    match how {
        "error" => actor.cast(Panic).unwrap(),
        "fail" => actor.cast(Leave(ExitReason::Error("planned".into()))).unwrap(),
        "kill" => actor.kill(),
        "normal" => actor.cast(Leave(ExitReason::Normal)).unwrap(),
        "shutdown" => actor.cast(Leave(ExitReason::Shutdown)).unwrap(),
        other => panic!("unknown way to die {other}"),
    }
}

pub(crate) fn spec(child: &Planned<'_>, actor: &ActorRef<Puppet>, log: &Log) -> ChildSpec {
    let (name, failing, log): (Arc<str>, _, _) = (child.name.into(), child.failing_attempts.clone(), log.clone());
    let attempts = AtomicU32::new(0);
    ChildSpec::actor(actor, move |_| {
        let attempt = attempts.fetch_add(1, Ordering::Relaxed) + 1;
        if failing.contains(&attempt) {
            log.say(format!("fail:{name}"));
            return Err("planned".into());
        }
        Ok(Puppet::new(name.clone(), &log))
    })
    .restart(child.restart)
    .shutdown(Shutdown::Timeout(Duration::from_secs(2)))
}

/// Waits until the supervisor has nothing left to do. False if the supervisor has ended.
pub(crate) async fn settled(supervisor: &SupervisorRef) -> bool {
    loop {
        match supervisor.which_children().await {
            Ok(children) if children.iter().all(|child| child.state != State::Restarting) => return true,
            Ok(_) => tokio::task::yield_now().await,
            Err(_) => {
                supervisor.wait().await;
                return false;
            }
        }
    }
}
