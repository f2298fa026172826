//! Compares a model with a second backend. The serving backend and another one run the same graph on the same made-up
//! calls, and their outputs are compared. Two runtimes with separate code hardly ever make the same mistake. The choice
//! of calls and the comparison are pure; [`crate::repository`] loads and runs.

use std::fmt;

use penstock_tensor::contract::{Contract, Dim, TensorSpec};
use penstock_tensor::datatype::Datatype;

use crate::contract_check::{MAX_EXAMPLE_BYTES, encode, made, range, sequence_shapes};
use crate::error::{NnError, quoted};
use crate::kept;
use crate::tensor::{NnTensor, Shape, Strings, TensorType, elements};

/// The treatment of a model that another backend answers differently.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compare {
    /// Nothing is compared.
    #[default]
    Off,
    /// The model serves, and the log, the index and `/ready` report the difference.
    Warn,
    /// The model does not serve.
    Refuse,
}

/// Default of the largest difference, as a part of the output's largest element. Two runtimes that compute an FP32
/// graph as it is are at most some 1e-5 apart, in orders of summation. Wrong operators are tenths apart. Graphs that
/// quantise activations are up to some hundredths apart, because a rounding that falls the other way moves an element
/// by a step.
pub const TOLERANCE: f64 = 1e-3;

/// The difference that is allowed near zero, whatever the largest element is.
const ABSOLUTE: f64 = 1e-6;

/// The result of a comparison with another backend.
#[derive(Debug, Clone, PartialEq)]
pub enum Agreement {
    /// No other backend could be compared, with the reason.
    Unknown(String),
    /// Another backend answers the same.
    Agrees {
        /// The other backend.
        with: &'static str,
        /// The number of made-up calls that both answered.
        calls: usize,
        /// The largest difference, as a part of the output's largest element.
        largest: f64,
    },
    /// Another backend answers differently.
    Differs {
        /// The other backend.
        with: &'static str,
        /// The output that differs, and the difference.
        what: String,
    },
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(why) => write!(f, "no other backend could be compared: {why}"),
            Self::Agrees {
                with,
                calls,
                largest,
            } => write!(
                f,
                "{with} agrees in {calls} made-up calls, within {largest:.1e}"
            ),
            Self::Differs { with, what } => write!(
                f,
                "{with} answers differently: {what}. Find out which is right, name it as backend in [engine] of \
                 model.toml, or raise models.compare_tolerance"
            ),
        }
    }
}

/// The result of comparing two answers to one call.
#[derive(Debug, Clone, PartialEq)]
pub enum Compared {
    /// The answers differ by at most this part of the largest element.
    Same(f64),
    /// The answers differ: the output, and the difference.
    Other(String),
}

/// Compares the serving backend's answer with another backend's answer to the same call. Integers must be the same. A
/// floating-point element may differ by `tolerance` of the largest finite element of its output. NaN and infinity must
/// be at the same places.
pub fn compare(
    served: &[(String, NnTensor)],
    other: &[(String, NnTensor)],
    tolerance: f64,
) -> Compared {
    let mut largest = 0f64;
    for (name, served) in served {
        let Some((_, other)) = other.iter().find(|(other, _)| other == name) else {
            return Compared::Other(format!("the other backend has no output {}", quoted(name)));
        };
        if (served.ty, &served.dims) != (other.ty, &other.dims) {
            return Compared::Other(format!(
                "output {} is {} {} here and {} {} there",
                quoted(name),
                served.ty,
                Shape(&served.dims),
                other.ty,
                Shape(&other.dims)
            ));
        }
        match one(served, other, tolerance) {
            Ok(apart) => largest = largest.max(apart),
            Err(what) => return Compared::Other(format!("output {} {what}", quoted(name))),
        }
    }
    Compared::Same(largest)
}

