//! Parses a JSON value into a tensor. Its numbers go directly into the tensor's bytes in one pass; the nesting of the
//! arrays gives the shape.

use crate::check::{self, Role};
use crate::contract::{Dim, TensorSpec};
use crate::datatype::Datatype;
use crate::excerpt::excerpt;
use crate::fp8::Fp8;
use crate::json::{Kind, Names, Scan, Scanner};
use crate::number::{Decimal, NumberFault, Short};
use crate::rejection::Violations;
use crate::tensor::push_byte_string;
use penstock_core::Violation;
use penstock_core::ids::MAX_MODEL_NAME_BYTES;
use penstock_core::violation::escape_pointer_token;
use std::fmt::Write;

/// Longest number that a message repeats, in bytes.
const MAX_NUMBER_EXCERPT_BYTES: usize = 40;

/// The value of a request parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum ParameterValue {
    /// The JSON value `true` or `false`.
    Bool(bool),
    /// A number that is an integer of at most 20 digits, however it is written: `4`, `4.0` or `4e0`.
    Integer(i128),
    /// Any other number, which must be finite.
    Number(f64),
    /// A JSON string of any content.
    String(String),
}

impl ParameterValue {
    /// Returns whether it is `false`, 0 or empty.
    pub(crate) fn is_nothing(&self) -> bool {
        match self {
            Self::Bool(value) => !value,
            Self::Integer(value) => *value == 0,
            Self::Number(value) => *value == 0.0,
            Self::String(value) => value.is_empty(),
        }
    }

    /// The value, if it is a string.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value for a message.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Number(value) => format!("{value:?}"),
            Self::String(value) => format!("{:?}", excerpt(value)),
        }
    }
}

/// The place of a tensor's value in the body. The pointer is written only for a violation.
#[derive(Clone, Copy)]
pub(crate) enum BodyLocation<'p> {
    /// The place `/inputs` as a whole.
    Inputs,
    /// The place `/inputs/<name>`, of `:predict`.
    Named(&'p str),
    /// The place `/inputs/<index>/data`, of the Open Inference Protocol.
    Data(usize),
    /// The place `/<name>`: a member of the body itself.
    Member(&'p str),
    /// The place `/parameters/<name>`.
    Parameter(&'p str),
}

impl BodyLocation<'_> {
    pub(crate) fn pointer(&self) -> String {
        match self {
            BodyLocation::Inputs => "/inputs".to_owned(),
            BodyLocation::Named(name) => format!("/inputs/{}", escape_pointer_token(name)),
            BodyLocation::Data(index) => format!("/inputs/{index}/data"),
            BodyLocation::Member(name) => format!("/{}", escape_pointer_token(name)),
            BodyLocation::Parameter(name) => format!("/parameters/{}", escape_pointer_token(name)),
        }
    }
}

/// The result of parsing a value.
pub(crate) struct Values {
    /// The bytes of the elements, little-endian.
    pub(crate) data: Vec<u8>,
    /// The number of elements.
    pub(crate) count: u64,
    /// The shape; `None` if the nesting gives none, which is reported already.
    pub(crate) shape: Option<Vec<u64>>,
}

/// Parses a value nested as deep as the contract's shape. Violations go to `sink`; only broken syntax is an error.
pub(crate) fn read_nested<'a>(
    scanner: &mut Scanner<'a>,
    spec: &TensorSpec,
    place: BodyLocation<'_>,
    has_batch_axis: bool,
    sink: &mut Violations,
) -> Scan<Values> {
    let rank = spec.shape.len();
    let kind = scanner.kind()?;
    let (levels, innermost_empty) = scanner.nesting();
    let mut reader = Reader::new(scanner, spec, place, sink);
    let cut_short = levels < rank && innermost_empty;
    if levels != rank && !cut_short {
        reader
            .sink
            .contract(|| wrong_rank(spec, place, levels, kind, has_batch_axis));
        reader.scanner.skip_value()?;
        return Ok(reader.finish(false));
    }
    match spec.datatype {
        Datatype::Bool => reader.all::<BoolElement>()?,
        Datatype::Uint8 => reader.all::<u8>()?,
        Datatype::Uint16 => reader.all::<u16>()?,
        Datatype::Uint32 => reader.all::<u32>()?,
        Datatype::Uint64 => reader.all::<u64>()?,
        Datatype::Int8 => reader.all::<i8>()?,
        Datatype::Int16 => reader.all::<i16>()?,
        Datatype::Int32 => reader.all::<i32>()?,
        Datatype::Int64 => reader.all::<i64>()?,
        Datatype::Fp16 => reader.all::<Fp16Element>()?,
        Datatype::Bf16 => reader.all::<Bf16Element>()?,
        Datatype::Fp32 => reader.all::<f32>()?,
        Datatype::Fp64 => reader.all::<f64>()?,
        Datatype::Bytes => reader.all::<StringElement>()?,
        Datatype::Int2 => reader.all::<NarrowElement<-2, 1>>()?,
        Datatype::Uint2 => reader.all::<NarrowElement<0, 3>>()?,
        Datatype::Int4 => reader.all::<NarrowElement<-8, 7>>()?,
        Datatype::Uint4 => reader.all::<NarrowElement<0, 15>>()?,
        Datatype::Fp8E4m3fn => reader.all::<Fp8Element<0>>()?,
        Datatype::Fp8E4m3fnuz => reader.all::<Fp8Element<1>>()?,
        Datatype::Fp8E5m2 => reader.all::<Fp8Element<2>>()?,
        Datatype::Fp8E5m2fnuz => reader.all::<Fp8Element<3>>()?,
    }
    Ok(reader.finish(true))
}

