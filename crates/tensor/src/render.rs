//! Writes tensors as JSON. Numbers have the shortest form that parses to the same bits. NaN and infinities become `null`, and
//! their number is returned, so that an answer can report it.

use crate::append::{MAX_SHORT_BYTES, push_short};
use crate::buffer::Buffer;
use crate::contract::{Contract, TensorSpec, wire_shape};
use crate::datatype::Datatype;
use crate::fp8::Fp8;
use crate::tensor::{ByteStrings, Tensor};

/// Number of classes in `top`: enough to see the alternatives.
pub const TOP_CLASSES: usize = 5;

/// Most brackets of a tensor without elements. Its shape may claim any number of empty rows. A tensor with more is written as
/// `[]`.
const MAX_EMPTY_ROWS: u64 = 65_536;

/// Writes a tensor as arrays nested by its shape, or as a bare value if its shape is `[]`. Returns the number of elements that
/// were replaced: non-finite numbers (by `null`) and byte strings that are not UTF-8 (with U+FFFD). A tensor whose data does
/// not fit its shape becomes `null`.
pub fn write_nested(out: &mut Vec<u8>, tensor: &Tensor) -> u64 {
    let Some(mut elements) = Elements::new(tensor) else {
        out.extend_from_slice(b"null");
        return 1;
    };
    elements.nested(out, &tensor.shape);
    elements.replaced
}

/// Like [`write_nested`], with another shape of as many elements.
pub(crate) fn write_value(out: &mut Vec<u8>, tensor: &Tensor, shape: &[u64]) -> u64 {
    let Some(mut elements) = Elements::new(tensor) else {
        out.extend_from_slice(b"null");
        return 1;
    };
    elements.nested(out, shape);
    elements.replaced
}

/// Writes a tensor's elements as one flat array, in row-major order; counts like [`write_nested`].
pub fn write_flat(out: &mut Vec<u8>, tensor: &Tensor) -> u64 {
    let Some(mut elements) = Elements::new(tensor) else {
        out.extend_from_slice(b"null");
        return 1;
    };
    elements.row(out, tensor.elements().unwrap_or(0));
    elements.replaced
}

/// Writes the slice at `index` along the first axis, nested by the other axes; counts like
/// [`write_nested`]. Writes `null` if there is no such slice. A tensor of `BYTES` is walked from its start each time.
pub fn write_item(out: &mut Vec<u8>, tensor: &Tensor, index: u64) -> u64 {
    let sliced = Elements::new(tensor).and_then(|elements| {
        let (first, rest) = tensor.shape.split_first()?;
        let each = crate::tensor::elements(rest)?;
        (index < *first).then_some(())?;
        Some((elements.from(index.checked_mul(each)?)?, rest))
    });
    let Some((mut elements, rest)) = sliced else {
        out.extend_from_slice(b"null");
        return 1;
    };
    elements.nested(out, rest);
    elements.replaced
}

/// The number of elements of a tensor that the writers replace; see [`write_nested`].
pub fn unrepresentable(tensor: &Tensor) -> u64 {
    let count = match tensor.datatype {
        Datatype::Fp16 => {
            let chunks = tensor.data.as_chunks::<2>().0.iter();
            chunks
                .filter(|b| !half::f16::from_le_bytes(**b).is_finite())
                .count()
        }
        Datatype::Bf16 => {
            let chunks = tensor.data.as_chunks::<2>().0.iter();
            chunks
                .filter(|b| !half::bf16::from_le_bytes(**b).is_finite())
                .count()
        }
        Datatype::Fp32 => {
            let chunks = tensor.data.as_chunks::<4>().0.iter();
            chunks
                .filter(|b| !f32::from_le_bytes(**b).is_finite())
                .count()
        }
        Datatype::Fp64 => {
            let chunks = tensor.data.as_chunks::<8>().0.iter();
            chunks
                .filter(|b| !f64::from_le_bytes(**b).is_finite())
                .count()
        }
        datatype if let Some(format) = Fp8::of(datatype) => {
            let bytes = tensor.data.iter();
            bytes
                .filter(|byte| !format.to_f64(**byte).is_finite())
                .count()
        }
        Datatype::Bytes => ByteStrings::new(&tensor.data)
            .filter(|b| std::str::from_utf8(b).is_err())
            .count(),
        _ => 0,
    };
    count as u64
}

