//! Decides which counters a call uses: the limits that apply to it, and its subject under each limit, hashed into a
//! short name.
//!
//! Clients choose much of a subject. Names therefore hold a hash of it: 128 bits of BLAKE3 over the fields with their
//! lengths. Such names are bounded, and no client can create two subjects with the same name.

use super::limits::{Dimension, Limit};
use penstock_core::Caller;
use std::net::{IpAddr, Ipv6Addr};

/// The attributes of a call by which limits select and count it.
#[derive(Clone, Copy, Debug)]
pub struct CallAttributes<'a> {
    /// The caller, as `auth` recognised it.
    pub caller: &'a Caller,
    /// The kind of route; never the path that a client sent.
    pub route: &'a str,
    /// The model that the call names, if any.
    pub model: Option<&'a str>,
}

/// The bucket of callers without an API key, and of calls without a model.
pub const NONE: &str = "none";
/// The bucket of callers whose address is not known.
pub const UNKNOWN: &str = "unknown";

/// Leading bits of an IPv6 address that identify a subscriber. A household or machine gets a /64 and chooses the other
/// bits freely (RFC 4291, section 2.5.1; RFC 6177).
const IPV6_PREFIX_BITS: u32 = 64;

/// Returns whether a limit applies to a call: every filter that is not empty lists the call's value.
pub fn applies(limit: &Limit, call: &CallAttributes<'_>) -> bool {
    let passes = |filter: &[String], value: Option<&str>| {
        filter.is_empty() || value.is_some_and(|v| filter.iter().any(|f| f == v))
    };
    passes(&limit.routes, Some(call.route))
        && passes(&limit.models, call.model)
        && passes(&limit.tiers, Some(&call.caller.tier))
        && passes(&limit.tenants, Some(&call.caller.tenant))
}

/// The subject of a call under some dimensions. `family` separates counters that must not be shared: those of other
/// limits, and those under settings that change the meaning of a counter.
pub fn subject(family: &str, per: &[Dimension], call: &CallAttributes<'_>) -> u128 {
    let mut hash = Hash::new(family);
    for dimension in per {
        match dimension {
            Dimension::Tenant => hash.field("tenant", &call.caller.tenant),
            // An id is unique within a tenant only.
            Dimension::ApiKey => match &call.caller.api_key_id {
                Some(id) => {
                    hash.field("api-key-of", &call.caller.tenant);
                    hash.field("api-key", id);
                }
                None if call.caller.anonymous => hash.field("no-api-key", NONE),
                // Tokens and certificates: each subject of a tenant stands for itself.
                None => {
                    hash.field("subject-of", &call.caller.tenant);
                    hash.field("subject", call.caller.subject.as_deref().unwrap_or(NONE));
                }
            },
            Dimension::Address => match &call.caller.address {
                Some(address) => hash.field("address", &network(address)),
                None => hash.field("no-address", UNKNOWN),
            },
            Dimension::Route => hash.field("route", call.route),
            Dimension::Model => match call.model {
                Some(model) => hash.field("model", model),
                None => hash.field("no-model", NONE),
            },
            Dimension::Tier => hash.field("tier", &call.caller.tier),
        }
    }
    hash.finish()
}

/// The subject whose refusals are counted: the API key within its tenant, or the address of a caller without
/// credentials.
pub fn accountable(call: &CallAttributes<'_>) -> u128 {
    let per: &[Dimension] = if !call.caller.anonymous {
        &[Dimension::ApiKey]
    } else {
        &[Dimension::Tenant, Dimension::Address]
    };
    subject("back-off", per, call)
}

/// The subscriber of an address: an IPv4 address itself, also when it is written as IPv6; an IPv6 address by its /64.
pub fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => {
            let kept = v6.to_bits() & (u128::MAX << (128 - IPV6_PREFIX_BITS));
            Ipv6Addr::from_bits(kept).into()
        }
    }
}

/// The network by which an address is counted, as [`subscriber`] gives it. A text that is no address is used unchanged.
pub fn network(address: &str) -> String {
    match address.parse::<IpAddr>().map(subscriber) {
        Ok(IpAddr::V4(v4)) => v4.to_string(),
        Ok(IpAddr::V6(v6)) => format!("{v6}/{IPV6_PREFIX_BITS}"),
        Err(_) => address.to_owned(),
    }
}

struct Hash(blake3::Hasher);

impl Hash {
    fn new(family: &str) -> Self {
        let mut hash = Self(blake3::Hasher::new());
        hash.field("family", family);
        hash
    }

    fn field(&mut self, kind: &str, value: &str) {
        for part in [kind, value] {
            self.0.update(&(part.len() as u64).to_le_bytes());
            self.0.update(part.as_bytes());
        }
    }

    fn finish(&self) -> u128 {
        let bytes = *self.0.finalize().as_bytes();
        u128::from_be_bytes(bytes[..16].try_into().expect("sixteen of 32 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(tenant: &str, api_key_id: Option<&str>, address: Option<&str>) -> Caller {
        Caller {
            tenant: tenant.to_owned(),
            api_key_id: api_key_id.map(str::to_owned),
            tier: "free".to_owned(),
            ..Caller::anonymous(address.map(str::to_owned))
        }
    }

    fn of(per: &[Dimension], caller: &Caller) -> u128 {
        let call = CallAttributes {
            caller,
            route: "predict",
            model: Some("m"),
        };
        subject("f", per, &call)
    }

    #[test]
    fn addresses_count_by_network() {
        for (address, counted) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
            ("::1", "::/64"),
            ("somewhere", "somewhere"),
        ] {
            assert_eq!(network(address), counted);
        }
    }

    #[test]
    fn subjects_differ_where_they_should() {
        use Dimension::{Address, ApiKey, Model, Tenant};
        let a = caller("a", Some("k"), Some("192.0.2.7"));
        let b = caller("b", Some("k"), Some("192.0.2.7"));
        let anonymous = caller("a", None, None);
        assert_eq!(of(&[], &a), of(&[], &b));
        assert_eq!(of(&[Address, Model], &a), of(&[Address, Model], &b));
        assert_ne!(of(&[Tenant], &a), of(&[Tenant], &b));
        assert_ne!(of(&[ApiKey], &a), of(&[ApiKey], &b), "ids are per tenant");
        assert_ne!(of(&[ApiKey], &a), of(&[ApiKey], &anonymous));
        assert_eq!(
            of(&[ApiKey], &anonymous),
            of(&[ApiKey], &caller("b", None, None)),
            "callers without one share"
        );
        // A caller cannot choose a name that gives it another caller's subject.
        let named_none = caller("a", Some("none"), Some("unknown"));
        assert_ne!(of(&[ApiKey], &named_none), of(&[ApiKey], &anonymous));
        assert_ne!(of(&[Address], &named_none), of(&[Address], &anonymous));
    }
}
