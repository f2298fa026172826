//! Returns an output's numbers as classes (Triton's classification extension): for each item the greatest elements,
//! descending. Each is a string of its value, its index and, if the contract names the classes, its label.
//!
//! Elements are compared in their own datatype. Of equal elements the earlier is greater. NaN is less than every number.

use crate::contract::Contract;
use crate::datatype::Datatype;
use crate::fp8::Fp8;
use crate::tensor::{BYTES_PREFIX_BYTES, Tensor, elements, push_byte_string};
use std::cmp::Reverse;

/// Most classes that a request may ask for. It is more than the largest sets of labels have. Twice as many are held while
/// they are ranked.
pub const MAX_CLASSES: u32 = 65_536;

/// The longest text of a value with a colon: an FP64 with its exponent.
const MAX_VALUE_BYTES: usize = 26;
/// The longest text of an index with a colon.
const MAX_INDEX_BYTES: usize = 21;

/// Returns whether elements of a type can be ranked.
pub const fn has_classes(datatype: Datatype) -> bool {
    !matches!(datatype, Datatype::Bool | Datatype::Bytes)
}

/// The strings of an output's greatest elements: a tensor of `BYTES` with shape `[items, classes]`, or `[classes]`
/// if the contract has no batch axis. There are as many classes as requested, or as
/// one item has elements if these are fewer. A tensor without classes is returned unchanged.
///
/// Errors with the needed bytes if memory has no room for them.
pub fn classify(tensor: Tensor, contract: &Contract, classes: u32) -> Result<Tensor, usize> {
    let Some(size) = tensor.datatype.size_bytes() else {
        return Ok(tensor);
    };
    if !has_classes(tensor.datatype) || !tensor.is_consistent() {
        return Ok(tensor);
    }
    let batched = contract.batch_axis().is_some() && !tensor.shape.is_empty();
    let (items, row) = match tensor.shape.split_first() {
        Some((items, rest)) if batched => (*items, elements(rest)),
        _ => (1, elements(&tensor.shape)),
    };
    // The elements of a consistent tensor can be counted, and so can those of its items, unless it has none.
    let row = row.unwrap_or(0);
    let kept = row.min(u64::from(classes.min(MAX_CLASSES)));
    let labels = contract
        .output(&tensor.name)
        .and_then(|spec| spec.labels.as_deref())
        .unwrap_or_default();
    let longest = labels
        .iter()
        .map(|label| label.len() + 1)
        .max()
        .unwrap_or(0);
    let each = BYTES_PREFIX_BYTES + MAX_VALUE_BYTES + MAX_INDEX_BYTES + longest;
    let count = elements(&[items, kept]).and_then(|count| usize::try_from(count).ok());
    let most = count.unwrap_or(usize::MAX).saturating_mul(each);
    let mut data = Vec::new();
    data.try_reserve_exact(most).map_err(|_| most)?;
    let kept_at_once = usize::try_from(kept).unwrap_or(usize::MAX);
    let mut ranking = Ranking::new(kept_at_once).ok_or(most)?;
    let row_bytes = usize::try_from(row)
        .unwrap_or(usize::MAX)
        .saturating_mul(size);
    if kept > 0 {
        for row in tensor.data.chunks_exact(row_bytes) {
            for (index, element) in row.chunks_exact(size).enumerate() {
                ranking.offer(rank(tensor.datatype, element), index);
            }
            for index in ranking.take() {
                let element = row.get(index * size..).and_then(|rest| rest.get(..size));
                let text = class_text(tensor.datatype, element.unwrap_or_default(), index, labels);
                push_byte_string(&mut data, text.as_bytes());
            }
        }
    }
    Ok(Tensor {
        name: tensor.name,
        datatype: Datatype::Bytes,
        shape: if batched {
            vec![items, kept]
        } else {
            vec![kept]
        },
        data: data.into(),
    })
}

/// Keeps the greatest of the offered elements. It holds twice as many as requested, and drops the lesser half when it is full.
/// So each offer costs a few comparisons, however many are requested.
struct Ranking {
    kept: usize,
    held: Vec<(Reverse<u64>, usize)>,
    /// The bound that a new element must pass, once enough are held.
    bar: Option<(Reverse<u64>, usize)>,
}

impl Ranking {
    fn new(kept: usize) -> Option<Self> {
        let mut held = Vec::new();
        held.try_reserve_exact(kept.saturating_mul(2)).ok()?;
        Some(Self {
            kept,
            held,
            bar: None,
        })
    }

