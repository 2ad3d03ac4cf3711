//! The certificates of the TLS listeners: checked by a command, read again by [`reloading`](crate::reloading), and a
//! warning a day about those whose end is near.

use std::time::Duration;

use janus_core::{CertificateWarning, Config, Janus, StartupError};

use crate::reloading::Files;

/// From one warning about a certificate to the next. The start and each reload warn, too.
const WARN_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads the certificates as a start does; returns what the start would warn of.
pub(crate) fn check(config: &Config) -> Result<Vec<CertificateWarning>, StartupError> {
    if has_tls(config) { Ok(Janus::check_certificates(config)?) } else { Ok(Vec::new()) }
}

fn has_tls(config: &Config) -> bool {
    !config.tls_listen.is_empty() || !config.https_listen.is_empty()
}

/// The files of the TLS listeners, if there are any.
pub(crate) fn files(janus: &Janus, config: &Config) -> Option<Files> {
    if !has_tls(config) {
        return None;
    }
    let (janus, of_paths) = (janus.clone(), janus.clone());
    let paths = move || {
        let config = of_paths.config();
        config.tls_cert.iter().chain(&config.tls_key).chain(&config.tls_client_ca).cloned().collect()
    };
    // The core has a line for each error.
    let read = move || {
        let read = janus.reload_certificates();
        read.is_ok()
            .then(|| "new connections are served with the certificates read just now; open connections stay".into())
    };
    Some(Files::new("certificates", paths, read))
}

/// Warns once a day of certificates whose end is near. Never ends.
pub(crate) async fn watch(janus: &Janus, config: &Config) {
    if !has_tls(config) {
        return std::future::pending().await;
    }
    tell_each_day(janus, |warning| log::warn!("{warning}")).await;
}

async fn tell_each_day(janus: &Janus, tell: impl Fn(&CertificateWarning)) {
    loop {
        tokio::time::sleep(WARN_EVERY).await;
        let janus = janus.clone();
        let warnings = tokio::task::spawn_blocking(move || janus.certificate_warnings()).await;
        warnings.unwrap_or_default().iter().for_each(&tell);
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
    use crate::reloading::{LOOK_EVERY, Reloading};

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
            let reloading = Reloading::of(&janus, &config, None);
            Self { janus, watch: tokio::spawn(async move { reloading.watch().await }) }
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

        let told = Arc::new(AtomicUsize::new(0));
        let (janus, counts) = (watched.janus.clone(), Arc::clone(&told));
        let watch = tokio::spawn(async move {
            let count = |warning: &CertificateWarning| {
                if matches!(warning, CertificateWarning::Expired { .. }) {
                    counts.fetch_add(1, Ordering::Relaxed);
                }
            };
            tell_each_day(&janus, count).await;
        });
        for day in 0..4 {
            assert_eq!(told.load(Ordering::Relaxed), day);
            tokio::time::sleep(WARN_EVERY + LOOK_EVERY).await;
        }
        watch.abort();
        watched.end().await;
    }
}
