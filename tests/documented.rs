//! Every command of the documents, run as a reader would run the command, and every link followed.
//!
//! The pages are the expectation: a page is read from top to bottom, its commands are run in a folder of their own, its
//! files are written, and the output is compared with the output in the page. A command that begins to serve or to listen
//! stays until the end of its section, which is the next heading of the second level. A client in a section without a
//! server finds a server with the defaults. Commands that no test can run are in [`NOT_RUN`], with the reason.

mod links;
mod page;
mod shown;
mod terminal;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use regex::Regex;

use page::{Command, Section, Step, root, sections};
use shown::{Shown, Verdict};
use terminal::{Program, Terminal};

use crate::cli_run::{binary, text as text_of};

/// Commands, by page and beginning, that cannot run here. `*` is every page.
const NOT_RUN: &[(&str, &str, &str)] = &[
    ("README.md", "tests/run.sh", "runs this test"),
    ("CONTRIBUTING.md", "", "all of its commands build and test"),
    ("docs/BENCHMARKS.md", "", "measurements, of minutes on an idle machine"),
    (
        "docs/BENCH.md",
        "janus-server bench --protocol",
        "needs servers of other projects; a bench of a fake one is tested",
    ),
    ("docs/CLASSIC.md", "printf", "needs netcat; tests/protocol.rs has the same conversation"),
    ("docs/CLASSIC.md", "(printf", "needs netcat; tests/protocol.rs has the same conversation"),
    (
        "docs/PUSHER.md",
        "curl ",
        "needs the setting `pusher_app_id`; the conversations of the crate publish to its topics",
    ),
    ("docs/CENTRIFUGE.md", "curl ", "needs the setting `centrifuge`; the tests of the crate call each method"),
    ("docs/CENTRIFUGE.md", "(umask 077", "makes a secret; tests/centrifuge/passes.py has such a file"),
    (
        "docs/CENTRIFUGE.md",
        "janus-server --centrifuge",
        "has fixed ports; tests/centrifuge/passes.py starts servers like it",
    ),
    ("docs/PROTOCOL.md", "curl http://push.example", "a server with a name of its own"),
    ("docs/OPERATIONS.md", "cargo build", "a build of the release"),
    ("docs/OPERATIONS.md", "sudo ", "changes the machine"),
    ("docs/OPERATIONS.md", "mkcert", "changes what the browsers of the machine trust"),
    ("docs/OPERATIONS.md", "janus-server trace", "shows what others do at the same time; tests/trace.rs does that"),
    ("docs/OPERATIONS.md", "JANUS_TOKEN=$(cat alice.token)", "a server with a name of its own"),
    ("docs/OPERATIONS.md", "JANUS_API_KEY=$(cat key)", "a server with a name of its own"),
    ("docs/OPERATIONS.md", "packaging/", "builds packages for minutes; tests/packages/run.sh runs it"),
    ("docs/OPERATIONS.md", "rustup ", "changes the compiler of the machine"),
    ("docs/OPERATIONS.md", "cargo install", "changes the machine; tests/packages/run.sh does the same"),
    ("docs/OPERATIONS.md", "systemctl ", "needs the installed package; tests/packages/run.sh has one"),
    ("docs/OPERATIONS.md", "man janus.toml", "needs the installed package; tests/packages/run.sh has one"),
    ("docs/OPERATIONS.md", "ssh ", "needs another machine"),
    ("docs/OPERATIONS.md", "podman ", "needs an engine; tests/packages/container.sh has one"),
    ("docs/OPERATIONS.md", "janus-server completions", "writes to the reader's home; tests/packages/run.sh loads them"),
    ("docs/CLUSTER.md", "redis-server ", "needs fixed ports; tests/cluster.rs has servers on ports of their own"),
    ("docs/CLUSTER.md", "JANUS_ENGINE=", "needs fixed ports; tests/cluster.rs has servers on ports of their own"),
    ("docs/CLUSTER.md", "nginx ", "needs fixed ports; tests/cluster.rs has servers on ports of their own"),
    ("docs/CLUSTER.md", "janus-server ", "needs fixed ports; tests/cluster.rs has servers on ports of their own"),
    ("docs/CLUSTER.md", "curl ", "needs fixed ports; tests/cluster.rs has servers on ports of their own"),
    (
        "examples/web/README.md",
        "python3 examples/web/serve.py",
        "has a fixed port; tests/browser.rs serves the same files",
    ),
];

/// Commands of other pages that a section needs: page, heading, the other page, and the beginning of the command.
const EARLIER: &[(&str, &str, &str, &str)] =
    &[("examples/web/README.md", "Over https", "docs/OPERATIONS.md", "openssl req")];

