//! Parses the `inputs` of an inference request, and checks each against the contract.

use super::options::{each_parameter, whole};
use super::{BinaryInput, Request, Tail};
use crate::check::{self, Role, Shaped, shape_text};
use crate::contract::{MAX_RANK, TensorSpec};
use crate::excerpt::excerpt;
use crate::json::{Kind, Names, Scan, Scanner};
use crate::parameters::Of;
use crate::rejection::Mark;
use crate::tensor::{BYTES_PREFIX_BYTES, Tensor, elements};
use crate::values::{self, BodyLocation, Values, missing_member, wrong_type};
use penstock_core::Violation;
use std::borrow::Cow;

const INPUT_MEMBERS: [&str; 5] = ["name", "shape", "datatype", "parameters", "data"];

/// The elements of an input, as far as they are parsed.
#[derive(Default)]
enum Data {
    /// The member has not been read yet.
    #[default]
    Absent,
    /// Skipped; they begin at this offset.
    At(usize),
    Read(Values),
    /// Present but not usable; the fault is reported already.
    Useless,
}

/// The members of one input, as far as they are parsed.
#[derive(Default)]
struct Members<'a, 'c> {
    has_name: bool,
    spec: Option<&'c TensorSpec>,
    has_shape: bool,
    shape: Option<Vec<u64>>,
    has_datatype: bool,
    datatype: Option<Cow<'a, str>>,
    /// Whether its datatype differs from the contract's or is not valid; reported already.
    is_unusable: bool,
    data: Data,
    binary: Binary,
    /// The range of violations of the elements. They are withdrawn if the datatype turns out to be another.
    elements_mark: Option<(Mark, Mark)>,
}

/// The pointer to the size of an input's bytes after the JSON.
fn binary_size_pointer(index: usize) -> String {
    format!("/inputs/{index}/parameters/binary_data_size")
}

/// A parsed input of the contract.
struct NamedInput<'c> {
    spec: &'c TensorSpec,
    shape: Vec<u64>,
    data: Vec<u8>,
    /// Its index in the body's inputs.
    index: usize,
    /// The number of its bytes after the JSON, if its elements are there.
    binary: Option<u64>,
    pointer: String,
    fits: bool,
}

/// The place of an input's elements by its parameters.
#[derive(Default)]
enum Binary {
    /// Not after the JSON.
    #[default]
    Absent,
    /// This many bytes after the JSON.
    Bytes(u64),
    /// Not valid; reported already.
    Useless,
}

