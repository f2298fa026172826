//! Decides whether one more connection from an address is accepted, so that one caller cannot take all of them.

use penstock_policy::quota::subject::subscriber;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Open connections of each subscriber: one IPv4 address, or an IPv6 network of 64 bits. A subscriber without
/// connections has no entry, so there are at most as many entries as connections.
#[derive(Debug, Default)]
pub struct Addresses(Mutex<HashMap<IpAddr, u32>>);

impl Addresses {
    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more connection until the guard is dropped. Returns `None` if there are `limit` already.
    pub fn admit(self: &Arc<Self>, address: IpAddr, limit: u32) -> Option<Counted> {
        let of = subscriber(address);
        let mut open = self.open();
        let count = open.entry(of).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Counted {
            addresses: self.clone(),
            of,
        })
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub struct Counted {
    addresses: Arc<Addresses>,
    of: IpAddr,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.addresses.open();
        if let Entry::Occupied(mut count) = open.entry(self.of) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_own_count_and_an_ipv6_network_has_one() {
        let addresses = Arc::<Addresses>::default();
        let held: Vec<Counted> = [
            "192.0.2.1",
            "::ffff:192.0.2.1",
            "2001:db8::1",
            "2001:db8::ffff",
        ]
        .map(|text| addresses.admit(ip(text), 2).unwrap())
        .into();
        for (text, admitted) in [
            ("192.0.2.1", false),
            ("192.0.2.2", true),
            ("2001:db8::2", false),
            ("2001:db8:0:1::2", true),
        ] {
            assert_eq!(addresses.admit(ip(text), 2).is_some(), admitted, "{text}");
        }
        drop(held);
        assert!(addresses.admit(ip("192.0.2.1"), 2).is_some());
    }

    #[test]
    fn an_address_without_uploads_is_forgotten() {
        let addresses = Arc::<Addresses>::default();
        for n in 0..1000u32 {
            drop(addresses.admit(IpAddr::V4(n.into()), 1).unwrap());
        }
        assert!(addresses.open().is_empty());
    }
}
