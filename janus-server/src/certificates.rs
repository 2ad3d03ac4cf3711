//! New certificates: on SIGHUP, and after a change of a file.
//!
//! The server looks at the files once a minute. Notifications of the system would miss the symbolic links of Kubernetes,
//! which swaps a whole folder, and a certificate is renewed weeks before its end.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use janus_core::{Config, Janus};

/// From one look at the files to the next.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The files of the TLS listeners.
#[derive(Clone)]
pub(crate) struct Certificates {
    janus: Janus,
    /// Empty without TLS listeners.
    files: Vec<PathBuf>,
}

/// Differs between two versions of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Certificates {
    pub(crate) fn of(janus: &Janus, config: &Config) -> Self {
        let has_tls = !config.tls_listen.is_empty() || !config.https_listen.is_empty();
        let files = config.tls_cert.iter().chain(&config.tls_key).chain(&config.tls_client_ca);
        let files = files.filter(|_| has_tls).cloned().collect();
        Self { janus: janus.clone(), files }
    }

    /// Whether there are TLS listeners.
    pub(crate) fn are_used(&self) -> bool {
        !self.files.is_empty()
    }

    /// Reads the files, and says so in the log; the core has a line for each error.
    pub(crate) async fn reload(self) {
        let reloaded = tokio::task::spawn_blocking(move || self.janus.reload_certificates()).await;
        if matches!(reloaded, Ok(Ok(()))) {
            log::info!("new connections are served with the certificates read just now; open connections stay");
        }
    }

    /// Reloads when a file has changed. Never ends.
    pub(crate) async fn watch(&self) {
        if !self.are_used() {
            return std::future::pending().await;
        }
        let mut known = self.stamps().await;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let found = self.stamps().await;
            if found != known {
                log::info!("the files of the certificates have changed; reading them again");
                self.clone().reload().await;
                known = found;
            }
        }
    }

    /// The present stamp of each file; `None` for a file that cannot be looked at.
    async fn stamps(&self) -> Vec<Option<Stamp>> {
        let files = self.files.clone();
        let stamps = move || files.iter().map(|file| std::fs::metadata(file).ok().as_ref().map(Stamp::from)).collect();
        tokio::task::spawn_blocking(stamps).await.unwrap_or_default()
    }
}

impl From<&Metadata> for Stamp {
    fn from(file: &Metadata) -> Self {
        Self { inode: file.ino(), bytes: file.len(), changed: (file.mtime(), file.mtime_nsec()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_written_replaced_or_removed_has_another_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cert.pem");
        std::fs::write(&file, "one").unwrap();
        let config = Config { listen: Vec::new(), ..Config::default() };
        let janus = Janus::builder().config(config).start().await.unwrap();
        let certificates = Certificates { janus: janus.clone(), files: vec![file.clone()] };
        let first = certificates.stamps().await;
        assert_eq!(certificates.stamps().await, first);

        let other = folder.path().join("other.pem");
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &file).unwrap();
        let second = certificates.stamps().await;
        assert_ne!(second, first, "the file is another file of the same length");
        std::fs::write(&file, "three").unwrap();
        assert_ne!(certificates.stamps().await, second);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(certificates.stamps().await, [None]);
        janus.shutdown().await;
    }
}
