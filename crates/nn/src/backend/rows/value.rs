//! A value of a graph, as far as its rows are followed: its lengths, and where its items are.

use std::rc::Rc;

use crate::backend::cost::Initial;

/// The most whole numbers of one value that are followed. Shapes and lists of axes have fewer.
pub(crate) const MAX_NUMBERS: usize = 64;

/// The most names in one product.
pub(super) const MAX_NAMES: usize = 16;

/// An end from which on a slice takes the whole axis: exporters write such numbers, and no axis is as long.
pub(super) const WHOLE_AXIS: i64 = 1_000_000_000;

/// The number of items, as a name in a [`Length`].
pub(super) const ITEMS: u32 = 0;

/// A whole number as a product: a factor times names of unknown lengths, each as often as it stands there, in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Length {
    pub(super) factor: i64,
    pub(super) names: Vec<u32>,
}

impl Length {
    pub(super) fn number(factor: i64) -> Self {
        Self {
            factor,
            names: Vec::new(),
        }
    }

    pub(super) fn name(name: u32) -> Self {
        Self {
            factor: 1,
            names: vec![name],
        }
    }

    pub(super) fn known(&self) -> Option<i64> {
        self.names.is_empty().then_some(self.factor)
    }

    pub(super) fn is(&self, number: i64) -> bool {
        self.known() == Some(number)
    }

    pub(super) fn times(&self, other: &Self) -> Option<Self> {
        let factor = self.factor.checked_mul(other.factor)?;
        if factor == 0 {
            return Some(Self::number(0));
        }
        let mut names = [&self.names[..], &other.names[..]].concat();
        names.sort_unstable();
        (names.len() <= MAX_NAMES).then_some(Self { factor, names })
    }

    /// The quotient, if the division has no remainder for any lengths.
    pub(super) fn over(&self, other: &Self) -> Option<Self> {
        if other.factor == 0 || self.factor % other.factor != 0 {
            return None;
        }
        let mut names = self.names.clone();
        for name in &other.names {
            let at = names.iter().position(|own| own == name)?;
            names.remove(at);
        }
        Some(Self {
            factor: self.factor / other.factor,
            names,
        })
    }

    pub(super) fn product<'a>(lengths: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        (lengths.into_iter()).try_fold(Self::number(1), |product, length| product.times(length))
    }
}

/// Along which axis items lie. The axis may be longer than there are items: `outer` parts, each of all items, and of
/// each item as many elements as are left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Items {
    pub(super) axis: usize,
    pub(super) outer: Length,
}

impl Items {
    pub(super) fn along(axis: usize) -> Self {
        Self {
            axis,
            outer: Length::number(1),
        }
    }

    pub(super) fn moved(&self, axis: usize) -> Self {
        Self {
            axis,
            outer: self.outer.clone(),
        }
    }
}

/// A value whose rows do not depend on each other.
#[derive(Debug, Clone, Default)]
pub(super) struct Value {
    /// The lengths of its axes; `None` where not even their number is known, which only constants may have.
    pub(super) dims: Option<Vec<Length>>,
    /// The axis of the items; `None` for a value that is the same for all items that a run may have.
    pub(super) items: Option<Items>,
    /// Its elements in order, if it is a whole number or a list of some.
    pub(super) numbers: Option<Vec<Length>>,
    /// Whether it is a list of floating-point numbers that begins with 1, as scales of `Resize` do.
    pub(super) begins_with_one: bool,
    /// The relation of its elements to the place of an item in the run.
    pub(super) place: ItemIndexUse,
}

/// The relation of a value's elements to the place of an item in its run. Exporters count the items to take each item's
/// row of another input; everything else that is computed from a place depends on the other items.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum ItemIndexUse {
    #[default]
    None,
    /// Each element is the place of its item.
    Index,
    /// The last axis holds coordinates, of which the first is the place of the item.
    First,
    /// Something else was computed of it. Its shape may still be asked for.
    Other,
}

/// The reason that a value is not one of those.
pub(super) type Reason = Rc<str>;

pub(super) type Followed = Result<Rc<Value>, Reason>;

/// The result of an operator's case. The operator and the node are put before an error.
pub(super) type Case<T> = Result<T, String>;

pub(super) fn no<T>(why: &str) -> Case<T> {
    Err(why.to_owned())
}

/// The reason for an operator that works along the axis of items.
pub(super) const ALONG: &str = "works along the axis that counts the items of a run";

pub(super) const UNKNOWN: &str = "is not among those whose rows are known to be independent";

pub(super) const OF_PLACE: &str = "computes with the place of an item in its run";

pub(super) const NO_RANK: &str = "has an input whose number of axes is not known";

impl Value {
    pub(super) fn of(initial: &Initial) -> Self {
        let dims: Vec<Length> = (initial.dims.iter().copied()).map(Length::number).collect();
        let numbers = (initial.ints.as_ref())
            .filter(|ints| dims.len() <= 1 && ints.len() <= MAX_NUMBERS)
            .map(|ints| ints.iter().copied().map(Length::number).collect());
        let first = initial.floats.as_ref().and_then(|floats| floats.first());
        Self {
            dims: Some(dims),
            items: None,
            numbers,
            begins_with_one: first.is_some_and(|first| f32::from_bits(*first) == 1.0),
            place: ItemIndexUse::None,
        }
    }

    pub(super) fn constant(dims: Option<Vec<Length>>) -> Self {
        Self {
            dims,
            ..Self::default()
        }
    }

    pub(super) fn new(dims: Vec<Length>, items: Option<Items>) -> Self {
        Self {
            dims: Some(dims),
            items,
            ..Self::default()
        }
    }

    /// A whole number, or a list of some.
    pub(super) fn numbers(numbers: Vec<Length>, is_list: bool) -> Self {
        let dims = match is_list {
            true => vec![Length::number(numbers.len() as i64)],
            false => Vec::new(),
        };
        Self {
            dims: Some(dims),
            numbers: Some(numbers),
            ..Self::default()
        }
    }

    pub(super) fn dims(&self) -> Case<&[Length]> {
        self.dims.as_deref().ok_or_else(|| NO_RANK.to_owned())
    }

    pub(super) fn rank(&self) -> Case<usize> {
        Ok(self.dims()?.len())
    }

    pub(super) fn axis(&self) -> Option<usize> {
        self.items.as_ref().map(|items| items.axis)
    }

    /// The whole numbers, if all are known.
    pub(super) fn known(&self) -> Option<Vec<i64>> {
        self.numbers.as_ref()?.iter().map(Length::known).collect()
    }

    /// Returns whether the value has one element, on any number of axes.
    pub(super) fn is_single(&self) -> bool {
        (self.dims.as_ref()).is_some_and(|dims| dims.iter().all(|dim| dim.is(1)))
    }
}

/// An axis counted from the front.
pub(super) fn from_front(axis: i64, rank: usize) -> Case<usize> {
    let from = if axis < 0 { axis + rank as i64 } else { axis };
    match usize::try_from(from) {
        Ok(axis) if axis < rank => Ok(axis),
        _ => no("names an axis that its input does not have"),
    }
}
