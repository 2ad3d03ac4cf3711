//! Who is the master: the question to Redis Sentinel, and to the servers of a Redis Cluster.

use tokio::time::timeout;

use super::super::LinkError;
use super::address::Place;
use super::cluster::{ClusterLink, SLOTS};
use super::connect::{Attempt, Control, ask, lossy, of_hello, without_resp};
use super::resp::Value;
use super::socket::Socket;

/// A range of slots, and the host and port of the master.
type Range = (std::ops::RangeInclusive<usize>, (String, u16));

impl Attempt<'_> {
    /// The place of a master, as the first Sentinel with an answer knows.
    pub(super) async fn master(
        &self,
        sentinels: &[(String, u16)],
        master: &str,
        tls: bool,
    ) -> Result<Place, LinkError> {
        // A Sentinel on a lost machine must leave time for the others.
        let patience = self.options.timeout / (sentinels.len() as u32 + 1);
        let mut errors = Vec::new();
        for (host, port) in sentinels {
            let late = |_| Err(LinkError::new("timeout", format!("no answer within {patience:?}")));
            let answer = timeout(patience, self.ask_sentinel(host, *port, master, tls)).await.unwrap_or_else(late);
            match answer {
                Ok(place) => return Ok(place),
                Err(error) => errors.push((error.reason, format!("Sentinel {host}:{port}: {}", error.message))),
            }
        }
        Err(of_all(errors))
    }

    async fn ask_sentinel(&self, host: &str, port: u16, master: &str, tls: bool) -> Result<Place, LinkError> {
        let stream = self.tcp(host, port, tls).await?;
        let mut socket = Socket::new(stream, self.options.timeout, self.options.max_reply_bytes);
        if let Some(password) = &self.address.password {
            let user = self.address.user.as_deref().map(str::as_bytes);
            let auth: Vec<&[u8]> =
                [Some(&b"AUTH"[..]), user, Some(password.as_bytes())].into_iter().flatten().collect();
            // The password can be that of the servers alone.
            if let Err(text) = ask(&mut socket, &auth).await?
                && !lossy(&text).contains("without any password configured")
            {
                return Err(of_hello(&text));
            }
        }
        let question: [&[u8]; 3] = [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", master.as_bytes()];
        let answer = ask(&mut socket, &question).await.map_err(|error| without_resp(error, &socket))?;
        match answer.map_err(|text| no_sentinel(&text))? {
            Value::Array(parts) => {
                let mut texts = parts.iter().map(|part| part.as_text().map(|text| lossy(text)).unwrap_or_default());
                let (host, port) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
                let no_port = |_| LinkError::new("protocol", format!("no address of a master: {host}:{port}"));
                let port = port.parse().map_err(no_port)?;
                Ok(Place::Tcp { host, port, tls })
            }
            _ => Err(LinkError::new("sentinel", format!("no master has the name {master}"))),
        }
    }

    /// A link to all masters of a Redis Cluster.
    pub(super) async fn cluster(&self, seeds: &[(String, u16)], tls: bool) -> Result<ClusterLink, LinkError> {
        let patience = self.options.timeout / (seeds.len() as u32 + 1);
        let mut errors = Vec::new();
        for (host, port) in seeds {
            let late = |_| Err(LinkError::new("timeout", format!("no answer within {patience:?}")));
            match timeout(patience, self.ask_cluster(host, *port, tls)).await.unwrap_or_else(late) {
                Ok(ranges) => return self.link_all(&ranges, tls).await,
                Err(error) => errors.push((error.reason, format!("{host}:{port}: {}", error.message))),
            }
        }
        Err(of_all(errors))
    }

    async fn link_all(&self, ranges: &[Range], tls: bool) -> Result<ClusterLink, LinkError> {
        let mut masters: Vec<&(String, u16)> = ranges.iter().map(|(_, master)| master).collect();
        masters.sort_unstable();
        masters.dedup();
        let mut slots = vec![None; SLOTS];
        for (range, master) in ranges {
            let part = masters.binary_search(&master).ok();
            slots.get_mut(range.clone()).unwrap_or_default().fill(part);
        }
        let slots: Option<Vec<_>> = slots.into_iter().collect();
        let no_master = || LinkError::new("cluster", "the Redis Cluster has slots without a master");
        let slots = slots.ok_or_else(no_master)?;
        let mut parts = Vec::new();
        for (host, port) in masters {
            let control = if parts.is_empty() { Control::Heard } else { Control::Ignored };
            let part = self.part(&Place::Tcp { host: host.clone(), port: *port, tls }, control).await;
            let named = |error: LinkError| LinkError::new(error.reason, format!("{host}:{port}: {}", error.message));
            parts.push(part.map_err(named)?);
        }
        Ok(ClusterLink::new(parts, slots, &self.options.prefix))
    }

    async fn ask_cluster(&self, host: &str, port: u16, tls: bool) -> Result<Vec<Range>, LinkError> {
        let stream = self.tcp(host, port, tls).await?;
        let mut socket = Socket::new(stream, self.options.timeout, self.options.max_reply_bytes);
        self.hello(&mut socket).await?;
        let answer = ask(&mut socket, &[b"CLUSTER", b"SLOTS"]).await?.map_err(|text| of_hello(&text))?;
        ranges_of(&answer, host).ok_or_else(|| LinkError::new("protocol", "the answer to CLUSTER SLOTS makes no sense"))
    }
}