/// The elements of a consistent tensor, written one after another.
struct Elements<'t> {
    datatype: Datatype,
    rest: &'t [u8],
    strings: ByteStrings<'t>,
    replaced: u64,
}

impl<'t> Elements<'t> {
    fn new(tensor: &'t Tensor) -> Option<Self> {
        tensor.is_consistent().then(|| Self {
            datatype: tensor.datatype,
            rest: &tensor.data,
            strings: ByteStrings::new(&tensor.data),
            replaced: 0,
        })
    }

    /// The same without the first `skipped` elements.
    fn from(mut self, skipped: u64) -> Option<Self> {
        let skipped = usize::try_from(skipped).ok()?;
        match self.datatype.size_bytes() {
            Some(size) => self.rest = self.rest.get(skipped.checked_mul(size)?..)?,
            None => {
                for _ in 0..skipped {
                    self.strings.next()?;
                }
            }
        }
        Some(self)
    }

    fn nested(&mut self, out: &mut Vec<u8>, shape: &[u64]) {
        match shape {
            [] => self.elements(out, 1),
            [length] => self.row(out, *length),
            [length, rest @ ..] => {
                let empty = shape.contains(&0);
                if empty {
                    let rows = shape.iter().take_while(|axis| **axis > 0);
                    let rows = rows.fold(1u64, |product, axis| product.saturating_mul(*axis));
                    if rows > MAX_EMPTY_ROWS {
                        out.extend_from_slice(b"[]");
                        return;
                    }
                }
                out.push(b'[');
                for index in 0..*length {
                    if index > 0 {
                        out.push(b',');
                    }
                    self.nested(out, rest);
                }
                out.push(b']');
            }
        }
    }

    fn row(&mut self, out: &mut Vec<u8>, length: u64) {
        out.push(b'[');
        self.elements(out, length);
        out.push(b']');
    }

    /// Writes the next `length` elements with commas between them.
    fn elements(&mut self, out: &mut Vec<u8>, length: u64) {
        macro_rules! each {
            ($size:literal, $write:expr) => {{
                // The tensor is consistent, so the elements are there.
                let bytes = usize::try_from(length).unwrap_or(0).saturating_mul($size);
                let (here, rest) = self
                    .rest
                    .split_at_checked(bytes)
                    .unwrap_or((&[], self.rest));
                self.rest = rest;
                for (index, element) in here.as_chunks::<$size>().0.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    #[allow(clippy::redundant_closure_call)]
                    $write(&mut *out, *element);
                }
            }};
        }
        macro_rules! integers {
            ($type:ty, $size:literal) => {{
                let mut buffer = itoa::Buffer::new();
                each!($size, |out: &mut Vec<u8>, bytes| {
                    let text = buffer.format(<$type>::from_le_bytes(bytes));
                    push_short(out, text.as_bytes());
                })
            }};
        }
        macro_rules! floats {
            ($size:literal, $read:expr) => {{
                let mut buffer = zmij::Buffer::new();
                let mut replaced = 0;
                each!($size, |out: &mut Vec<u8>, bytes| {
                    let value = $read(bytes);
                    if value.is_finite() {
                        push_short(out, buffer.format_finite(value).as_bytes());
                    } else {
                        out.extend_from_slice(b"null");
                        replaced += 1;
                    }
                });
                self.replaced += replaced;
            }};
        }
        match self.datatype {
            Datatype::Bool => each!(1, |out: &mut Vec<u8>, [byte]: [u8; 1]| {
                out.extend_from_slice(if byte == 0 { b"false" } else { b"true" });
            }),
            Datatype::Uint8 => integers!(u8, 1),
            Datatype::Uint16 => integers!(u16, 2),
            Datatype::Uint32 => integers!(u32, 4),
            Datatype::Uint64 => integers!(u64, 8),
            Datatype::Int8 => integers!(i8, 1),
            Datatype::Int16 => integers!(i16, 2),
            Datatype::Int32 => integers!(i32, 4),
            Datatype::Int64 => integers!(i64, 8),
            Datatype::Fp16 => floats!(2, |bytes| half::f16::from_le_bytes(bytes).to_f32()),
            Datatype::Bf16 => floats!(2, |bytes| half::bf16::from_le_bytes(bytes).to_f32()),
            Datatype::Fp32 => floats!(4, f32::from_le_bytes),
            Datatype::Fp64 => floats!(8, f64::from_le_bytes),
            Datatype::Int2 | Datatype::Int4 => integers!(i8, 1),
            Datatype::Uint2 | Datatype::Uint4 => integers!(u8, 1),
            Datatype::Fp8E4m3fn
            | Datatype::Fp8E4m3fnuz
            | Datatype::Fp8E5m2
            | Datatype::Fp8E5m2fnuz => {
                if let Some(format) = Fp8::of(self.datatype) {
                    floats!(1, |[byte]: [u8; 1]| format.to_f64(byte) as f32);
                }
            }
            Datatype::Bytes => {
                for index in 0..length {
                    let Some(element) = self.strings.next() else {
                        break;
                    };
                    if index > 0 {
                        out.push(b',');
                    }
                    match std::str::from_utf8(element) {
                        Ok(text) => write_string(out, text),
                        Err(_) => {
                            write_string(out, &String::from_utf8_lossy(element));
                            self.replaced += 1;
                        }
                    }
                }
            }
        }
    }
}

