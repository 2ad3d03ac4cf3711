//! The addresses of host names.
//!
//! The system's lookup blocks its thread, for up to half a minute if no name server answers. So a lookup has a thread
//! of its own, away from callers, and all callers who want the same name share the lookup: however many questions wait
//! for the backend, a silent name server holds one thread for each host in the settings.

use std::collections::HashMap;
use std::future::ready;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::vec::IntoIter;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use hyper_util::client::legacy::connect::dns::Name;
use parking_lot::Mutex;
use tower_service::Service;

/// How long an answer is shared. Short, because the time to live of the records is unknown here, and long enough for
/// all connections of a storm.
const SHARED: Duration = Duration::from_secs(1);

/// Looks up host names. Clones share their lookups.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// One entry for each host of the settings, because no redirect leads to other hosts.
    lookups: Arc<Mutex<HashMap<Name, Lookup>>>,
}

type Found = Result<Vec<SocketAddr>, String>;

#[derive(Debug)]
struct Lookup {
    begun: Instant,
    found: Shared<BoxFuture<'static, Found>>,
}

impl Names {
    fn lookup(
        &self,
        name: Name,
        find: impl FnOnce(&str) -> Found + Send + 'static,
    ) -> Shared<BoxFuture<'static, Found>> {
        let mut lookups = self.lookups.lock();
        let shared = lookups.get(&name).filter(|lookup| {
            let under_way = lookup.found.peek().is_none();
            under_way || lookup.begun.elapsed() < SHARED
        });
        if let Some(lookup) = shared {
            return lookup.found.clone();
        }
        let asked = name.clone();
        // The task runs to its end, even if all callers go away.
        let task = tokio::task::spawn_blocking(move || find(asked.as_str()));
        let found = async move { task.await.unwrap_or_else(|error| Err(error.to_string())) }.boxed().shared();
        lookups.insert(name, Lookup { begun: Instant::now(), found: found.clone() });
        found
    }
}

fn find(name: &str) -> Found {
    // The port is of no interest to the lookup.
    (name, 0).to_socket_addrs().map(Iterator::collect).map_err(|error| format!("cannot find the host {name}: {error}"))
}

impl Service<Name> for Names {
    type Response = IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<IntoIter<SocketAddr>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let found = self.lookup(name, find);
        found.then(|found| ready(found.map(Vec::into_iter).map_err(io::Error::other))).boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn callers_share_a_lookup_that_hangs() {
        let (names, (release, released)) = (Names::default(), mpsc::channel::<()>());
        let name: Name = "backend.test".parse().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = names.lookup(name.clone(), move |_| {
            let _ = released.recv();
            Ok(vec![address])
        });
        let second = names.lookup(name.clone(), |_| panic!("a second thread hangs"));
        assert!(first.clone().now_or_never().is_none(), "the caller's thread is free");
        drop(release);
        assert_eq!((first.await, second.await), (Ok(vec![address]), Ok(vec![address])));
        names.lookups.lock().get_mut(&name).unwrap().begun = Instant::now().checked_sub(SHARED).unwrap();
        let third = names.lookup(name, |_| Err("gone".to_owned()));
        assert_eq!(third.await, Err("gone".to_owned()), "an old answer is looked up again");
    }
}