    fn offer(&mut self, rank: u64, index: usize) {
        let offered = (Reverse(rank), index);
        if self.bar.is_some_and(|bar| offered >= bar) {
            return;
        }
        self.held.push(offered);
        if self.held.len() >= self.kept.saturating_mul(2) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.held.len() > self.kept && self.kept > 0 {
            let (_, last, _) = self.held.select_nth_unstable(self.kept - 1);
            self.bar = Some(*last);
            self.held.truncate(self.kept);
        }
    }

    /// Returns the indices of the greatest elements, descending, and starts again.
    fn take(&mut self) -> Vec<usize> {
        self.cut();
        self.held.sort_unstable();
        self.bar = None;
        self.held.drain(..).map(|(_, index)| index).collect()
    }
}

/// A number with the same order as the values of a type; 0 for NaN.
fn rank(datatype: Datatype, bytes: &[u8]) -> u64 {
    const SIGN: u64 = 1 << 63;
    let signed = |value: i64| value as u64 ^ SIGN;
    let float = |value: f64| {
        // Minus zero becomes zero, because they are equal.
        let bits = (value + 0.0).to_bits();
        match (value.is_nan(), bits & SIGN) {
            (true, _) => 0,
            (false, 0) => bits | SIGN,
            (false, _) => !bits,
        }
    };
    macro_rules! read {
        ($type:ty) => {
            bytes
                .try_into()
                .map(<$type>::from_le_bytes)
                .unwrap_or_default()
        };
    }
    match datatype {
        Datatype::Uint8 => read!(u8).into(),
        Datatype::Uint16 => read!(u16).into(),
        Datatype::Uint32 => read!(u32).into(),
        Datatype::Uint64 => read!(u64),
        Datatype::Int8 => signed(read!(i8).into()),
        Datatype::Int16 => signed(read!(i16).into()),
        Datatype::Int32 => signed(read!(i32).into()),
        Datatype::Int64 => signed(read!(i64)),
        Datatype::Fp16 => float(half::f16::from_bits(read!(u16)).to_f64()),
        Datatype::Bf16 => float(half::bf16::from_bits(read!(u16)).to_f64()),
        Datatype::Fp32 => float(read!(f32).into()),
        Datatype::Fp64 => float(read!(f64)),
        Datatype::Int2 | Datatype::Int4 => signed(read!(i8).into()),
        Datatype::Uint2 | Datatype::Uint4 => read!(u8).into(),
        Datatype::Fp8E4m3fn | Datatype::Fp8E4m3fnuz | Datatype::Fp8E5m2 | Datatype::Fp8E5m2fnuz => {
            Fp8::of(datatype).map_or(0, |format| float(format.to_f64(read!(u8))))
        }
        Datatype::Bool | Datatype::Bytes => 0,
    }
}

/// Formats `value:index`, and `:label` if there is one.
fn class_text(datatype: Datatype, bytes: &[u8], index: usize, labels: &[String]) -> String {
    macro_rules! read {
        ($type:ty) => {
            bytes
                .try_into()
                .map(<$type>::from_le_bytes)
                .unwrap_or_default()
        };
    }
    macro_rules! float {
        ($value:expr) => {
            zmij::Buffer::new().format($value).to_owned()
        };
    }
    let mut text = match datatype {
        Datatype::Uint8 => read!(u8).to_string(),
        Datatype::Uint16 => read!(u16).to_string(),
        Datatype::Uint32 => read!(u32).to_string(),
        Datatype::Uint64 => read!(u64).to_string(),
        Datatype::Int8 => read!(i8).to_string(),
        Datatype::Int16 => read!(i16).to_string(),
        Datatype::Int32 => read!(i32).to_string(),
        Datatype::Int64 => read!(i64).to_string(),
        Datatype::Fp16 => float!(half::f16::from_bits(read!(u16)).to_f32()),
        Datatype::Bf16 => float!(half::bf16::from_bits(read!(u16)).to_f32()),
        Datatype::Fp32 => float!(read!(f32)),
        Datatype::Fp64 => float!(read!(f64)),
        Datatype::Int2 | Datatype::Int4 => read!(i8).to_string(),
        Datatype::Uint2 | Datatype::Uint4 => read!(u8).to_string(),
        Datatype::Fp8E4m3fn | Datatype::Fp8E4m3fnuz | Datatype::Fp8E5m2 | Datatype::Fp8E5m2fnuz => {
            Fp8::of(datatype).map_or_else(String::new, |format| {
                float!(format.to_f64(read!(u8)) as f32)
            })
        }
        Datatype::Bool | Datatype::Bytes => String::new(),
    };
    text.push(':');
    text.push_str(itoa::Buffer::new().format(index));
    if let Some(label) = labels.get(index) {
        text.push(':');
        text.push_str(label);
    }
    text
}
