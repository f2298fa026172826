//! The view of an instance for the key-value interfaces.

use super::access::{Access, AccessError};
use super::ledger::Ledger;
use super::stores::Stores;
use crate::held::HeldBytes;
use std::sync::Arc;
use wasmtime::component::{HasData, Resource, ResourceTable, ResourceTableError};

/// The state of an instance for the stores, without its handles.
pub struct KvCtx {
    ledger: Arc<Ledger>,
}

impl KvCtx {
    /// The context of a new instance.
    pub fn new(stores: Arc<Stores>) -> Self {
        Self {
            ledger: Ledger::new(stores),
        }
    }

    /// The positions that the instance has seen in its stores.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }
}

/// The view of an instance for the functions of the key-value interfaces.
pub struct KvView<'a> {
    /// The state of the instance for its stores.
    pub ctx: &'a mut KvCtx,
    /// The table with the instance's handles.
    pub table: &'a mut ResourceTable,
    /// The bytes that the host holds for the instance.
    pub held: &'a mut HeldBytes,
}

/// Lets the generated code make a view.
pub(super) struct HasKv;

impl HasData for HasKv {
    type Data<'a> = KvView<'a>;
}

impl KvView<'_> {
    /// Gives a guest a handle. An instance without free handles is not used again.
    pub(super) fn hand_out<R: Send + 'static>(
        &mut self,
        resource: R,
    ) -> Result<Resource<R>, AccessError> {
        self.table.push(resource).map_err(|error| {
            if matches!(error, ResourceTableError::Full) {
                self.ctx.ledger.note_spent();
            }
            AccessError::NoHandles
        })
    }

    /// Opens a store by label and gives a guest the handle.
    pub(super) fn open_as<R: Send + 'static>(
        &mut self,
        label: &str,
        wrap: impl FnOnce(Access) -> R,
    ) -> Result<Resource<R>, AccessError> {
        let access = Access::open(&self.ctx.ledger, label, self.held.limit())?;
        self.hand_out(wrap(access))
    }
}
