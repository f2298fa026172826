//! Deletes operations: their contents when a caller deletes them, and every entry when their time is over.

use super::entries::{self, Names, period};
use super::record::{Accepted, Ended, ONE, parts};
use super::state::{MAX_EPOCHS, counts};
use crate::records::decode;
use crate::sweep::Removal;
use penstock_core::{Kv, KvError, OperationId};

/// The entry of the index. It names the entries that exist before the record does, because the instance may die before that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Indexed {
    pub id: OperationId,
    pub owner: String,
    pub number: u64,
    pub body_parts: u64,
}

impl Indexed {
    /// Writes the fields as text with spaces between them.
    pub fn encode(&self) -> Vec<u8> {
        let Self {
            id,
            owner,
            number,
            body_parts,
        } = self;
        format!("{id} {owner} {number} {body_parts}").into_bytes()
    }

    /// Parses the bytes of [`Indexed::encode`]; `None` for other bytes.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = std::str::from_utf8(bytes).ok()?.split(' ');
        Some(Self {
            id: OperationId::parse(fields.next()?)?,
            owner: fields.next()?.to_owned(),
            number: fields.next()?.parse().ok()?,
            body_parts: fields.next()?.parse().ok()?,
        })
    }
}

/// Deletes the body and the results of an operation, and returns its place and its bytes to the owner once.
pub(super) async fn remove_contents<K: Kv>(kv: &K, names: &Names) -> Result<(), KvError> {
    let head = kv.get(&names.head()).await?;
    let Some(accepted) = head.as_deref().and_then(decode::<Accepted>) else {
        return Ok(());
    };
    let mut bytes = accepted.body_bytes;
    let mut has_ended = false;
    let mut results = Vec::new();
    for epoch in 1..=MAX_EPOCHS {
        let asked = ['s', 'c', 'f'].map(|what| names.epoch(what, epoch));
        let many = kv.read_many(&asked, 1).await?;
        let &[true, has_fate] = many.counters.as_slice() else {
            break;
        };
        let end = many.values.into_iter().next().flatten();
        let Some(ended) = end.as_deref().and_then(decode::<Ended>) else {
            // A worker that died while it stored a result leaves the first parts of it.
            let mut part = 0;
            while kv.exists(&names.result(epoch, part)).await? {
                results.push(names.result(epoch, part));
                part += 1;
            }
            continue;
        };
        // An adopted end names the entries of another epoch.
        if ended.parts_epoch == epoch {
            results.extend((0..parts(ended.body_bytes)).map(|part| names.result(epoch, part)));
        }
        // The bytes of an end were counted if it was committed.
        if has_fate && !has_ended && counts(kv.increment(&asked[2], 0).await?) {
            has_ended = true;
            bytes += ended.body_bytes;
        }
    }
    if kv.increment(&names.returned(), 1).await? == 1 {
        let returned = ONE + i64::try_from(bytes).unwrap_or(i64::MAX);
        kv.increment(&entries::used(&accepted.owner), -returned)
            .await?;
    }
    for part in 0..parts(accepted.body_bytes) {
        kv.delete(&names.body(part)).await?;
    }
    for name in results {
        kv.delete(&name).await?;
    }
    Ok(())
}

/// Deletes an operation that the index names.
pub(super) struct RemoveOperation;

impl<K: Kv> Removal<K> for RemoveOperation {
    async fn remove(&mut self, kv: &K, _bucket: u64, value: &[u8]) -> Result<(), KvError> {
        // No release writes another entry, so it cannot be interpreted.
        let Some(indexed) = Indexed::decode(value) else {
            return Ok(());
        };
        let Indexed {
            id, owner, number, ..
        } = &indexed;
        let names = Names::of(id);
        remove_contents(kv, &names).await?;
        let hour = period(id.unix_ms());
        kv.delete(&entries::listed(hour, owner, *number)).await?;
        kv.delete(&entries::made(hour, owner)).await?;
        if !kv.exists(&names.head()).await? {
            // The instance died before it wrote the record, or another sweep deleted it.
            for part in 0..indexed.body_parts {
                kv.delete(&names.body(part)).await?;
            }
        }
        // The last epochs go first: a removal that is repeated finds the rest.
        let mut epochs = 0;
        while epochs < MAX_EPOCHS && kv.exists(&names.epoch('c', epochs + 1)).await? {
            epochs += 1;
        }
        for epoch in (1..=epochs).rev() {
            for what in ['s', 'n', 'r', 'f', 'c'] {
                kv.delete(&names.epoch(what, epoch)).await?;
            }
        }
        for name in [
            names.cancel(),
            names.head(),
            names.deleted(),
            names.guard(),
            names.returned(),
        ] {
            kv.delete(&name).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_the_index_reads_back_as_it_was_and_other_bytes_are_none() {
        let indexed = Indexed {
            id: OperationId::generate(1_700_000_000_000, 7),
            owner: "o".to_owned(),
            number: 3,
            body_parts: 2,
        };
        assert_eq!(Indexed::decode(&indexed.encode()), Some(indexed));
        for bytes in [&b""[..], b"op_1 o 1 1", b"\xff"] {
            assert_eq!(Indexed::decode(bytes), None);
        }
    }
}
