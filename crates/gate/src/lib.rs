//! The gate's logic: which route a request takes, in which order the policies see it, and how the
//! answer is written. It is a library over plain records and [`ports`], so that it runs natively in
//! tests with fakes and in WebAssembly behind either door with the same code.
//!
//! * [`route`]: path and method to route; pure;
//! * [`catalogue`]: which models and versions exist;
//! * [`gate`]: the order of the policies;
//! * [`answer`]: bodies and headers of answers;
//! * [`ports`]: what the gate needs from outside.

pub mod answer;
pub mod catalogue;
pub mod gate;
pub mod ports;
pub mod record;
pub mod route;

pub use gate::Gate;
pub use record::{Header, Request, Response};
