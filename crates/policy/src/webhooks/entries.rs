//! The names of the entries of deliveries, and the search for unfinished ones in a listing of names.

use crate::operations::period;
use penstock_core::OperationId;
use std::collections::HashMap;

/// The beginning of all names of deliveries.
pub const NAMES: &str = "w/";

/// The names of the entries of one delivery.
#[derive(Clone, Debug)]
pub struct Names(String);

impl Names {
    /// The names for an operation.
    pub fn of(id: &OperationId) -> Self {
        let period = period(id.unix_ms());
        Self(format!("{NAMES}{period}/{}/", id.short()))
    }

    /// The name of the target's entry.
    pub fn target(&self) -> String {
        format!("{}t", self.0)
    }

    /// The name of the payload's entry.
    pub fn payload(&self) -> String {
        format!("{}p", self.0)
    }

    /// The record of the attempts.
    pub fn record(&self) -> String {
        format!("{}v", self.0)
    }

    /// The mark that the delivery is over, as often as it was asked for again.
    pub fn over(&self, generation: u32) -> String {
        format!("{}z{generation}", self.0)
    }

    /// The mark of the request with this number to send the message again.
    pub fn again(&self, generation: u32) -> String {
        format!("{}g{generation}", self.0)
    }

    /// The counter of the claims of an attempt; the first one is 1.
    pub fn claim(&self, attempt: u32) -> String {
        format!("{}a{attempt}", self.0)
    }
}

/// The mark that a receiver wants no more messages. `url` is the whole URL.
pub fn disabled(tenant: &str, url: &str) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("penstock webhooks 2026 disabled receiver");
    hasher.update(&(tenant.len() as u64).to_le_bytes());
    hasher.update(tenant.as_bytes());
    hasher.update(url.as_bytes());
    format!("wd/{}", &hasher.finalize().to_hex()[..32])
}

/// Finds deliveries that may be unfinished in a listing of all names of a store, in any order.
#[derive(Debug, Default)]
pub struct Candidates {
    seen: HashMap<String, Found>,
}

#[derive(Debug, Default)]
struct Found {
    has_target: bool,
    /// The newest generation that was asked for.
    asked: u32,
    /// The newest generation that is over.
    over: Option<u32>,
}

impl Candidates {
    /// Notes the entry that a name in the store's listing stands for. Other names are ignored.
    pub fn take(&mut self, name: &str) {
        let Some(rest) = name.strip_prefix(NAMES) else {
            return;
        };
        let mut fields = rest.splitn(3, '/');
        let (Some(_), Some(id), Some(what)) = (fields.next(), fields.next(), fields.next()) else {
            return;
        };
        if !what.starts_with(['t', 'z', 'g']) {
            return;
        }
        let found = self.seen.entry(id.to_owned()).or_default();
        let generation = what[1..].parse().unwrap_or(0);
        match what.as_bytes()[0] {
            b't' => found.has_target = true,
            b'g' => found.asked = found.asked.max(generation),
            _ => found.over = found.over.max(Some(generation)),
        }
    }

    /// The operations whose delivery may be unfinished, the oldest first.
    pub fn ids(self) -> Vec<OperationId> {
        let unfinished = (self.seen.into_iter())
            .filter(|(_, found)| found.has_target && found.over < Some(found.asked));
        let ids = unfinished.filter_map(|(id, _)| OperationId::parse(&format!("op_{id}")));
        let mut ids: Vec<OperationId> = ids.collect();
        ids.sort();
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_with_a_target_and_without_the_mark_are_candidates() {
        let id = |n: u128| OperationId::generate(1_700_000_000_000 + n as u64, n);
        let mut candidates = Candidates::default();
        let names = [1, 2, 3, 4, 5].map(|n| Names::of(&id(n)));
        for name in [
            names[0].target(),
            names[1].target(),
            names[1].record(),
            names[1].over(0),
            names[2].claim(1),
            names[3].over(0),
            names[3].again(1),
            names[3].target(),
            names[4].again(1),
            names[4].again(2),
            names[4].target(),
            names[4].over(2),
            names[4].over(0),
            "w/x".to_owned(),
            "wx/1/2/t".to_owned(),
        ] {
            candidates.take(&name);
        }
        assert_eq!(candidates.ids(), [id(1), id(4)]);
    }

    #[test]
    fn the_mark_of_a_receiver_depends_on_tenant_and_url() {
        assert_ne!(disabled("a", "bc"), disabled("ab", "c"));
        assert_eq!(disabled("a", "b"), disabled("a", "b"));
    }
}
