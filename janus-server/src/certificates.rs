//! New certificates: on SIGHUP, and after a change of a file.
//!
//! The server looks at the files once a minute, and once a day has the log warn of certificates whose end is near. Notifications of the system would miss the symbolic links of Kubernetes,
//! which swaps a whole folder, and a certificate is renewed weeks before its end.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use janus_core::{CertificateWarning, Config, Janus, StartupError};
use tokio::time::Instant;

/// From one look at the files to the next.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// From one warning about a certificate to the next.
const WARN_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

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

/// Reads the certificates as a start does; returns what the start would warn of.
pub(crate) fn check(config: &Config) -> Result<Vec<CertificateWarning>, StartupError> {
    if has_tls(config) { Ok(Janus::check_certificates(config)?) } else { Ok(Vec::new()) }
}

fn has_tls(config: &Config) -> bool {
    !config.tls_listen.is_empty() || !config.https_listen.is_empty()
}

impl Certificates {
    pub(crate) fn of(janus: &Janus, config: &Config) -> Self {
        let files = config.tls_cert.iter().chain(&config.tls_key).chain(&config.tls_client_ca);
        let files = files.filter(|_| has_tls(config)).cloned().collect();
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

    /// Reloads when a file has changed, and warns once a day. Never ends.
    pub(crate) async fn watch(&self) {
        self.watch_and_tell(|warning| log::warn!("{warning}")).await;
    }

    async fn watch_and_tell(&self, tell: impl Fn(&CertificateWarning)) {
        if !self.are_used() {
            return std::future::pending().await;
        }
        // The start has warned already, and each reload warns.
        let (mut known, mut warned) = (self.stamps().await, Instant::now());
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let found = self.stamps().await;
            if found != known {
                log::info!("the files of the certificates have changed; reading them again");
                self.clone().reload().await;
                (known, warned) = (found, Instant::now());
            } else if warned.elapsed() >= WARN_EVERY {
                let janus = self.janus.clone();
                let warnings = tokio::task::spawn_blocking(move || janus.certificate_warnings()).await;
                warnings.unwrap_or_default().iter().for_each(&tell);
                warned = Instant::now();
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
    use std::fs;
    use std::net::{SocketAddr, TcpStream};
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rcgen::{CertificateParams, KeyPair, generate_simple_self_signed};
    use tempfile::TempDir;
    use tokio_rustls::rustls::crypto::aws_lc_rs;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    #[tokio::test]
    async fn a_file_that_is_written_replaced_or_removed_has_another_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cert.pem");
        fs::write(&file, "one").unwrap();
        let config = Config { listen: Vec::new(), ..Config::default() };
        let janus = Janus::builder().config(config).start().await.unwrap();
        let certificates = Certificates { janus: janus.clone(), files: vec![file.clone()] };
        let first = certificates.stamps().await;
        assert_eq!(certificates.stamps().await, first);

        let other = folder.path().join("other.pem");
        fs::write(&other, "two").unwrap();
        fs::rename(&other, &file).unwrap();
        let second = certificates.stamps().await;
        assert_ne!(second, first, "the file is another file of the same length");
        fs::write(&file, "three").unwrap();
        assert_ne!(certificates.stamps().await, second);
        fs::remove_file(&file).unwrap();
        assert_eq!(certificates.stamps().await, [None]);
        janus.shutdown().await;
    }

    /// Writes a new pair as `cert.pem` and `key.pem`; returns the certificate.
    fn write_pair(folder: &Path, key: impl FnOnce(String) -> String) -> CertificateDer<'static> {
        let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
        fs::write(folder.join("key.pem"), key(made.signing_key.serialize_pem())).unwrap();
        made.cert.der().clone()
    }

    /// A server with a pair of a folder, and its task that looks after the pair, under a clock that jumps.
    struct Watched {
        janus: Janus,
        watch: tokio::task::JoinHandle<()>,
    }

    impl Watched {
        async fn start(pair: &Path) -> Self {
            let local = SocketAddr::from(([127, 0, 0, 1], 0));
            let config = Config {
                listen: Vec::new(),
                tls_listen: vec![local],
                tls_cert: vec![pair.join("cert.pem")],
                tls_key: vec![pair.join("key.pem")],
                drain_period: Duration::ZERO,
                ..Config::default()
            };
            let janus = Janus::builder().config(config.clone()).start().await.unwrap();
            let certificates = Certificates::of(&janus, &config);
            Self { janus, watch: tokio::spawn(async move { certificates.watch().await }) }
        }

        /// Whether a client that trusts this certificate alone completes a handshake.
        async fn serves(&self, certificate: &CertificateDer<'static>) -> bool {
            let (addr, certificate) = (self.janus.local_addrs()[0], certificate.clone());
            let handshake = move || {
                let mut roots = RootCertStore::empty();
                roots.add(certificate).unwrap();
                let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                    .with_safe_default_protocol_versions()
                    .unwrap()
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                let name = ServerName::try_from("localhost").unwrap();
                let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
                client.complete_io(&mut TcpStream::connect(addr).unwrap()).is_ok()
            };
            tokio::task::spawn_blocking(handshake).await.unwrap()
        }

        /// Waits for some looks of the task, each of which the test gives a handshake of time.
        async fn soon_serves(&self, certificate: &CertificateDer<'static>) {
            for _ in 0..1_000 {
                if self.serves(certificate).await {
                    return;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            panic!("the certificate is not served");
        }

        async fn end(self) {
            self.watch.abort();
            self.janus.shutdown().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_pair_is_served_after_the_next_look() {
        let folder = tempfile::tempdir().unwrap();
        let first = write_pair(folder.path(), |key| key);
        let watched = Watched::start(folder.path()).await;
        assert!(watched.serves(&first).await);
        let second = write_pair(folder.path(), |key| key);
        watched.soon_serves(&second).await;
        assert!(!watched.serves(&first).await);

        // A key that comes late is as good.
        let mut late = String::new();
        let third = write_pair(folder.path(), |key| {
            late = key;
            "nothing so far".to_owned()
        });
        while watched.janus.stats().certificates_refused == 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        assert!(watched.serves(&second).await);
        fs::write(folder.path().join("key.pem"), late).unwrap();
        watched.soon_serves(&third).await;
        watched.end().await;
    }

    /// Kubernetes mounts a secret as links into a folder, which is itself a link and is replaced in one step.
    fn mount(volume: &TempDir, version: &str) -> CertificateDer<'static> {
        let (path, data) = (volume.path(), volume.path().join("..data"));
        fs::create_dir(path.join(version)).unwrap();
        let certificate = write_pair(&path.join(version), |key| key);
        symlink(version, path.join("..data_tmp")).unwrap();
        fs::rename(path.join("..data_tmp"), &data).unwrap();
        for file in ["cert.pem", "key.pem"] {
            let _ = symlink(Path::new("..data").join(file), path.join(file));
        }
        certificate
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_swapped_by_symbolic_link_is_noticed() {
        let volume = tempfile::tempdir().unwrap();
        let first = mount(&volume, "..2030_01_01");
        let watched = Watched::start(volume.path()).await;
        assert!(watched.serves(&first).await);
        let second = mount(&volume, "..2030_02_01");
        fs::remove_dir_all(volume.path().join("..2030_01_01")).unwrap();
        watched.soon_serves(&second).await;
        watched.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_has_expired_is_reported_once_a_day() {
        let folder = tempfile::tempdir().unwrap();
        write_pair(folder.path(), |key| key);
        let watched = Watched::start(folder.path()).await;
        watched.watch.abort();
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        fs::write(folder.path().join("cert.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
        watched.janus.reload_certificates().unwrap();

        let (files, told) = (vec![folder.path().join("cert.pem")], Arc::new(AtomicUsize::new(0)));
        let (certificates, counts) = (Certificates { janus: watched.janus.clone(), files }, Arc::clone(&told));
        let watch = tokio::spawn(async move {
            let count = |warning: &CertificateWarning| {
                if matches!(warning, CertificateWarning::Expired { .. }) {
                    counts.fetch_add(1, Ordering::Relaxed);
                }
            };
            certificates.watch_and_tell(count).await;
        });
        for day in 0..4 {
            assert_eq!(told.load(Ordering::Relaxed), day);
            tokio::time::sleep(WARN_EVERY + LOOK_EVERY).await;
        }
        watch.abort();
        watched.end().await;
    }
}