/// Texts of commands that would take long, and their smaller versions.
const SMALLER: &[(&str, &str)] = &[
    ("--clients 10000", "--clients 100"),
    ("--clients 1000 ", "--clients 50 "),
    ("--messages 100000", "--messages 1000"),
    ("--rate 200 --messages 2000", "--rate 200 --messages 100"),
    ("--seconds 30", "--seconds 1"),
];

/// The last line of the log of a starting server.
const READY: &str = "admin port on ";

/// Runs the commands of a page, and fails with every command that does not do what the page says.
fn follow(name: &str) {
    let text = fs::read_to_string(root().join(name)).unwrap();
    let mut reader = Reader { page: name, terminal: Terminal::new(), shown: Shown::new(), running: Vec::new() };
    let mut failures = String::new();
    for section in sections(&text) {
        if let Err(failure) = reader.follow(&section) {
            let _ = write!(failures, "\n{failure}\n");
        }
        reader.running.clear();
        reader.terminal.forget_variables();
    }
    assert!(failures.is_empty(), "{name} says otherwise:\n{failures}");
}

fn commands(page: &str) -> Vec<Command> {
    let sections = sections(&fs::read_to_string(root().join(page)).unwrap());
    let steps = sections.into_iter().flat_map(|section| section.blocks).flatten();
    steps.filter_map(|step| if let Step::Command(command) = step { Some(command) } else { None }).collect()
}

struct Reader<'a> {
    page: &'a str,
    terminal: Terminal,
    shown: Shown,
    running: Vec<Running>,
}

/// A program that stays, with the output that the page shows.
struct Running {
    program: Program,
    command: String,
    line: usize,
    is_server: bool,
    shown: Vec<String>,
    /// The lines up to the end of the compared output. Further output of the page is about later lines.
    compared: usize,
}

impl Reader<'_> {
    fn follow(&mut self, section: &Section) -> Result<(), String> {
        let own = self.page;
        for (.., page, begins) in EARLIER.iter().filter(|row| row.0 == own && row.1 == section.heading) {
            let command = commands(page).into_iter().find(|command| command.program().starts_with(begins));
            self.command(&command.ok_or_else(|| format!("{page} has no command {begins:?}"))?)?;
        }
        for block in &section.blocks {
            for step in block {
                match step {
                    Step::Command(command) => self.command(command)?,
                    Step::File { name, content, .. } => self.terminal.write(name, content),
                    Step::Settings { line, content } => self.settings(*line, content)?,
                    Step::Output { line, shown } => self.output(*line, shown)?,
                }
            }
            // What the page shows of programs that stay has come when the block has ended.
            for index in 0..self.running.len() {
                self.wait_for(index, usize::MAX)?;
            }
        }
        Ok(())
    }

    fn command(&mut self, command: &Command) -> Result<(), String> {
        if is_listed(self.page, command.program()) {
            return Ok(());
        }
        let kind = Kind::of(command.program());
        let text = command.program().trim_end_matches('&').trim_end();
        let smaller = SMALLER.iter().fold(text.to_owned(), |text, (long, short)| text.replace(long, short));
        let text = self.terminal.adapt(&self.shown.with_values(&smaller));
        if kind == Kind::Server {
            self.running.retain(|running| !running.is_server);
        } else if kind.needs_a_server() && !self.running.iter().any(|running| running.is_server) {
            self.start("janus-server", command.line, &[], true)?;
        }
        match kind {
            Kind::Server => self.start(&text, command.line, &command.shown, true),
            Kind::Stays => {
                if command.shown.is_empty() {
                    let remedy = "show its first line of output, so that a reader sees the command work";
                    return Err(format!("{}:{}: $ {}\n  {remedy}", self.page, command.line, command.text));
                }
                self.start(&text, command.line, &command.shown, false)
            }
            Kind::Ends | Kind::Client => self.run(&text, command),
        }
    }

    /// Starts a program that stays, and waits for the first sign of life.
    fn start(&mut self, text: &str, line: usize, shown: &[String], is_server: bool) -> Result<(), String> {
        let program = self.terminal.run(text);
        let (command, shown) = (text.to_owned(), shown.to_vec());
        self.running.push(Running { program, command, line, is_server, shown, compared: 0 });
        let index = self.running.len() - 1;
        if is_server {
            let running = &mut self.running[index];
            while !running.program.seen.last().is_some_and(|line| line.contains(READY)) {
                if !running.program.read() {
                    return Err(running.failure(self.page, &[format!("… {READY}… (the server has started)")]));
                }
            }
            return Ok(());
        }
        self.wait_for(index, 1)
    }

    /// Waits for the first lines of what the page shows of a program that stays.
    fn wait_for(&mut self, index: usize, lines: usize) -> Result<(), String> {
        let running = &mut self.running[index];
        let page = &running.shown[..lines.min(running.shown.len())];
        running.program.wait_anew();
        loop {
            let got = &running.program.seen[running.compared..];
            // Never as ended: a later command of the page may have ended this program, which then says so.
            let ended = running.program.ended;
            match self.shown.compare(page, got, false, |text| self.terminal.adapt(text)) {
                Verdict::Same => return Ok(()),
                Verdict::NotYet if !ended && (running.program.read() || running.program.ended) => {}
                _ => return Err(running.failure(self.page, page)),
            }
        }
    }

    /// Runs a program to its end.
    fn run(&mut self, text: &str, command: &Command) -> Result<(), String> {
        let mut program = self.terminal.run(text);
        while program.read() {}
        let (ended, got) = (program.ended, std::mem::take(&mut program.seen));
        let verdict = self.shown.compare(&command.shown, &got, true, |text| self.terminal.adapt(text));
        let failure = |what: &str| {
            let (page, shown, got) = (self.page, indented(&command.shown), indented(&got));
            format!(
                "{page}:{}: $ {}\n  run as: {text}\n  {what}\n  the page shows:\n{shown}  got:\n{got}",
                command.line, command.text
            )
        };
        if !ended {
            return Err(failure("does not end"));
        }
        let (status, fails) = (program.status(), command.shown.iter().any(|line| line.starts_with("error: ")));
        if status.success() == fails {
            return Err(failure(&if fails { "succeeds".to_owned() } else { format!("fails: {status}") }));
        }
        let codes = command.comment().starts_with(|first: char| first.is_ascii_digit());
        if let Some(word) =
            command.comment().split(' ').find(|word| codes && !got.iter().any(|line| line.contains(word)))
        {
            return Err(failure(&format!("{word:?} of the comment is not in the output")));
        }
        if !command.shown.is_empty() && verdict != Verdict::Same {
            return Err(failure("the output differs"));
        }
        Ok(())
    }

    /// Further output of a program that stays: of the latest program with this output.
    fn output(&mut self, line: usize, shown: &[String]) -> Result<(), String> {
        let mut failure = format!("{}:{line}: output without a command that still runs in this section", self.page);
        for index in (0..self.running.len()).rev().filter(|&index| !self.running[index].is_server).collect::<Vec<_>>() {
            let running = &mut self.running[index];
            running.shown.extend_from_slice(shown);
            match self.wait_for(index, usize::MAX) {
                Ok(()) => return Ok(()),
                Err(text) => failure = text,
            }
            let running = &mut self.running[index];
            running.shown.truncate(running.shown.len() - shown.len());
        }
        Err(failure)
    }

    /// Settings in a block without a name.
    fn settings(&mut self, line: usize, content: &str) -> Result<(), String> {
        if content.starts_with("[dependencies]") {
            return Ok(());
        }
        self.terminal.write(".settings.toml", content);
        let text = "janus-server config show --config .settings.toml > .shown".to_owned();
        let command = Command { line, text, shown: Vec::new() };
        self.run(&command.text, &command)
    }
}