/// Parses one flat array of elements without regard to the contract's shape. The resulting shape is `[count]`. The caller has
/// seen the `[`.
pub(crate) fn read_flat<'a>(
    scanner: &mut Scanner<'a>,
    spec: &TensorSpec,
    place: BodyLocation<'_>,
    sink: &mut Violations,
) -> Scan<Values> {
    let mut reader = Reader::new(scanner, spec, place, sink);
    reader.lengths = vec![None];
    match spec.datatype {
        Datatype::Bool => reader.level::<BoolElement>(0)?,
        Datatype::Uint8 => reader.level::<u8>(0)?,
        Datatype::Uint16 => reader.level::<u16>(0)?,
        Datatype::Uint32 => reader.level::<u32>(0)?,
        Datatype::Uint64 => reader.level::<u64>(0)?,
        Datatype::Int8 => reader.level::<i8>(0)?,
        Datatype::Int16 => reader.level::<i16>(0)?,
        Datatype::Int32 => reader.level::<i32>(0)?,
        Datatype::Int64 => reader.level::<i64>(0)?,
        Datatype::Fp16 => reader.level::<Fp16Element>(0)?,
        Datatype::Bf16 => reader.level::<Bf16Element>(0)?,
        Datatype::Fp32 => reader.level::<f32>(0)?,
        Datatype::Fp64 => reader.level::<f64>(0)?,
        Datatype::Bytes => reader.level::<StringElement>(0)?,
        Datatype::Int2 => reader.level::<NarrowElement<-2, 1>>(0)?,
        Datatype::Uint2 => reader.level::<NarrowElement<0, 3>>(0)?,
        Datatype::Int4 => reader.level::<NarrowElement<-8, 7>>(0)?,
        Datatype::Uint4 => reader.level::<NarrowElement<0, 15>>(0)?,
        Datatype::Fp8E4m3fn => reader.level::<Fp8Element<0>>(0)?,
        Datatype::Fp8E4m3fnuz => reader.level::<Fp8Element<1>>(0)?,
        Datatype::Fp8E5m2 => reader.level::<Fp8Element<2>>(0)?,
        Datatype::Fp8E5m2fnuz => reader.level::<Fp8Element<3>>(0)?,
    }
    Ok(reader.finish(true))
}

fn wrong_rank(
    spec: &TensorSpec,
    place: BodyLocation<'_>,
    levels: usize,
    kind: Kind,
    has_batch_axis: bool,
) -> Violation {
    let (rank, shape) = (spec.shape.len(), spec.shape_text());
    let found = match levels {
        0 => kind.to_string(),
        1 => "1 level of arrays".to_owned(),
        _ => format!("{levels} levels of arrays"),
    };
    let remedy = if has_batch_axis && levels + 1 == rank {
        "wrap it in one more array, the outermost counts the items".to_owned()
    } else if rank == 0 {
        format!("send a single {} value", spec.datatype)
    } else {
        format!("nest arrays {rank} deep for shape {shape}")
    };
    let message = format!("input {:?} is {found}; {remedy}", spec.name);
    Violation::new(place.pointer(), "wrong_shape", shape, message)
}

