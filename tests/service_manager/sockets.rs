//! Sockets opened by the service manager.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use super::{copy, start_with};
use crate::cli_run::{PATIENCE, Running, binary};
use crate::support::own_address;
use crate::tls::certificates::{Authority, Files};

fn listener() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind(own_address()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// The answer to a request on a new connection.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn sockets_of_every_name_replace_the_addresses_of_their_setting() {
    let files = Files::new();
    files.write_pair("server", &Authority::new().server(&["localhost"]));
    let (certificate, key) = (files.path("server.pem"), files.path("server.key"));
    let pair = ["--tls-cert", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let sockets = [(); 6].map(|()| listener());
    let copies: Vec<_> = sockets.iter().map(|(socket, _)| copy(socket)).collect();
    // Replaced addresses are not listened on: no interface of this machine has 192.0.2.1.
    let replaced = ["--listen", "192.0.2.1:1", "--http-listen", "192.0.2.1:2", "--admin-listen", "192.0.2.1:3"];
    let server = start_with(&copies, "https:http:classic:http:tls:admin", &[&replaced[..], &pair].concat());
    let [https, first, classic, second, tls, admin] = sockets.map(|(_, address)| address);
    for expected in [
        format!("listening on {classic} (socket of the service manager)"),
        format!("listening on {tls} (TLS) (socket of the service manager)"),
        format!("serving HTTP on {first} (socket of the service manager)"),
        format!("serving HTTP on {second} (socket of the service manager)"),
        format!("serving HTTP on {https} (TLS) (socket of the service manager)"),
        format!("admin port on {admin} (socket of the service manager)"),
    ] {
        let line = server.error_line(" on ");
        assert!(line.ends_with(&expected), "{line}");
    }
    for address in [first, second, admin] {
        assert!(get(address, "/api/topics").unwrap().starts_with("HTTP/1.1 200"));
    }
    let mut greeting = [0; 1];
    TcpStream::connect(classic).unwrap().read_exact(&mut greeting).unwrap();
}

#[test]
fn settings_of_other_protocols_are_listened_on_as_well() {
    let (socket, http) = listener();
    let server = start_with(&[copy(&socket)], "http", &["--listen", "127.0.0.1:0"]);
    let line = server.error_line("listening on ");
    assert!(line.contains("listening on 127.0.0.1:") && !line.contains("service manager"), "{line}");
    assert!(server.error_line("serving HTTP").contains(&format!("{http} (socket")));
}

#[test]
fn a_socket_that_cannot_be_used_ends_the_start_with_its_name() {
    let stream = {
        let (socket, address) = listener();
        let stream = TcpStream::connect(address).unwrap();
        drop(socket);
        stream
    };
    let folder = tempfile::tempdir().unwrap();
    let unix = UnixListener::bind(folder.path().join("socket")).unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    let not_tcp = "not a listening socket of TCP; use ListenStream=";
    let cases: [(OwnedFd, &str, &str); 7] = [
        (UdpSocket::bind("127.0.0.1:0").unwrap().into(), "http", not_tcp),
        (stream.into(), "http", not_tcp),
        (unix.into(), "classic", not_tcp),
        (file.into(), "tls", not_tcp),
        (
            listener().0.into(),
            "janus.socket",
            "unknown name; set FileDescriptorName= in its .socket unit to classic, http,",
        ),
        (listener().0.into(), "", "has passed 2 sockets and 1 names"),
        (listener().0.into(), "http:http", "has passed 2 sockets and 3 names"),
    ];
    for (descriptor, name, expected) in cases {
        let names = format!("http:{name}");
        let server = start_with(&[listener().0.into(), descriptor], &names, &[]);
        let line = server.error_line("error: ");
        assert!(line.contains(expected), "{name}: {line}");
        if expected.starts_with("not") || expected.starts_with("unknown") {
            assert!(line.contains(&format!("descriptor 4 of the service manager, named {name:?}")), "{line}");
        }
        assert_eq!(server.wait().code(), Some(2), "{name}: a second attempt is of no use");
    }
}

#[test]
fn sockets_of_another_process_are_left_alone() {
    let mut command = binary(&["--listen", "127.0.0.1:0"]);
    command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1").env("LISTEN_FDNAMES", "http");
    let server = Running::spawn(&mut command);
    assert!(!server.error_line("listening on ").contains("service manager"));
}

#[test]
fn a_port_of_the_service_manager_for_other_machines_is_told_as_one_of_the_settings() {
    let socket = TcpListener::bind("0.0.0.0:0").unwrap();
    let address = socket.local_addr().unwrap();
    let server = start_with(&[socket.into()], "http", &["--listen", "", "--http-listen", "127.0.0.1:1"]);
    server.error_line("the HTTP API is closed");
    server.error_line(&format!("other machines reach {address}: a stranger may subscribe"));
}

#[test]
fn clients_between_two_servers_wait_and_are_served_by_the_second() {
    let (socket, address) = listener();
    let start = || start_with(&[copy(&socket)], "http", &["--listen", "", "--http-listen", "127.0.0.1:1"]);
    let first = start();
    first.error_line("serving HTTP");
    assert!(get(address, "/api/topics").unwrap().starts_with("HTTP/1.1 200"));
    first.signal("TERM");
    assert_eq!(first.wait().code(), Some(0));
    let waiting = std::thread::spawn(move || get(address, "/api/topics"));
    let second = start();
    assert!(waiting.join().unwrap().unwrap().starts_with("HTTP/1.1 200"));
    second.signal("TERM");
    assert_eq!(second.wait().code(), Some(0));
}
