//! Implements `penstock:adapter` over the Rust code of an adapter, which implements only [`Adapter`]. Content is
//! borrowed from the received call; tensors are copied once in each direction.

#[cfg(feature = "adapter")]
pub use component::*;

/// The component's side: its exports.
#[cfg(feature = "adapter")]
mod component {
    use crate::types::{bulk_bytes, tensors, tensors_from_wit, tensors_to_wit};
    pub use penstock_adapters::{
        Adapter, AdapterAnswer, AdapterRefusal, Blob, Item, Part, RefusalKind, Step,
    };

    #[allow(missing_docs)]
    #[doc(hidden)]
    pub mod bindings {
        wit_bindgen::generate!({
            world: "penstock:adapter/component",
            path: ["../../wit/types", "../../wit/adapter"],
            with: { "penstock:types/held@0.1.0": crate::types::held, "penstock:types/tensors@0.1.0": crate::types::tensors },
            pub_export_macro: true,
            default_bindings_module: "penstock_guest::adapter::bindings",
        });
    }

    use bindings::exports::penstock::adapter::adapter as wit;

    /// Generates a component's exports from an [`Adapter`].
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

        fn prepare(
            &self,
            items: Vec<wit::Item>,
            cut_to: Option<u32>,
        ) -> Result<wit::Step, wit::Refusal> {
            let items: Vec<Item<'_>> = items.iter().map(item).collect();
            let begun = match cut_to {
                None => self.0.prepare(&items),
                Some(tokens) => self.0.prepare_cut(&items, tokens),
            };
            begun.map(step).map_err(refusal)
        }

        fn advance(&self, outputs: Vec<tensors::Tensor>) -> Result<wit::Step, String> {
            self.0.advance(tensors_from_wit(outputs)).map(step)
        }
    }

    fn item(item: &wit::Item) -> Item<'_> {
        Item {
            parts: item.parts.iter().map(part).collect(),
        }
    }

    fn part(part: &wit::Part) -> Part<'_> {
        match part {
            wit::Part::Text(text) => Part::Text(text),
            wit::Part::Tokens(tokens) => Part::Tokens(tokens),
            wit::Part::Image(body) => Part::Image(blob(body)),
            wit::Part::Audio(body) => Part::Audio(blob(body)),
            wit::Part::Bytes(body) => Part::Bytes(blob(body)),
        }
    }

    fn blob(blob: &wit::Blob) -> Blob<'_> {
        Blob {
            media_type: blob.media_type.as_deref(),
            body: bulk_bytes(&blob.body),
        }
    }

    fn step(step: Step) -> wit::Step {
        match step {
            Step::Tensors(list) => wit::Step::Tensors(tensors_to_wit(list)),
            Step::Other(step, inputs) => wit::Step::Other(wit::OtherRun {
                step,
                inputs: tensors_to_wit(inputs),
            }),
            Step::Answers(answers) => wit::Step::Answers(
                answers
                    .into_iter()
                    .map(|answer| wit::Answer {
                        text: answer.text,
                        units: answer.units,
                    })
                    .collect(),
            ),
        }
    }

    fn refusal(refusal: AdapterRefusal) -> wit::Refusal {
        wit::Refusal {
            item: refusal.item,
            part: refusal.part,
            kind: match refusal.kind {
                RefusalKind::UnsupportedMediaType(text) => {
                    wit::RefusalKind::UnsupportedMediaType(text)
                }
                RefusalKind::InvalidContent(text) => wit::RefusalKind::InvalidContent(text),
                RefusalKind::TooLong(text) => wit::RefusalKind::TooLong(text),
            },
        }
    }
}

/// The gate's side: its imports.
#[cfg(feature = "gate")]
mod gate {
    use crate::imports::bindings::penstock::adapter::adapter as wit;
    use crate::types::{bulk_to_wit, tensors_from_wit, tensors_to_wit};
    use penstock_gate::ports::{self, AdapterPort};
    use penstock_tensor::Tensor;

    impl AdapterPort for wit::Adapter {
        fn prepare(
            &self,
            items: &[ports::Item<'_>],
            cut_to: Option<u32>,
        ) -> Result<ports::Step, ports::AdapterRefusal> {
            let items: Vec<wit::Item> = items
                .iter()
                .map(|item| wit::Item {
                    parts: item.parts.iter().map(part).collect(),
                })
                .collect();
            self.prepare(&items, cut_to)
                .map(step)
                .map_err(|refusal| ports::AdapterRefusal {
                    item: refusal.item,
                    part: refusal.part,
                    kind: match refusal.kind {
                        wit::RefusalKind::UnsupportedMediaType(text) => {
                            ports::RefusalKind::UnsupportedMediaType(text)
                        }
                        wit::RefusalKind::InvalidContent(text) => {
                            ports::RefusalKind::InvalidContent(text)
                        }
                        wit::RefusalKind::TooLong(text) => ports::RefusalKind::TooLong(text),
                    },
                })
        }

        fn advance(&self, outputs: Vec<Tensor>) -> Result<ports::Step, String> {
            self.advance(&tensors_to_wit(outputs)).map(step)
        }
    }

    fn part(part: &ports::Part<'_>) -> wit::Part {
        let blob = |blob: &ports::Blob<'_>| wit::Blob {
            media_type: blob.media_type.map(str::to_owned),
            body: bulk_to_wit(blob.body),
        };
        match part {
            ports::Part::Text(text) => wit::Part::Text((*text).to_owned()),
            ports::Part::Tokens(tokens) => wit::Part::Tokens(tokens.to_vec()),
            ports::Part::Image(body) => wit::Part::Image(blob(body)),
            ports::Part::Audio(body) => wit::Part::Audio(blob(body)),
            ports::Part::Bytes(body) => wit::Part::Bytes(blob(body)),
        }
    }

    fn step(step: wit::Step) -> ports::Step {
        match step {
            wit::Step::Tensors(list) => ports::Step::Tensors(tensors_from_wit(list)),
            wit::Step::Other(run) => ports::Step::Other(run.step, tensors_from_wit(run.inputs)),
            wit::Step::Answers(answers) => ports::Step::Answers(
                answers
                    .into_iter()
                    .map(|answer| ports::AdapterAnswer {
                        text: answer.text,
                        units: answer.units,
                    })
                    .collect(),
            ),
        }
    }
}