/// Writes a JSON string with its quotes. Escapes only the characters that RFC 8259 §7 requires.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut written = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0x08 => b"\\b",
            0x0C => b"\\f",
            0x00..=0x1F => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let [high, low] = [byte >> 4, byte & 15].map(|n| HEX[usize::from(n)]);
                out.extend_from_slice(bytes.get(written..at).unwrap_or_default());
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
                written = at + 1;
                continue;
            }
            _ => continue,
        };
        out.extend_from_slice(bytes.get(written..at).unwrap_or_default());
        out.extend_from_slice(escape);
        written = at + 1;
    }
    match bytes.get(written..).unwrap_or_default() {
        short if short.len() <= MAX_SHORT_BYTES => push_short(out, short),
        long => out.extend_from_slice(long),
    }
    out.push(b'"');
}

/// Writes `"name":` with a comma before it unless it is the first member.
pub(crate) fn write_name(out: &mut Vec<u8>, name: &str) {
    if !matches!(out.last(), Some(b'{')) {
        out.push(b',');
    }
    write_string(out, name);
    out.push(b':');
}

/// The longest text of an element of a type, with its comma.
fn longest(datatype: Datatype) -> usize {
    match datatype {
        Datatype::Uint8 => "255,".len(),
        Datatype::Int8 => "-128,".len(),
        Datatype::Bool => "false,".len(),
        Datatype::Uint16 => "65535,".len(),
        Datatype::Int16 => "-32768,".len(),
        Datatype::Uint32 => "4294967295,".len(),
        Datatype::Int32 => "-2147483648,".len(),
        Datatype::Int2 | Datatype::Uint2 | Datatype::Int4 | Datatype::Uint4 => "-8,".len(),
        Datatype::Fp16
        | Datatype::Bf16
        | Datatype::Fp32
        | Datatype::Fp8E4m3fn
        | Datatype::Fp8E4m3fnuz
        | Datatype::Fp8E5m2
        | Datatype::Fp8E5m2fnuz => "-0.000012345678,".len() + 1,
        Datatype::Uint64 | Datatype::Int64 => "-9223372036854775808,".len(),
        Datatype::Fp64 => "-0.00001234567890123456,".len() + 2,
        Datatype::Bytes => 0,
    }
}

