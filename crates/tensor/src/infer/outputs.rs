//! Parses the requested outputs of an inference request, and their form.

use super::Request;
use super::options::{each_parameter, truth, whole};
use crate::check::{self, Role};
use crate::classification::{self, MAX_CLASSES};
use crate::json::{Kind, Names, Scan, Scanner};
use crate::parameters::Of;
use crate::values::{missing_member, wrong_type};
use penstock_core::Violation;

const OUTPUT_MEMBERS: [&str; 2] = ["name", "parameters"];

/// An output's name, and its own parameters: whether as bytes, and the number of classes.
pub(super) type RequestedOutput = (String, Option<bool>, u32);

impl<'a> Request<'a, '_> {
    pub(super) fn outputs(&mut self, scanner: &mut Scanner<'a>) -> Scan<Vec<RequestedOutput>> {
        let mut outputs: Vec<RequestedOutput> = Vec::new();
        if scanner.skip_null()? {
            return Ok(outputs);
        }
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
            if let Some(output) = self.output(scanner, index, &outputs)? {
                outputs.push(output);
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
        earlier: &[RequestedOutput],
    ) -> Scan<Option<RequestedOutput>> {
        let here = || format!("/outputs/{index}");
        let kind = scanner.kind()?;
        if kind != Kind::Object {
            self.sink
                .form(|| wrong_type(here(), "an output", "an object with \"name\"", kind));
            scanner.skip_value()?;
            return Ok(None);
        }
        let (mut output, mut has_name) = (None, false);
        let (mut binary, mut classes) = (None, 0);
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
                        Some(_) if earlier.iter().any(|(other, ..)| *other == name) => {
                            self.sink.contract(|| {
                                let message =
                                    format!("output {name:?} is requested twice; request it once");
                                Violation::new(
                                    at(),
                                    "duplicate_output",
                                    "each output once",
                                    message,
                                )
                            })
                        }
                        Some(spec) => output = Some(spec),
                    }
                }
                ("name", kind) => {
                    has_name = true;
                    self.sink
                        .form(|| wrong_type(at(), "name", "the output's name as a string", kind));
                    scanner.skip_value()?;
                }
                ("parameters", _) => {
                    (binary, classes) = self.output_parameters(scanner, index)?;
                }
                _ => self.unknown_member(scanner, &here(), &name, &OUTPUT_MEMBERS)?,
            }
            member = scanner.next_member(&mut names)?;
        }
        if !has_name {
            self.sink
                .form(|| missing_member(&here(), "name", "the output's name"));
        }
        let Some(spec) = output else { return Ok(None) };
        if classes > 0 && !classification::has_classes(spec.datatype) {
            self.sink.contract(|| {
                let message = format!(
                    "output {:?} is {}, which has no scores to rank classes by; request it without classification",
                    spec.name, spec.datatype
                );
                let at = format!("{}/parameters/classification", here());
                Violation::new(at, "wrong_datatype", "an output of numbers", message)
            });
        }
        Ok(Some((spec.name.clone(), binary, classes)))
    }

    /// Parses an output's parameters, which say its form.
    fn output_parameters(
        &mut self,
        scanner: &mut Scanner<'a>,
        index: usize,
    ) -> Scan<(Option<bool>, u32)> {
        let at = || format!("/outputs/{index}/parameters");
        let (mut binary, mut classes) = (None, 0);
        let sink = &mut *self.sink;
        each_parameter(
            scanner,
            sink,
            Of::Output,
            self.unknown,
            at,
            |sink, name, value| {
                if name == "binary_data" {
                    binary = truth(sink, at, name, &value);
                    return;
                }
                let most = u64::from(MAX_CLASSES);
                match whole(sink, at, name, &value, "the number of classes to return") {
                    Some(count) if count <= most => {
                        classes = u32::try_from(count).unwrap_or(MAX_CLASSES);
                    }
                    Some(count) => sink.form(|| {
                        let message =
                            format!("{count} classes are requested; request at most {most}");
                        let at = format!("{}/{name}", at());
                        let expected = format!("at most {most}");
                        Violation::new(at, "number_out_of_range", expected, message)
                    }),
                    None => {}
                }
            },
        )?;
        Ok((binary, classes))
    }
}
