//! The gate's ports in memory: files in a map, validation called natively, and a model that does
//! what the test says.

use crate::FakeClock;
use penstock_core::{Clock, ModelVersion};
use penstock_gate::ports::{
    AdapterPort, ContractPort, Failure, ParsedBody, Ports, Prepared, Refusal,
};
use penstock_tensor::{Contract, Rejection, Tensor, infer, predict};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a scripted model does with its inputs.
pub type Run = dyn Fn(&str, ModelVersion, Vec<Tensor>) -> Result<Vec<Tensor>, Failure>;

/// Whether a scripted model is ready.
pub type Ready = dyn Fn(&str) -> Result<(), Failure>;

/// The gate's ports in memory.
#[derive(Clone)]
pub struct InMemory {
    /// The clock the gate reads.
    pub clock: Rc<FakeClock>,
    /// Model to file name to content; a name without content stands for a folder.
    pub models: Rc<BTreeMap<String, BTreeMap<String, Vec<u8>>>>,
    /// What models do.
    pub run: Rc<Run>,
    /// Whether a model version is ready.
    pub ready: Rc<Ready>,
    /// How often a model ran.
    pub runs: Rc<Cell<u64>>,
    random: Rc<Cell<u128>>,
}

impl InMemory {
    /// Ports over these models, each given as its name, its contract and its versions, and `run`.
    pub fn new(
        models: &[(&str, &str, &[&str])],
        run: impl Fn(&str, ModelVersion, Vec<Tensor>) -> Result<Vec<Tensor>, Failure> + 'static,
    ) -> Self {
        let models = models.iter().map(|(name, contract, versions)| {
            let mut files =
                BTreeMap::from([("model.toml".to_owned(), contract.as_bytes().to_vec())]);
            files.extend(versions.iter().map(|v| ((*v).to_owned(), Vec::new())));
            ((*name).to_owned(), files)
        });
        Self {
            clock: Rc::default(),
            models: Rc::new(models.collect()),
            run: Rc::new(run),
            ready: Rc::new(|_| Ok(())),
            runs: Rc::default(),
            random: Rc::default(),
        }
    }
}

impl Ports for InMemory {
    type Contract = NativeValidation;
    type Adapter = LengthAdapter;

    fn unix_ms(&self) -> u64 {
        self.clock.unix_ms()
    }

    fn monotonic_ns(&self) -> u64 {
        self.clock.monotonic_ns()
    }

    fn random(&self) -> u128 {
        self.random.set(self.random.get() + 1);
        self.random.get()
    }

    fn list_models(&self) -> Vec<(String, Vec<String>)> {
        self.models
            .iter()
            .map(|(name, files)| (name.clone(), files.keys().cloned().collect()))
            .collect()
    }

    fn read_model_file(&self, model: &str, file: &str) -> Result<Vec<u8>, String> {
        let found = self.models.get(model).and_then(|files| files.get(file));
        found.cloned().ok_or_else(|| format!("no file {file}"))
    }

    fn open_contract(&self, text: &str) -> Result<NativeValidation, String> {
        Contract::parse(text)
            .map(NativeValidation)
            .map_err(|faults| format!("{faults:?}"))
    }

    fn open_adapter(&self, name: &str, _config: &[u8]) -> Result<LengthAdapter, String> {
        if name == "length" {
            Ok(LengthAdapter)
        } else {
            Err(format!("no adapter `{name}`"))
        }
    }

    fn infer(
        &self,
        model: &str,
        version: ModelVersion,
        inputs: Vec<Tensor>,
        outputs: &[String],
    ) -> Result<Vec<Tensor>, Failure> {
        self.runs.set(self.runs.get() + 1);
        let mut tensors = (self.run)(model, version, inputs)?;
        tensors.retain(|t| outputs.is_empty() || outputs.contains(&t.name));
        Ok(tensors)
    }

    fn ready(&self, model: &str, _version: ModelVersion) -> Result<(), Failure> {
        (self.ready)(model)
    }
}

/// Validation called without a component boundary.
pub struct NativeValidation(Contract);

impl ContractPort for NativeValidation {
    fn parse_predict(&self, body: &str) -> Result<ParsedBody, Rejection> {
        let parsed = predict::parse_predict(body.as_bytes(), &self.0)?;
        Ok(ParsedBody {
            id: parsed.id,
            inputs: parsed.inputs,
            outputs: Vec::new(),
        })
    }

    fn parse_infer(&self, body: &str) -> Result<ParsedBody, Rejection> {
        let parsed = infer::parse_infer(body.as_bytes(), &self.0)?;
        Ok(ParsedBody {
            id: parsed.id,
            inputs: parsed.inputs,
            outputs: parsed.outputs,
        })
    }
}

/// An adapter that makes FP32 `[1, 1]` input `x` of a text's length; refuses images and empty
/// content, and answers for the text `known` without a model.
pub struct LengthAdapter;

impl AdapterPort for LengthAdapter {
    fn prepare(&self, media_type: Option<&str>, body: &[u8]) -> Result<Prepared, Refusal> {
        if media_type.is_some_and(|m| m.starts_with("image/")) {
            return Err(Refusal::UnsupportedMediaType(
                "this adapter takes text, not images".into(),
            ));
        }
        match body {
            b"" => Err(Refusal::InvalidContent("the content is empty".into())),
            b"known" => Ok(Prepared::Answer(r#"{"label":"known"}"#.into())),
            b"broken" => Ok(Prepared::Answer("{".into())),
            text => Ok(Prepared::Tensors(vec![Tensor {
                name: "x".into(),
                datatype: penstock_tensor::Datatype::Fp32,
                shape: vec![1, 1],
                data: (text.len() as f32).to_le_bytes().to_vec(),
            }])),
        }
    }

    fn answer(&self, outputs: Vec<Tensor>) -> Result<String, String> {
        let bytes = outputs.first().and_then(|t| t.data.first_chunk::<4>());
        bytes
            .map(|b| format!("{{\"length\":{}}}", f32::from_le_bytes(*b)))
            .ok_or_else(|| "no output".to_owned())
    }
}
