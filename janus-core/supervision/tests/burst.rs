//! Several deaths at once, against OTP's own supervisor: one to three children are dead before the supervisor looks.
//!
//! The scenarios, and the logs of `supervisor.erl` of OTP 25, are in `otp/`. 39 lines differed while a failed restart
//! was counted at once instead of when the retry is handled.

use std::fmt::Write as _;
use std::time::Duration;

use futures_util::future::join_all;
use janus_supervision::{ActorRef, Place, State, Strategy, Supervisor, SupervisorRef};
use tokio::sync::oneshot;

use crate::otp::{Planned, Terms, die, settled, spec};
use crate::support::{Log, Puppet, virtual_time};

#[test]
fn four_thousand_bursts_of_deaths_end_as_they_do_in_otp() {
    let scenarios = include_str!("otp/burst-scenarios.txt").lines();
    let expected = include_str!("otp/burst-expected.txt").lines();
    let (mut compared, mut differences) = (0, 0);
    virtual_time(async |here| {
        for (line, (scenario, expected)) in scenarios.zip(expected).enumerate() {
            compared += 1;
            let ours = play(&Burst::parse(scenario), &here).await;
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

struct Burst<'a> {
    strategy: Strategy,
    max_restarts: u32,
    period: Duration,
    children: Vec<Planned<'a>>,
    /// Steps of deaths: each child with the way in which the child dies.
    steps: Vec<Vec<(&'a str, &'a str)>>,
}

impl<'a> Burst<'a> {
    /// Reads a line of the form
    /// `{tree, Strategy, MaxRestarts, Period, never, [{Id, Restart, false, 2000, 0, [N]}], [{die, [{Id, How}]}]}.`
    fn parse(line: &'a str) -> Self {
        let mut terms = Terms(line);
        terms.expect("{tree,");
        let strategy = terms.strategy();
        terms.expect(",");
        let max_restarts = terms.number();
        terms.expect(",");
        let period = Duration::from_millis(terms.number().into());
        terms.expect(",never,");
        let children = terms.list(|terms| terms.planned(",false,2000,0,"));
        terms.expect(",");
        let steps = terms.list(|terms| {
            terms.expect("{die,");
            let deaths = terms.deaths();
            terms.expect("}");
            deaths
        });
        terms.expect("}.");
        assert!(terms.0.is_empty(), "left over: {}", terms.0);
        Self { strategy, max_restarts, period, children, steps }
    }
}

/// Plays a scenario and writes the log line in the format of the recording.
async fn play(burst: &Burst<'_>, here: &Place) -> String {
    let log = Log::default();
    let mut supervisor = Supervisor::new("sup", burst.strategy).intensity(burst.max_restarts, burst.period);
    let mut actors = Vec::new();
    for child in &burst.children {
        let actor = ActorRef::<Puppet>::new(child.name);
        supervisor = supervisor.child(spec(child, &actor, &log));
        actors.push((child.name, actor));
    }
    let supervisor = supervisor.start(here).await.expect("the first start of each child succeeds");
    let mut line = String::new();
    for step in &burst.steps {
        let running = step.iter().filter_map(|(name, how)| {
            let (_, actor) = actors.iter().find(|(known, _)| known == name)?;
            actor.is_running().then_some((actor, *how))
        });
        all_at_once(running.collect()).await;
        let lives = settled(&supervisor).await;
        write!(line, "{} ", log.take()).unwrap();
        if !lives {
            line.push_str("[gone] | ended");
            return squeezed(&line);
        }
        write!(line, "[{}] ", states(&supervisor).await).unwrap();
    }
    line.push_str("| up");
    supervisor.stop().await;
    squeezed(&line)
}

/// Ends all of these actors before the supervisor gets a turn, and waits for their ends.
async fn all_at_once(deaths: Vec<(&ActorRef<Puppet>, &str)>) {
    let mut monitors = Vec::new();
    let mut told: Vec<oneshot::Receiver<()>> = Vec::new();
    for (actor, how) in deaths {
        let (tell, ended) = oneshot::channel();
        monitors.push(actor.monitor(move |_| drop(tell)));
        told.push(ended);
        die(actor, how);
    }
    join_all(told).await;
}

async fn states(supervisor: &SupervisorRef) -> String {
    let children = supervisor.which_children().await.unwrap();
    let show = |running| if running { "up" } else { "down" };
    let states = children.iter().map(|child| format!("{}:{}", child.name, show(child.state == State::Running)));
    states.collect::<Vec<_>>().join(",")
}

/// Removes the double spaces that a step without an event leaves.
fn squeezed(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