/// The reason why an element is not valid. In the case of `Kind` nothing was consumed.
enum ElementFault<'a> {
    Kind,
    NotAnInteger(Decimal<'a>),
    OutOfRange(Decimal<'a>),
}

impl<'a> ElementFault<'a> {
    #[cold]
    fn of(fault: NumberFault, decimal: Decimal<'a>) -> Self {
        match fault {
            NumberFault::NotAnInteger => ElementFault::NotAnInteger(decimal),
            NumberFault::OutOfRange => ElementFault::OutOfRange(decimal),
        }
    }
}

/// Parses the elements of one datatype.
trait Element {
    /// The fast path for a row: appends the number and returns true if it fits. If it returns false, [`Self::read`]
    /// decides.
    #[inline(always)]
    fn push_short(_short: Short<'_>, _data: &mut Vec<u8>) -> bool {
        false
    }

    /// Whether [`Self::push_short`] is worth trying.
    const IS_NUMBER: bool = false;

    fn read<'a>(
        scanner: &mut Scanner<'a>,
        data: &mut Vec<u8>,
    ) -> Scan<Result<(), ElementFault<'a>>>;
}

#[inline(always)]
fn read_number<'a, const SIZE: usize>(
    scanner: &mut Scanner<'a>,
    data: &mut Vec<u8>,
    convert: impl FnOnce(&Decimal<'a>) -> Result<[u8; SIZE], NumberFault>,
) -> Scan<Result<(), ElementFault<'a>>> {
    let Some(number) = scanner.number_here() else {
        return Ok(if scanner.kind()? == Kind::Number {
            // Unreachable by construction, but harmless: read it the ordinary way.
            Err(ElementFault::OutOfRange(scanner.number()?))
        } else {
            Err(ElementFault::Kind)
        });
    };
    let decimal = number?;
    match convert(&decimal) {
        Ok(bytes) => {
            data.extend_from_slice(&bytes);
            Ok(Ok(()))
        }
        Err(fault) => Ok(Err(ElementFault::of(fault, decimal))),
    }
}

macro_rules! integer_elements {
    ($($type:ty, $convert:ident;)*) => {$(
        impl Element for $type {
            const IS_NUMBER: bool = true;

            #[inline(always)]
            fn push_short(short: Short<'_>, data: &mut Vec<u8>) -> bool {
                match short.to_i64().map(<$type>::try_from) {
                    Some(Ok(value)) => {
                        data.extend_from_slice(&value.to_le_bytes());
                        true
                    }
                    _ => false,
                }
            }

            fn read<'a>(scanner: &mut Scanner<'a>, data: &mut Vec<u8>) -> Scan<Result<(), ElementFault<'a>>> {
                read_number(scanner, data, |decimal| {
                    let value = decimal.$convert()?;
                    <$type>::try_from(value).map(<$type>::to_le_bytes).map_err(|_| NumberFault::OutOfRange)
                })
            }
        }
    )*};
}

integer_elements! {
    u8, to_u64; u16, to_u64; u32, to_u64; u64, to_u64;
    i8, to_i64; i16, to_i64; i32, to_i64; i64, to_i64;
}

macro_rules! float_elements {
    ($($type:ty, $convert:ident, $write:path;)*) => {$(
        impl Element for $type {
            const IS_NUMBER: bool = true;

            #[inline(always)]
            fn push_short(short: Short<'_>, data: &mut Vec<u8>) -> bool {
                match short.$convert() {
                    Some(value) => {
                        data.extend_from_slice(&$write(value));
                        true
                    }
                    None => false,
                }
            }

            fn read<'a>(scanner: &mut Scanner<'a>, data: &mut Vec<u8>) -> Scan<Result<(), ElementFault<'a>>> {
                read_number(scanner, data, |decimal| decimal.$convert().map($write))
            }
        }
    )*};
}

struct Fp16Element;
struct Bf16Element;

float_elements! {
    f32, to_f32, f32::to_le_bytes;
    f64, to_f64, f64::to_le_bytes;
    Fp16Element, to_f16_bits, u16::to_le_bytes;
    Bf16Element, to_bf16_bits, u16::to_le_bytes;
}