/// The most bytes of brackets and commas around the elements, for any nesting.
fn bracket_bytes(shape: &[u64]) -> usize {
    let mut brackets: u64 = 3;
    if shape.contains(&0) {
        brackets += MAX_EMPTY_ROWS * 3 * shape.len() as u64;
    } else {
        let mut rows: u64 = 1;
        // The commas of the innermost axis are counted with its elements.
        for axis in shape.split_last().map_or(&[][..], |(_, outer)| outer) {
            rows = rows.saturating_mul(*axis);
            brackets = brackets.saturating_add(rows.saturating_mul(3));
        }
    }
    usize::try_from(brackets).unwrap_or(usize::MAX)
}

/// The most bytes of a tensor's elements as JSON.
fn most_bytes(tensor: &Tensor) -> usize {
    match tensor.datatype.size_bytes() {
        Some(size) => (tensor.data.len() / size).saturating_mul(longest(tensor.datatype)),
        // Six for a byte that is escaped or replaced, quotes and a comma for each four of a length.
        None => tensor.data.len().saturating_mul(6),
    }
}

/// Elements that are written at once to measure their length.
const COUNTED_AT_ONCE: u64 = 4096;

/// Measures the bytes of a tensor's elements as JSON, by writing and discarding them.
fn counted_bytes(tensor: &Tensor) -> usize {
    let Some(mut elements) = Elements::new(tensor) else {
        return 0;
    };
    let mut scratch = Vec::new();
    let mut bytes = 0usize;
    let mut left = tensor.elements().unwrap_or(0);
    while left > 0 {
        let now = left.min(COUNTED_AT_ONCE);
        scratch.clear();
        elements.elements(&mut scratch, now);
        bytes = bytes.saturating_add(scratch.len() + 1);
        left -= now;
    }
    bytes
}

/// A form of outputs in an answer.
#[derive(Clone, Copy, Debug)]
pub enum Form<'c> {
    /// [`write_infer_response`], and the outputs that follow the JSON as bytes.
    Flat(&'c [bool]),
    /// The form of [`predictions`]: one JSON value for each item.
    Items(&'c Contract),
}

/// Bytes of an answer beside elements.
fn beside_bytes(outputs: &[Tensor], form: Form<'_>) -> usize {
    /// Datatype, shape and punctuation of one tensor or one class.
    const AROUND: usize = 96;
    let quoted = |text: &str| {
        let mut written = Vec::new();
        write_string(&mut written, text);
        written.len()
    };
    let names = || outputs.iter().map(|tensor| quoted(&tensor.name));
    let flat: usize = outputs
        .iter()
        .map(|tensor| AROUND + 21 * tensor.shape.len())
        .sum::<usize>()
        + names().sum::<usize>();
    let Form::Items(contract) = form else {
        return flat + AROUND;
    };
    // Each is written as `null`, independent of the shape that it claims.
    if !outputs.iter().all(Tensor::is_consistent) {
        return flat + AROUND;
    }
    let items = match contract.batch_axis() {
        None => 1,
        Some(_) => outputs
            .iter()
            .map(|tensor| tensor.shape.first().copied().unwrap_or(0))
            .min()
            .unwrap_or(0),
    };
    let items = usize::try_from(items).unwrap_or(usize::MAX);
    // A colon and a comma for each, and the braces.
    let each: usize = names().map(|name| name + 2).sum::<usize>() + 3;
    let labels = contract.labelled_output().map_or(0, |(_, labels)| {
        let longest = labels.iter().map(|label| quoted(label)).max().unwrap_or(0);
        (TOP_CLASSES + 2).saturating_mul(longest + AROUND)
    });
    outputs
        .iter()
        .map(|tensor| bracket_bytes(&tensor.shape))
        .fold(flat + AROUND, usize::saturating_add)
        .saturating_add(items.saturating_mul(each.saturating_add(labels)))
}

/// The bytes to reserve for these outputs as JSON, if memory has room for them `copies` times. Otherwise the error is the
/// number of bytes that are needed. The elements are measured only if their upper bound does not fit.
pub fn capacity(outputs: &[Tensor], form: Form<'_>, copies: usize) -> Result<usize, usize> {
    let beside = beside_bytes(outputs, form);
    let binary = match form {
        Form::Flat(binary) => binary,
        Form::Items(_) => &[],
    };
    // The number of bytes to write, and that of bytes to copy from the host before they are written.
    let total = |each: fn(&Tensor) -> usize| {
        let placed = outputs.iter().enumerate();
        placed.fold((beside, 0usize), |(bytes, copied), (index, tensor)| {
            let (more, copy) = match binary.get(index) {
                // Its bytes stay in the host.
                Some(true) if tensor.data.place().is_some() => (0, 0),
                Some(true) => (tensor.data.len(), 0),
                _ => (each(tensor), tensor.data.bytes_elsewhere()),
            };
            (bytes.saturating_add(more), copied.saturating_add(copy))
        })
    };
    let has_room = |(bytes, copied): (usize, usize)| {
        let mut probe = Vec::<u8>::new();
        let bytes = bytes.saturating_mul(copies).saturating_add(copied);
        probe.try_reserve_exact(bytes).is_ok()
    };
    let most = total(most_bytes);
    if has_room(most) {
        return Ok(most.0);
    }
    let counted = total(counted_bytes);
    if has_room(counted) {
        return Ok(counted.0);
    }
    Err(counted.0)
}

/// An answer to an inference request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InferResponse {
    /// The JSON, followed by the bytes of binary outputs. Those that the host holds stay there.
    pub body: Buffer,
    /// The length of the JSON if outputs follow it: the value of `Inference-Header-Content-Length`.
    pub header_bytes: Option<usize>,
}

