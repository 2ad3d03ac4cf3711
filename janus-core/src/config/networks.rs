//! Lists of networks: which addresses are proxies of the operator, and which have no limits.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Config;
use crate::wire::{ForwardedHeader, Peer};

names!(ForwardedHeader as "forwarded_header": XForwardedFor = "x-forwarded-for", Forwarded = "forwarded");

/// Loopback, private and link-local networks, and the shared addresses of carriers, which clouds give to load balancers.
const PRIVATE: [&str; 9] = [
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "fc00::/7",
    "fe80::/10",
];

/// The addresses that no stranger on the Internet connects from.
pub(super) fn private() -> Vec<IpNet> {
    PRIVATE.iter().map(|network| network.parse().expect("this is a network")).collect()
}

/// Whether one of the networks contains the address. An IPv4 address in the form of IPv6 counts as IPv4.
pub(crate) fn contain(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

impl Config {
    /// Whether a connection from this peer begins with a PROXY header.
    pub(crate) fn expects_proxy_header(&self, peer: Peer) -> bool {
        matches!(peer, Peer::Addr(addr) if contain(&self.proxy_protocol, addr.ip()))
    }

    /// Whether the address is a proxy whose word about its client counts.
    pub(crate) fn is_trusted_proxy(&self, address: IpAddr) -> bool {
        contain(&self.trusted_proxies, address)
    }

    /// Whether no limit holds for connections from this address.
    pub(crate) fn is_unlimited(&self, address: IpAddr) -> bool {
        contain(&self.unlimited_networks, address) || self.is_trusted_proxy(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_have_no_limits_by_default_and_all_others_have() {
        let config = Config::default();
        for address in ["127.0.0.1", "127.9.9.9", "::1", "10.1.2.3", "172.31.0.1", "192.168.1.1", "fd00::1", "fe80::1"]
        {
            assert!(config.is_unlimited(address.parse().unwrap()), "{address}");
        }
        assert!(config.is_unlimited("::ffff:10.1.2.3".parse().unwrap()));
        for address in ["11.0.0.1", "172.32.0.1", "192.169.0.1", "203.0.113.9", "2001:db8::1", "::ffff:203.0.113.9"] {
            assert!(!config.is_unlimited(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_network_with_bits_of_an_address_is_refused_with_both_readings() {
        let config = Config { trusted_proxies: vec!["10.0.0.1/8".parse().unwrap()], ..Config::default() };
        let expected = "trusted_proxies = 10.0.0.1/8: expected 10.0.0.0/8 for the network, or 10.0.0.1 for the address";
        assert_eq!(config.validate().unwrap_err().to_string(), expected);
        let many = vec!["10.0.0.0/8".parse().unwrap(); 1_001];
        let config = Config { proxy_protocol: many, ..Config::default() };
        assert_eq!(config.validate().unwrap_err().to_string(), "proxy_protocol = 1001: expected at most 1,000 of them");
    }
}
