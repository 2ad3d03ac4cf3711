//! The admin port for client commands: where a server with these settings serves the port, and requests to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;

use super::http::{Request, refusal};
use super::{ClientError, open_stream};
use crate::cli::SettingFlags;
use crate::limits::Memory;
use crate::settings::Loaded;

/// The flags of every command that asks the admin port of a server.
#[derive(Debug, Args)]
pub(crate) struct AdminPort {
    /// The address of the admin port [default: the first address of admin_listen].
    #[arg(long = "admin", value_name = "ADDR:PORT")]
    address: Option<String>,
    /// Longest time for connecting, and for the answer.
    #[arg(long, value_name = "DURATION", default_value = "3 s", value_parser = crate::cli::duration)]
    timeout: Duration,
    /// The settings of the server, by which its address and its key are found.
    #[command(flatten)]
    settings: SettingFlags,
}

/// An admin port that can be asked.
pub(crate) struct Asker {
    address: String,
    /// The keys of the settings, the first first. The server may not know a new key yet.
    keys: Vec<String>,
    timeout: Duration,
}

impl AdminPort {
    /// Adds settings from before the name of the command.
    pub(crate) fn after(self, before: SettingFlags) -> Self {
        Self { settings: before.then(self.settings), ..self }
    }

    /// Finds the address, and the key if there is one, in the settings: those of the file, of the variables and of the
    /// flags, as `serve` reads them.
    pub(crate) fn asker(&self) -> Result<Asker, ClientError> {
        let loaded = Loaded::read(&self.settings.0, std::env::vars_os(), Memory::of_this_process());
        let (address, keys) = match (&self.address, loaded) {
            (Some(address), Ok(loaded)) => (address.clone(), keys(&loaded)),
            // A mistake in the file is no reason not to ask a server that runs.
            (Some(address), Err(_)) => (address.clone(), Vec::new()),
            (None, loaded) => {
                let loaded = loaded.map_err(ClientError::Settings)?;
                (reachable(&loaded.settings.admin_listen)?.to_string(), keys(&loaded))
            }
        };
        Ok(Asker { address, keys, timeout: self.timeout })
    }
}

impl Asker {
    /// The address of the port, as the user or the settings have it.
    #[cfg(feature = "top")]
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request, with a body of JSON or none, and returns the answer of any status.
    pub(crate) fn ask(&self, method: &str, target: &str, body: Option<&str>) -> Result<(u16, Vec<u8>), ClientError> {
        let mut keys = self.keys.iter();
        let mut key = keys.next();
        loop {
            let stream = open_stream(&self.address, self.timeout, None)?;
            let request = Request { method, target, host: &self.address, key: key.map(String::as_str), body };
            let answer = request.send(stream, self.timeout)?;
            key = keys.next();
            if answer.status != 401 || key.is_none() {
                return Ok((answer.status, answer.body));
            }
        }
    }

    /// The error for an answer with a status that the command does not expect.
    pub(crate) fn refusal(status: u16, body: &[u8]) -> ClientError {
        refusal(status, body, "this is not the admin port of a Janus server")
    }
}

fn keys(loaded: &Loaded) -> Vec<String> {
    loaded.settings.api_key.reveal().map(str::to_owned).collect()
}

/// The first address, if a client can connect to it. A wildcard address is reached on loopback.
fn reachable(admin_listen: &[SocketAddr]) -> Result<SocketAddr, ClientError> {
    let mut address = *admin_listen.first().ok_or(ClientError::NoAdminPort("is empty"))?;
    if address.port() == 0 {
        return Err(ClientError::NoAdminPort("has port 0, so the system chooses the port at each start"));
    }
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_address_is_asked_on_loopback() {
        let reachable = |text: &str| reachable(&[text.parse().unwrap()]).map(|address| address.to_string());
        for (listen, expected) in
            [("0.0.0.0:8082", "127.0.0.1:8082"), ("[::]:8082", "[::1]:8082"), ("10.0.0.1:8082", "10.0.0.1:8082")]
        {
            assert_eq!(reachable(listen).unwrap(), expected);
        }
        assert!(reachable("127.0.0.1:0").unwrap_err().to_string().contains("port 0"));
    }

    #[test]
    fn without_an_admin_port_the_setting_is_named() {
        let error = reachable(&[]).unwrap_err();
        assert!(error.to_string().contains("admin_listen is empty") && error.is_usage(), "{error}");
    }
}
