//! Decides what an inference request of the Open Inference Protocol v2 means (REST, "Inference
//! Request JSON Object"): inputs with a name, a shape, a datatype and their elements in row-major
//! order, flat or nested.
//!
//! An input's members may come in any order. Its elements are read at once when its name came
//! before them, as every client in use sends it; else they are skipped, checking their syntax, and
//! read in a second pass when the name is known.

use crate::check::{self, Role, Shaped, shape_text};
use crate::contract::{Contract, MAX_RANK, TensorSpec};
use crate::json::{Kind, Names, Scan, Scanner};
use crate::rejection::{Rejection, Violations, excerpt};
use crate::tensor::{Tensor, elements};
use crate::values::{
    self, ParameterValue, Place, Values, missing_member, read_id, read_parameters, unknown_member,
    wrong_type,
};
use penstock_core::Violation;
use penstock_core::violation::escape_pointer_token;

/// An inference request that meets the contract.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InferRequest {
    /// The caller's name for the request, repeated in the answer.
    pub id: Option<String>,
    /// One tensor for each input, in the contract's order.
    pub inputs: Vec<Tensor>,
    /// The outputs asked for, in the body's order; empty for all.
    pub outputs: Vec<String>,
    /// The members of `parameters`, in the body's order.
    pub parameters: Vec<(String, ParameterValue)>,
}

const MEMBERS: [&str; 4] = ["id", "parameters", "inputs", "outputs"];
const INPUT_MEMBERS: [&str; 5] = ["name", "shape", "datatype", "parameters", "data"];
const OUTPUT_MEMBERS: [&str; 2] = ["name", "parameters"];

/// Parses an inference request and checks it against the contract. No memory is taken on the word
/// of a claimed shape: only for elements that have arrived.
///
/// Errors with everything wrong at once: `MalformedJson` where it is not JSON, `InvalidBody` where
/// its form is wrong, `InvalidInputs` where a tensor does not meet the contract.
pub fn parse_infer(body: &[u8], contract: &Contract) -> Result<InferRequest, Rejection> {
    let mut sink = Violations::default();
    let request = Request {
        body,
        contract,
        sink: &mut sink,
    }
    .read()?;
    sink.finish()?;
    Ok(request)
}

struct Request<'a, 'c> {
    body: &'a [u8],
    contract: &'c Contract,
    sink: &'c mut Violations,
}

/// What is known of an input's elements.
enum Data {
    /// No such member yet.
    Absent,
    /// Skipped; they begin at this offset.
    At(usize),
    Read(Values),
    /// Given but of no use; what is wrong has been reported.
    Useless,
}

/// An input that names one of the contract's.
struct Read<'c> {
    spec: &'c TensorSpec,
    shape: Vec<u64>,
    data: Vec<u8>,
    pointer: String,
    fits: bool,
}

impl<'a, 'c> Request<'a, 'c> {
    fn read(mut self) -> Scan<InferRequest> {
        let mut scanner = Scanner::new(self.body);
        let mut request = InferRequest::default();
        let kind = scanner.kind()?;
        if kind != Kind::Object {
            self.sink
                .form(|| wrong_type(String::new(), "the body", "an object with \"inputs\"", kind));
            scanner.skip_value()?;
            scanner.finish()?;
            return Ok(request);
        }
        let mut has_inputs = false;
        let mut names = Names::default();
        let mut member = scanner.open_object(&mut names)?;
        while let Some(name) = member {
            match name.as_ref() {
                "id" => request.id = read_id(&mut scanner, self.sink)?,
                "parameters" => {
                    request.parameters =
                        self.parameters(&mut scanner, || "/parameters".to_owned())?;
                }
                "inputs" => {
                    has_inputs = true;
                    request.inputs = self.inputs(&mut scanner)?;
                }
                "outputs" => request.outputs = self.outputs(&mut scanner)?,
                _ => {
                    self.sink.form(|| unknown_member("", &name, &MEMBERS));
                    scanner.skip_value()?;
                }
            }
            member = scanner.next_member(&mut names)?;
        }
        scanner.finish()?;
        if !has_inputs {
            self.sink
                .form(|| missing_member("", "inputs", "an array of inputs"));
        }
        Ok(request)
    }

    /// Reads parameters and refuses those that change the body's form. `false` asks for what is
    /// done anyway.
    fn parameters(
        &mut self,
        scanner: &mut Scanner<'a>,
        pointer: impl Fn() -> String,
    ) -> Scan<Vec<(String, ParameterValue)>> {
        let parameters = read_parameters(scanner, self.sink, &pointer)?;
        for (name, value) in &parameters {
            let binary = name.starts_with("binary_data");
            let other = name == "classification" || name.starts_with("shared_memory");
            if *value == ParameterValue::Bool(false) || !(binary || other) {
                continue;
            }
            self.sink.form(|| {
                let what = if binary {
                    "binary tensors are"
                } else {
                    "this extension is"
                };
                let message = format!(
                    "parameter {:?}: {what} not supported on this server yet; send and ask for \
                     tensors as JSON",
                    excerpt(name)
                );
                let at = format!("{}/{}", pointer(), escape_pointer_token(&excerpt(name)));
                Violation::new(at, "unsupported_parameter", "no such parameter", message)
            });
        }
        Ok(parameters)
    }

