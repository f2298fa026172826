//! Tells the code that works for a request that its caller is gone.
//!
//! An entry point cancels a request when its caller disconnects. The code that works for the caller stops if its result
//! would be useless.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// The cancellation of a request, and the tasks that wait for it.
#[derive(Debug, Default)]
pub struct Cancellation {
    cancelled: AtomicBool,
    wake: Notify,
}

impl Cancellation {
    /// Cancels the request and wakes the tasks that wait in [`Self::cancelled`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.wake.notify_waiters();
    }

    /// Returns whether the request was cancelled.
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Resolves when the request is cancelled.
    pub async fn cancelled(&self) {
        let mut wake = std::pin::pin!(self.wake.notified());
        // Register before the check. Otherwise a cancellation between the check and the wait would be missed.
        wake.as_mut().enable();
        if !self.is_cancelled() {
            wake.await;
        }
    }
}

/// Cancels a request when it is dropped.
pub(crate) struct CancelOnDrop(pub(crate) Arc<Cancellation>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_task_that_waits_hears_the_cancellation_and_so_does_one_that_asks_later() {
        let cancellation = Arc::<Cancellation>::default();
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                let cancellation = cancellation.clone();
                tokio::spawn(async move { cancellation.cancelled().await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(!cancellation.is_cancelled());
        drop(CancelOnDrop(cancellation.clone()));
        for waiting in waiting {
            waiting.await.unwrap();
        }
        cancellation.cancelled().await;
        assert!(cancellation.is_cancelled());
    }
}
