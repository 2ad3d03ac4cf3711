//! The binary under a service manager: messages to the service manager, sockets from it, and restarts without a
//! refused client. The tests play the service manager.

mod load;
mod notify;
mod sockets;
mod state;
mod units;

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use crate::cli_run::{PATIENCE, Running, binary};

/// The socket for the messages of a server.
struct Manager {
    socket: UnixDatagram,
    address: String,
    _folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path: PathBuf = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, address: path.to_str().unwrap().to_owned(), _folder: folder }
    }

    /// A server with this service manager.
    fn start(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Running {
        let mut command = binary(arguments);
        command.env("NOTIFY_SOCKET", &self.address).envs(variables.iter().copied());
        Running::spawn(&mut command)
    }

    fn receive(&self) -> String {
        let mut bytes = [0; 1_024];
        let length = loop {
            match self.socket.recv(&mut bytes) {
                // By a signal to this process, such as that of a child's end.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received.expect("another message"),
            }
        };
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// The next message with a line that begins like this.
    fn receive_with(&self, beginning: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let message = self.receive();
            if message.lines().any(|line| line.starts_with(beginning)) {
                return message;
            }
        }
        panic!("no message with {beginning}");
    }
}

/// Starts a server with these descriptors, named in this order, as in `sd_listen_fds(3)`.
fn start_with(descriptors: &[OwnedFd], names: &str, arguments: &[&str]) -> Running {
    let server = binary(arguments);
    // The shell moves the descriptors to 3 and onwards, where these numbers do not overlap with their places.
    let high = descriptors.iter().map(|descriptor| fcntl_dupfd_cloexec(descriptor, 100).unwrap());
    let high: Vec<OwnedFd> = high.collect();
    let mut script = String::from("exec");
    for (place, descriptor) in (3..).zip(&high) {
        fcntl_setfd(descriptor, FdFlags::empty()).unwrap();
        script += &format!(" {place}<&{0} {0}<&-", descriptor.as_raw_fd());
    }
    script += "; LISTEN_PID=$$ exec \"$0\" \"$@\"";
    let mut command = Command::new("bash");
    command.arg("-c").arg(script).arg(server.get_program()).args(server.get_args());
    for (name, value) in server.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("LISTEN_FDS", descriptors.len().to_string()).env("LISTEN_FDNAMES", names);
    Running::spawn(&mut command)
}

/// A copy of a listening socket, for a server.
fn copy(socket: &TcpListener) -> OwnedFd {
    socket.try_clone().unwrap().into()
}