/// Writes the answer to an inference request of the Open Inference Protocol ("Inference Response JSON Object"), with flat
/// elements. The outputs in `binary` follow the JSON as bytes in the outputs' order, with `binary_data_size` (Triton's binary
/// tensor data extension). `extra` becomes string parameters of the answer; the member is absent if `extra` is empty.
pub fn write_infer_response(
    model: &str,
    version: &str,
    id: Option<&str>,
    (outputs, binary): (&[Tensor], &[bool]),
    extra: &[(&str, &str)],
    capacity: usize,
) -> InferResponse {
    let extra_bytes: usize = extra.iter().map(|(n, v)| 6 * (n.len() + v.len()) + 8).sum();
    let names = 6 * (model.len() + version.len() + id.map_or(0, str::len)) + 256;
    let mut out = Vec::with_capacity(capacity.saturating_add(names + extra_bytes));
    out.push(b'{');
    write_name(&mut out, "model_name");
    write_string(&mut out, model);
    write_name(&mut out, "model_version");
    write_string(&mut out, version);
    if let Some(id) = id {
        write_name(&mut out, "id");
        write_string(&mut out, id);
    }
    if !extra.is_empty() {
        write_name(&mut out, "parameters");
        out.push(b'{');
        for (name, value) in extra {
            write_name(&mut out, name);
            write_string(&mut out, value);
        }
        out.push(b'}');
    }
    write_name(&mut out, "outputs");
    out.push(b'[');
    let mut buffer = itoa::Buffer::new();
    let mut tail: Vec<&Buffer> = Vec::new();
    for (index, tensor) in outputs.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.push(b'{');
        write_name(&mut out, "name");
        write_string(&mut out, &tensor.name);
        write_name(&mut out, "datatype");
        write_string(&mut out, tensor.datatype.as_str());
        write_name(&mut out, "shape");
        out.push(b'[');
        for (axis, length) in wire_shape(&tensor.shape).iter().enumerate() {
            if axis > 0 {
                out.push(b',');
            }
            out.extend_from_slice(buffer.format(*length).as_bytes());
        }
        out.push(b']');
        // A tensor whose data does not fit its shape is `null` in either form.
        if binary.get(index) == Some(&true) && tensor.is_consistent() {
            write_name(&mut out, "parameters");
            out.push(b'{');
            write_name(&mut out, "binary_data_size");
            out.extend_from_slice(buffer.format(tensor.data.len()).as_bytes());
            out.push(b'}');
            tail.push(&tensor.data);
        } else {
            write_name(&mut out, "data");
            write_flat(&mut out, tensor);
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    let header_bytes = (!tail.is_empty()).then_some(out.len());
    if tail.iter().any(|data| data.place().is_some()) {
        let mut parts = vec![Buffer::from(out)];
        parts.extend(tail.into_iter().cloned());
        return InferResponse {
            body: Buffer::joined(parts),
            header_bytes,
        };
    }
    for data in tail {
        out.extend_from_slice(data);
    }
    InferResponse {
        body: out.into(),
        header_bytes,
    }
}

/// The predictions of a model without an adapter, as a JSON array. With a batch axis, one object for
/// each item, with each output's slice; without one, a single object with whole tensors. If an
/// output has labels, the object also has `label`, `confidence` and `top`: the classes with the
/// greatest values, descending; of equal values the earlier class is first.
/// `capacity` bytes are reserved.
pub fn predictions(outputs: &[Tensor], contract: &Contract, capacity: usize) -> Vec<u8> {
    predictions_ranked(outputs, contract, None, capacity)
}

/// The ranking of the classes of the labelled output, computed before its values were changed.
#[derive(Clone, Debug)]
pub struct Ranking {
    /// The greatest classes of each item, descending.
    items: Vec<Vec<usize>>,
    /// Whether `confidence` is written.
    confidences: bool,
}

impl Ranking {
    /// The ranking of the labelled output, if there is one: at most `most` classes of each item.
    pub fn of(
        outputs: &[Tensor],
        contract: &Contract,
        most: usize,
        confidences: bool,
    ) -> Option<Self> {
        let (spec, _) = contract.labelled_output()?;
        let tensor = outputs.iter().find(|tensor| tensor.name == spec.name)?;
        if !tensor.is_consistent() {
            return None;
        }
        let ranked = |item| {
            let (data, size) = class_values(spec, tensor, item)?;
            let mut top = top_classes(spec.datatype, data, size);
            top.truncate(most);
            // Do not trust a number of items without its data.
            (!data.is_empty()).then_some(top)
        };
        let items = match contract.batch_axis() {
            Some(_) => (0..tensor.shape.first().copied().unwrap_or(0))
                .map_while(|item| ranked(Some(item)))
                .collect(),
            None => Vec::from_iter(ranked(None)),
        };
        Some(Self { items, confidences })
    }
}

/// [`predictions`], with the classes ranked as they were before the outputs were changed.
pub fn predictions_ranked(
    outputs: &[Tensor],
    contract: &Contract,
    ranking: Option<&Ranking>,
    capacity: usize,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity);
    let batched = contract.batch_axis().is_some();
    let items = if batched {
        // The number of items of every output; checked outputs agree on it.
        outputs
            .iter()
            .map(|tensor| tensor.shape.first().copied().unwrap_or(0))
            .min()
            .unwrap_or(0)
    } else {
        1
    };
    let labelled = contract.labelled_output().and_then(|(spec, labels)| {
        let tensor = outputs.iter().find(|tensor| tensor.name == spec.name)?;
        Some((spec, tensor, labels))
    });
    let whole = outputs.iter().all(Tensor::is_consistent);
    // Do not trust a number of items without its data: a broken tensor gives a single `null`.
    let items = if whole { items } else { items.min(1) };
    let mut readers: Vec<_> = outputs.iter().map(Elements::new).collect();
    out.push(b'[');
    for item in 0..items {
        if item > 0 {
            out.push(b',');
        }
        out.push(b'{');
        for (tensor, reader) in outputs.iter().zip(&mut readers) {
            write_name(&mut out, &tensor.name);
            let shape = tensor.shape.get(usize::from(batched)..);
            match (reader, shape) {
                (Some(elements), Some(shape)) => elements.nested(&mut out, shape),
                _ => out.extend_from_slice(b"null"),
            }
        }
        if let Some((spec, tensor, labels)) = labelled
            && whole
        {
            let item = batched.then_some(item);
            write_classes(&mut out, spec, tensor, labels, item, ranking);
        }
        out.push(b'}');
    }
    out.push(b']');
    out
}