/// An integer of less than a byte.
struct NarrowElement<const LEAST: i8, const GREATEST: i8>;

impl<const LEAST: i8, const GREATEST: i8> Element for NarrowElement<LEAST, GREATEST> {
    const IS_NUMBER: bool = true;

    fn read<'a>(
        scanner: &mut Scanner<'a>,
        data: &mut Vec<u8>,
    ) -> Scan<Result<(), ElementFault<'a>>> {
        read_number(scanner, data, |decimal| {
            let value = i8::try_from(decimal.to_i64()?).map_err(|_| NumberFault::OutOfRange)?;
            match (LEAST..=GREATEST).contains(&value) {
                true => Ok(value.to_le_bytes()),
                false => Err(NumberFault::OutOfRange),
            }
        })
    }
}

/// A number of the format at this index of [`Fp8::ALL`].
struct Fp8Element<const FORMAT: usize>;

impl<const FORMAT: usize> Element for Fp8Element<FORMAT> {
    const IS_NUMBER: bool = true;

    fn read<'a>(
        scanner: &mut Scanner<'a>,
        data: &mut Vec<u8>,
    ) -> Scan<Result<(), ElementFault<'a>>> {
        const { assert!(FORMAT < Fp8::ALL.len()) };
        read_number(scanner, data, |decimal| {
            decimal.to_fp8(Fp8::ALL[FORMAT]).map(u8::to_le_bytes)
        })
    }
}

struct BoolElement;

impl Element for BoolElement {
    fn read<'a>(
        scanner: &mut Scanner<'a>,
        data: &mut Vec<u8>,
    ) -> Scan<Result<(), ElementFault<'a>>> {
        if scanner.kind()? != Kind::Boolean {
            return Ok(Err(ElementFault::Kind));
        }
        data.push(u8::from(scanner.boolean()?));
        Ok(Ok(()))
    }
}

struct StringElement;

impl Element for StringElement {
    fn read<'a>(
        scanner: &mut Scanner<'a>,
        data: &mut Vec<u8>,
    ) -> Scan<Result<(), ElementFault<'a>>> {
        if scanner.kind()? != Kind::String {
            return Ok(Err(ElementFault::Kind));
        }
        let text = scanner.string()?;
        // A string over 4 GiB needs a larger body, which no limit admits.
        Ok(if push_byte_string(data, text.as_bytes()) {
            Ok(())
        } else {
            Err(ElementFault::Kind)
        })
    }
}

struct Reader<'s, 'a> {
    scanner: &'s mut Scanner<'a>,
    spec: &'s TensorSpec,
    place: BodyLocation<'s>,
    sink: &'s mut Violations,
    data: Vec<u8>,
    count: u64,
    /// The length of the first array at each level.
    lengths: Vec<Option<u64>>,
    /// The place of the current value: an index at each level above the innermost.
    index: Vec<u64>,
    ragged: bool,
}

impl<'s, 'a> Reader<'s, 'a> {
    fn new(
        scanner: &'s mut Scanner<'a>,
        spec: &'s TensorSpec,
        place: BodyLocation<'s>,
        sink: &'s mut Violations,
    ) -> Self {
        let element_bytes = spec.datatype.size_bytes().unwrap_or(1);
        // An element takes at least two bytes of JSON, so the bytes that have arrived bound the reservation.
        let arrived = scanner.remaining_bytes() / 2 + 1;
        let elements = usize::try_from(spec.least_elements())
            .unwrap_or(usize::MAX)
            .min(arrived);
        Self {
            data: Vec::with_capacity(elements.saturating_mul(element_bytes)),
            count: 0,
            lengths: vec![None; spec.shape.len()],
            index: Vec::with_capacity(spec.shape.len()),
            ragged: false,
            scanner,
            spec,
            place,
            sink,
        }
    }

    fn finish(self, read: bool) -> Values {
        let whole = read && !self.ragged;
        // The levels below an empty array are unknown. If the tensor may be empty, a fixed axis has its length there, and
        // another axis is empty too.
        let unmet = |dim: &Dim| match dim {
            Dim::Fixed(length) if self.spec.may_be_empty => *length,
            _ => 0,
        };
        let shape = (self.lengths.iter().zip(&self.spec.shape))
            .map(|(length, dim)| length.unwrap_or_else(|| unmet(dim)))
            .chain(
                self.lengths
                    .iter()
                    .skip(self.spec.shape.len())
                    .map(|length| length.unwrap_or(0)),
            )
            .collect();
        Values {
            data: self.data,
            count: self.count,
            shape: whole.then_some(shape),
        }
    }

