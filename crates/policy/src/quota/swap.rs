//! Decides whether a store's compare-and-swap can be trusted, by trying it.
//!
//! Of two swaps that began on the same value exactly one may succeed, whether the entry was absent or present. The store
//! must then hold the winner's value. The verdict is stored under a versioned name, so that all instances agree and few of
//! them try.

use penstock_core::{Kv, KvError};

/// The name of the verdict's entry. Its version changes with the trial. Delete the entry to try a store again.
pub const VERDICT_NAME: &str = "q/.swap/v1";

/// Trials before errors count against the store: one may be a lost reply, three are not.
const TRIALS: u64 = 3;

/// Time for which an instance uses a verdict that could not be stored, in milliseconds.
pub const UNWRITTEN_MS: u64 = 60_000;

/// The verdict about a store's compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwapCheck {
    /// It can be trusted.
    Sound,
    /// It cannot be trusted, for this reason.
    Unsound(String),
}

impl SwapCheck {
    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Sound => b"sound".to_vec(),
            Self::Unsound(reason) => format!("unsound: {reason}").into_bytes(),
        }
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        match text.split_once(": ") {
            None if text == "sound" => Some(Self::Sound),
            Some(("unsound", reason)) => Some(Self::Unsound(reason.to_owned())),
            _ => None,
        }
    }
}

/// The verdict on a store, and whether it is stored. Tries the store if there is no verdict yet. An error means that the
/// store cannot even be read.
pub async fn verdict<K: Kv>(kv: &K, random: u64) -> Result<(SwapCheck, bool), KvError> {
    if let Some(known) = read(kv).await? {
        return Ok((known, true));
    }
    let mut failed = String::new();
    for trial in 0..TRIALS {
        let name = format!("q/.swap/t/{random:016x}-{trial}");
        let tried = try_out(kv, &name).await;
        // The entry stays behind only if this fails too, or the instance ends here.
        let deleted = kv.delete(&name).await;
        match tried.and_then(|verdict| deleted.map(|()| verdict)) {
            Ok(verdict) => return Ok(write(kv, verdict).await),
            Err(error) => failed = error.message,
        }
    }
    let reason = format!("it failed: {failed}");
    Ok(write(kv, SwapCheck::Unsound(reason)).await)
}

async fn read<K: Kv>(kv: &K) -> Result<Option<SwapCheck>, KvError> {
    Ok(kv
        .get(VERDICT_NAME)
        .await?
        .and_then(|v| SwapCheck::from_bytes(&v)))
}

/// Writes a verdict, unless another instance wrote one in the meantime. The first verdict holds for all.
async fn write<K: Kv>(kv: &K, verdict: SwapCheck) -> (SwapCheck, bool) {
    if let Ok(Some(theirs)) = read(kv).await {
        return (theirs, true);
    }
    let written = kv.set(VERDICT_NAME, &verdict.to_bytes()).await.is_ok();
    (verdict, written)
}

async fn try_out<K: Kv>(kv: &K, name: &str) -> Result<SwapCheck, KvError> {
    let mut before: Option<Vec<u8>> = None;
    for (state, ours, theirs) in [("an absent", "1", "2"), ("a present", "3", "4")] {
        let (seen, first) = kv.read_to_swap(name).await?;
        let (_, second) = kv.read_to_swap(name).await?;
        let unsound = |what: &str| SwapCheck::Unsound(format!("on {state} entry {what}"));
        if seen != before {
            return Ok(unsound("it read a value that was never written"));
        }
        if !kv.swap(first, ours.as_bytes()).await? {
            return Ok(unsound("a swap without concurrent writers failed"));
        }
        if kv.swap(second, theirs.as_bytes()).await? {
            return Ok(unsound("two swaps of one value both succeeded"));
        }
        before = kv.get(name).await?;
        if before.as_deref() != Some(ours.as_bytes()) {
            return Ok(unsound("the losing swap was written"));
        }
    }
    Ok(SwapCheck::Sound)
}
