//! Where a node may be: names are resolved here, every address is checked, and only a checked address is
//! ever connected to (reliability B10). Never connects anything but a socket that sends nothing.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use crate::config::base_url::forbidden_address;
use crate::config::{BaseUrl, Host, Network};

/// Further rules for nodes given through the control API. Nodes of the file may be anywhere that is not
/// forbidden to all.
#[derive(Clone, Debug)]
pub(in crate::control) struct RegistrationRules {
    /// The ranges they may live in.
    pub(in crate::control) networks: Vec<Network>,
    /// Where the router listens: a node there would be the router itself.
    pub(in crate::control) listener: SocketAddr,
}

/// Why there is no address to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::control) enum AddressError {
    /// The name could not be resolved.
    Unresolved,
    /// An address that no node can have.
    Forbidden(&'static str),
    /// An address outside the ranges of `registration.allowed_networks`.
    OutsideNetworks,
    /// The router's own listener.
    OwnListener,
}

impl RegistrationRules {
    fn check(&self, address: SocketAddr) -> Result<(), AddressError> {
        if !self
            .networks
            .iter()
            .any(|network| network.contains(address.ip()))
        {
            Err(AddressError::OutsideNetworks)
        } else if self.is_listener(address) {
            Err(AddressError::OwnListener)
        } else {
            Ok(())
        }
    }

    fn is_listener(&self, address: SocketAddr) -> bool {
        let (ip, own) = (
            address.ip().to_canonical(),
            self.listener.ip().to_canonical(),
        );
        address.port() == self.listener.port()
            && (ip == own || (own.is_unspecified() && is_of_this_machine(ip)))
    }
}

/// The addresses of a node that may be connected to, in the resolver's order.
///
/// # Errors
/// Why there is none; if several addresses were refused, why the first one was.
pub(in crate::control) fn resolve(
    base_url: &BaseUrl,
    rules: Option<&RegistrationRules>,
) -> Result<Vec<SocketAddr>, AddressError> {
    let port = base_url.port();
    let found: Vec<SocketAddr> = match base_url.host() {
        Host::Ip(ip) => vec![SocketAddr::new(*ip, port)],
        Host::Name(name) => (name.as_str(), port)
            .to_socket_addrs()
            .map_err(|_| AddressError::Unresolved)?
            .collect(),
    };
    permitted(found, rules)
}

/// Those of the addresses that may be connected to.
///
/// # Errors
/// As [`resolve`].
pub(super) fn permitted(
    found: Vec<SocketAddr>,
    rules: Option<&RegistrationRules>,
) -> Result<Vec<SocketAddr>, AddressError> {
    let mut refusal = AddressError::Unresolved;
    let mut permitted = Vec::with_capacity(found.len());
    for address in found.into_iter().rev() {
        match check(address, rules) {
            Ok(()) => permitted.push(address),
            Err(error) => refusal = error,
        }
    }
    permitted.reverse();
    if permitted.is_empty() {
        Err(refusal)
    } else {
        Ok(permitted)
    }
}

fn check(address: SocketAddr, rules: Option<&RegistrationRules>) -> Result<(), AddressError> {
    match (forbidden_address(address.ip()), rules) {
        (Some(kind), _) => Err(AddressError::Forbidden(kind)),
        (None, Some(rules)) => rules.check(address),
        (None, None) => Ok(()),
    }
}

/// Whether packets to the address stay on this machine: the kernel would send them from the address itself.
/// Connecting a datagram socket asks for the route and sends nothing.
fn is_of_this_machine(ip: IpAddr) -> bool {
    let from: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = || {
        let socket = UdpSocket::bind((from, 0))?;
        socket.connect((ip, ROUTE_PORT))?;
        socket.local_addr()
    };
    ip.is_loopback() || source().is_ok_and(|source| source.ip() == ip)
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved => f.write_str("has a name that cannot be resolved"),
            Self::Forbidden(kind) => write!(f, "points at {kind}, which no node can be"),
            Self::OutsideNetworks => {
                f.write_str("points outside the networks of registration.allowed_networks")
            }
            Self::OwnListener => f.write_str("is the address of the router itself"),
        }
    }
}

/// Any port will do: the route does not depend on it.
const ROUTE_PORT: u16 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(networks: &[&str], listener: &str) -> RegistrationRules {
        RegistrationRules {
            networks: networks.iter().map(|text| text.parse().unwrap()).collect(),
            listener: listener.parse().unwrap(),
        }
    }

    fn resolved(url: &str, rules: &RegistrationRules) -> Result<Vec<SocketAddr>, AddressError> {
        resolve(&BaseUrl::parse(url).unwrap(), Some(rules))
    }

    #[test]
    fn link_local_and_metadata_addresses_are_never_connected_to() {
        assert!(resolve(&BaseUrl::parse("http://localhost:1").unwrap(), None).is_ok());
        let everywhere = rules(&["0.0.0.0/0", "::/0"], "127.0.0.1:8080");
        for forbidden in [
            "169.254.169.254:80",
            "[::ffff:169.254.169.254]:80",
            "[fe80::1]:80",
            "100.100.100.200:80",
            "[fd00:ec2::254]:80",
            "0.0.0.0:80",
            "[::]:80",
            "224.0.0.1:80",
            "[ff02::1]:80",
            "255.255.255.255:80",
        ] {
            let address: SocketAddr = forbidden.parse().unwrap();
            for rules in [None, Some(&everywhere)] {
                let error = check(address, rules).unwrap_err();
                assert!(matches!(error, AddressError::Forbidden(_)), "{forbidden}");
            }
        }
    }

    #[test]
    fn a_registered_node_must_live_in_an_allowed_network_whatever_its_url_looks_like() {
        let private = rules(&["10.0.0.0/8"], "127.0.0.1:8080");
        assert!(resolved("http://10.1.2.3:8000", &private).is_ok());
        assert!(resolved("http://[::ffff:10.1.2.3]:8000", &private).is_ok());
        for outside in [
            "http://11.1.2.3",
            "http://[::ffff:11.1.2.3]",
            "http://[2001:db8::1]",
        ] {
            assert_eq!(
                resolved(outside, &private),
                Err(AddressError::OutsideNetworks)
            );
        }
        // A name is judged by what it resolves to.
        assert_eq!(
            resolved("http://localhost:8000", &private),
            Err(AddressError::OutsideNetworks)
        );
        let host = BaseUrl::parse("http://localhost:8000").unwrap();
        assert!(resolve(&host, None).is_ok());
        assert_eq!(
            resolved("http://no-such-name.invalid", &private),
            Err(AddressError::Unresolved)
        );
    }

    #[test]
    fn the_routers_own_listener_is_no_node() {
        let networks = &["127.0.0.0/8", "::1/128", "0.0.0.0/0"];
        let loopback = rules(networks, "127.0.0.1:8080");
        let everywhere = rules(networks, "0.0.0.0:8080");
        let dual_stack = rules(networks, "[::]:8080");
        for own in ["http://127.0.0.1:8080", "http://[::ffff:127.0.0.1]:8080"] {
            for rules in [&loopback, &everywhere, &dual_stack] {
                assert_eq!(
                    resolved(own, rules),
                    Err(AddressError::OwnListener),
                    "{own}"
                );
            }
        }
        assert!(resolved("http://127.0.0.1:8081", &everywhere).is_ok());
        assert!(resolved("http://127.0.0.2:8080", &loopback).is_ok());
        assert!(resolved("http://127.0.0.2:8080", &everywhere).is_err());
        assert!(resolved("http://192.0.2.1:8080", &everywhere).is_ok());
    }
}