    /// Parses the whole value: a scalar, or arrays as deep as the shape.
    fn all<E: Element>(&mut self) -> Scan<()> {
        if self.lengths.is_empty() {
            if let Err(fault) = E::read(self.scanner, &mut self.data)? {
                self.element_fault(fault, None)?;
            }
            self.count = 1;
            return Ok(());
        }
        self.level::<E>(0)
    }

    fn level<E: Element>(&mut self, level: usize) -> Scan<()> {
        let length = if level + 1 == self.lengths.len() {
            self.row::<E>()?
        } else {
            let mut length = 0;
            let mut more = self.scanner.open_array()?;
            self.index.push(0);
            while more {
                if let Some(last) = self.index.last_mut() {
                    *last = length;
                }
                match self.scanner.kind()? {
                    Kind::Array => self.level::<E>(level + 1)?,
                    kind => self.not_an_array(kind)?,
                }
                length += 1;
                more = self.scanner.next_element()?;
            }
            self.index.pop();
            length
        };
        match self.lengths.get_mut(level) {
            Some(Some(first)) if *first != length => {
                let first = *first;
                self.uneven(length, first);
            }
            Some(unset @ None) => *unset = Some(length),
            _ => {}
        }
        Ok(())
    }

    /// The innermost level, which is the hot loop. Short numbers followed by a comma take the fast path; all others use the
    /// scanner.
    fn row<E: Element>(&mut self) -> Scan<u64> {
        let mut length = 0;
        let mut more = self.scanner.open_array()?;
        while more {
            if E::IS_NUMBER {
                length += self
                    .scanner
                    .short_numbers(|short| E::push_short(short, &mut self.data));
            }
            if let Err(fault) = E::read(self.scanner, &mut self.data)? {
                self.element_fault(fault, Some(length))?;
            }
            length += 1;
            more = self.scanner.next_element()?;
        }
        self.count += length;
        Ok(length)
    }

    #[cold]
    #[inline(never)]
    fn uneven(&mut self, length: u64, first: u64) {
        self.ragged = true;
        let (place, index) = (self.place, &self.index);
        let pointer = || pointer_to(place, index, None);
        self.sink.contract(|| {
            let message = format!(
                "an array of input {:?} has {length} elements, and the first array at this level has {first}; make \
                 them equally long",
                self.spec.name
            );
            Violation::new(pointer(), "ragged", format!("{first} elements"), message)
        });
    }

    #[cold]
    #[inline(never)]
    fn not_an_array(&mut self, kind: Kind) -> Scan<()> {
        self.ragged = true;
        let (place, index) = (self.place, &self.index);
        let pointer = || pointer_to(place, index, None);
        self.sink.contract(|| {
            let message = format!(
                "input {:?} has {kind} where an array is expected; nest every part equally deep",
                self.spec.name
            );
            Violation::new(pointer(), "ragged", "an array", message)
        });
        self.scanner.skip_value()
    }

    /// Reports an element that is not valid, and stores a substitute in its place.
    #[cold]
    #[inline(never)]
    fn element_fault(&mut self, fault: ElementFault<'a>, last: Option<u64>) -> Scan<()> {
        let kind = match fault {
            ElementFault::Kind => Some(self.scanner.kind()?),
            _ => None,
        };
        let (spec, place, index) = (self.spec, self.place, &self.index);
        let pointer = || pointer_to(place, index, last);
        let datatype = spec.datatype;
        self.sink.contract(|| match fault {
            ElementFault::NotAnInteger(decimal) => {
                let found = number_excerpt(&decimal);
                let message = format!(
                    "{found} in input {:?} is not an integer; {datatype} takes integers",
                    spec.name
                );
                Violation::new(pointer(), "not_an_integer", integer_text(datatype), message)
            }
            ElementFault::OutOfRange(decimal) => {
                let found = number_excerpt(&decimal);
                let message = format!(
                    "{found} in input {:?} does not fit {datatype}; send {}",
                    spec.name,
                    number_text(datatype)
                );
                Violation::new(
                    pointer(),
                    "number_out_of_range",
                    number_text(datatype),
                    message,
                )
            }
            ElementFault::Kind => {
                let (rule, expected) = match kind {
                    Some(Kind::Array) => ("ragged", element_text(datatype)),
                    _ => ("wrong_datatype", element_text(datatype)),
                };
                let found = kind.map_or_else(|| "a value".to_owned(), |kind| kind.to_string());
                let message = format!(
                    "input {:?} has {found} where {expected} is expected; send {datatype} elements",
                    spec.name
                );
                Violation::new(pointer(), rule, expected, message)
            }
        });
        if let Some(kind) = kind {
            self.ragged |= kind == Kind::Array;
            self.scanner.skip_value()?;
        }
        self.data.extend_from_slice(&check::placeholder(self.spec));
        Ok(())
    }
}

