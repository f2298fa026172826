//! Parses a `:predict` body: `{"inputs": {"<name>": <nested arrays>, …}}`, with optional `parameters`, `id` and
//! `model_version`, each of which may be `null`. A model with one input also accepts its value directly:
//! `{"inputs": [[…]]}`.

use crate::check::{self, Role, Shaped};
use crate::contract::{Contract, TensorSpec};
use crate::excerpt::excerpt;
use crate::json::{Kind, Names, Scan, Scanner};
use crate::rejection::{Rejection, Violations};
use crate::tensor::Tensor;
use crate::values::{
    self, BodyLocation, ParameterValue, Values, missing_member, read_id, read_parameters,
    read_version, unknown_member, wrong_type,
};
use penstock_core::violation::escape_pointer_token;

/// A `:predict` body that meets the contract.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PredictRequest {
    /// The caller's id of the request.
    pub id: Option<String>,
    /// The version number or alias that the body names.
    pub model_version: Option<String>,
    /// One tensor for each input that was sent, in the contract's order. Only optional inputs may be absent.
    pub inputs: Vec<Tensor>,
    /// The members of `parameters`, in the body's order.
    pub parameters: Vec<(String, ParameterValue)>,
}

const MEMBERS: [&str; 4] = ["inputs", "parameters", "id", "model_version"];

/// Parses a `:predict` body and checks it against the contract, in one pass over the body.
///
/// Errors with all violations at once: `MalformedJson` if the body is not JSON, `InvalidBody` if its form is wrong,
/// `InvalidInputs` if a tensor does not meet the contract.
pub fn parse_predict(body: &[u8], contract: &Contract) -> Result<PredictRequest, Rejection> {
    let mut sink = Violations::default();
    let request = read_body(body, contract, &mut sink)?;
    sink.finish()?;
    Ok(request)
}

fn read_body(body: &[u8], contract: &Contract, sink: &mut Violations) -> Scan<PredictRequest> {
    let mut scanner = Scanner::new(body);
    let mut request = PredictRequest::default();
    let kind = scanner.kind()?;
    if kind != Kind::Object {
        sink.form(|| wrong_type(String::new(), "the body", "an object with \"inputs\"", kind));
        scanner.skip_value()?;
        scanner.finish()?;
        return Ok(request);
    }
    let mut has_inputs = false;
    let mut names = Names::default();
    let mut member = scanner.open_object(&mut names)?;
    while let Some(name) = member {
        match name.as_ref() {
            "inputs" => {
                if scanner.skip_null()? {
                    member = scanner.next_member(&mut names)?;
                    continue;
                }
                has_inputs = true;
                request.inputs = read_inputs(&mut scanner, contract, sink)?;
            }
            "parameters" => {
                request.parameters =
                    read_parameters(&mut scanner, sink, || "/parameters".to_owned())?;
            }
            "id" => request.id = read_id(&mut scanner, sink)?,
            "model_version" => request.model_version = read_version(&mut scanner, sink)?,
            // `null` counts as absent in this form too.
            "content" if scanner.skip_null()? => {}
            _ => {
                sink.form(|| unknown_member("", &name, &MEMBERS));
                scanner.skip_value()?;
            }
        }
        member = scanner.next_member(&mut names)?;
    }
    scanner.finish()?;
    if !has_inputs {
        sink.form(|| missing_member("", "inputs", "an object of input names and their values"));
    }
    Ok(request)
}

/// A parsed input of the contract.
pub(crate) struct NamedInput<'c> {
    pub(crate) spec: &'c TensorSpec,
    pub(crate) values: Values,
    pub(crate) pointer: String,
    pub(crate) fits: bool,
}

fn read_inputs(
    scanner: &mut Scanner<'_>,
    contract: &Contract,
    sink: &mut Violations,
) -> Scan<Vec<Tensor>> {
    let kind = scanner.kind()?;
    let mut read: Vec<NamedInput<'_>> = Vec::new();
    match (kind, contract.inputs.as_slice()) {
        (Kind::Object, _) => {
            let mut names = Names::default();
            let mut member = scanner.open_object(&mut names)?;
            while let Some(name) = member {
                match contract.input(&name) {
                    Some(spec) => {
                        read.push(read_input(
                            scanner,
                            contract,
                            spec,
                            BodyLocation::Named(&name),
                            sink,
                        )?);
                    }
                    None => {
                        sink.contract(|| {
                            let pointer =
                                format!("/inputs/{}", escape_pointer_token(&excerpt(&name)));
                            check::unknown_tensor(pointer, &name, &contract.inputs, Role::Input)
                        });
                        scanner.skip_value()?;
                    }
                }
                member = scanner.next_member(&mut names)?;
            }
        }
        (_, [only]) => read.push(read_input(
            scanner,
            contract,
            only,
            BodyLocation::Inputs,
            sink,
        )?),
        (kind, _) => {
            let expected = "an object of input names and their values";
            sink.form(|| wrong_type("/inputs".to_owned(), "inputs", expected, kind));
            scanner.skip_value()?;
            return Ok(Vec::new());
        }
    }
    Ok(assemble(read, contract, "/inputs", sink))
}

/// Orders parsed inputs as the contract does; empty if there is any violation. `parent` is the pointer to the object that
/// should contain a missing input.
pub(crate) fn assemble(
    mut read: Vec<NamedInput<'_>>,
    contract: &Contract,
    parent: &str,
    sink: &mut Violations,
) -> Vec<Tensor> {
    for spec in &contract.inputs {
        if !spec.optional && !read.iter().any(|one| one.spec.name == spec.name) {
            sink.contract(|| check::missing_tensor(parent.to_owned(), spec, Role::Input));
        }
    }
    let shaped: Vec<Shaped<'_>> = read
        .iter()
        .filter(|one| one.fits)
        .filter_map(|one| {
            let shape = one.values.shape.clone()?;
            Some(Shaped {
                spec: one.spec,
                shape,
                pointer: one.pointer.clone(),
            })
        })
        .collect();
    check::axes(contract, &shaped, Role::Input, sink);
    if sink.count() > 0 {
        return Vec::new();
    }
    let mut tensors = Vec::with_capacity(contract.inputs.len());
    for spec in &contract.inputs {
        let Some(index) = read.iter().position(|one| one.spec.name == spec.name) else {
            continue;
        };
        let values = read.swap_remove(index).values;
        tensors.push(Tensor {
            name: spec.name.clone(),
            datatype: spec.datatype,
            shape: values.shape.unwrap_or_default(),
            data: values.data.into(),
        });
    }
    tensors
}

fn read_input<'c>(
    scanner: &mut Scanner<'_>,
    contract: &Contract,
    spec: &'c TensorSpec,
    place: BodyLocation<'_>,
    sink: &mut Violations,
) -> Scan<NamedInput<'c>> {
    let has_batch_axis = contract.batch_axis().is_some();
    let values = values::read_nested(scanner, spec, place, has_batch_axis, sink)?;
    let fits = values::check_nested(&values, spec, place, sink);
    Ok(NamedInput {
        spec,
        values,
        pointer: place.pointer(),
        fits,
    })
}