/// Writes `label`, `confidence` and `top` of one item.
fn write_classes(
    out: &mut Vec<u8>,
    spec: &TensorSpec,
    tensor: &Tensor,
    labels: &[String],
    item: Option<u64>,
    ranking: Option<&Ranking>,
) {
    let Some((data, size)) = class_values(spec, tensor, item) else {
        return;
    };
    let place = usize::try_from(item.unwrap_or(0)).unwrap_or(usize::MAX);
    let top = match ranking {
        Some(ranking) => ranking.items.get(place).cloned().unwrap_or_default(),
        None => top_classes(spec.datatype, data, size),
    };
    let confidences = ranking.is_none_or(|ranking| ranking.confidences);
    let class = |out: &mut Vec<u8>, (index, element): (usize, &[u8])| {
        write_name(out, "label");
        // The model has more classes than labels, which is its fault. Name the class by its number.
        match labels.get(index) {
            Some(label) => write_string(out, label),
            None => write_string(out, &index.to_string()),
        }
        if !confidences {
            return;
        }
        write_name(out, "confidence");
        let value = Tensor {
            name: String::new(),
            datatype: spec.datatype,
            shape: Vec::new(),
            data: element.to_vec().into(),
        };
        write_nested(out, &value);
    };
    let classes = || {
        top.iter()
            .filter_map(|index| Some((*index, data.get(index * size..)?.get(..size)?)))
    };
    match classes().next() {
        Some(best) => class(out, best),
        None => {
            write_name(out, "label");
            out.extend_from_slice(b"null");
            if confidences {
                write_name(out, "confidence");
                out.extend_from_slice(b"null");
            }
        }
    }
    write_name(out, "top");
    out.push(b'[');
    for (place, one) in classes().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        out.push(b'{');
        class(out, one);
        out.push(b'}');
    }
    out.push(b']');
}