fn pointer_to(place: BodyLocation<'_>, index: &[u64], last: Option<u64>) -> String {
    let mut pointer = place.pointer();
    for index in index.iter().chain(&last) {
        // Writing to a string cannot fail.
        let _ = write!(pointer, "/{index}");
    }
    pointer
}

fn number_excerpt(decimal: &Decimal<'_>) -> String {
    let text = String::from_utf8_lossy(
        decimal
            .text
            .get(..MAX_NUMBER_EXCERPT_BYTES)
            .unwrap_or(decimal.text),
    );
    if decimal.text.len() > MAX_NUMBER_EXCERPT_BYTES {
        format!("{text}…")
    } else {
        text.into_owned()
    }
}

fn element_text(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "true or false",
        Datatype::Bytes => "a string",
        other if other.is_float() => "a finite number",
        _ => "an integer",
    }
}

fn integer_text(datatype: Datatype) -> String {
    number_text(datatype)
}

fn number_text(datatype: Datatype) -> String {
    match datatype.integer_range() {
        Some((least, greatest)) => format!("an integer from {least} to {greatest}"),
        None => {
            let greatest = match datatype {
                Datatype::Fp16 => "65504",
                Datatype::Bf16 => "3.3895314e38",
                Datatype::Fp32 => "3.4028235e38",
                Datatype::Fp8E4m3fn => "448",
                Datatype::Fp8E4m3fnuz => "240",
                Datatype::Fp8E5m2 | Datatype::Fp8E5m2fnuz => "57344",
                _ => "1.7976931348623157e308",
            };
            format!("a number of magnitude at most {greatest}")
        }
    }
}

/// Checks a value's shape and the range of its elements after [`read_nested`]. Returns the shape if it meets the contract.
pub(crate) fn check_nested(
    values: &Values,
    spec: &TensorSpec,
    place: BodyLocation<'_>,
    sink: &mut Violations,
) -> bool {
    let Some(shape) = &values.shape else {
        return false;
    };
    let fits = check::shape(spec, shape, Role::Input, sink, || place.pointer());
    check::range(spec, &values.data, Role::Input, sink, |index| {
        let index = check::nested_index(index, shape);
        format!("{}{index}", place.pointer()).into()
    });
    fits
}

/// Parses a `parameters` object of scalars; `null` counts as absent. `pointer` names the object.
pub(crate) fn read_parameters<'a>(
    scanner: &mut Scanner<'a>,
    sink: &mut Violations,
    pointer: impl Fn() -> String,
) -> Scan<Vec<(String, ParameterValue)>> {
    let mut parameters = Vec::new();
    if scanner.skip_null()? {
        return Ok(parameters);
    }
    let kind = scanner.kind()?;
    if kind != Kind::Object {
        sink.form(|| wrong_type(pointer(), "parameters", "an object", kind));
        scanner.skip_value()?;
        return Ok(parameters);
    }
    let mut names = Names::default();
    let mut member = scanner.open_object(&mut names)?;
    while let Some(name) = member {
        if let Some(value) = read_parameter(scanner, sink, &name, &pointer)? {
            parameters.push((name.into_owned(), value));
        }
        member = scanner.next_member(&mut names)?;
    }
    Ok(parameters)
}

