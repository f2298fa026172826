//! Decides which calls are equal: same version of a model, bitwise equal inputs, same outputs, and the same tenant unless
//! results are shared.
//!
//! The hash covers the inputs of the model after the body was parsed, so a call in JSON and one in binary can be equal.
//! Every part is hashed with its length, so different calls never have the same text.

use penstock_tensor::Tensor;

/// The length of a digest in bytes.
pub const DIGEST_BYTES: usize = 32;

/// Separates these digests from others, and from those of releases with another format.
const DOMAIN: &str = "penstock result cache 1";

/// The parts of a call that decide its result.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The tenant; `None` if all tenants share results.
    pub tenant: Option<&'a str>,
    /// The name of the model that is called.
    pub model: &'a str,
    /// The number of the version that runs; aliases are already resolved.
    pub version: u64,
    /// The [`fingerprint`] of its contract. Results under an earlier contract may violate it.
    pub contract: &'a [u8],
    /// The inputs, in the contract's order.
    pub inputs: &'a [Tensor],
    /// The requested outputs; empty for all.
    pub outputs: &'a [String],
    /// Whether the inputs come from several requests. If rows depend on each other, one request with the same rows may get
    /// another result.
    pub is_combined: bool,
}

impl Question<'_> {
    /// The digest of the call.
    pub fn digest(&self) -> [u8; DIGEST_BYTES] {
        let mut hash = Hash(blake3::Hasher::new());
        hash.text(DOMAIN);
        match self.tenant {
            Some(tenant) => {
                hash.number(1);
                hash.text(tenant);
            }
            None => hash.number(0),
        }
        hash.text(self.model);
        hash.number(self.version);
        hash.bytes(self.contract);
        hash.number(self.inputs.len() as u64);
        for tensor in self.inputs {
            hash.text(&tensor.name);
            hash.text(tensor.datatype.as_str());
            hash.number(tensor.shape.len() as u64);
            for axis in &tensor.shape {
                hash.number(*axis);
            }
            hash.bytes(&tensor.data);
        }
        hash.number(self.outputs.len() as u64);
        for output in self.outputs {
            hash.text(output);
        }
        // Hash it only if true, so that results of earlier releases, which lacked the flag, are still found.
        if self.is_combined {
            hash.number(1);
        }
        *hash.0.finalize().as_bytes()
    }
}

/// A hash of a contract.
pub fn fingerprint(contract: &str) -> [u8; DIGEST_BYTES] {
    *blake3::hash(contract.as_bytes()).as_bytes()
}

struct Hash(blake3::Hasher);

impl Hash {
    fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_tensor::Datatype;
    use std::collections::BTreeSet;

    fn tensor(name: &str, datatype: Datatype, shape: &[u64], data: &[u8]) -> Tensor {
        Tensor {
            name: name.into(),
            datatype,
            shape: shape.to_vec(),
            data: data.to_vec().into(),
        }
    }

    #[test]
    fn calls_that_differ_in_anything_ask_different_questions() {
        use Datatype::{Int8, Uint8};
        let inputs = [
            vec![tensor("a", Uint8, &[2], b"xy")],
            vec![tensor("b", Uint8, &[2], b"xy")],
            vec![tensor("a", Int8, &[2], b"xy")],
            vec![tensor("a", Uint8, &[1, 2], b"xy")],
            vec![tensor("a", Uint8, &[2], b"xz")],
            // The same bytes, cut elsewhere.
            vec![
                tensor("a", Uint8, &[1], b"x"),
                tensor("a", Uint8, &[1], b"y"),
            ],
            vec![
                tensor("a", Uint8, &[0], b""),
                tensor("a", Uint8, &[2], b"xy"),
            ],
            vec![],
        ];
        let outputs: [Vec<String>; 4] = [
            vec![],
            vec!["p".into(), "q".into()],
            vec!["q".into(), "p".into()],
            vec!["pq".into()],
        ];
        let mut seen = BTreeSet::new();
        let mut asked = 0;
        for inputs in &inputs {
            for outputs in &outputs {
                for (tenant, model, version) in [
                    (None, "m", 1),
                    (Some(""), "m", 1),
                    (Some("m"), "m", 1),
                    (Some("t"), "m", 1),
                    (Some("t"), "m", 2),
                    (Some("t"), "n", 1),
                    (Some("tm"), "", 1),
                ] {
                    let question = Question {
                        tenant,
                        model,
                        version,
                        contract: b"c",
                        inputs,
                        outputs,
                        is_combined: false,
                    };
                    assert_eq!(question.digest(), question.digest());
                    seen.insert(question.digest());
                    asked += 1;
                }
            }
        }
        assert_eq!(seen.len(), asked);
        let another = Question {
            tenant: None,
            model: "m",
            version: 1,
            contract: b"d",
            inputs: &inputs[0],
            outputs: &outputs[0],
            is_combined: false,
        };
        assert!(seen.insert(another.digest()));
        let combined = Question {
            is_combined: true,
            ..another
        };
        assert!(seen.insert(combined.digest()));
    }
}
