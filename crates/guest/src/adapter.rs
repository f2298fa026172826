//! `penstock:adapter` over one adapter's Rust code: [`Adapter`] is all an adapter has to be.

use crate::types::{bulk_bytes, tensors, tensors_from_wit, tensors_to_wit};
pub use penstock_adapters::{Adapter, Prepared, Refusal};

#[allow(missing_docs)]
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        world: "penstock:adapter/component",
        path: ["../../wit/types", "../../wit/adapter"],
        with: { "penstock:types/tensors@0.1.0": crate::types::tensors },
        pub_export_macro: true,
        default_bindings_module: "penstock_guest::adapter::bindings",
    });
}

use bindings::exports::penstock::adapter::adapter as wit;

/// Makes a component's exports out of an [`Adapter`].
pub struct Component<A>(std::marker::PhantomData<A>);

/// An opened adapter as a WIT resource.
pub struct Resource<A>(A);

impl<A: Adapter> wit::Guest for Component<A> {
    type Adapter = Resource<A>;
}

impl<A: Adapter> wit::GuestAdapter for Resource<A> {
    fn open(name: String, config: Vec<u8>) -> Result<wit::Adapter, String> {
        A::open(&name, &config).map(|adapter| wit::Adapter::new(Resource(adapter)))
    }

    fn prepare(&self, content: wit::Content) -> Result<wit::Prepared, wit::Refusal> {
        match self
            .0
            .prepare(content.media_type.as_deref(), bulk_bytes(&content.body))
        {
            Ok(Prepared::Tensors(list)) => Ok(wit::Prepared::Tensors(tensors_to_wit(list))),
            Ok(Prepared::Answer(text)) => Ok(wit::Prepared::Answer(text)),
            Err(Refusal::UnsupportedMediaType(text)) => {
                Err(wit::Refusal::UnsupportedMediaType(text))
            }
            Err(Refusal::InvalidContent(text)) => Err(wit::Refusal::InvalidContent(text)),
        }
    }

    fn answer(&self, outputs: Vec<tensors::Tensor>) -> Result<String, String> {
        self.0.answer(tensors_from_wit(outputs))
    }
}
