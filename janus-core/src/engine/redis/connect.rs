//! How a link comes about: connecting, entering, and whether the server is fit to be an engine.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use super::super::{Link, LinkError, NodeId};
use super::Options;
use super::address::{Address, Place};
use super::commands::{Commands, PLAIN, SHARDED, Script};
use super::keys::Keys;
use super::link::{Note, RedisLink};
use super::refusal::{Refusal, refusal_of, without_script};
use super::resp::{Value, put_part};
use super::socket::{Heard, Socket, Stream, of_io};

/// The oldest release with all commands of the scripts (`XADD` with `MINID`).
const OLDEST: (u32, u32) = (6, 2);

/// The oldest release of a Redis Cluster: each message is published on one server only (`SPUBLISH`).
const OLDEST_CLUSTER: (u32, u32) = (7, 0);

/// A script for the name of the server's history.
const HISTORY: &[u8] = b"return string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')";

/// A link to a server, or to the servers of a Redis Cluster.
pub(super) async fn link(address: &Address, options: &Options, node: NodeId) -> Result<Box<dyn Link>, LinkError> {
    let attempt = Attempt { address, options, node, end: Instant::now() + options.timeout };
    attempt.link().await
}

/// Whether a link hears control messages, which a Redis Cluster hands on to each of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    Heard,
    Ignored,
}

/// One attempt to make a link.
pub(super) struct Attempt<'a> {
    pub(super) address: &'a Address,
    pub(super) options: &'a Options,
    node: NodeId,
    end: Instant,
}

impl Attempt<'_> {
    async fn link(&self) -> Result<Box<dyn Link>, LinkError> {
        Ok(match &self.address.place {
            Place::Tcp { .. } | Place::Unix { .. } => Box::new(self.part(&self.address.place, Control::Heard).await?),
            Place::Sentinel { sentinels, master, tls } => {
                let place = self.master(sentinels, master, *tls).await?;
                Box::new(self.part(&place, Control::Heard).await?)
            }
            Place::Cluster { seeds, tls } => Box::new(self.cluster(seeds, *tls).await?),
        })
    }

    /// A link to one server.
    pub(super) async fn part(&self, place: &Place, control: Control) -> Result<RedisLink, LinkError> {
        let mut main = self.enter(place).await?;
        let keys = Keys::new(self.options.prefix.clone());
        if control == Control::Heard {
            for channel in [keys.control(), keys.control_of(self.node)] {
                put_part(main.subscription(b"SUBSCRIBE"), &channel);
            }
        }
        let digests = self.in_time("no answer", prepare(&mut main, (self.address, self.options), control)).await?;
        let reads = self.enter(place).await?;
        let channels = if self.is_cluster() { &SHARDED } else { &PLAIN };
        let commands = Commands { node: self.node, keys, channels, digests };
        Ok(RedisLink::new(commands, self.options.max_backlog_bytes, main, reads))
    }

    fn is_cluster(&self) -> bool {
        matches!(self.address.place, Place::Cluster { .. })
    }

    /// The outcome of a step, or the end of the patience with the whole attempt.
    pub(super) async fn in_time<T>(
        &self,
        what: &str,
        step: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        let late = |_| Err(LinkError::new("timeout", format!("{what} within {:?}", self.options.timeout)));
        timeout_at(self.end, step).await.unwrap_or_else(late)
    }

    /// A connection with RESP3, the user's rights, and the right database.
    pub(super) async fn enter(&self, place: &Place) -> Result<Socket<Note>, LinkError> {
        let stream = self.dial(place).await?;
        let mut socket = Socket::new(stream, self.options.timeout, self.options.max_reply_bytes);
        self.in_time("no answer", self.greet(&mut socket)).await?;
        Ok(socket)
    }

    async fn greet(&self, socket: &mut Socket<Note>) -> Result<(), LinkError> {
        let hello = self.hello(socket).await?;
        fit(&hello, self.is_cluster())?;
        let db = self.address.db;
        if db > 0 {
            let answer = ask(socket, &[b"SELECT", db.to_string().as_bytes()]).await?;
            answer.map_err(|text| LinkError::new("database", format!("the database {db}: {}", lossy(&text))))?;
        }
        Ok(())
    }

    /// The server's answer to `HELLO`, which names the kind of server.
    pub(super) async fn hello(&self, socket: &mut Socket<Note>) -> Result<Value, LinkError> {
        let Address { user, password, .. } = self.address;
        let name = format!("{}-{}", self.options.prefix, self.node);
        let mut hello: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if let Some(password) = password {
            hello.extend([b"AUTH", user.as_deref().unwrap_or("default").as_bytes(), password.as_bytes()]);
        }
        hello.extend([&b"SETNAME"[..], name.as_bytes()]);
        let answer = ask(socket, &hello).await.map_err(|error| without_resp(error, socket))?;
        let hello = answer.map_err(|text| of_hello(&text))?;
        in_mode(&hello, self.is_cluster())?;
        Ok(hello)
    }

    async fn dial(&self, place: &Place) -> Result<Box<dyn Stream>, LinkError> {
        match place {
            Place::Unix { path } => {
                let connecting = async { UnixStream::connect(path).await.map_err(|error| of_io(&error)) };
                Ok(Box::new(self.in_time("no connection", connecting).await?))
            }
            Place::Tcp { host, port, tls } => self.tcp(host, *port, *tls).await,
            Place::Sentinel { .. } | Place::Cluster { .. } => unreachable!("these are places of several servers"),
        }
    }

    pub(super) async fn tcp(&self, host: &str, port: u16, tls: bool) -> Result<Box<dyn Stream>, LinkError> {
        let connecting = async {
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let connecting = async { connecting.await.map_err(|error: io::Error| of_io(&error)) };
        let stream = self.in_time("no connection", connecting).await?;
        if !tls {
            return Ok(Box::new(stream));
        }
        let over_tls = over_tls(stream, host, self.options);
        self.in_time("no TLS at this port (write redis:// if the server expects none)", over_tls).await
    }
}

