//! The entry point of the components that answer requests.

use bytes::Bytes;
use http::Response;
use penstock_runtime::entry_points::{
    Direct, EntryPointError, EntryPointRequest, Http, InstanceCounts,
};
use std::sync::Arc;

/// The entry point that requests go through.
pub enum EntryPoint {
    /// The typed entry point `penstock:gate/door`.
    Direct(Arc<Direct>),
    /// The standard entry point `wasi:http/handler`.
    Http(Http),
}

impl EntryPoint {
    pub(crate) async fn call(
        &self,
        request: EntryPointRequest,
    ) -> Result<Response<Bytes>, EntryPointError> {
        match self {
            EntryPoint::Direct(direct) => direct.call(request).await,
            EntryPoint::Http(http) => http.call(request).await,
        }
    }

    /// The number of instances that serve a request now, and the most that may.
    pub(crate) fn use_of(&self) -> (u64, u64) {
        match self {
            EntryPoint::Direct(direct) => direct.use_of(),
            EntryPoint::Http(http) => http.use_of(),
        }
    }

    /// Counts of present and past instances.
    pub fn counts(&self) -> &InstanceCounts {
        match self {
            EntryPoint::Direct(direct) => direct.counts(),
            EntryPoint::Http(http) => http.counts(),
        }
    }
}
