//! Warnings about certificates that can be served: their time is over or nearly over, a name that stands in two of
//! them, a key that is no secret.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustls::CertificateError as Invalid;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{Error, RootCertStore};
use webpki::EndEntityCert;

/// The time before the end of a certificate in which the end is near. Tools that renew certificates do so weeks before
/// the end, so a certificate that is nearer has been forgotten.
const NEAR: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Something about the certificates in use that an operator should know: an argument for a new certificate, and no
/// error. The text of [`Display`](fmt::Display) has the event and the remedy.
///
/// See [`Janus::certificate_warnings`](crate::Janus::certificate_warnings).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateWarning {
    /// Clients refuse a certificate, because its time is over.
    Expired {
        /// The file from the settings.
        file: PathBuf,
        /// The place in the file: 1 is the server's own certificate, higher numbers are the chain.
        number: usize,
        /// The end of the certificate's time.
        since: SystemTime,
    },
    /// Clients will refuse a certificate in 14 days or less.
    ExpiresSoon {
        /// The file from the settings.
        file: PathBuf,
        /// The place in the file: 1 is the server's own certificate, higher numbers are the chain.
        number: usize,
        /// The end of the certificate's time.
        at: SystemTime,
    },
    /// Clients refuse a certificate, because its time has not begun; or the clock of this machine is wrong.
    NotValidYet {
        /// The file from the settings.
        file: PathBuf,
        /// The place in the file: 1 is the server's own certificate, higher numbers are the chain.
        number: usize,
        /// The begin of the certificate's time.
        until: SystemTime,
    },
    /// A certificate is never served to clients that ask for one of its names, because an earlier one has the name.
    NameTaken {
        /// The file from the settings.
        file: PathBuf,
        /// The first such name.
        name: String,
        /// The number of further names.
        others: usize,
        /// The file of the certificate that is served.
        by: PathBuf,
    },
    /// Every user of the machine can read a private key.
    KeyReadable {
        /// The file from the settings.
        key: PathBuf,
    },
}

impl fmt::Display for CertificateWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = |time: &SystemTime| httpdate::fmt_http_date(*time);
        match self {
            Self::Expired { file, number, since } => {
                write!(f, "{} expired on {}, and clients refuse it; renew it", Numbered(file, *number), date(since))
            }
            Self::ExpiresSoon { file, number, at } => {
                write!(f, "{} expires on {}; renew it", Numbered(file, *number), date(at))
            }
            Self::NotValidYet { file, number, until } => write!(
                f,
                "{} is valid only from {}, and clients refuse it until then; check the clock of this machine",
                Numbered(file, *number),
                date(until)
            ),
            Self::NameTaken { file, name, others, by } => {
                let (file, by) = (file.display(), by.display());
                let others = if *others > 0 { format!(" and {others} more of its names") } else { String::new() };
                write!(
                    f,
                    "{file} is not served for {name}{others}, because {by} has the name, too, and comes first; "
                )?;
                write!(f, "issue one of the two without the name, or leave one out")
            }
            Self::KeyReadable { key } => write!(
                f,
                "{}: every user of this machine can read the private key; take the right away with chmod o-r",
                key.display()
            ),
        }
    }
}

/// A certificate by its place in a file.
struct Numbered<'a>(&'a Path, usize);

impl fmt::Display for Numbered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(file, 1) => write!(f, "{}: the certificate", file.display()),
            Self(file, number) => write!(f, "{}: certificate {number} of the chain", file.display()),
        }
    }
}

/// A pair of files, and their content as it was read last.
pub(super) struct Pair<'a> {
    pub(super) certificate: &'a Path,
    pub(super) key: &'a Path,
    pub(super) loaded: &'a CertifiedKey,
}

