//! The magika adapter as a component: wiring only. It is built without any system interface and
//! imports nothing but types.

#![allow(missing_docs)]

use penstock_adapters::magika::Magika;
use penstock_guest::adapter::{Component, bindings};

type MagikaAdapter = Component<Magika>;
bindings::export!(MagikaAdapter with_types_in bindings);
