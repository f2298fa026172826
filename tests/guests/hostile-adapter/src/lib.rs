//! An adapter for tests: the content says which harm it does.

#![allow(missing_docs)]

use penstock_guest::adapter::{Adapter, Component, Prepared, Refusal, bindings};
use penstock_tensor::{Datatype, Tensor};

struct Hostile;

impl Adapter for Hostile {
    fn open(_name: &str, _config: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn prepare(&self, _media_type: Option<&str>, body: &[u8]) -> Result<Prepared, Refusal> {
        let tensor = |shape: Vec<u64>, data: Vec<u8>| {
            Ok(Prepared::Tensors(vec![Tensor {
                name: "a".into(),
                datatype: Datatype::Fp32,
                shape,
                data,
            }]))
        };
        match body {
            b"trap" => panic!("asked to"),
            b"loop" => loop {
                std::hint::spin_loop();
            },
            b"grow" => {
                let mut held = Vec::new();
                loop {
                    held.push(vec![1u8; 1 << 20]);
                    std::hint::black_box(&held);
                }
            }
            b"lie" => tensor(vec![u64::MAX, 4], vec![0; 16]),
            b"not json" => Ok(Prepared::Answer("{".into())),
            _ => tensor(vec![1, 4], vec![0; 16]),
        }
    }

    fn answer(&self, outputs: Vec<Tensor>) -> Result<String, String> {
        Ok(format!("{{\"outputs\":{}}}", outputs.len()))
    }
}

type Hostilities = Component<Hostile>;
bindings::export!(Hostilities with_types_in bindings);
