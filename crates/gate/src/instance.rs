//! Holds the data that one instance of the gate has opened and read. It outlives a request.

use crate::catalogue::Catalogue;
use crate::describe::readiness::Required;
use crate::policies::Policies;
use crate::ports::Ports;

/// The ports of an instance, and the data that it has read through them.
pub(crate) struct Instance<P: Ports> {
    /// The ports to the host and to other components.
    pub ports: P,
    /// The policies, opened by the first request that needs them.
    pub policies: Option<Policies<P>>,
    /// The catalogue of models, read by the first request that needs it.
    pub catalogue: Option<Catalogue<P>>,
    /// The models that must be ready before the server is ready.
    pub required: Required,
}