    fn inputs(&mut self, scanner: &mut Scanner<'a>) -> Scan<Vec<Tensor>> {
        let kind = scanner.kind()?;
        if kind != Kind::Array {
            self.sink
                .form(|| wrong_type("/inputs".to_owned(), "inputs", "an array of inputs", kind));
            scanner.skip_value()?;
            return Ok(Vec::new());
        }
        let mut seen: Vec<&'c str> = Vec::new();
        let mut read: Vec<Read<'c>> = Vec::new();
        let mut more = scanner.open_array()?;
        let mut index = 0;
        while more {
            if let Some(one) = self.input(scanner, index, &mut seen)? {
                read.push(one);
            }
            index += 1;
            more = scanner.next_element()?;
        }
        for spec in &self.contract.inputs {
            if !seen.contains(&spec.name.as_str()) {
                self.sink
                    .contract(|| check::missing_tensor("/inputs".to_owned(), spec, Role::Input));
            }
        }
        let shaped: Vec<Shaped<'_>> = read
            .iter()
            .filter(|one| one.fits)
            .map(|one| Shaped {
                spec: one.spec,
                shape: one.shape.clone(),
                pointer: one.pointer.clone(),
            })
            .collect();
        check::axes(self.contract, &shaped, Role::Input, self.sink);
        if self.sink.count() > 0 {
            return Ok(Vec::new());
        }
        let mut tensors = Vec::with_capacity(self.contract.inputs.len());
        for spec in &self.contract.inputs {
            let Some(index) = read.iter().position(|one| one.spec.name == spec.name) else {
                continue;
            };
            let one = read.swap_remove(index);
            tensors.push(Tensor {
                name: spec.name.clone(),
                datatype: spec.datatype,
                shape: one.shape,
                data: one.data,
            });
        }
        Ok(tensors)
    }

