//! What one instance of the gate has opened and read so far. It outlives a request.

use crate::catalogue::Catalogue;
use crate::describe::readiness::Required;
use crate::policies::Policies;
use crate::ports::Ports;

/// The ports of an instance, and what it has opened and read through them.
pub(crate) struct Instance<P: Ports> {
    /// The ports.
    pub ports: P,
    /// The policies, opened by the first request that needs them.
    pub policies: Option<Policies<P>>,
    /// The models, listed by the first request that needs them.
    pub catalogue: Option<Catalogue<P>>,
    /// The models that readiness waits for.
    pub required: Required,
}