/// The values of one item's classes, and the bytes of each.
fn class_values<'t>(
    spec: &TensorSpec,
    tensor: &'t Tensor,
    item: Option<u64>,
) -> Option<(&'t [u8], usize)> {
    let size = spec.datatype.size_bytes()?;
    if tensor.datatype != spec.datatype {
        return None;
    }
    let data = tensor.data.as_slice();
    let Some(item) = item else {
        return Some((data, size));
    };
    let (_, rest) = tensor.shape.split_first()?;
    let row = usize::try_from(crate::tensor::elements(rest)?).ok()?;
    let row_bytes = row.checked_mul(size)?;
    let start = usize::try_from(item).ok()?.checked_mul(row_bytes)?;
    Some((data.get(start..)?.get(..row_bytes)?, size))
}

/// The indices of the greatest values, descending, without NaN.
fn top_classes(datatype: Datatype, data: &[u8], size: usize) -> Vec<usize> {
    let mut top: Vec<(f64, usize)> = Vec::with_capacity(TOP_CLASSES + 1);
    for (index, bytes) in data.chunks_exact(size).enumerate() {
        let Some(value) = as_f64(datatype, bytes) else {
            continue;
        };
        if value.is_nan() {
            continue;
        }
        if top.len() == TOP_CLASSES && top.last().is_some_and(|(least, _)| value <= *least) {
            continue;
        }
        let place = top.partition_point(|(other, _)| *other >= value);
        top.insert(place, (value, index));
        top.truncate(TOP_CLASSES);
    }
    top.into_iter().map(|(_, index)| index).collect()
}

