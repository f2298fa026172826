//! The adapters that come with the server, as one component: wiring only. It is built without any
//! system interface and imports nothing but types.

#![allow(missing_docs)]

use penstock_adapters::Builtin;
use penstock_guest::adapter::{Component, bindings};

type Adapters = Component<Builtin>;
bindings::export!(Adapters with_types_in bindings);
