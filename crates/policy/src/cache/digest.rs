//! Decides which calls ask the same: those of one version of a model, on the same inputs bit for bit, for the same
//! outputs and, unless results are shared, of the same tenant.
//!
//! What is hashed is what the model would be given, after the body was read: a call in JSON and one in binary can ask
//! the same. Every part goes in with its length, so no two questions run together.

use penstock_tensor::Tensor;

/// Bytes of a digest.
pub const DIGEST_BYTES: usize = 32;

/// Tells these digests from others, and from those of a release that makes them differently.
const DOMAIN: &str = "penstock result cache 1";

/// What is asked of a model.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Whose result it is; none where all tenants share them.
    pub tenant: Option<&'a str>,
    /// The model.
    pub model: &'a str,
    /// Its version.
    pub version: u64,
    /// The [`fingerprint`] of its contract: results of an earlier one may not meet it.
    pub contract: &'a [u8],
    /// The inputs, in the contract's order.
    pub inputs: &'a [Tensor],
    /// The outputs asked for; empty for all.
    pub outputs: &'a [String],
    /// Whether the inputs are those of several requests, put together. A caller's own tensor of several rows may be answered
    /// otherwise, where rows depend on each other.
    pub is_joined: bool,
}

impl Question<'_> {
    /// Which question it is.
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
        // Only where it is so: what was kept before there was the difference is found again.
        if self.is_joined {
            hash.number(1);
        }
        *hash.0.finalize().as_bytes()
    }
}

/// What tells a contract from any other.
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
            data: data.to_vec(),
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
                        is_joined: false,
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
            is_joined: false,
        };
        assert!(seen.insert(another.digest()));
        let joined = Question {
            is_joined: true,
            ..another
        };
        assert!(seen.insert(joined.digest()));
    }
}