#[cfg(feature = "tls")]
async fn over_tls(stream: TcpStream, host: &str, options: &Options) -> Result<Box<dyn Stream>, LinkError> {
    let error = |error: &dyn std::fmt::Display| LinkError::new("tls", format!("TLS: {error}"));
    let config = options.tls.clone().ok_or_else(|| error(&"no certificates to trust are set"))?;
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(|invalid| error(&invalid))?;
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await;
    Ok(Box::new(stream.map_err(|failed| error(&failed))?))
}

#[cfg(not(feature = "tls"))]
#[expect(clippy::unused_async, reason = "as with TLS")]
async fn over_tls(_: TcpStream, _: &str, _: &Options) -> Result<Box<dyn Stream>, LinkError> {
    Err(LinkError::new("tls", "this program was built without TLS"))
}

/// The reply to a command, or the text of the error.
pub(super) async fn ask(socket: &mut Socket<Note>, parts: &[&[u8]]) -> Result<Result<Value, bytes::Bytes>, LinkError> {
    let out = socket.command(parts.len());
    parts.iter().for_each(|part| put_part(out, part));
    socket.expect(Note::Check);
    loop {
        match poll_fn(|cx| socket.poll(cx)).await? {
            Heard::Reply(_, Value::Error(text)) => return Ok(Err(text)),
            Heard::Reply(_, reply) => return Ok(Ok(reply)),
            Heard::Message { .. } => {}
        }
    }
}

/// The error for a server without the protocol.
pub(super) fn without_resp(error: LinkError, socket: &Socket<Note>) -> LinkError {
    let unread = socket.unread();
    match (error.reason, unread.first()) {
        ("protocol", Some(0x15 | 0x16)) => LinkError::new("not_redis", "the server speaks TLS: write rediss://"),
        ("protocol", Some(_)) => {
            let line: String =
                String::from_utf8_lossy(unread).chars().take_while(|c| !c.is_control()).take(60).collect();
            LinkError::new("not_redis", format!("this is not Redis; it answered \"{line}\""))
        }
        ("closed", _) => {
            let message = "the server closed the connection at once; is it Redis, and with the same TLS setting?";
            LinkError::new("closed", message)
        }
        _ => error,
    }
}

pub(super) fn of_hello(text: &[u8]) -> LinkError {
    let line = lossy(text);
    if let Refusal::Ends(error) = refusal_of(text) {
        return error;
    }
    let old = ["unknown command", "NOPROTO", "unsupported protocol"].iter().any(|words| line.contains(words));
    if old {
        let (major, minor) = OLDEST;
        let message = format!("the server does not speak RESP3; Redis {major}.{minor} or Valkey is needed ({line})");
        return LinkError::new("version", message);
    }
    LinkError::new("refused", line)
}

/// A field of the answer to `HELLO`.
fn field<'a>(hello: &'a Value, name: &str) -> Option<&'a Value> {
    let Value::Array(parts) = hello else { return None };
    let pair = parts.chunks_exact(2).find(|pair| pair[0].as_text().is_some_and(|key| key == name));
    pair.map(|pair| &pair[1])
}

fn text_of(hello: &Value, name: &str) -> String {
    field(hello, name).and_then(Value::as_text).map(|text| lossy(text)).unwrap_or_default()
}

/// Whether the server is of the kind in the address.
fn in_mode(hello: &Value, in_cluster: bool) -> Result<(), LinkError> {
    if field(hello, "proto") != Some(&Value::Integer(3)) {
        return Err(LinkError::new("version", "the server does not speak RESP3"));
    }
    let message = match &*text_of(hello, "mode") {
        "sentinel" => "the server is a Sentinel: write redis+sentinel:// in the address",
        "cluster" if !in_cluster => "the server is part of a Redis Cluster: write redis+cluster:// in the address",
        mode if in_cluster && mode != "cluster" => "the server is not part of a Redis Cluster: write redis://",
        _ => return Ok(()),
    };
    Err(LinkError::new("mode", message))
}