/// The difference of two tensors of one type and shape, as a part of the largest element.
fn one(served: &NnTensor, other: &NnTensor, tolerance: f64) -> Result<f64, String> {
    let whole = !served.ty.is_float();
    if served.data == other.data {
        return Ok(0.0);
    }
    if served.ty == TensorType::Bytes {
        let mut pairs = Strings::new(&served.data).zip(Strings::new(&other.data));
        let at = pairs
            .position(|(here, there)| here != there)
            .unwrap_or_default();
        return Err(format!("has different texts at element {at}"));
    }
    let (here, there) = (elements(served), elements(other));
    let at = |found: Option<usize>| found.unwrap_or_default();
    if whole {
        // Numbers beyond 2^53 may be the same as floating-point numbers and differ all the same.
        let size = served.ty.size();
        let mut pairs = (served.data.chunks(size)).zip(other.data.chunks(size));
        let at = at(pairs.position(|(here, there)| here != there));
        return Err(format!(
            "is {} here and {} there, at element {at}",
            here[at], there[at]
        ));
    }
    let scale = (here.iter().chain(&there))
        .filter(|element| element.is_finite())
        .fold(0f64, |scale, element| scale.max(element.abs()));
    let mut worst = (0f64, 0usize);
    for (at, (here, there)) in here.iter().zip(&there).enumerate() {
        let same = here == there || (here.is_nan() && there.is_nan());
        let apart = match (same, here.is_finite() && there.is_finite()) {
            (true, _) => 0.0,
            (false, true) => (here - there).abs(),
            (false, false) => f64::INFINITY,
        };
        if apart > worst.0 {
            worst = (apart, at);
        }
    }
    let (apart, at) = worst;
    if apart <= tolerance * scale + ABSOLUTE {
        return Ok(if scale > 0.0 { apart / scale } else { apart });
    }
    Err(format!(
        "is {} here and {} there, at element {at}; {:.1e} apart where {:.1e} is allowed",
        here[at],
        there[at],
        apart,
        tolerance * scale + ABSOLUTE
    ))
}

/// A made-up call, and how it was made.
pub(crate) struct Probe {
    pub how: &'static str,
    pub inputs: Vec<(String, NnTensor)>,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Within the declared range; floating-point numbers without one are up to this large.
    Noise(f64),
    /// Least and greatest in turn.
    Extremes,
}

/// The size of floating-point elements that have no range, in a call of extremes.
const FAR: f64 = 1e4;

/// The size of wider integers that have no range, in a call of extremes: a sum of two is beyond 32 bits. Most models
/// with such inputs use them as places in a table and refuse these numbers, which proves nothing.
const LARGE: f64 = 2e9;

