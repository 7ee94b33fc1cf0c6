//! Who shares limits: an IPv4 address, or the /64 of an IPv6 address, within which a host takes what address it likes.
//!
//! Invariant: an IPv4 peer is the same source on an IPv4 and on a dual-stack socket. Must not know: limits.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// One source of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Source(IpAddr);

/// The bits of an IPv6 address that one network has in common.
const NETWORK: u128 = !0 << 64;

impl Source {
    pub(crate) fn of(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & NETWORK)),
            v4 => v4,
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(ip) => ip.fmt(f),
            IpAddr::V6(ip) => write!(f, "{ip}/64"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_host_may_choose_is_one_source() {
        let source = |ip: &str| Source::of(ip.parse().unwrap()).to_string();
        for (ip, expected) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::", "2001:db8:1:2::/64"),
            ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
            ("::1", "::/64"),
        ] {
            assert_eq!(source(ip), expected);
        }
    }
}
