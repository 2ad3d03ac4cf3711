//! What a stranger on another machine can do under these settings, in a line for the operator at the start and in
//! `config check`.
//!
//! Pure. The server starts all the same: a test in a private network, or a firewall in front, is the operator's choice.

use std::net::SocketAddr;

use janus_core::ClientCertificates;
use janus_core::wire::Peer;

use crate::settings::Settings;

/// The line; `None` if only this machine reaches the server, or if clients must prove their identity over TLS.
pub(crate) fn warning(settings: &Settings) -> Option<String> {
    let parts: Vec<String> =
        [warning_of_clients(settings), warning_of_the_admin_port(settings)].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// Without a key, the admin port is of no use to other machines, except for their checks of health.
fn warning_of_the_admin_port(settings: &Settings) -> Option<String> {
    let open = remote([&settings.admin_listen]);
    (!open.is_empty() && settings.api_key.is_none()).then(|| {
        format!(
            "other machines reach the admin port {}, where without a key only health is answered; set api_key, or \
             admin_listen on 127.0.0.1",
            list(&open)
        )
    })
}

fn warning_of_clients(settings: &Settings) -> Option<String> {
    let (core, access) = (&settings.core, &settings.access);
    let plain = remote([&core.listen, &core.http_listen]);
    let encrypted = remote([&core.tls_listen, &core.https_listen]);
    let has_identities = access.has_keys() || access.ask_connect.is_some();
    // A proxy that is named ends TLS in front of the server.
    let has_proxy = !core.trusted_proxies.is_empty() || !core.proxy_protocol.is_empty();
    let open: Vec<SocketAddr> = match (has_identities, core.tls_client) {
        (true, _) => Vec::new(),
        (false, ClientCertificates::Required) => plain.clone(),
        (false, _) => [&*plain, &*encrypted].concat(),
    };
    if !open.is_empty() {
        let subscribes = match access.default_namespace.ask_subscribe {
            Some(_) => "may connect",
            None => "may subscribe to every topic",
        };
        let publishes = if core.allow_publish { "may publish" } else { "may not publish (allow_publish)" };
        let (way, tls) = match plain.is_empty() {
            true => ("", ""),
            false => {
                (", and messages can be read on the way, because there is no TLS", ", and tls_listen or https_listen")
            }
        };
        return Some(format!(
            "other machines reach {}: a stranger {subscribes} and {publishes}{way}; set token_keys, token_jwks_url or \
             ask_connect{tls}, or listen on 127.0.0.1",
            list(&open)
        ));
    }
    if !plain.is_empty() && !has_proxy {
        return Some(format!(
            "other machines reach {} without TLS: tokens and cookies of clients can be read and used on the way; set \
             tls_listen and https_listen, or name the proxy with TLS in trusted_proxies or proxy_protocol",
            list(&plain)
        ));
    }
    None
}

fn remote<'a>(listeners: impl IntoIterator<Item = &'a Vec<SocketAddr>>) -> Vec<SocketAddr> {
    listeners.into_iter().flatten().copied().filter(|&addr| !Peer::from(addr).is_local()).collect()
}

fn list(addrs: &[SocketAddr]) -> String {
    let texts: Vec<String> = addrs.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Vec<SocketAddr> {
        vec![text.parse().unwrap()]
    }

    /// Settings with these listeners only.
    fn settings(listen: &str, https: Option<&str>) -> Settings {
        let mut settings = Settings::default();
        settings.core.listen = addr(listen);
        settings.core.http_listen = Vec::new();
        settings.core.https_listen = https.map(addr).unwrap_or_default();
        settings
    }

    #[track_caller]
    fn assert_warns(settings: &Settings, parts: &[&str]) {
        let line = warning(settings).expect("a warning");
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }

    #[test]
    fn a_server_that_only_this_machine_reaches_warns_of_nothing() {
        for listen in ["127.0.0.1:8081", "[::1]:8081"] {
            assert_eq!(warning(&settings(listen, None)), None);
        }
    }

    #[test]
    fn an_admin_port_without_a_key_is_told_in_the_same_line() {
        let mut settings = settings("127.0.0.1:8081", None);
        settings.admin_listen = addr("0.0.0.0:8082");
        assert_warns(&settings, &["other machines reach the admin port 0.0.0.0:8082, where without a key only health"]);
        settings.core.listen = addr("0.0.0.0:8081");
        assert_warns(
            &settings,
            &["reach 0.0.0.0:8081: a stranger", "; other machines reach the admin port 0.0.0.0:8082"],
        );
        settings.api_key = crate::settings::ApiKey::new("correct-horse-battery");
        settings.core.listen = addr("127.0.0.1:8081");
        assert_eq!(warning(&settings), None);
    }

    #[test]
    fn the_rights_of_a_stranger_are_told() {
        let mut open = settings("0.0.0.0:8081", None);
        assert_warns(&open, &["reach 0.0.0.0:8081:", "every topic and may not publish", "no TLS"]);
        open.core.allow_publish = true;
        assert_warns(&open, &["every topic and may publish,"]);
        let encrypted = settings("127.0.0.1:8081", Some("0.0.0.0:8443"));
        assert_warns(
            &encrypted,
            &[
                "reach 0.0.0.0:8443: a stranger",
                "may not publish (allow_publish); set token_keys, token_jwks_url or ask_connect, or",
            ],
        );
    }

    #[test]
    fn tokens_without_tls_are_told() {
        let mut settings = settings("10.0.0.1:8081", Some("10.0.0.1:8443"));
        settings.access.token_keys = Some("keys".into());
        assert_warns(&settings, &["reach 10.0.0.1:8081 without TLS", "tokens and cookies of clients"]);
        settings.core.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        assert_eq!(warning(&settings), None);
    }

    #[test]
    fn clients_that_prove_their_identity_over_tls_are_no_strangers() {
        let mut settings = settings("127.0.0.1:8081", Some("0.0.0.0:8443"));
        settings.core.tls_client = ClientCertificates::Required;
        assert_eq!(warning(&settings), None);
        settings.core.tls_client = ClientCertificates::Optional;
        assert!(warning(&settings).is_some());
        settings.access.ask_connect = Some("https://app.example/janus".parse().unwrap());
        assert_eq!(warning(&settings), None);
    }
}
