//! Files that are read again after a change: certificates, and keys for tokens. A [reload](crate::reload) reads them, too.
//!
//! The server looks at the files once a minute. Notifications of the
//! system would miss the symbolic links of Kubernetes, where a whole folder is swapped, and a certificate is renewed
//! weeks before its end.

use std::fmt;
use std::fs::Metadata;
use std::future::pending;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use janus_access::tokens::Tokens;
use janus_core::{Config, Janus};

use crate::certificates;
use crate::logging::counted;

/// From one look at the files to the next.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Files with a common purpose, read together.
#[derive(Clone)]
pub(crate) struct Files {
    /// Such as `certificates`, for the log.
    what: &'static str,
    paths: Arc<dyn Fn() -> Vec<PathBuf> + Send + Sync>,
    /// Reads the files, and returns a line for the log. An error has been logged.
    read: Arc<dyn Fn() -> Option<String> + Send + Sync>,
}

/// All files of the server that are read again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reloading(Vec<Files>);

/// Differs between two versions of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Reloading {
    /// The certificates of the TLS listeners, if there are any, and the file of keys, if there is one.
    pub(crate) fn of(janus: &Janus, config: &Config, tokens: Option<&Tokens>) -> Self {
        let files = [certificates::files(janus, config), tokens.map(keys)];
        Self(files.into_iter().flatten().collect())
    }

    /// Reads files that have changed. Never ends.
    pub(crate) async fn watch(&self) {
        join_all(self.0.iter().map(Files::watch)).await;
        pending().await
    }
}

fn keys(tokens: &Tokens) -> Files {
    let (tokens, of_paths) = (tokens.clone(), tokens.clone());
    let paths = move || of_paths.file().into_iter().collect();
    let read = move || match tokens.reload() {
        Ok(count) => {
            let keys = counted(count, "key");
            Some(format!("tokens are verified with the {keys} read just now; connected clients stay"))
        }
        Err(error) => {
            log::error!("{error}; the earlier keys stay in use");
            None
        }
    };
    Files::new("keys for tokens", paths, read)
}

impl Files {
    pub(crate) fn new(
        what: &'static str,
        paths: impl Fn() -> Vec<PathBuf> + Send + Sync + 'static,
        read: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self { what, paths: Arc::new(paths), read: Arc::new(read) }
    }

    /// On a thread of its own, because a file system may hang.
    async fn reload(&self) {
        let read = Arc::clone(&self.read);
        if let Ok(Some(line)) = tokio::task::spawn_blocking(move || read()).await {
            log::info!("{line}");
        }
    }

    async fn watch(&self) {
        let mut known = self.stamps().await;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let found = self.stamps().await;
            if found != known {
                log::info!("the files of the {} have changed; reading them again", self.what);
                self.reload().await;
                known = found;
            }
        }
    }

    /// The present stamp of each file; `None` for a file that cannot be looked at.
    async fn stamps(&self) -> Vec<Option<Stamp>> {
        let paths = (self.paths)();
        let stamps = move || paths.iter().map(|path| std::fs::metadata(path).ok().as_ref().map(Stamp::from)).collect();
        tokio::task::spawn_blocking(stamps).await.unwrap_or_default()
    }
}

impl From<&Metadata> for Stamp {
    fn from(file: &Metadata) -> Self {
        Self { inode: file.ino(), bytes: file.len(), changed: (file.mtime(), file.mtime_nsec()) }
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").field("what", &self.what).field("paths", &(self.paths)()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn watched(path: PathBuf) -> (Files, Arc<AtomicU32>) {
        let reads = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&reads);
        let read = move || {
            count.fetch_add(1, Ordering::Relaxed);
            None
        };
        (Files::new("files", move || vec![path.clone()], read), reads)
    }

    #[tokio::test]
    async fn a_file_that_is_written_replaced_or_removed_has_another_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cert.pem");
        std::fs::write(&file, "one").unwrap();
        let (files, _) = watched(file.clone());
        let first = files.stamps().await;
        assert_eq!(files.stamps().await, first);

        let other = folder.path().join("other.pem");
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &file).unwrap();
        let second = files.stamps().await;
        assert_ne!(second, first, "the file is another file of the same length");
        std::fs::write(&file, "three").unwrap();
        assert_ne!(files.stamps().await, second);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(files.stamps().await, [None]);
    }

    #[tokio::test(start_paused = true)]
    async fn files_are_read_again_after_a_change_and_at_no_other_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        std::fs::write(&file, "one").unwrap();
        let (files, reads) = watched(file.clone());
        let reloading = Reloading(vec![files]);
        let watching = tokio::spawn(async move { reloading.watch().await });
        tokio::time::sleep(10 * LOOK_EVERY).await;
        assert_eq!(reads.load(Ordering::Relaxed), 0);
        std::fs::write(&file, "three").unwrap();
        tokio::time::sleep(10 * LOOK_EVERY).await;
        assert_eq!(reads.load(Ordering::Relaxed), 1);
        watching.abort();
    }
}
