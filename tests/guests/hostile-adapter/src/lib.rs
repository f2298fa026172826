//! An adapter for tests: the content selects the harm that it does.

#![allow(missing_docs)]

use penstock_guest::adapter::{
    Adapter, AdapterAnswer, AdapterRefusal, Component, Item, Part, RefusalKind, Step, bindings,
};
use penstock_tensor::{Datatype, Tensor};
use std::cell::Cell;

/// The adapter's reaction to the outputs of its run.
#[derive(Clone, Copy, Default)]
enum Then {
    /// Answers each item, as an adapter should.
    #[default]
    Answer,
    /// Requests one more run, forever.
    Again,
    /// Gives this many answers, independent of the number of items.
    Answers(usize),
    /// Gives an answer that is not JSON.
    Garbage,
    /// Reports a failure of the item.
    Fail,
    Trap,
    Loop,
}

#[derive(Default)]
struct Hostile {
    then: Cell<Then>,
    items: Cell<usize>,
}

impl Adapter for Hostile {
    fn open(_name: &str, _config: &[u8]) -> Result<Self, String> {
        Ok(Self::default())
    }

    fn prepare(&self, items: &[Item<'_>]) -> Result<Step, AdapterRefusal> {
        self.items.set(items.len());
        self.then.set(Then::Answer);
        let run = |then| {
            self.then.set(then);
            Ok(tensor(vec![1, 4], vec![0; 16]))
        };
        let refuse = |item, part| {
            Err(AdapterRefusal {
                item,
                part,
                kind: RefusalKind::InvalidContent("asked to".into()),
            })
        };
        match said(items) {
            b"trap" => panic!("asked to"),
            b"loop" => forever(),
            b"grow" => {
                let mut held = Vec::new();
                loop {
                    held.push(vec![1u8; 1 << 20]);
                    std::hint::black_box(&held);
                }
            }
            b"lie" => Ok(tensor(vec![u64::MAX, 4], vec![0; 16])),
            b"no tensors" => Ok(Step::Tensors(Vec::new())),
            b"not json" => Ok(answers(items.len(), "{")),
            // One answer too few, one too many, none, and far too many.
            b"too few" => Ok(answers(items.len().saturating_sub(1), "1")),
            b"too many" => Ok(answers(items.len() + 1, "1")),
            b"none" => Ok(answers(0, "1")),
            b"flood" => Ok(answers(1 << 16, "1")),
            b"many units" => Ok(Step::Answers(
                (0..items.len())
                    .map(|_| AdapterAnswer {
                        text: "1".into(),
                        units: u64::MAX,
                    })
                    .collect(),
            )),
            // Refusals of items that do not exist.
            b"refuse another" => refuse(u32::MAX, None),
            b"refuse no part" => refuse(0, Some(u32::MAX)),
            b"again" => run(Then::Again),
            b"too few later" => run(Then::Answers(items.len().saturating_sub(1))),
            b"too many later" => run(Then::Answers(items.len() + 1)),
            b"not json later" => run(Then::Garbage),
            b"fail later" => run(Then::Fail),
            b"trap later" => run(Then::Trap),
            b"loop later" => run(Then::Loop),
            _ => run(Then::Answer),
        }
    }

    fn advance(&self, outputs: Vec<Tensor>) -> Result<Step, String> {
        let text = format!("{{\"outputs\":{}}}", outputs.len());
        match self.then.get() {
            Then::Answer => Ok(answers(self.items.get(), &text)),
            Then::Again => Ok(tensor(vec![1, 4], vec![0; 16])),
            Then::Answers(count) => Ok(answers(count, &text)),
            Then::Garbage => Ok(answers(self.items.get(), "{")),
            Then::Fail => Err("asked to".into()),
            Then::Trap => panic!("asked to"),
            Then::Loop => forever(),
        }
    }
}

/// Returns the first part of the first item.
fn said<'a>(items: &[Item<'a>]) -> &'a [u8] {
    match items.first().and_then(|item| item.parts.first()) {
        Some(Part::Text(text)) => text.as_bytes(),
        Some(Part::Image(blob) | Part::Audio(blob) | Part::Bytes(blob)) => blob.body,
        Some(Part::Tokens(_)) | None => b"",
    }
}

fn tensor(shape: Vec<u64>, data: Vec<u8>) -> Step {
    Step::Tensors(vec![Tensor {
        name: "a".into(),
        datatype: Datatype::Fp32,
        shape,
        data: data.into(),
    }])
}

fn answers(count: usize, text: &str) -> Step {
    Step::Answers(
        (0..count)
            .map(|_| AdapterAnswer {
                text: text.into(),
                units: 0,
            })
            .collect(),
    )
}

fn forever() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

type Hostilities = Component<Hostile>;
bindings::export!(Hostilities with_types_in bindings);