/// Parses the value of one parameter: a scalar, or `null` for none. `pointer` names its object.
pub(crate) fn read_parameter(
    scanner: &mut Scanner<'_>,
    sink: &mut Violations,
    name: &str,
    pointer: impl Fn() -> String,
) -> Scan<Option<ParameterValue>> {
    let at = || format!("{}/{}", pointer(), escape_pointer_token(&excerpt(name)));
    Ok(match scanner.kind()? {
        Kind::Null => {
            scanner.null()?;
            None
        }
        Kind::String => Some(ParameterValue::String(scanner.string()?.into_owned())),
        Kind::Boolean => Some(ParameterValue::Bool(scanner.boolean()?)),
        Kind::Number => {
            let decimal = scanner.number()?;
            let value = match decimal.to_i128() {
                Ok(integer) => Ok(ParameterValue::Integer(integer)),
                Err(_) => decimal.to_f64().map(ParameterValue::Number),
            };
            if value.is_err() {
                sink.form(|| {
                    let message = format!(
                        "parameter {:?} is a number beyond double precision; send a smaller one",
                        excerpt(name)
                    );
                    Violation::new(
                        at(),
                        "number_out_of_range",
                        number_text(Datatype::Fp64),
                        message,
                    )
                });
            }
            value.ok()
        }
        kind => {
            sink.form(|| {
                let label = format!("parameter {:?}", excerpt(name));
                wrong_type(at(), &label, "a string, a number or a boolean", kind)
            });
            scanner.skip_value()?;
            None
        }
    })
}

/// Longest `id` of a request, in bytes. The answer and the logs repeat it.
pub const MAX_ID_BYTES: usize = 256;

/// Reads the value of `id`: a string of at most [`MAX_ID_BYTES`], or `null` for none.
pub(crate) fn read_id(scanner: &mut Scanner<'_>, sink: &mut Violations) -> Scan<Option<String>> {
    read_word(scanner, sink, "id", "id_too_long", MAX_ID_BYTES)
}

/// The most bytes of a version's number or alias.
const MAX_VERSION_BYTES: usize = 64;

pub(crate) fn read_version(
    scanner: &mut Scanner<'_>,
    sink: &mut Violations,
) -> Scan<Option<String>> {
    let (name, rule) = ("model_version", "version_too_long");
    read_word(scanner, sink, name, rule, MAX_VERSION_BYTES)
}

/// Reads the `model_name` that clients repeat in the body.
pub(crate) fn read_model_name(
    scanner: &mut Scanner<'_>,
    sink: &mut Violations,
) -> Scan<Option<String>> {
    let (name, rule) = ("model_name", "model_name_too_long");
    read_word(scanner, sink, name, rule, MAX_MODEL_NAME_BYTES)
}

/// A string of bounded length; `null` is none.
fn read_word(
    scanner: &mut Scanner<'_>,
    sink: &mut Violations,
    name: &'static str,
    rule: &'static str,
    most_bytes: usize,
) -> Scan<Option<String>> {
    if scanner.skip_null()? {
        return Ok(None);
    }
    let kind = scanner.kind()?;
    if kind != Kind::String {
        sink.form(|| wrong_type(format!("/{name}"), name, "a string", kind));
        scanner.skip_value()?;
        return Ok(None);
    }
    let word = scanner.string()?;
    if word.len() > most_bytes {
        sink.form(|| {
            let message = format!("{name} has {} bytes; send at most {most_bytes}", word.len());
            let expected = format!("at most {most_bytes} bytes");
            Violation::new(format!("/{name}"), rule, expected, message)
        });
        return Ok(None);
    }
    Ok(Some(word.into_owned()))
}

pub(crate) fn wrong_type(pointer: String, what: &str, expected: &str, found: Kind) -> Violation {
    let message = format!("{what} is {found}; send {expected}");
    Violation::new(pointer, "wrong_type", expected, message)
}

pub(crate) fn unknown_member(parent: &str, name: &str, known: &[&str]) -> Violation {
    let known = known.join(", ");
    let name = excerpt(name);
    let pointer = format!("{parent}/{}", escape_pointer_token(&name));
    let message =
        format!("{name:?} is not a member of this form; remove it, or use one of: {known}");
    Violation::new(
        pointer,
        "unknown_member",
        format!("one of: {known}"),
        message,
    )
}

pub(crate) fn missing_member(parent: &str, name: &str, expected: &str) -> Violation {
    let place = if parent.is_empty() {
        "the body"
    } else {
        parent
    };
    let message = format!("{place} has no {name:?}; send {expected}");
    Violation::new(parent, "missing_member", expected, message)
}
