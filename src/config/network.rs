//! An address range in CIDR notation, and the question whether an address lies in one of several.
//!
//! Plain data. An IPv4 address in IPv6 clothes (`::ffff:10.0.0.1`) counts as what it is, on both sides.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses: `10.0.0.0/8`, `fc00::/7`, or one address alone.
///
/// Invariant: the bits behind the prefix are zero, and an IPv4-mapped range is kept as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    base: IpAddr,
    prefix_bits: u8,
}

/// Why a text is no address range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkError {
    /// No address, or one that several readers read differently.
    Address,
    /// The prefix is no number, or longer than the address.
    Prefix,
    /// Bits behind the prefix are set: most likely a slip.
    HostBits,
}

impl Network {
    /// Whether the address lies in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let mask = mask_v4(self.prefix_bits);
                address.to_bits() & mask == base.to_bits()
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let mask = mask_v6(self.prefix_bits);
                address.to_bits() & mask == base.to_bits()
            }
            _ => false,
        }
    }

    fn checked(base: IpAddr, prefix_bits: u8) -> Result<Self, NetworkError> {
        let (base, prefix_bits) = match base.to_canonical() {
            // `::ffff:10.0.0.0/104` is `10.0.0.0/8`; a shorter prefix spans more than IPv4.
            IpAddr::V4(inner) if base.is_ipv6() => {
                let bits = prefix_bits.checked_sub(MAPPED_BITS);
                (IpAddr::V4(inner), bits.ok_or(NetworkError::Prefix)?)
            }
            canonical => (canonical, prefix_bits),
        };
        let host_bits_are_zero = match base {
            IpAddr::V4(base) => base.to_bits() & !mask_v4(prefix_bits) == 0,
            IpAddr::V6(base) => base.to_bits() & !mask_v6(prefix_bits) == 0,
        };
        if host_bits_are_zero {
            Ok(Self { base, prefix_bits })
        } else {
            Err(NetworkError::HostBits)
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        // The standard parser takes canonical dotted quads only: no octal, no short forms, no zones.
        let base: IpAddr = address.parse().map_err(|_| NetworkError::Address)?;
        let bits_max = match base {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        let prefix_bits = match prefix {
            None => bits_max,
            Some(digits) => {
                // The standard parser would take a leading plus.
                let is_plain =
                    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
                let bits = digits
                    .parse()
                    .ok()
                    .filter(|bits| *bits <= bits_max && is_plain);
                bits.ok_or(NetworkError::Prefix)?
            }
        };
        Self::checked(base, prefix_bits)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_bits)
    }
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "must be an address range such as 10.0.0.0/8 or fc00::/7",
            Self::Prefix => "must have a prefix length from 0 to 32, or to 128 for IPv6",
            Self::HostBits => "has bits set behind its prefix length; write its first address",
        })
    }
}

impl std::error::Error for NetworkError {}

/// Where nodes may live that register themselves, unless the configuration says otherwise: this machine
/// and private networks (RFC 1918, RFC 6598, RFC 4193).
pub(super) fn private_networks() -> Vec<Network> {
    let v4 = |[a, b]: [u8; 2], prefix_bits| Network {
        base: IpAddr::V4(Ipv4Addr::new(a, b, 0, 0)),
        prefix_bits,
    };
    let v6 = |base, prefix_bits| Network {
        base: IpAddr::V6(base),
        prefix_bits,
    };
    vec![
        v4([127, 0], 8),
        v6(Ipv6Addr::LOCALHOST, 128),
        v4([10, 0], 8),
        v4([172, 16], 12),
        v4([192, 168], 16),
        v4([100, 64], 10),
        v6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    ]
}

fn mask_v4(prefix_bits: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(prefix_bits.min(32)))
        .unwrap_or(0)
}

fn mask_v6(prefix_bits: u8) -> u128 {
    let shift = 128 - u32::from(prefix_bits.min(128));
    u128::MAX.checked_shl(shift).unwrap_or(0)
}

/// Bits in front of the IPv4 address in an IPv4-mapped one.
const MAPPED_BITS: u8 = 96;

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn contains(range: &str, address: &str) -> bool {
        network(range).contains(address.parse().unwrap())
    }

    #[test]
    fn a_range_contains_its_first_and_last_address_and_not_their_neighbours() {
        for (range, inside, outside) in [
            (
                "10.0.0.0/8",
                ["10.0.0.0", "10.255.255.255"],
                ["9.255.255.255", "11.0.0.0"],
            ),
            (
                "172.16.0.0/12",
                ["172.16.0.0", "172.31.255.255"],
                ["172.15.255.255", "172.32.0.0"],
            ),
            (
                "192.168.1.20",
                ["192.168.1.20", "192.168.1.20"],
                ["192.168.1.19", "192.168.1.21"],
            ),
            (
                "0.0.0.0/0",
                ["0.0.0.0", "255.255.255.255"],
                ["::", "2001:db8::1"],
            ),
            (
                "fc00::/7",
                ["fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
                ["fbff::", "fe00::"],
            ),
            ("::1/128", ["::1", "::1"], ["::2", "::"]),
        ] {
            assert!(
                inside.iter().all(|address| contains(range, address)),
                "{range}"
            );
            assert!(
                !outside.iter().any(|address| contains(range, address)),
                "{range}"
            );
        }
    }

    #[test]
    fn ipv4_in_ipv6_clothes_counts_as_ipv4_on_both_sides() {
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(!contains("10.0.0.0/8", "::ffff:11.1.2.3"));
        assert_eq!(network("::ffff:10.0.0.0/104"), network("10.0.0.0/8"));
        // The mapped range as a whole is no IPv6 network that a mapped address could slip through.
        assert!(!contains("::/0", "::ffff:169.254.169.254"));
    }

    #[test]
    fn what_is_no_plain_range_is_refused() {
        use NetworkError::{Address, HostBits, Prefix};
        for (text, error) in [
            ("", Address),
            ("10/8", Address),
            ("010.0.0.0/8", Address),
            ("0x0a.0.0.0/8", Address),
            ("localhost", Address),
            ("fe80::%eth0/10", Address),
            (" 10.0.0.0/8", Address),
            ("10.0.0.0/33", Prefix),
            ("10.0.0.0/", Prefix),
            ("10.0.0.0/+8", Prefix),
            ("10.0.0.0/8/8", Prefix),
            ("10.0.0.0/-1", Prefix),
            ("fc00::/129", Prefix),
            ("::ffff:10.0.0.0/95", Prefix),
            ("10.0.0.1/8", HostBits),
            ("fc00::1/7", HostBits),
        ] {
            assert_eq!(text.parse::<Network>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn the_default_ranges_are_written_as_they_are_read() {
        for range in private_networks() {
            assert_eq!(network(&range.to_string()), range);
        }
    }
}