/// The calls that both backends are given: the least, noise of several sizes, a longer one, and extremes. The same ones
/// for the same contract.
pub(crate) fn calls(contract: &Contract) -> Vec<Probe> {
    let least = |axis: &str| contract.axes.get(axis).map_or(1, |bounds| bounds.min);
    let longer = kept::longer(contract);
    let longer_length = |axis: &str| {
        let of = |(spec, (_, tensor)): (&TensorSpec, &(String, NnTensor))| {
            let at = spec
                .shape
                .iter()
                .position(|dim| matches!(dim, Dim::Symbol(name) if name == axis))?;
            tensor.dims.get(at).copied().map(u64::from)
        };
        let inputs = contract.inputs.iter().zip(longer.iter().flatten());
        inputs.filter_map(of).next().unwrap_or_else(|| least(axis))
    };
    let kinds: [(&'static str, Kind, bool); 5] = [
        ("numbers of usual size", Kind::Noise(1.0), false),
        (
            "numbers of usual size in a longer call",
            Kind::Noise(1.0),
            true,
        ),
        ("small numbers", Kind::Noise(1e-3), false),
        ("large numbers", Kind::Noise(100.0), false),
        ("the extremes of what may be sent", Kind::Extremes, false),
    ];
    let mut calls = Vec::new();
    if let Ok(inputs) = crate::contract_check::example(contract) {
        calls.push(Probe {
            how: "the least call",
            inputs,
        });
    }
    for (seed, (how, kind, is_longer)) in kinds.into_iter().enumerate() {
        let length: &dyn Fn(&str) -> u64 = if is_longer { &longer_length } else { &least };
        let mut random = noise(seed as u64);
        let made = (contract.inputs.iter()).map(|spec| {
            if let Some(shapes) = sequence_shapes(contract, spec, length, MAX_EXAMPLE_BYTES) {
                return Ok((spec.name.clone(), shapes?));
            }
            let tensor = made(spec, length, MAX_EXAMPLE_BYTES, |count| {
                fill(spec, kind, count, &mut random)
            })?;
            Ok((spec.name.clone(), tensor))
        });
        if let Ok(inputs) = made.collect::<Result<Vec<_>, NnError>>() {
            calls.push(Probe { how, inputs });
        }
    }
    calls
}

/// Numbers from 0 to 1 that look random (SplitMix64), the same ones for the same seed.
fn noise(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn fill(spec: &TensorSpec, kind: Kind, count: usize, random: &mut dyn FnMut() -> f64) -> Vec<u8> {
    let (low, high) = bounds(spec, kind);
    let whole = !spec.datatype.is_float();
    let mut data = Vec::new();
    let mut turn = false;
    for _ in 0..count {
        let value = match kind {
            Kind::Extremes => {
                turn = !turn;
                if turn { high } else { low }
            }
            Kind::Noise(_) if whole => (low + (random() * (high - low + 1.0)).floor()).min(high),
            Kind::Noise(_) => low + random() * (high - low),
        };
        data.extend_from_slice(&encode(spec.datatype, value));
    }
    data
}

/// The range of the elements of an input.
fn bounds(spec: &TensorSpec, kind: Kind) -> (f64, f64) {
    if spec.has_range() {
        let (low, high) = range(spec);
        return (low, high.unwrap_or(low + FAR));
    }
    match (spec.datatype, kind) {
        (datatype, Kind::Noise(size)) if datatype.is_float() => (-size, size),
        (datatype, Kind::Extremes) if datatype.is_float() => (-FAR, FAR),
        (Datatype::Bool, _) | (_, Kind::Noise(_)) => (0.0, 1.0),
        (Datatype::Uint8, Kind::Extremes) => (0.0, 255.0),
        (Datatype::Int8, Kind::Extremes) => (-128.0, 127.0),
        (Datatype::Uint16, Kind::Extremes) => (0.0, 65_535.0),
        (Datatype::Int16, Kind::Extremes) => (-32_768.0, 32_767.0),
        (datatype, Kind::Extremes) => match datatype.narrow_range() {
            Some((least, greatest)) => (least.into(), greatest.into()),
            None => (0.0, LARGE),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(ty: TensorType, dims: &[u32], data: Vec<u8>) -> NnTensor {
        NnTensor::new(ty, dims.to_vec(), data).expect("sound")
    }

    fn floats(values: &[f32]) -> NnTensor {
        let data = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        tensor(TensorType::Fp32, &[values.len() as u32], data)
    }

    fn longs(values: &[i64]) -> NnTensor {
        let data = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        tensor(TensorType::I64, &[values.len() as u32], data)
    }

    fn of(served: NnTensor, other: NnTensor) -> Compared {
        compare(&[("y".into(), served)], &[("y".into(), other)], TOLERANCE)
    }

    #[test]
    fn elements_may_differ_by_a_part_of_the_largest_and_by_no_more() {
        let nan = f32::NAN;
        let infinite = f32::INFINITY;
        for (here, there, same) in [
            (&[1.0f32, 0.5][..], &[1.0f32, 0.5][..], true),
            (&[1.0, 0.5], &[1.0, 0.5009], true),
            (&[1.0, 0.5], &[1.0, 0.502], false),
            (&[1000.0, 0.5], &[1000.0, 1.4], true),
            (&[0.0, 0.0], &[0.0, 5e-7], true),
            (&[0.0, 0.0], &[0.0, 1e-2], false),
            (&[nan, 1.0], &[nan, 1.0], true),
            (&[nan, 1.0], &[0.0, 1.0], false),
            (&[0.0, 1.0], &[nan, 1.0], false),
            (&[infinite, 1.0], &[infinite, 1.0], true),
            (&[infinite, 1.0], &[-infinite, 1.0], false),
            (&[infinite, 1.0], &[3e38, 1.0], false),
        ] {
            let compared = of(floats(here), floats(there));
            let found = matches!(compared, Compared::Same(_));
            assert_eq!(found, same, "{here:?} and {there:?}: {compared:?}");
        }
        let Compared::Other(what) = of(floats(&[2.0, 0.5]), floats(&[2.0, 0.75])) else {
            panic!("they differ");
        };
        assert!(what.contains("output \"y\" is 0.5 here and 0.75"), "{what}");
        assert!(what.contains("at element 1"), "{what}");
    }

    #[test]
    fn integers_are_the_same_or_they_differ() {
        assert_eq!(of(longs(&[1, -7]), longs(&[1, -7])), Compared::Same(0.0));
        // One as floating-point numbers.
        for (here, there) in [(6_000_000_000, 1_705_032_704), (i64::MAX, i64::MAX - 1)] {
            let compared = of(longs(&[0, here]), longs(&[0, there]));
            let Compared::Other(what) = compared else {
                panic!("{here} and {there}")
            };
            assert!(what.contains("at element 1"), "{what}");
        }
    }

    #[test]
    fn texts_are_the_same_or_they_differ() {
        let texts = |texts: [&[u8]; 2]| {
            let mut data = Vec::new();
            for text in texts {
                crate::tensor::push_string(&mut data, text).expect("short");
            }
            tensor(TensorType::Bytes, &[2], data)
        };
        let one = || texts([b"a", b"bc"]);
        assert_eq!(of(one(), one()), Compared::Same(0.0));
        for other in [texts([b"a", b"bd"]), texts([b"a", b""])] {
            let Compared::Other(what) = of(one(), other) else {
                panic!("they differ")
            };
            assert!(what.contains("at element 1"), "{what}");
        }
    }

    #[test]
    fn calls_of_every_datatype_are_made_up() {
        for datatype in Datatype::ALL {
            let name = datatype.as_str();
            let text = format!(
                "description = \"for tests\"\n[[inputs]]\nname = \"x\"\ndatatype = \"{name}\"\nshape = [\"N\", 3]\n\
                 [[outputs]]\nname = \"y\"\ndatatype = \"FP32\"\nshape = [\"N\"]\n"
            );
            let contract = Contract::parse(&text).expect("sound");
            let calls = calls(&contract);
            assert_eq!(calls.len(), 6, "{name}");
            for call in calls {
                assert_eq!(call.inputs[0].1.check(), Ok(()), "{name}: {}", call.how);
            }
        }
    }

    #[test]
    fn another_shape_or_type_is_a_difference_that_is_told() {
        let flat = floats(&[1.0, 2.0]);
        let column = NnTensor {
            dims: vec![2, 1],
            ..flat.clone()
        };
        let Compared::Other(what) = of(flat.clone(), column) else {
            panic!("they differ")
        };
        assert!(what.contains("[2] here and FP32 [2,1] there"), "{what}");
        let served = [("y".to_owned(), flat)];
        assert!(matches!(
            compare(&served, &[], TOLERANCE),
            Compared::Other(_)
        ));
        // An output that only the other backend has was not asked for.
        assert_eq!(compare(&[], &served, TOLERANCE), Compared::Same(0.0));
    }

    fn contract(input: &str) -> Contract {
        let text = format!(
            "description = \"\"\n[[inputs]]\nname = \"x\"\n{input}\n[[outputs]]\nname = \"y\"\ndatatype = \"FP32\"\nshape \
             = [\"N\"]\n"
        );
        Contract::parse(&text).unwrap_or_else(|faults| panic!("{faults:?}"))
    }

    #[test]
    fn made_up_calls_keep_the_contract_and_reach_its_ends() {
        let contract =
            contract("datatype = \"FP32\"\nshape = [\"N\", 8]\nminimum = -2.0\nmaximum = 5.0");
        let calls = calls(&contract);
        assert_eq!(calls.len(), 6);
        let mut seen = (f64::MAX, f64::MIN);
        for call in &calls {
            let (_, tensor) = &call.inputs[0];
            assert_eq!(tensor.dims[1], 8);
            for element in elements(tensor) {
                assert!((-2.0..=5.0).contains(&element), "{}: {element}", call.how);
                seen = (seen.0.min(element), seen.1.max(element));
            }
        }
        assert_eq!(seen, (-2.0, 5.0));
        assert!(
            calls.iter().any(|call| call.inputs[0].1.dims[0] == 2),
            "a longer one"
        );
    }

    #[test]
    fn integers_without_a_range_are_places_in_a_table_and_once_large() {
        let of = |datatype: &str| {
            let calls = calls(&contract(&format!(
                "datatype = \"{datatype}\"\nshape = [\"N\", 4]"
            )));
            let all = calls.iter().flat_map(|call| elements(&call.inputs[0].1));
            all.fold((f64::MAX, f64::MIN), |(low, high), n| {
                (low.min(n), high.max(n))
            })
        };
        assert_eq!(of("INT64"), (0.0, LARGE));
        assert_eq!(of("UINT8"), (0.0, 255.0));
        assert_eq!(of("BOOL"), (0.0, 1.0));
        let (low, high) = of("FP32");
        assert_eq!((low, high), (-FAR, FAR));
    }
}
