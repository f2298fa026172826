//! The names of entries, and the search for unfinished operations in a listing of names.

use penstock_core::OperationId;
use std::collections::HashMap;

/// The beginning of all names of operations.
pub const NAMES: &str = "o/";
/// The end of the name of an operation's record.
pub const HEAD_SUFFIX: &str = "/h";

/// Width of a period in milliseconds: an hour, independent of the time to live, so that a change of that setting changes no
/// names.
pub(crate) const PERIOD_MS: u64 = 3_600_000;

/// The period of a time.
pub(crate) fn period(unix_ms: u64) -> u64 {
    unix_ms / PERIOD_MS
}

/// The names of the entries of one operation.
#[derive(Clone, Debug)]
pub(super) struct Names(String);

impl Names {
    pub fn of(id: &OperationId) -> Self {
        Self(format!("{NAMES}{}/{}/", period(id.unix_ms()), id.short()))
    }

    /// The record of the accepted call.
    pub fn head(&self) -> String {
        format!("{}h", self.0)
    }

    /// The mark that it was deleted.
    pub fn deleted(&self) -> String {
        format!("{}d", self.0)
    }

    /// The mark of a step of a batch that the next step has not followed yet.
    pub fn guard(&self) -> String {
        format!("{}g", self.0)
    }

    /// The counter of requests for its end.
    pub fn cancel(&self) -> String {
        format!("{}x", self.0)
    }

    /// The counter of the returns of its place and bytes.
    pub fn returned(&self) -> String {
        format!("{}u", self.0)
    }

    /// An entry of an epoch.
    pub fn epoch(&self, what: char, epoch: u32) -> String {
        format!("{}{what}{epoch}", self.0)
    }

    /// A part of the body.
    pub fn body(&self, part: u64) -> String {
        format!("{}b{part}", self.0)
    }

    /// A part of a result.
    pub fn result(&self, epoch: u32, part: u64) -> String {
        format!("{}t{epoch}.{part}", self.0)
    }
}

/// The counter of operations and bytes of an owner.
pub(super) fn used(owner: &str) -> String {
    format!("ou/{owner}")
}

/// The counter of operations that an owner made in a period.
pub(super) fn made(period: u64, owner: &str) -> String {
    format!("on/{period}/{owner}")
}

/// The place of an operation in the list of its owner.
pub(super) fn listed(period: u64, owner: &str, number: u64) -> String {
    format!("ol/{period}/{owner}/{number}")
}

/// Finds operations that may be unfinished in a listing of all names of a store, in any order. It reads no entries, so an
/// operation that it finds may be finished nevertheless.
#[derive(Debug, Default)]
pub struct Candidates {
    seen: HashMap<String, Found>,
}

#[derive(Debug, Default)]
struct Found {
    head: bool,
    deleted: bool,
    guard: bool,
    /// The newest claimed epoch, the newest one with an end, with a fate, and with a notice.
    newest: [u32; 4],
}

impl Candidates {
    /// Notes the entry that a name in the store's listing stands for. Other names are ignored.
    pub fn take(&mut self, name: &str) {
        let Some((id, what)) = split(name) else {
            return;
        };
        let found = match self.seen.get_mut(id) {
            Some(found) => found,
            None => self.seen.entry(id.to_owned()).or_default(),
        };
        let at = match what.as_bytes().first() {
            Some(b'h') => {
                found.head = true;
                return;
            }
            Some(b'd') => {
                found.deleted = true;
                return;
            }
            Some(b'g') => {
                found.guard = true;
                return;
            }
            Some(b'c') => 0,
            Some(b's') => 1,
            Some(b'f') => 2,
            Some(b'n') => 3,
            _ => return,
        };
        let epoch = what[1..].parse().unwrap_or(0);
        found.newest[at] = found.newest[at].max(epoch);
    }

    /// The ids of the operations that may be unfinished, the oldest first.
    pub fn ids(self) -> Vec<OperationId> {
        let unfinished = self.seen.into_iter().filter(|(_, found)| {
            let [claimed, ended, fate, given_back] = found.newest;
            // An owner may store an end and give the operation back before it commits the end.
            let has_end = ended >= claimed && fate >= claimed && given_back < claimed;
            let may_go_on = claimed == 0 || !has_end || found.guard;
            found.head && !found.deleted && may_go_on
        });
        let ids = unfinished.filter_map(|(id, _)| OperationId::parse(&format!("op_{id}")));
        let mut ids: Vec<OperationId> = ids.collect();
        ids.sort();
        ids
    }
}

/// The operation's short id in a name, and the rest of the name.
fn split(name: &str) -> Option<(&str, &str)> {
    let mut fields = name.strip_prefix(NAMES)?.splitn(3, '/');
    let _period: u64 = fields.next()?.parse().ok()?;
    Some((fields.next()?, fields.next()?))
}

/// The name of an operation's record, for the host, which reads it to fill its queue.
pub fn head_name(id: &OperationId) -> String {
    Names::of(id).head()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_without_a_committed_end_of_their_newest_run_are_candidates() {
        let id = |n: u128| OperationId::generate(1_700_000_000_000 + n as u64, n);
        let mut candidates = Candidates::default();
        let mut take = |n: u128, what: &[&str]| {
            let names = Names::of(&id(n));
            for what in what {
                candidates.take(&format!("{}{what}", names.0));
            }
        };
        take(1, &["h", "b0"]);
        take(2, &["h", "c1", "r1", "s1", "f1", "t1.0"]);
        take(3, &["h", "c1", "r1"]);
        take(4, &["h", "c1", "r1", "s1"]);
        take(5, &["h", "c1", "n1", "f1"]);
        take(6, &["h", "c1", "s1", "f1", "c2", "r2"]);
        take(7, &["h", "c1", "s1", "f1", "d"]);
        take(8, &["c1"]);
        take(9, &["h", "c1", "n1", "f1", "c2", "s2", "f2"]);
        // The host stopped between the end of the run and its commit.
        take(10, &["h", "c1", "r1", "s1", "t1.0", "n1", "f1"]);
        // A step of a batch that has ended, and that the next one has not followed.
        take(11, &["h", "c1", "r1", "s1", "f1", "g"]);
        for other in ["o/x/1/1", "i/1/2/h", "o/", "o/1", "ol/1/a/0"] {
            candidates.take(other);
        }
        assert_eq!(candidates.ids(), [1, 3, 4, 5, 6, 10, 11].map(id));
    }

    #[test]
    fn names_are_short_enough_for_every_store() {
        let names = Names::of(&OperationId::generate(u64::MAX >> 16, u128::MAX));
        assert!(names.result(u32::MAX, u64::MAX).len() < 200);
    }
}
