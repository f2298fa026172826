//! Closes and commits epochs. The order of the increments of a fate decides; see [`state`](super::state).

use super::entries::{self, Names};
use super::record::{EndState, Ended, Notice, split};
use super::settings::OperationsSettings;
use super::state::{
    CLOSE, SEAL, WithoutRun, has_commit, is_closed, is_sealed, was_closed_after_its_commit,
};
use super::words::{End, OperationState};
use crate::records::{decode, encode};
use penstock_core::{Code, Kv, KvError};

/// Status of the answer of an operation that a caller cancelled, by the convention of servers whose client is gone.
const CANCELLED_STATUS: u16 = 499;

/// Closes the epochs before `epoch`, back to one whose owner had done so. Returns the end of a committed one.
pub(super) async fn close_earlier<K: Kv>(
    kv: &K,
    names: &Names,
    epoch: u32,
) -> Result<Option<Ended>, KvError> {
    for earlier in (1..epoch).rev() {
        let mut fate = kv.increment(&names.epoch('f', earlier), 0).await?;
        if !has_commit(fate) && !is_closed(fate) {
            fate = close(kv, names, earlier).await?;
        }
        if has_commit(fate) {
            let end = kv.get(&names.epoch('s', earlier)).await?;
            return match end.as_deref().and_then(decode) {
                Some(ended) => Ok(Some(ended)),
                None => Err(KvError::new(
                    "the end of an operation is missing or not readable",
                )),
            };
        }
        if kv.exists(&names.epoch('r', earlier)).await? {
            break;
        }
    }
    Ok(None)
}

/// Closes an epoch of an operation. Returns its fate afterwards. If the epoch was committed before, readers may have seen its
/// end, so it is sealed.
async fn close<K: Kv>(kv: &K, names: &Names, epoch: u32) -> Result<i64, KvError> {
    let name = names.epoch('f', epoch);
    let fate = kv.increment(&name, CLOSE).await?;
    match was_closed_after_its_commit(fate) {
        true => kv.increment(&name, SEAL).await,
        false => Ok(fate),
    }
}

/// Gives back an epoch that the caller owns. Returns whether its end had been committed, so that it counts.
pub(super) async fn close_own<K: Kv>(
    kv: &K,
    names: &Names,
    epoch: u32,
    notice: &Notice,
) -> Result<bool, KvError> {
    let fate_name = names.epoch('f', epoch);
    let fate = match kv.exists(&fate_name).await? {
        true => kv.increment(&fate_name, 0).await?,
        false => 0,
    };
    // A closed epoch keeps its first notice: a late one would count an attempt that does not count. A committed one needs a
    // notice: if this instance dies between the close and the seal, a host finds the operation by it.
    if !is_closed(fate) {
        kv.set(&names.epoch('n', epoch), &encode(notice)).await?;
    }
    Ok(is_sealed(close(kv, names, epoch).await?))
}

/// Stores the end of an epoch, and commits it. Returns whether it counts.
pub(super) async fn commit<K: Kv>(
    kv: &K,
    names: &Names,
    (epoch, attempts, started_ms): (u32, u32, Option<u64>),
    end: End,
    owner: &str,
    now_ms: u64,
) -> Result<bool, KvError> {
    let body = end.body.unwrap_or_default();
    let ended = Ended {
        state: match end.state {
            OperationState::Succeeded => EndState::Succeeded,
            OperationState::Cancelled => EndState::Cancelled,
            _ => EndState::Failed,
        },
        code: end.code,
        message: end.message,
        status: end.status,
        headers: end.headers,
        body_bytes: body.len() as u64,
        parts_epoch: epoch,
        attempts,
        started_ms,
        ended_ms: now_ms,
    };
    let body_bytes = body.len();
    let mut written: Vec<(String, Vec<u8>)> = (0..)
        .zip(split(body))
        .map(|(part, bytes)| (names.result(epoch, part), bytes))
        .collect();
    // The end follows its parts, and the commit follows the end.
    written.push((names.epoch('s', epoch), encode(&ended)));
    kv.set_many(&written).await?;
    let fate_name = names.epoch('f', epoch);
    let fate = kv.increment(&fate_name, 1).await?;
    if is_closed(fate) {
        return Ok(false);
    }
    // Only the bytes of the end that counts are counted, because only these are returned.
    if body_bytes > 0 {
        let bytes = i64::try_from(body_bytes).unwrap_or(i64::MAX);
        kv.increment(&entries::used(owner), bytes).await?;
    }
    if !is_sealed(fate) {
        kv.increment(&fate_name, SEAL).await?;
    }
    Ok(true)
}

/// The end of an operation that ends without a further run.
pub(super) fn end_without_run(why: WithoutRun, settings: &OperationsSettings) -> End {
    let (state, code, message, status) = match why {
        WithoutRun::Cancelled => (
            OperationState::Cancelled,
            String::new(),
            "the operation was cancelled".to_owned(),
            CANCELLED_STATUS,
        ),
        WithoutRun::QueuedTooLong => (
            OperationState::Failed,
            Code::DeadlineExceeded.as_str().to_owned(),
            format!(
                "the operation did not begin within {} seconds, the limit of operations.max_queue_time_s; try again later",
                settings.max_queue_time_s
            ),
            Code::DeadlineExceeded.status(),
        ),
        WithoutRun::Exhausted(code, message) => (
            OperationState::Failed,
            code.clone(),
            message,
            Code::parse(&code).unwrap_or(Code::Internal).status(),
        ),
    };
    End {
        state,
        code,
        message,
        status,
        headers: Vec::new(),
        body_bytes: 0,
        body: None,
    }
}
