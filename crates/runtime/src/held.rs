//! Counts the bytes that the host holds for one instance: its tensors, and the values that compare-and-swap has seen.

/// The bytes held for an instance, and their limit.
#[derive(Debug)]
pub struct HeldBytes {
    now: usize,
    limit: usize,
}

/// The limit was reached. Nothing was counted.
#[derive(Debug)]
pub struct OverLimit {
    /// The bytes that would have been held.
    pub held: usize,
    /// The most bytes that may be held.
    pub limit: usize,
}

impl HeldBytes {
    /// Holds no bytes yet, with a limit.
    pub fn new(limit: usize) -> Self {
        Self { now: 0, limit }
    }

    /// The bytes held now.
    #[inline]
    pub fn now(&self) -> usize {
        self.now
    }

    /// The most bytes that may be held.
    #[inline]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Counts more held bytes.
    ///
    /// # Errors
    ///
    /// [`OverLimit`] if they would exceed the limit.
    #[inline]
    pub fn take(&mut self, bytes: usize) -> Result<(), OverLimit> {
        let held = self.now.saturating_add(bytes);
        if held > self.limit {
            return Err(OverLimit {
                held,
                limit: self.limit,
            });
        }
        self.now = held;
        Ok(())
    }

    /// Counts bytes that are no longer held.
    #[inline]
    pub fn release(&mut self, bytes: usize) {
        self.now = self.now.saturating_sub(bytes);
    }
}
