//! Holds the picture of the supervision tree in `docs/ARCHITECTURE.md` against the tree of a running instance.
//!
//! The instance has every optional part. Numbers, addresses and names of the user are replaced by placeholders, and
//! equal siblings are drawn once.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use janus_core::engine::{Engine, Link, LinkError, NodeId};
use janus_core::hooks::Hooks;
#[cfg(feature = "tls")]
use janus_core::rustls::{ServerConfig, crypto::aws_lc_rs, server::ResolvesServerCertUsingSni};
use janus_core::supervision::{ChildSpec, Shutdown, Tree};
use janus_core::wire::classic::Classic;
use janus_core::{Config, Janus};

struct NoHooks;

impl Hooks for NoHooks {}

/// An engine that never answers.
#[derive(Debug)]
struct Silent;

impl Engine for Silent {
    fn name(&self) -> &'static str {
        "silent"
    }

    fn connect(&self, _: usize, _: NodeId) -> LocalBoxFuture<'static, Result<Box<dyn Link>, LinkError>> {
        Box::pin(std::future::pending())
    }
}

/// Starts an instance with every optional part.
async fn start() -> Janus {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config {
        listen: vec![loopback],
        http_listen: Vec::new(),
        memory_budget_bytes: 1 << 30,
        drain_period: Duration::ZERO,
        threads: 4,
        homes: 2,
        ..Config::default()
    };
    let child = ChildSpec::task("child", std::future::pending).shutdown(Shutdown::BrutalKill);
    let builder = Janus::builder().config(config).listen(loopback, Arc::new(Classic)).hooks(NoHooks).child(child);
    let builder = builder.engine(Silent);
    #[cfg(feature = "tls")]
    let builder = builder.tls(Arc::new(tls())).listen_tls(loopback, Arc::new(Classic));
    builder.start().await.expect("the instance starts")
}

/// Good for a listener without clients.
#[cfg(feature = "tls")]
fn tls() -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has the versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()))
}

/// The name with placeholders for the parts that differ between runs.
fn placeholder(name: &str) -> &str {
    match name.split(' ').next() {
        Some("topic") => "topic NAME #N",
        Some("sender") => "sender N",
        Some("home") => "home N",
        Some("tls") => "tls N",
        Some("acceptor") => "acceptor ADDR",
        Some("child") => "CHILD",
        _ => name,
    }
}

/// The lines of a picture: branches and names.
fn picture(tree: &Tree) -> Vec<String> {
    fn draw(tree: &Tree, indent: &str, lines: &mut Vec<String>) {
        let mut names: Vec<(&str, &Tree)> =
            tree.children.iter().map(|child| (placeholder(&child.name), child)).collect();
        names.dedup_by_key(|(name, _)| *name);
        let last = names.len().saturating_sub(1);
        for (place, (name, child)) in names.into_iter().enumerate() {
            let (branch, below) = if place == last { ("└── ", "    ") } else { ("├── ", "│   ") };
            lines.push(format!("{indent}{branch}{name}"));
            draw(child, &format!("{indent}{below}"), lines);
        }
    }
    let mut lines = vec![tree.name.to_string()];
    draw(tree, "", &mut lines);
    lines
}

/// The same lines from the page, without the annotation behind two spaces.
fn documented() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ARCHITECTURE.md");
    let page = fs::read_to_string(page).expect("the page exists");
    let (_, section) = page.split_once("\n## The tree\n").expect("the page has the section");
    let block = section.lines().skip_while(|line| !line.starts_with("    ")).take_while(|line| !line.is_empty());
    let name = |line: &str| {
        let line = line.strip_prefix("    ").expect("the block is indented");
        let start = line.find(|character: char| character.is_alphabetic()).expect("a name");
        let length = line[start..].find("  ").unwrap_or(line.len() - start);
        line[..start + length].to_owned()
    };
    let lines = block.map(name);
    // Without the feature the tree has no TLS.
    lines.filter(|line| cfg!(feature = "tls") || !line.contains("tls")).collect()
}

#[tokio::test]
async fn the_picture_in_the_architecture_page_is_the_running_tree() {
    let janus = start().await;
    let _subscriber = janus.subscribe("news").expect("a topic");
    let mut client = TcpStream::connect(janus.local_addrs()[0]).expect("a connection");
    client.write_all(b"{\"action\":\"subscribe\",\"data\":\"news\"}\0").expect("a request");
    let tree = async {
        loop {
            let tree = janus.tree();
            let size = |name| tree.find(name).map_or(0, |node| node.children.len() + node.numbered);
            if size("topic_supervisor") == 1 && size("transport_supervisor") == 1 {
                return tree;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let tree = tokio::time::timeout(Duration::from_secs(30), tree).await.expect("a topic and a connection in the tree");

    let (running, documented) = (picture(&tree), documented());
    let text = |lines: &[String]| lines.join("\n");
    assert!(running == documented, "running:\n\n{}\n\nin the page:\n\n{}", text(&running), text(&documented));
    drop(client);
    janus.shutdown().await;
}
