//! The built-in adapters as one component; this crate contains only wiring. It is built without system interfaces and
//! imports only types.

#![allow(missing_docs)]

use penstock_adapters::Builtin;
use penstock_guest::adapter::{Component, bindings};

type Adapters = Component<Builtin>;
bindings::export!(Adapters with_types_in bindings);
