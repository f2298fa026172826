//! Whether anybody still waits for an answer.
//!
//! A door tells it when its caller goes; what works for the caller looks at it where going on would be in vain.

use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// The caller of one request, as what works for it sees them.
#[derive(Debug, Default)]
pub struct Audience {
    gone: AtomicBool,
    leaving: Notify,
}

impl Audience {
    /// Says that nobody waits any more.
    pub fn leave(&self) {
        self.gone.store(true, Ordering::Release);
        self.leaving.notify_waiters();
    }

    /// Whether nobody waits any more.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Resolves when nobody waits any more.
    pub async fn left(&self) {
        let mut leaving = std::pin::pin!(self.leaving.notified());
        // Before the look, so that one who goes between the look and the wait is not missed.
        leaving.as_mut().enable();
        if !self.is_gone() {
            leaving.await;
        }
    }
}

/// Says that nobody waits any more when it is dropped.
pub(crate) struct Attending(pub(crate) std::sync::Arc<Audience>);

impl Drop for Attending {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn everybody_who_waits_hears_that_the_caller_left_and_so_does_who_asks_later() {
        let audience = Arc::<Audience>::default();
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                let audience = audience.clone();
                tokio::spawn(async move { audience.left().await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(!audience.is_gone());
        drop(Attending(audience.clone()));
        for waiting in waiting {
            waiting.await.unwrap();
        }
        audience.left().await;
        assert!(audience.is_gone());
    }
}
