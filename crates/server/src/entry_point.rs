//! The entry point of the components that answer requests.

use bytes::Bytes;
use http::Response;
use penstock_runtime::entry_points::{
    Direct, EntryPointError, EntryPointRequest, Http, InstanceCounts,
};
use std::sync::Arc;

/// The door requests go through.
pub enum EntryPoint {
    /// The typed door.
    Direct(Arc<Direct>),
    /// `wasi:http/handler`.
    Http(Http),
}

impl EntryPoint {
    pub(crate) async fn call(
        &self,
        request: EntryPointRequest,
    ) -> Result<Response<Bytes>, EntryPointError> {
        match self {
            EntryPoint::Direct(door) => door.call(request).await,
            EntryPoint::Http(door) => door.call(request).await,
        }
    }

    /// How many instances there are and were.
    pub fn counts(&self) -> &InstanceCounts {
        match self {
            EntryPoint::Direct(door) => door.counts(),
            EntryPoint::Http(door) => door.counts(),
        }
    }
}