    fn input(
        &mut self,
        scanner: &mut Scanner<'a>,
        index: usize,
        seen: &mut Vec<&'c str>,
    ) -> Scan<Option<Read<'c>>> {
        let here = || format!("/inputs/{index}");
        let kind = scanner.kind()?;
        if kind != Kind::Object {
            self.sink
                .form(|| wrong_type(here(), "an input", "an object", kind));
            scanner.skip_value()?;
            return Ok(None);
        }
        let (mut spec, mut has_name) = (None, false);
        let (mut shape, mut has_shape) = (None, false);
        let (mut datatype_fits, mut has_datatype) = (None::<bool>, false);
        let mut stated_datatype = None;
        let mut data = Data::Absent;
        // Violations of the elements are withdrawn if the datatype turns out to be another.
        let mut elements_mark = None;
        let mut names = Names::default();
        let mut member = scanner.open_object(&mut names)?;
        while let Some(name) = member {
            match name.as_ref() {
                "name" => {
                    has_name = true;
                    spec = self.input_name(scanner, index, seen)?;
                }
                "shape" => {
                    has_shape = true;
                    shape = self.shape(scanner, index)?;
                }
                "datatype" => {
                    has_datatype = true;
                    let kind = scanner.kind()?;
                    if kind == Kind::String {
                        stated_datatype = Some(scanner.string()?);
                    } else {
                        self.sink.form(|| {
                            wrong_type(format!("{}/datatype", here()), "datatype", "a string", kind)
                        });
                        scanner.skip_value()?;
                        datatype_fits = Some(false);
                    }
                }
                "parameters" => {
                    let at = || format!("{}/parameters", here());
                    self.parameters(scanner, at)?;
                }
                "data" => {
                    let kind = scanner.kind()?;
                    let start = scanner.offset();
                    let stated: Option<&str> = stated_datatype.as_deref();
                    let other = spec.is_some_and(|spec: &TensorSpec| {
                        stated.is_some_and(|stated| stated != spec.datatype.as_str())
                    });
                    if kind != Kind::Array {
                        self.sink.form(|| {
                            wrong_type(format!("{}/data", here()), "data", "an array", kind)
                        });
                        scanner.skip_value()?;
                        data = Data::Useless;
                    } else if let Some(spec) = spec
                        && !other
                    {
                        let start = self.sink.mark();
                        data = Data::Read(self.elements(scanner, spec, index)?);
                        elements_mark = Some((start, self.sink.mark()));
                    } else {
                        scanner.skip_value()?;
                        data = if has_name {
                            Data::Useless
                        } else {
                            Data::At(start)
                        };
                    }
                }
                _ => {
                    self.sink
                        .form(|| unknown_member(&here(), &name, &INPUT_MEMBERS));
                    scanner.skip_value()?;
                }
            }
            member = scanner.next_member(&mut names)?;
        }
        for (has, name, expected) in [
            (has_name, "name", "the input's name"),
            (has_shape, "shape", "an array of lengths"),
            (
                has_datatype,
                "datatype",
                "the elements' datatype, e.g. \"FP32\"",
            ),
            (
                !matches!(data, Data::Absent),
                "data",
                "an array of elements",
            ),
        ] {
            if !has {
                self.sink.form(|| missing_member(&here(), name, expected));
            }
        }
        let Some(spec) = spec else { return Ok(None) };
        if let Some(stated) = &stated_datatype
            && stated.as_ref() != spec.datatype.as_str()
        {
            if let Some((start, end)) = elements_mark {
                self.sink.withdraw(start, end);
            }
            datatype_fits = Some(false);
            self.sink.contract(|| {
                check::wrong_datatype(format!("{}/datatype", here()), spec, stated, Role::Input)
            });
        }
        let at_shape = || format!("{}/shape", here());
        let fits = match &shape {
            Some(shape) => check::shape(spec, shape, Role::Input, self.sink, at_shape),
            None => false,
        };
        if datatype_fits == Some(false) {
            return Ok(None);
        }
        let values = match data {
            Data::Read(values) => values,
            Data::At(start) => self.elements(&mut Scanner::at(self.body, start), spec, index)?,
            Data::Absent | Data::Useless => return Ok(None),
        };
        let Some(shape) = shape else { return Ok(None) };
        let agrees = self.count(&values, &shape, spec, index);
        check::range(spec, &values.data, Role::Input, self.sink, |element| {
            let nested = values.shape.as_deref().unwrap_or_default();
            format!("{}/data{}", here(), check::nested_index(element, nested))
        });
        let pointer = at_shape();
        Ok(Some(Read {
            spec,
            shape,
            data: values.data,
            pointer,
            fits: fits && agrees,
        }))
    }

    fn input_name(
        &mut self,
        scanner: &mut Scanner<'a>,
        index: usize,
        seen: &mut Vec<&'c str>,
    ) -> Scan<Option<&'c TensorSpec>> {
        let at = || format!("/inputs/{index}/name");
        let kind = scanner.kind()?;
        if kind != Kind::String {
            self.sink
                .form(|| wrong_type(at(), "name", "the input's name as a string", kind));
            scanner.skip_value()?;
            return Ok(None);
        }
        let name = scanner.string()?;
        let contract = self.contract;
        let Some(spec) = contract.input(&name) else {
            self.sink
                .contract(|| check::unknown_tensor(at(), &name, &contract.inputs, Role::Input));
            return Ok(None);
        };
        if seen.contains(&spec.name.as_str()) {
            self.sink.contract(|| {
                let message = format!(
                    "input {:?} is given more than once; give it once",
                    spec.name
                );
                Violation::new(at(), "duplicate_input", "each input once", message)
            });
            return Ok(None);
        }
        seen.push(&spec.name);
        Ok(Some(spec))
    }

    fn shape(&mut self, scanner: &mut Scanner<'a>, index: usize) -> Scan<Option<Vec<u64>>> {
        let at = || format!("/inputs/{index}/shape");
        let kind = scanner.kind()?;
        if kind != Kind::Array {
            self.sink
                .form(|| wrong_type(at(), "shape", "an array of lengths", kind));
            scanner.skip_value()?;
            return Ok(None);
        }
        let (mut shape, mut usable, mut rank) = (Vec::new(), true, 0usize);
        let mut more = scanner.open_array()?;
        while more {
            let start = scanner.offset();
            let length = match scanner.kind()? {
                Kind::Number => scanner.number()?.to_u64().ok(),
                _ => {
                    scanner.skip_value()?;
                    None
                }
            };
            match length {
                Some(length) if rank < MAX_RANK => shape.push(length),
                Some(_) => {}
                None => {
                    usable = false;
                    self.sink.form(|| {
                        let found = self.body.get(start..scanner.offset()).unwrap_or_default();
                        let found = String::from_utf8_lossy(found);
                        let message = format!(
                            "the length of axis {rank} is {}; send how many elements the tensor has \
                             along it",
                            excerpt(found.trim())
                        );
                        let at = format!("{}/{rank}", at());
                        Violation::new(at, "wrong_type", "an integer of at least 0", message)
                    });
                }
            }
            rank += 1;
            more = scanner.next_element()?;
        }
        if rank > MAX_RANK {
            usable = false;
            self.sink.contract(|| {
                let message =
                    format!("shape has {rank} axes; no tensor here has more than {MAX_RANK}");
                Violation::new(
                    at(),
                    "wrong_shape",
                    format!("at most {MAX_RANK} axes"),
                    message,
                )
            });
        }
        Ok(usable.then_some(shape))
    }

    /// Reads `data`: flat when its first element is no array.
    fn elements(
        &mut self,
        scanner: &mut Scanner<'a>,
        spec: &TensorSpec,
        index: usize,
    ) -> Scan<Values> {
        let place = Place::Data(index);
        let (levels, innermost_empty) = scanner.nesting();
        if levels <= 1 || spec.shape.is_empty() || (innermost_empty && levels < spec.shape.len()) {
            values::read_flat(scanner, spec, place, self.sink)
        } else {
            values::read_nested(scanner, spec, place, false, self.sink)
        }
    }

    /// Checks that as many elements came as the shape says, nested as it says if nested.
    fn count(&mut self, values: &Values, shape: &[u64], spec: &TensorSpec, index: usize) -> bool {
        // Ragged or too deep: reported where it was met.
        let Some(nested) = &values.shape else {
            return false;
        };
        let flat = nested.len() == 1;
        let agrees = if flat {
            elements(shape) == Some(values.count)
        } else {
            nested == shape
        };
        if !agrees {
            self.sink.contract(|| {
                let (stated, at) = (shape_text(shape), format!("/inputs/{index}/data"));
                let expected = match elements(shape) {
                    Some(count) => format!("{count} elements for shape {stated}"),
                    None => format!("the elements of shape {stated}"),
                };
                let found = if flat {
                    format!("{} elements", values.count)
                } else {
                    format!("arrays of shape {}", shape_text(nested))
                };
                let message = format!("input {:?} has {found}; send {expected}", spec.name);
                Violation::new(at, "wrong_count", expected, message)
            });
        }
        agrees
    }

    fn outputs(&mut self, scanner: &mut Scanner<'a>) -> Scan<Vec<String>> {
        let mut outputs: Vec<String> = Vec::new();
        let kind = scanner.kind()?;
        if kind != Kind::Array {
            self.sink.form(|| {
                wrong_type(
                    "/outputs".to_owned(),
                    "outputs",
                    "an array of outputs",
                    kind,
                )
            });
            scanner.skip_value()?;
            return Ok(outputs);
        }
        let mut more = scanner.open_array()?;
        let mut index = 0usize;
        while more {
            if let Some(name) = self.output(scanner, index, &outputs)? {
                outputs.push(name);
            }
            index += 1;
            more = scanner.next_element()?;
        }
        Ok(outputs)
    }

    fn output(
        &mut self,
        scanner: &mut Scanner<'a>,
        index: usize,
        earlier: &[String],
    ) -> Scan<Option<String>> {
        let here = || format!("/outputs/{index}");
        let kind = scanner.kind()?;
        if kind != Kind::Object {
            self.sink
                .form(|| wrong_type(here(), "an output", "an object with \"name\"", kind));
            scanner.skip_value()?;
            return Ok(None);
        }
        let (mut output, mut has_name) = (None, false);
        let contract = self.contract;
        let mut names = Names::default();
        let mut member = scanner.open_object(&mut names)?;
        while let Some(name) = member {
            let at = || format!("{}/name", here());
            match (name.as_ref(), scanner.kind()?) {
                ("name", Kind::String) => {
                    has_name = true;
                    let name = scanner.string()?;
                    match contract.output(&name) {
                        None => self.sink.contract(|| {
                            check::unknown_tensor(at(), &name, &contract.outputs, Role::Output)
                        }),
                        Some(_) if earlier.iter().any(|other| *other == name) => {
                            self.sink.contract(|| {
                                let message =
                                    format!("output {name:?} is asked for twice; ask once");
                                Violation::new(
                                    at(),
                                    "duplicate_output",
                                    "each output once",
                                    message,
                                )
                            })
                        }
                        Some(spec) => output = Some(spec.name.clone()),
                    }
                }
                ("name", kind) => {
                    has_name = true;
                    self.sink
                        .form(|| wrong_type(at(), "name", "the output's name as a string", kind));
                    scanner.skip_value()?;
                }
                ("parameters", _) => {
                    self.parameters(scanner, || format!("{}/parameters", here()))?;
                }
                _ => {
                    self.sink
                        .form(|| unknown_member(&here(), &name, &OUTPUT_MEMBERS));
                    scanner.skip_value()?;
                }
            }
            member = scanner.next_member(&mut names)?;
        }
        if !has_name {
            self.sink
                .form(|| missing_member(&here(), "name", "the output's name"));
        }
        Ok(output)
    }
}
