//! Runs the real binary: to its end, or in parallel to a test that talks to it. No test waits longer than [`PATIENCE`].

use std::fmt::Display;
use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Far longer than any test takes, so that only a hang reaches the limit.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The binary, without the `JANUS_…` variables of the caller's environment.
pub(crate) fn janus(arguments: &[&str]) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::from_std(binary(arguments));
    command.timeout(PATIENCE);
    command
}

/// The binary as a plain command.
pub(crate) fn binary(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_janus-server"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("JANUS_")) {
        command.env_remove(name);
    }
    // Tests run at the same time, and cannot all use the default ports.
    command.env("JANUS_HTTP_LISTEN", "").env("JANUS_ADMIN_LISTEN", "");
    command.args(arguments);
    command
}

/// The command, run by another program that takes the command at the end of its own arguments.
pub(crate) fn under(program: &[&str], command: &Command) -> Command {
    let mut whole = Command::new(program[0]);
    whole.args(&program[1..]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => whole.env(name, value),
            None => whole.env_remove(name),
        };
    }
    whole
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The classic port at an address, as the commands name it.
pub(crate) fn by_classic(address: impl Display) -> String {
    format!("classic://{address}")
}

#[track_caller]
pub(crate) fn assert_exit(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}{}", text(&output.stdout), text(&output.stderr));
}

/// The binary, running in parallel to the test. Killed on drop.
pub(crate) struct Running {
    child: Child,
    output: Receiver<String>,
    errors: Receiver<String>,
}

impl Running {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::spawn(&mut binary(arguments))
    }

    /// Starts the binary with `limit` descriptors as its hard limit, which the binary cannot raise.
    pub(crate) fn start_with_descriptors(arguments: &[&str], limit: u32) -> Self {
        Self::spawn(&mut under(&["prlimit", &format!("--nofile={limit}"), "--"], &binary(arguments)))
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = lines(child.stdout.take().unwrap());
        let errors = lines(child.stderr.take().unwrap());
        Self { child, output, errors }
    }

    /// The next line of standard output.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.output.recv_timeout(PATIENCE).expect("another line of output")
    }

    /// The first line of standard error, after the lines already read, that contains the text.
    #[track_caller]
    pub(crate) fn error_line(&self, containing: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut before = String::new();
        loop {
            match self.errors.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(containing) => return line,
                Ok(line) => before = before + &line + "\n",
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no line with {containing:?} in:\n{before}");
                }
            }
        }
    }

    /// All lines of standard error not read yet, up to the end of the process.
    pub(crate) fn rest_of_errors(mut self) -> String {
        wait(&mut self.child);
        self.errors.iter().map(|line| line + "\n").collect()
    }

    /// Waits for the end of the process, and returns its status and all lines of standard error not read yet.
    pub(crate) fn ended(mut self) -> (ExitStatus, String) {
        let status = wait(&mut self.child);
        (status, self.errors.iter().map(|line| line + "\n").collect())
    }

    /// Closes the test's end of the binary's standard output.
    pub(crate) fn stop_reading(&mut self) {
        self.output = channel().1;
    }

    /// Sets the number of descriptors for the running process; the hard limit stays.
    pub(crate) fn limit_descriptors(&self, limit: u32) {
        let pid = self.child.id().to_string();
        let status = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={limit}:")]).status().unwrap();
        assert!(status.success());
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Sends the signal again and again until the process ends.
    #[track_caller]
    pub(crate) fn signal_until_it_ends(mut self, name: &str) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the process does not end");
            self.signal(name);
            // Reads the log line about the signal, or nothing if the process has ended.
            let _ = self.errors.recv_timeout(Duration::from_millis(20));
        }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    #[track_caller]
    pub(crate) fn wait(mut self) -> ExitStatus {
        wait(&mut self.child)
    }
}

/// Waits for the end of a process.
#[track_caller]
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    // A channel without messages: a pause with an end.
    let (_sender, nothing) = channel::<()>();
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return status,
            None if Instant::now() < deadline => drop(nothing.recv_timeout(Duration::from_millis(20))),
            None => panic!("the process does not end"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a stream, read by a thread. The thread stops and closes the stream when the receiver is dropped.
fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}