impl Running {
    fn failure(&self, page: &str, shown: &[String]) -> String {
        let Self { program, command, line, .. } = self;
        let (shown, got) = (indented(shown), indented(&program.seen));
        let end = if program.ended { ", and the command has ended" } else { "" };
        format!("{page}:{line}: $ {command}\n  the page shows:\n{shown}  got{end}:\n{got}")
    }
}

fn indented(lines: &[String]) -> String {
    lines.iter().fold(String::new(), |text, line| text + "    " + line + "\n")
}

/// How a reader treats a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A Janus server: takes the place of the server of the section.
    Server,
    /// Another program that prints until the end of the section.
    Stays,
    /// A client of a server, to its end.
    Client,
    /// Any other program, to its end.
    Ends,
}

impl Kind {
    fn of(command: &str) -> Self {
        let assignments = Regex::new(r#"^(?:[A-Z_]+=(?:"[^"]*"|'[^']*'|\S)*\s+)+"#).expect("a pattern");
        let rest = assignments.replace(command, "");
        let words: Vec<&str> = rest.split_whitespace().collect();
        let has = |flag: &str| words.contains(&flag);
        let arguments = match &words[..] {
            ["cargo", "run", "--release", rest @ ..] => {
                rest.iter().position(|&word| word == "--").map_or(&[][..], |at| &rest[at + 1..])
            }
            [program, rest @ ..] if program.ends_with("janus-server") => rest,
            ["curl", ..] if has("-N") || has("-sN") => return Self::Stays,
            ["curl", ..] => return Self::Client,
            ["tail", ..] | ["python3", "examples/web/serve.py", ..] => return Self::Stays,
            _ if command.contains("sleep") => return Self::Stays,
            _ if command.contains("janus-server publish") || has("nc") => return Self::Client,
            _ => return Self::Ends,
        };
        match arguments {
            [] | ["serve", ..] => Self::Server,
            ["subscribe", ..] if !has("--count") => Self::Stays,
            ["top", ..] if !has("--once") => Self::Stays,
            ["config" | "token" | "completions" | "man" | "help" | "--help" | "-h" | "--version" | "-V", ..] => {
                Self::Ends
            }
            [flag, ..] if flag.starts_with('-') && flag != &"&" => Self::Server,
            ["&"] => Self::Server,
            _ => Self::Client,
        }
    }

    fn needs_a_server(self) -> bool {
        matches!(self, Self::Stays | Self::Client)
    }
}

fn is_listed(page: &str, command: &str) -> bool {
    NOT_RUN.iter().any(|(of, begins, _)| (*of == "*" || *of == page) && command.starts_with(begins))
}

#[test]
fn readme_does_what_it_says() {
    follow("README.md");
}

#[test]
fn operations_does_what_it_says() {
    follow("docs/OPERATIONS.md");
}

#[test]
fn protocol_does_what_it_says() {
    follow("docs/PROTOCOL.md");
}

#[test]
fn classic_does_what_it_says() {
    follow("docs/CLASSIC.md");
}

#[test]
fn bench_does_what_it_says() {
    follow("docs/BENCH.md");
}

#[test]
fn the_chat_in_the_browser_starts_as_its_page_says() {
    follow("examples/web/README.md");
}

#[test]
fn the_page_of_the_binary_does_what_it_says() {
    follow("janus-server/README.md");
}

/// The pages of the tests above.
const FOLLOWED: [&str; 7] = [
    "README.md",
    "docs/BENCH.md",
    "docs/CLASSIC.md",
    "docs/OPERATIONS.md",
    "docs/PROTOCOL.md",
    "examples/web/README.md",
    "janus-server/README.md",
];

#[test]
fn every_command_is_run_or_listed_with_the_reason() {
    let mut found = Vec::new();
    for page in page::all_pages() {
        let commands = commands(&page);
        found.extend(commands.iter().map(|command| (page.clone(), command.line, command.program().to_owned())));
    }
    for (page, line, command) in &found {
        let is_run = FOLLOWED.contains(&&**page) || is_listed(page, command);
        assert!(is_run, "{page}:{line}: $ {command}\nadd the page to FOLLOWED with a test, or the command to NOT_RUN");
    }
    for (of, begins, reason) in NOT_RUN {
        let is_there =
            |(page, _, command): &(String, usize, String)| (*of == "*" || of == page) && command.starts_with(begins);
        assert!(found.iter().any(is_there), "{of} has no command {begins:?} ({reason}): remove the row");
    }
    for (long, _) in SMALLER {
        assert!(found.iter().any(|(.., command)| command.contains(long)), "no command has {long:?}: remove the row");
    }
}

#[test]
fn commands_within_the_text_are_commands_of_the_binary() {
    let inline = Regex::new("`janus-server ([^`]+)`").expect("a pattern");
    let mut tried = BTreeSet::new();
    for page in page::all_pages() {
        let text = fs::read_to_string(root().join(&page)).unwrap();
        for found in inline.captures_iter(&text).filter_map(|found| found.get(1)) {
            // The words before `--help` are parsed first, and an unknown one ends the program with an error.
            let words: Vec<&str> = found.as_str().split_whitespace().chain(["--help"]).collect();
            if tried.insert(words.join(" ")) {
                let output = binary(&words).output().unwrap();
                assert!(output.status.success(), "{page}: {words:?}: {}", text_of(&output.stderr));
            }
        }
    }
    assert!(tried.len() > 10, "{tried:?}");
}

#[test]
fn commands_are_told_apart_as_a_reader_tells_them_apart() {
    for (command, kind) in [
        ("cargo run --release", Kind::Server),
        ("cargo run --release -p janus-server -- --https-listen 127.0.0.1:8443", Kind::Server),
        ("JANUS_LISTEN='a' JANUS_LOG=\"b c\" janus-server", Kind::Server),
        ("janus-server --token-keys keys.pem &", Kind::Server),
        ("target/release/janus-server serve", Kind::Server),
        ("cargo run --release -- subscribe news", Kind::Stays),
        ("janus-server subscribe news --count 1", Kind::Client),
        ("janus-server publish log -", Kind::Client),
        ("janus-server --version", Kind::Ends),
        ("janus-server token key HS256", Kind::Ends),
        ("curl -N localhost", Kind::Stays),
        ("curl -X PUT localhost", Kind::Client),
        ("tail -f app.log | janus-server publish log -", Kind::Stays),
        ("openssl req -x509", Kind::Ends),
    ] {
        assert_eq!(Kind::of(command), kind, "{command}");
    }
}