impl<'a, 'c> Request<'a, 'c> {
    pub(super) fn inputs(
        &mut self,
        scanner: &mut Scanner<'a>,
        tail_bytes: u64,
    ) -> Scan<(Vec<Tensor>, Vec<BinaryInput>)> {
        let kind = scanner.kind()?;
        if kind != Kind::Array {
            self.sink
                .form(|| wrong_type("/inputs".to_owned(), "inputs", "an array of inputs", kind));
            scanner.skip_value()?;
            return Ok((Vec::new(), Vec::new()));
        }
        let mut seen: Vec<&'c str> = Vec::new();
        let mut read: Vec<NamedInput<'c>> = Vec::new();
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
            if !spec.optional && !seen.contains(&spec.name.as_str()) {
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
        self.check_tail(tail_bytes);
        if self.sink.count() > 0 {
            return Ok((Vec::new(), Vec::new()));
        }
        // All required inputs are present, each once, so from here on they have the contract's order.
        let sent: Vec<&str> = (self.contract.inputs.iter())
            .map(|spec| spec.name.as_str())
            .filter(|name| read.iter().any(|one| one.spec.name == *name))
            .collect();
        let place = |name: &str| sent.iter().position(|sent| *sent == name);
        let binary = read
            .iter()
            .filter_map(|one| {
                Some(BinaryInput {
                    input: place(&one.spec.name)?,
                    index: one.index,
                    bytes: one.binary?,
                })
            })
            .collect();
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
                data: one.data.into(),
            });
        }
        Ok((tensors, binary))
    }

    fn input(
        &mut self,
        scanner: &mut Scanner<'a>,
        index: usize,
        seen: &mut Vec<&'c str>,
    ) -> Scan<Option<NamedInput<'c>>> {
        let here = || format!("/inputs/{index}");
        let kind = scanner.kind()?;
        if kind != Kind::Object {
            self.sink
                .form(|| wrong_type(here(), "an input", "an object", kind));
            scanner.skip_value()?;
            return Ok(None);
        }
        let mut read = Members::default();
        let mut names = Names::default();
        let mut member = scanner.open_object(&mut names)?;
        while let Some(name) = member {
            match name.as_ref() {
                "name" => {
                    read.has_name = true;
                    read.spec = self.input_name(scanner, index, seen)?;
                }
                "shape" => {
                    read.has_shape = true;
                    read.shape = self.shape(scanner, index)?;
                }
                "datatype" => self.input_datatype(scanner, index, &mut read)?,
                "parameters" => read.binary = self.input_parameters(scanner, index)?,
                "data" => self.input_data(scanner, index, &mut read)?,
                _ => self.unknown_member(scanner, &here(), &name, &INPUT_MEMBERS)?,
            }
            member = scanner.next_member(&mut names)?;
        }
        self.missing_members(index, &mut read);
        self.checked_input(index, read)
    }

    fn input_datatype(
        &mut self,
        scanner: &mut Scanner<'a>,
        index: usize,
        read: &mut Members<'a, 'c>,
    ) -> Scan<()> {
        read.has_datatype = true;
        let kind = scanner.kind()?;
        if kind == Kind::String {
            read.datatype = Some(scanner.string()?);
        } else {
            self.sink.form(|| {
                let at = format!("/inputs/{index}/datatype");
                wrong_type(at, "datatype", "a string", kind)
            });
            scanner.skip_value()?;
            read.is_unusable = true;
        }
        Ok(())
    }

    /// Parses `data` if the input is known already. Otherwise keeps its offset.
    fn input_data(
        &mut self,
        scanner: &mut Scanner<'a>,
        index: usize,
        read: &mut Members<'a, 'c>,
    ) -> Scan<()> {
        // Treated as absent: the elements follow the JSON, or are missing.
        if scanner.skip_null()? {
            return Ok(());
        }
        let kind = scanner.kind()?;
        let start = scanner.offset();
        let stated: Option<&str> = read.datatype.as_deref();
        let is_other = |spec: &TensorSpec| stated.is_some_and(|s| s != spec.datatype.as_str());
        let spec = read.spec.filter(|spec| !is_other(spec));
        read.data = match (kind, spec) {
            (Kind::Array, Some(spec)) => {
                let mark = self.sink.mark();
                let values = self.elements(scanner, spec, index)?;
                read.elements_mark = Some((mark, self.sink.mark()));
                Data::Read(values)
            }
            (Kind::Array, None) => {
                scanner.skip_value()?;
                match read.has_name {
                    true => Data::Useless,
                    false => Data::At(start),
                }
            }
            _ => {
                self.sink.form(|| {
                    let at = format!("/inputs/{index}/data");
                    wrong_type(at, "data", "an array", kind)
                });
                scanner.skip_value()?;
                Data::Useless
            }
        };
        Ok(())
    }

    /// Reports missing members of an input, and elements that are given twice.
    fn missing_members(&mut self, index: usize, read: &mut Members<'a, 'c>) {
        let has_data = !matches!(read.data, Data::Absent);
        let is_binary = !matches!(read.binary, Binary::Absent);
        for (has, name, expected) in [
            (read.has_name, "name", "the input's name"),
            (read.has_shape, "shape", "an array of lengths"),
            (
                read.has_datatype,
                "datatype",
                "the elements' datatype, e.g. \"FP32\"",
            ),
            (
                has_data || is_binary,
                "data",
                "an array of elements, or the parameter binary_data_size for elements after the JSON",
            ),
        ] {
            if !has {
                let here = format!("/inputs/{index}");
                self.sink.form(|| missing_member(&here, name, expected));
            }
        }
        if has_data && is_binary {
            self.sink.form(|| {
                let message = "an input has data and binary_data_size; send its elements in one of the two ways";
                Violation::new(
                    binary_size_pointer(index),
                    "data_given_twice",
                    "data or binary_data_size",
                    message,
                )
            });
            read.binary = Binary::Useless;
        }
    }

    /// Checks a parsed input against the contract; `None` if it cannot be used.
    fn checked_input(
        &mut self,
        index: usize,
        read: Members<'a, 'c>,
    ) -> Scan<Option<NamedInput<'c>>> {
        let Members {
            spec,
            mut shape,
            datatype,
            mut is_unusable,
            data,
            binary,
            elements_mark,
            ..
        } = read;
        let here = || format!("/inputs/{index}");
        let Some(spec) = spec else { return Ok(None) };
        if let Some(stated) = &datatype
            && stated.as_ref() != spec.datatype.as_str()
        {
            if let Some((start, end)) = elements_mark {
                self.sink.withdraw(start, end);
            }
            is_unusable = true;
            self.sink.contract(|| {
                check::wrong_datatype(format!("{}/datatype", here()), spec, stated, Role::Input)
            });
        }
        let at_shape = || format!("{}/shape", here());
        // A model's configuration has no scalars; they are an axis of one element (Triton's `reshape`).
        if spec.shape.is_empty() && shape.as_deref() == Some(&[1]) {
            shape = Some(Vec::new());
        }
        let fits = match &shape {
            Some(shape) => check::shape(spec, shape, Role::Input, self.sink, at_shape),
            None => false,
        };
        if is_unusable {
            return Ok(None);
        }
        if let Binary::Bytes(bytes) = binary {
            let Some(shape) = shape else { return Ok(None) };
            let agrees = self.binary_size(bytes, &shape, spec, || binary_size_pointer(index));
            return Ok(Some(NamedInput {
                spec,
                shape,
                data: Vec::new(),
                index,
                binary: Some(bytes),
                pointer: at_shape(),
                fits: fits && agrees,
            }));
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
            format!("{}/data{}", here(), check::nested_index(element, nested)).into()
        });
        let pointer = at_shape();
        Ok(Some(NamedInput {
            spec,
            shape,
            data: values.data,
            index,
            binary: None,
            pointer,
            fits: fits && agrees,
        }))
    }

    /// Parses an input's parameters, which say whether its elements follow the JSON.
    fn input_parameters(&mut self, scanner: &mut Scanner<'a>, index: usize) -> Scan<Binary> {
        let at = || format!("/inputs/{index}/parameters");
        let mut binary = Binary::Absent;
        let (sink, tail) = (&mut *self.sink, &mut self.tail);
        each_parameter(
            scanner,
            sink,
            Of::Input,
            self.unknown,
            at,
            |sink, name, value| {
                tail.claims += 1;
                let what = "the bytes of the input after the JSON";
                binary = match whole(sink, at, name, &value, what) {
                    Some(bytes) => {
                        tail.bytes = tail.bytes.and_then(|sum| sum.checked_add(bytes));
                        Binary::Bytes(bytes)
                    }
                    None => {
                        tail.unsized_claims += 1;
                        Binary::Useless
                    }
                };
            },
        )?;
        Ok(binary)
    }

    /// Checks the size of an input's bytes after the JSON against its shape and datatype.
    fn binary_size(
        &mut self,
        bytes: u64,
        shape: &[u64],
        spec: &TensorSpec,
        pointer: impl Fn() -> String,
    ) -> bool {
        let count = elements(shape);
        let fixed = spec.datatype.size_bytes();
        // An element of BYTES takes at least the bytes of its length.
        let least = fixed.unwrap_or(BYTES_PREFIX_BYTES) as u64;
        let needed = count.and_then(|count| count.checked_mul(least));
        let agrees = match (fixed, needed) {
            (_, None) => false,
            (Some(_), Some(needed)) => bytes == needed,
            (None, Some(needed)) => bytes >= needed,
        };
        if !agrees {
            self.sink.contract(|| {
                let datatype = spec.datatype;
                let expected = match (fixed, needed) {
                    (_, None) => "a shape whose bytes can be counted".to_owned(),
                    (Some(_), Some(needed)) => format!("{needed} bytes"),
                    (None, Some(needed)) => format!("at least {needed} bytes"),
                };
                let message = format!(
                    "input {:?} has {bytes} bytes after the JSON; {datatype} of shape {} takes {expected}",
                    spec.name,
                    shape_text(shape)
                );
                Violation::new(pointer(), "wrong_size", expected, message)
            });
        }
        agrees
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
                            "the length of axis {rank} is {}; send the number of elements along this axis",
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
                let message = format!("shape has {rank} axes; a tensor has at most {MAX_RANK}");
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

    /// Parses the value of `data`. It is flat if its first element is not an array.
    fn elements(
        &mut self,
        scanner: &mut Scanner<'a>,
        spec: &TensorSpec,
        index: usize,
    ) -> Scan<Values> {
        let place = BodyLocation::Data(index);
        let (levels, innermost_empty) = scanner.nesting();
        if levels <= 1 || spec.shape.is_empty() || (innermost_empty && levels < spec.shape.len()) {
            values::read_flat(scanner, spec, place, self.sink)
        } else {
            values::read_nested(scanner, spec, place, false, self.sink)
        }
    }

    /// Checks the number of elements against the shape, and their nesting if they are nested.
    fn count(&mut self, values: &Values, shape: &[u64], spec: &TensorSpec, index: usize) -> bool {
        // Ragged or too deep; reported already.
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

    /// Checks that the bytes after the JSON are as many as the inputs claim.
    fn check_tail(&mut self, tail_bytes: u64) {
        let Tail {
            claims,
            unsized_claims,
            bytes: claimed,
        } = self.tail;
        if unsized_claims > 0 || claimed == Some(tail_bytes) {
            return;
        }
        self.sink.form(|| {
            let message = match claimed {
                _ if claims == 0 => format!(
                    "{tail_bytes} bytes follow the JSON, and no input claims them with binary_data_size; give each \
                     binary input that parameter, or set Inference-Header-Content-Length to the whole body"
                ),
                Some(claimed) => format!(
                    "the inputs' binary_data_size add up to {claimed} bytes, and {tail_bytes} bytes follow the JSON; \
                     send the body whole and give the JSON's length in Inference-Header-Content-Length"
                ),
                None => format!(
                    "the inputs' binary_data_size add up to more bytes than can be counted, and {tail_bytes} bytes \
                     follow the JSON; give each input's own bytes"
                ),
            };
            let expected = match claimed {
                Some(claimed) => format!("{claimed} bytes after the JSON"),
                None => "as many bytes as follow the JSON".to_owned(),
            };
            Violation::new("/inputs", "wrong_tail", expected, message)
        });
    }
}
