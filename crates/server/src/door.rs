//! The entry point of the components that answer requests.

use bytes::Bytes;
use http::Response;
use penstock_runtime::doors::{Direct, DoorError, DoorRequest, Http, InstanceCounts};
use std::sync::Arc;

/// The door requests go through.
pub enum Door {
    /// The typed door.
    Direct(Arc<Direct>),
    /// `wasi:http/handler`.
    Http(Http),
}

impl Door {
    pub(crate) async fn call(&self, request: DoorRequest) -> Result<Response<Bytes>, DoorError> {
        match self {
            Door::Direct(door) => door.call(request).await,
            Door::Http(door) => door.call(request).await,
        }
    }

    /// How many instances there are and were.
    pub fn counts(&self) -> &InstanceCounts {
        match self {
            Door::Direct(door) => door.counts(),
            Door::Http(door) => door.counts(),
        }
    }
}