/// An element's value for comparison; 64-bit integers are rounded.
pub(crate) fn as_f64(datatype: Datatype, bytes: &[u8]) -> Option<f64> {
    Some(match datatype {
        Datatype::Uint8 => u8::from_le_bytes(bytes.try_into().ok()?).into(),
        Datatype::Uint16 => u16::from_le_bytes(bytes.try_into().ok()?).into(),
        Datatype::Uint32 => u32::from_le_bytes(bytes.try_into().ok()?).into(),
        Datatype::Uint64 => u64::from_le_bytes(bytes.try_into().ok()?) as f64,
        Datatype::Int8 => i8::from_le_bytes(bytes.try_into().ok()?).into(),
        Datatype::Int16 => i16::from_le_bytes(bytes.try_into().ok()?).into(),
        Datatype::Int32 => i32::from_le_bytes(bytes.try_into().ok()?).into(),
        Datatype::Int64 => i64::from_le_bytes(bytes.try_into().ok()?) as f64,
        Datatype::Fp16 => half::f16::from_le_bytes(bytes.try_into().ok()?).to_f64(),
        Datatype::Bf16 => half::bf16::from_le_bytes(bytes.try_into().ok()?).to_f64(),
        Datatype::Fp32 => f32::from_le_bytes(bytes.try_into().ok()?).into(),
        Datatype::Fp64 => f64::from_le_bytes(bytes.try_into().ok()?),
        Datatype::Int2 | Datatype::Int4 => i8::from_le_bytes(bytes.try_into().ok()?).into(),
        Datatype::Uint2 | Datatype::Uint4 => u8::from_le_bytes(bytes.try_into().ok()?).into(),
        Datatype::Fp8E4m3fn | Datatype::Fp8E4m3fnuz | Datatype::Fp8E5m2 | Datatype::Fp8E5m2fnuz => {
            Fp8::of(datatype)?.to_f64(*bytes.first()?)
        }
        Datatype::Bool | Datatype::Bytes => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tensor of every type whose elements are these bytes over and over, from anywhere in them.
    fn tensors(seed: u64) -> Vec<Tensor> {
        use Datatype::*;
        let mut state = seed | 1;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        let types = [
            Bool,
            Uint8,
            Uint16,
            Uint32,
            Uint64,
            Int8,
            Int16,
            Int32,
            Int64,
            Fp16,
            Bf16,
            Fp32,
            Fp64,
            Fp8E4m3fn,
            Fp8E4m3fnuz,
            Fp8E5m2,
            Fp8E5m2fnuz,
        ];
        let shapes: [&[u64]; 6] = [&[], &[24], &[24, 1], &[1, 24], &[2, 3, 4], &[2, 0, 4]];
        types
            .into_iter()
            .flat_map(|datatype| shapes.map(|shape| (datatype, shape)))
            .map(|(datatype, shape)| {
                let count: u64 = shape.iter().product();
                let bytes = count as usize * datatype.size_bytes().unwrap();
                let mut data: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| random()).collect();
                data.truncate(bytes);
                Tensor {
                    name: "out\n".into(),
                    datatype,
                    shape: shape.to_vec(),
                    data: data.into(),
                }
            })
            .collect()
    }

    #[test]
    fn elements_never_take_more_bytes_than_are_reserved() {
        for seed in 1..3000u64 {
            for tensor in tensors(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)) {
                let (mut flat, mut nested) = (Vec::new(), Vec::new());
                write_flat(&mut flat, &tensor);
                write_nested(&mut nested, &tensor);
                let brackets = bracket_bytes(&tensor.shape);
                for reserved in [most_bytes(&tensor), counted_bytes(&tensor)] {
                    let longer = flat.len().max(nested.len());
                    assert!(
                        longer <= reserved + brackets,
                        "{longer} > {reserved} + {brackets}: {tensor:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_answer_that_memory_cannot_hold_is_an_error_and_not_tried() {
        let contract = Contract::parse(
            "description = \"d\"\n[[inputs]]\nname = \"a\"\ndatatype = \"FP32\"\nshape = [1]\n\
             [[outputs]]\nname = \"b\"\ndatatype = \"FP32\"\nshape = [1]\n",
        )
        .unwrap();
        let output = Tensor {
            name: "b".into(),
            datatype: Datatype::Fp32,
            shape: vec![1],
            data: vec![0; 4].into(),
        };
        let outputs = [output];
        for form in [Form::Flat(&[]), Form::Flat(&[true]), Form::Items(&contract)] {
            assert!(capacity(&outputs, form, 1).is_ok());
            assert!(capacity(&outputs, form, usize::MAX).is_err());
            let reserved = capacity(&outputs, form, 1).unwrap();
            let written = match form {
                Form::Flat(binary) => {
                    write_infer_response("m", "1", None, (&outputs, binary), &[], reserved).body
                }
                Form::Items(contract) => predictions(&outputs, contract, reserved).into(),
            };
            // The writer reserves the bytes that do not depend on the tensors: the answer's own names.
            assert!(written.len() <= reserved + 256);
        }
    }
}
