//! Where the client comes from: its own address, once a trusted proxy has named the client in a request, and the limits
//! of that address.

use std::sync::Arc;

use log::Level;

use super::Transport;
use crate::accounts::Address;
use crate::accounts::admission::Excess;
use crate::config::Config;
use crate::connection::acceptor::count_excess;
use crate::session::Session;
use crate::wire::{Command, ForwardedClient, HttpRequest, Peer};

/// Where a connection comes from, by what is known without any request.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    pub(super) peer: Peer,
    /// Whether a proxy has passed the client on from elsewhere.
    pub(super) is_foreign: bool,
    /// The last client that a trusted proxy has named on the connection.
    pub(super) client: Option<Peer>,
}

/// The address of the client of a request that comes from `peer`, and whether a proxy has passed the request on from
/// elsewhere.
pub(crate) fn client_of(config: &Config, peer: Peer, request: &HttpRequest) -> (Peer, bool) {
    match peer {
        Peer::Addr(addr) if !config.trusted_proxies.is_empty() => {
            let is_proxy = |address| config.is_trusted_proxy(address);
            let client = ForwardedClient::of(request, config.forwarded_header, addr, is_proxy);
            (client.address.into(), request.is_forwarded() && !client.is_local)
        }
        _ => (peer, request.is_forwarded()),
    }
}

impl Transport {
    /// Looks at the first request of a connection that is not open yet: learns the client's own address, and refuses a
    /// client beyond the limits of its address. False if the client is refused.
    pub(super) fn welcomes(&mut self, command: &Command) -> bool {
        // Nothing is asked of the server any more.
        if matches!(command, Command::Close(_) | Command::Refused(_)) {
            return true;
        }
        if let Some(limit) = self.rare.take_excess() {
            self.refuse_excess(limit);
            return false;
        }
        // The client of such a request is asked for with the request.
        if self.knows_client || matches!(command, Command::Admit | Command::Submit { .. }) {
            return true;
        }
        let opened = if let Command::Open(open) = command { open.request.as_deref() } else { None };
        let Some(request) = opened.or_else(|| self.decoder.request()) else { return true };
        let (peer, is_foreign) = self.client_of(request);
        self.knows_client = true;
        let before = self.rare.take_arrival().and_then(|arrival| arrival.client);
        if is_foreign || peer != self.session.peer() {
            let (arrived, is_foreign) = (self.session.peer(), self.is_foreign);
            self.rare.make().arrival = Some(Box::new(Arrival { peer: arrived, is_foreign, client: before }));
        }
        self.is_foreign |= is_foreign;
        peer == self.session.peer() || self.moves_to(peer, before)
    }

    /// The address of the client of a request, and whether a proxy has passed the request on from elsewhere.
    pub(super) fn client_of(&self, request: &HttpRequest) -> (Peer, bool) {
        client_of(&self.shared.config(), self.session.peer(), request)
    }

    /// Continues under the client's own address; false if the client is refused. `before` is the client of the request
    /// before on the same connection: a client connects once with its requests in a row.
    fn moves_to(&mut self, peer: Peer, before: Option<Peer>) -> bool {
        let proxy = self.session.peer();
        // Input is accounted for anew at the end of this poll.
        self.note_kept(0);
        self.shared.table.move_to(&self.slot, self.shared.accounts.of(peer));
        self.session = Arc::new(Session::new(peer, &self.slot));
        log_client!(self, Level::Debug, [proxy:%], "connected through the proxy {proxy}");
        self.note_named(proxy);
        let (accounts, config) = (&self.shared.accounts, self.shared.config());
        let is_same = before.is_some_and(|before| Address::of(before) == Address::of(peer));
        let admitted = if is_same { accounts.admit_again(peer, &config) } else { accounts.admit(peer, &config) };
        match admitted {
            Ok(admission) => {
                self.admission = admission;
                true
            }
            Err(Excess { limit, .. }) => {
                count_excess(&self.shared, peer, limit);
                self.refuse_excess(limit);
                false
            }
        }
    }
}