/// The error for an answer to `SENTINEL`, a command that servers with data do not know.
fn no_sentinel(text: &[u8]) -> LinkError {
    if lossy(text).contains("unknown command") {
        let message = "there is no Sentinel at this port; write redis:// for the address of a server with data";
        return LinkError::new("mode", message);
    }
    of_hello(text)
}

/// The end of an attempt at several servers.
fn of_all(errors: Vec<(&'static str, String)>) -> LinkError {
    let reason = errors.last().map_or("address", |(reason, _)| *reason);
    let texts: Vec<_> = errors.into_iter().map(|(_, text)| text).collect();
    LinkError::new(reason, texts.join("; "))
}

/// The slots and masters of an answer to `CLUSTER SLOTS`. A server without a name of its own is at the `asked` host.
fn ranges_of(answer: &Value, asked: &str) -> Option<Vec<Range>> {
    let Value::Array(ranges) = answer else { return None };
    let range_of = |range: &Value| {
        let Value::Array(parts) = range else { return None };
        let [Value::Integer(first), Value::Integer(last), Value::Array(master), ..] = &parts[..] else { return None };
        let [host, Value::Integer(port), ..] = &master[..] else { return None };
        let host = host.as_text().map(|host| lossy(host)).filter(|host| !host.is_empty() && host != "?");
        let host = host.unwrap_or_else(|| asked.to_owned());
        let (first, last) = (usize::try_from(*first).ok()?, usize::try_from(*last).ok()?);
        let makes_sense = first <= last && last < SLOTS;
        makes_sense.then_some((first..=last, (host, u16::try_from(*port).ok()?)))
    };
    ranges.iter().map(range_of).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn text(text: &'static str) -> Value {
        Value::Text(Bytes::from_static(text.as_bytes()))
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let master = Value::Array(vec![host, Value::Integer(port), text("id"), Value::Array(vec![])]);
        let replica = Value::Array(vec![text("replica"), Value::Integer(1)]);
        Value::Array(vec![Value::Integer(first), Value::Integer(last), master, replica])
    }

    #[test]
    fn the_masters_of_the_slots_are_read() {
        let answer = Value::Array(vec![
            range(0, 99, text("a"), 7000),
            range(100, 16_383, text(""), 7001),
            range(5, 5, Value::Null, 7002),
            range(6, 6, text("?"), 7003),
        ]);
        let expected =
            [(0..=99, "a", 7000), (100..=16_383, "seed", 7001), (5..=5, "seed", 7002), (6..=6, "seed", 7003)];
        let expected = expected.map(|(range, host, port)| (range, (host.to_owned(), port)));
        assert_eq!(ranges_of(&answer, "seed"), Some(expected.to_vec()));
        for wrong in [
            range(0, 16_384, text("a"), 1),
            range(2, 1, text("a"), 1),
            range(-1, 1, text("a"), 1),
            range(0, 1, text("a"), 65_536),
        ] {
            assert_eq!(ranges_of(&Value::Array(vec![wrong]), "seed"), None);
        }
        assert_eq!(ranges_of(&Value::Null, "seed"), None);
    }
}