/// All warnings about these pairs at the time `now`, in the order of the settings.
pub(super) fn warnings(pairs: &[Pair<'_>], now: SystemTime, provider: &CryptoProvider) -> Vec<CertificateWarning> {
    let mut warnings = Vec::new();
    for (index, pair) in pairs.iter().enumerate() {
        for (number, certificate) in (1..).zip(&pair.loaded.cert) {
            warnings.extend(of_time(pair.certificate, number, certificate, now, provider));
        }
        warnings.extend(pairs[..index].iter().find_map(|earlier| of_names(pair, earlier)));
        if others_read(pair.key) {
            warnings.push(CertificateWarning::KeyReadable { key: pair.key.into() });
        }
    }
    warnings
}

/// A warning about the time of a certificate.
fn of_time(
    file: &Path,
    number: usize,
    certificate: &CertificateDer<'_>,
    now: SystemTime,
    provider: &CryptoProvider,
) -> Option<CertificateWarning> {
    let (file, parsed) = (file.to_owned(), ParsedCertificate::try_from(certificate).ok()?);
    let verdict = |at| verdict(&parsed, at, provider);
    match (verdict(now), verdict(now + NEAR)) {
        (Some(Invalid::ExpiredContext { not_after, .. }), _) => {
            Some(CertificateWarning::Expired { file, number, since: time(not_after) })
        }
        (Some(Invalid::NotValidYetContext { not_before, .. }), _) => {
            Some(CertificateWarning::NotValidYet { file, number, until: time(not_before) })
        }
        (_, Some(Invalid::ExpiredContext { not_after, .. })) => {
            Some(CertificateWarning::ExpiresSoon { file, number, at: time(not_after) })
        }
        _ => None,
    }
}

/// A certificate as a client sees it at this time. The time is checked first, and no authority is known here, so the
/// certificate is refused in any case.
fn verdict(certificate: &ParsedCertificate<'_>, at: SystemTime, provider: &CryptoProvider) -> Option<Invalid> {
    let at = UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let algorithms = provider.signature_verification_algorithms.all;
    match verify_server_cert_signed_by_trust_anchor(certificate, &RootCertStore::empty(), &[], at, algorithms) {
        Err(Error::InvalidCertificate(verdict)) => Some(verdict),
        _ => None,
    }
}

fn time(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

/// The last second of the year 9999, the latest time that a certificate can name.
const LATEST: Duration = Duration::from_secs(253_402_300_799);

/// The end of a certificate's time; `None` for a certificate that never expires, or cannot be read.
pub(super) fn end_of(certificate: &CertificateDer<'_>, provider: &CryptoProvider) -> Option<SystemTime> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    match verdict(&parsed, SystemTime::UNIX_EPOCH + LATEST, provider) {
        Some(Invalid::ExpiredContext { not_after, .. }) => Some(time(not_after)),
        _ => None,
    }
}

/// A warning about names of a certificate that an earlier certificate has as well.
fn of_names(pair: &Pair<'_>, earlier: &Pair<'_>) -> Option<CertificateWarning> {
    let certificate = EndEntityCert::try_from(pair.loaded.cert.first()?).ok()?;
    let mut taken = certificate.valid_dns_names().filter(|name| has_name(earlier.loaded, name));
    let name = taken.next()?.to_owned();
    let (file, by) = (pair.certificate.to_owned(), earlier.certificate.to_owned());
    Some(CertificateWarning::NameTaken { file, name, others: taken.count(), by })
}

/// Whether a certificate has the name; of a name with `*`, whether it has all the names that are meant.
fn has_name(pair: &CertifiedKey, name: &str) -> bool {
    // A label that is in no certificate stands for every label.
    let name = name.replacen('*', "any-name-of-the-wildcard", 1);
    ServerName::try_from(name).is_ok_and(|name| super::certificates::has_name(pair, &name))
}

/// Whether every user of the machine can read a file: such a key is no secret.
#[cfg(unix)]
fn others_read(key: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;

    const OTHERS_READ: u32 = 0o004;
    std::fs::metadata(key).is_ok_and(|file| file.permissions().mode() & OTHERS_READ != 0)
}

#[cfg(not(unix))]
fn others_read(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

    use super::*;

    /// A certificate that begins on the first of this month of 2030 and ends a year later.
    fn certified(names: &[&str], month: u8) -> Arc<CertifiedKey> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2030, month, 1), date_time_ymd(2031, month, 1));
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = aws_lc_rs::default_provider().key_provider.load_private_key(private).unwrap();
        Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signing))
    }

    fn day(year: i32, month: u8, day: u8) -> SystemTime {
        date_time_ymd(year, month, day).into()
    }

    /// The warnings about pairs in files `0.pem`, `1.pem` and so on.
    fn texts(pairs: &[Arc<CertifiedKey>], now: SystemTime) -> Vec<String> {
        let files: Vec<PathBuf> = (0..pairs.len()).map(|number| format!("{number}.pem").into()).collect();
        let pairs: Vec<Pair<'_>> = files
            .iter()
            .zip(pairs)
            .map(|(file, loaded)| Pair { certificate: file, key: Path::new("no such key"), loaded })
            .collect();
        warnings(&pairs, now, &aws_lc_rs::default_provider()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_certificate_is_reported_before_its_time_near_its_end_and_after() {
        let pairs = [certified(&["a.example"], 3)];
        let expected = [
            (day(2030, 2, 27), "is valid only from Fri, 01 Mar 2030 00:00:00 GMT"),
            (day(2030, 3, 1), ""),
            (day(2031, 2, 14), ""),
            (day(2031, 2, 16), "0.pem: the certificate expires on Sat, 01 Mar 2031 00:00:00 GMT; renew"),
            (day(2031, 3, 2), "0.pem: the certificate expired on Sat, 01 Mar 2031 00:00:00 GMT, and clients refuse"),
            (SystemTime::UNIX_EPOCH, "check the clock"),
        ];
        for (now, words) in expected {
            let texts = texts(&pairs, now);
            match words {
                "" => assert_eq!(texts, [""; 0]),
                words => assert!(texts.len() == 1 && texts[0].contains(words), "{texts:?}"),
            }
        }
    }

    #[test]
    fn the_end_of_a_certificate_is_known() {
        let certificate = &certified(&["a.example"], 3).cert[0];
        assert_eq!(end_of(certificate, &aws_lc_rs::default_provider()), Some(day(2031, 3, 1)));
    }

    #[test]
    fn a_certificate_of_the_chain_is_reported_with_its_number() {
        let (own, issuer) = (certified(&["a.example"], 3), certified(&["authority"], 1));
        let chain = [own.cert.clone(), issuer.cert.clone()].concat();
        let pair = Arc::new(CertifiedKey::new(chain, Arc::clone(&own.key)));
        let texts = texts(&[pair], day(2031, 1, 2));
        assert!(texts.len() == 1 && texts[0].starts_with("0.pem: certificate 2 of the chain expired on "), "{texts:?}");
    }

    #[test]
    fn a_name_in_two_certificates_is_reported_unless_the_first_is_narrower() {
        let now = day(2030, 6, 1);
        let pair = |names: &[&str]| certified(names, 3);
        assert_eq!(texts(&[pair(&["a.example"]), pair(&["b.example", "*.a.example"])], now), [""; 0]);
        assert_eq!(
            texts(&[pair(&["www.a.example"]), pair(&["*.a.example"])], now),
            [""; 0],
            "the first is an exception"
        );
        let taken = texts(&[pair(&["c.example"]), pair(&["*.a.example"]), pair(&["www.a.example"])], now);
        assert!(taken.len() == 1 && taken[0].starts_with("2.pem is not served for www.a.example, because 1.pem has"));
        let names = ["b.example", "*.a.example", "c.example", "d.example"];
        let taken = texts(&[pair(&names[..3]), pair(&names[1..])], now);
        assert!(
            taken.len() == 1 && taken[0].starts_with("1.pem is not served for *.a.example and 1 more of its names")
        );
    }
}