/// Whether the answer to `HELLO` comes from a possible engine.
fn fit(hello: &Value, in_cluster: bool) -> Result<(), LinkError> {
    let role = text_of(hello, "role");
    if role != "master" {
        return Err(LinkError::new("read_only", format!("the server is a {role}, and an engine must be a master")));
    }
    let version = text_of(hello, "version");
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    let (major, minor) = if in_cluster { OLDEST_CLUSTER } else { OLDEST };
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (major, minor) {
        return Err(LinkError::new("version", format!("release {version} is too old: {major}.{minor} is needed")));
    }
    Ok(())
}

/// Loads the scripts, and checks the rights and abilities of the server. Returns the digests.
async fn prepare(
    socket: &mut Socket<Note>,
    (address, options): (&Address, &Options),
    control: Control,
) -> Result<[String; Script::ALL.len()], LinkError> {
    let refused = |what: &str, text: &[u8]| match refusal_of(text) {
        Refusal::Ends(error) => error,
        Refusal::Refused(line) => LinkError::new("unfit", format!("the server does not allow {what}: {line}")),
        Refusal::NoScript => LinkError::new("unfit", format!("the server does not allow {what}: {}", lossy(text))),
    };
    let mut digests = [const { String::new() }; Script::ALL.len()];
    for (script, digest) in Script::ALL.into_iter().zip(&mut digests) {
        let answer = ask(socket, &[b"SCRIPT", b"LOAD", script.text().as_bytes()]).await?;
        let answer = answer.map_err(|text| refused("scripts", &text))?;
        *digest = answer.as_text().map(|text| lossy(text)).unwrap_or_default();
    }
    let history = ask(socket, &[b"EVAL", HISTORY, b"0"])
        .await?
        .map_err(|text| refused("INFO in a script (a user needs +info)", &text))?;
    if history.as_text().is_none() {
        return Err(LinkError::new("unfit", "the server does not tell which history it writes (master_replid)"));
    }
    // A server of a Redis Cluster may not have the slot of the key.
    if control == Control::Heard && !matches!(address.place, Place::Cluster { .. }) {
        check_rights(socket, options).await?;
    }
    // A managed server may keep this to the operator.
    let memory = ask(socket, &[b"INFO", b"memory"]).await?;
    let memory = memory.ok().and_then(|text| text.as_text().map(|text| lossy(text))).unwrap_or_default();
    let policy = memory.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
    if let Some(policy) = policy.map(str::trim).filter(|policy| *policy != "noeviction") {
        log::warn!(
            "the engine {address} may evict topics when the memory is full (maxmemory-policy {policy}), and \
             subscribers are then told of gaps; set the policy to noeviction"
        );
    }
    Ok(digests)
}

/// Runs each command of the scripts on a key and a channel with the prefix: a user without a right would otherwise have a
/// link, and no message. A server that refuses for another reason, such as a full memory, is fit all the same.
async fn check_rights(socket: &mut Socket<Note>, options: &Options) -> Result<(), LinkError> {
    let [hash, stream, channel] = ["s", "l", "c"].map(|kind| format!("{}:{{check}}:{kind}:", options.prefix));
    let keys = [&b"EVAL"[..], RIGHTS.as_bytes(), b"2", hash.as_bytes(), stream.as_bytes(), channel.as_bytes()];
    let Err(text) = ask(socket, &keys).await? else { return Ok(()) };
    let line = lossy(&text);
    let words_of_rights =
        ["NOPERM", "no permission", "can't run this command", "can't access", "permissions to access"];
    if !words_of_rights.iter().any(|words| line.contains(words)) {
        return Ok(());
    }
    let prefix = &options.prefix;
    let message = format!(
        "the user of the address lacks a right: allow the keys and channels {prefix}:* and the commands of the engine ({})",
        without_script(&line)
    );
    Err(LinkError::new("permission", message))
}

/// Leaves nothing behind, and begins without what a check that was stopped has left.
const RIGHTS: &str = "redis.call('DEL', KEYS[1], KEYS[2])
redis.call('TIME')
redis.call('HSET', KEYS[1], 'e', '1')
redis.call('PEXPIRE', KEYS[1], 1000)
redis.call('PTTL', KEYS[1])
redis.call('HGET', KEYS[1], 'e')
redis.call('HMGET', KEYS[1], 'e')
redis.call('HLEN', KEYS[1])
redis.call('HGETALL', KEYS[1])
redis.call('HDEL', KEYS[1], 'e')
redis.call('SET', KEYS[1], '1', 'PX', 1000)
redis.call('GET', KEYS[1])
redis.call('XADD', KEYS[2], '1-0', 't', '1')
redis.call('PEXPIRE', KEYS[2], 1000)
redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)
redis.call('XTRIM', KEYS[2], 'MINID', '~', '1')
redis.call('DEL', KEYS[1], KEYS[2])
return redis.call('PUBLISH', ARGV[1], '')";

pub(super) fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(64 * 1024)]).into_owned()
}

/// The shortest time that makes sense for an answer.
pub(super) const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);
