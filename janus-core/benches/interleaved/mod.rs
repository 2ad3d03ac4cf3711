//! Contenders that take turns, compared round by round.
//!
//! Two loops measured one after the other differ by all other activity of the machine. Here every round gives each
//! contender one turn, a few milliseconds apart, and the comparison is the median of the rounds' ratios: a slowdown of
//! a whole round cancels out. The quartiles tell how far to trust the median.

use std::time::Duration;

/// Takes a turn and returns the measured time.
type Turn<'a> = Box<dyn FnMut() -> Duration + 'a>;

struct Contender<'a> {
    name: &'static str,
    /// The index of the contender to compare with.
    against: Option<usize>,
    turn: Turn<'a>,
    times: Vec<Duration>,
}

pub(crate) struct Comparison<'a> {
    title: String,
    /// The number of operations in a turn, by which a time is divided.
    operations: u32,
    contenders: Vec<Contender<'a>>,
}

impl<'a> Comparison<'a> {
    pub(crate) fn new(title: impl Into<String>, operations: u32) -> Self {
        Self { title: title.into(), operations, contenders: Vec::new() }
    }

    /// Adds a contender, to be compared with an earlier contender.
    pub(crate) fn contender(
        mut self,
        name: &'static str,
        against: Option<&str>,
        turn: impl FnMut() -> Duration + 'a,
    ) -> Self {
        let against = against.map(|against| {
            let place = self.contenders.iter().position(|other| other.name == against);
            place.expect("a contender is compared with one that was added before")
        });
        self.contenders.push(Contender { name, against, turn: Box::new(turn), times: Vec::new() });
        self
    }

    /// Gives each contender `rounds` turns and prints a table.
    pub(crate) fn run(mut self, rounds: usize) {
        let contenders = self.contenders.len();
        // The first round warms up and does not count.
        for round in 0..=rounds {
            for turn in 0..contenders {
                // The order changes, so that no contender always follows the same contender.
                let contender = &mut self.contenders[(round + turn) % contenders];
                let time = (contender.turn)();
                if round > 0 {
                    contender.times.push(time);
                }
            }
        }
        self.print(rounds);
    }

    fn print(&self, rounds: usize) {
        println!("\n{}: median, and median ratio (quartiles), of {rounds} rounds", self.title);
        for contender in &self.contenders {
            let each = contender.times.iter().map(|time| time.as_secs_f64() * 1e6 / f64::from(self.operations));
            let [_, median, _] = quartiles(each);
            print!("  {:<32} {median:>9.3} µs", contender.name);
            if let Some(against) = contender.against {
                let against = &self.contenders[against];
                let ratios = contender.times.iter().zip(&against.times).map(|(a, b)| a.as_secs_f64() / b.as_secs_f64());
                let [p25, median, p75] = quartiles(ratios);
                print!("   {median:>6.3} x {} ({p25:.3} .. {p75:.3})", against.name);
            }
            println!();
        }
    }
}

fn quartiles(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| sorted[(sorted.len() - 1) * quarter / 4])
}

/// The given number of rounds under `cargo bench`; a single round for a mere test of the bench
/// (`cargo test --benches`).
pub(crate) fn rounds(measured: usize) -> usize {
    if std::env::args().any(|argument| argument == "--bench") { measured } else { 1 }
}
