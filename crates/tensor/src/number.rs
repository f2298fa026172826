//! Converts decimal numbers to each datatype: correctly rounded (to nearest, ties to even) for floats; exact or refused for
//! integers.
//!
//! The digits are collected while the JSON is scanned, so a conversion rarely reads them again:
//!
//! * `FP64` uses Clinger's fast path: a mantissa up to 2^53 and a power of ten up to 22 are both exact
//!   in a double, so one multiplication or division rounds once. Everything else goes to the standard
//!   library (Eisel-Lemire), which reads the text again.
//! * `FP32`, `FP16` and `BF16` compute the same way in double precision with *any* 64-bit mantissa.
//!   The double is then off by at most two units in its last place, and rounding it to the narrower
//!   type is right unless it lies within `DOUBT_ULPS` of a midpoint between two narrow values; only
//!   those, about one in 2^25 for `FP32`, take the slow path. This makes the 17 digits Python prints
//!   for a widened `float32` about as cheap as 6 digits.
//!
//! Why own code: nanoseconds for each of 27,648 FP32 numbers in nested arrays on a 2-core cloud machine
//! (`benches/json.rs`; the two float parsers were measured in the same way, separately). The first
//! column is all of [`parse_predict`](crate::parse_predict), the last two are the conversion alone:
//!
//! | spelling | here | here, in WebAssembly (V8) | tree of `serde_json` | `fast-float2` | `lexical-core` |
//! |---|---|---|---|---|---|
//! | 6 digits | 9.6 | 10.9 | 22.2 | 10.4 | 11.3 |
//! | shortest | 9.4 | 13.5 | 25.0 | 15.5 | 15.7 |
//! | 17 digits | 12.2 | 16.7 | 32.2 | 17.4 | 17.5 |
//! | `17` | 7.2 | 9.2 | 16.0 | 7.2 | 8.2 |

use crate::fp8::Fp8;
use std::cmp::Ordering;

/// Digits that always fit a `u64`.
const MANTISSA_DIGITS: usize = 19;
/// Powers of ten that a double holds exactly.
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];
/// Largest mantissa below which every integer is a double.
const EXACT_MANTISSA: u64 = 1 << 53;
/// The distance from a midpoint at which the rounding of a double is in doubt, in units of its last place.
/// The computation errs by at most two (half for the mantissa, half for the operation, at most
/// doubled where the result falls into the next binade); eight leaves room.
const DOUBT_ULPS: u64 = 8;
/// Exponents beyond this are held here: no body is long enough to bring such a number back into
/// the range of any datatype.
const EXPONENT_CAP: i64 = 1 << 40;

/// A decimal number as it was scanned: `(-1)^negative · mantissa · 10^exponent`.
#[derive(Clone, Debug)]
pub struct Decimal<'a> {
    /// The number as it was written, a valid JSON number.
    pub text: &'a [u8],
    /// Whether it was written with a minus sign.
    pub negative: bool,
    /// The significant digits, or the first 19 of them.
    pub mantissa: u64,
    /// The power of ten that belongs to `mantissa`.
    pub exponent: i64,
    /// Whether `mantissa` holds every significant digit.
    pub exact: bool,
}

/// The reason why a number cannot be held in a datatype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberFault {
    /// It has a fractional part and the datatype has none.
    NotAnInteger,
    /// Its magnitude is beyond the datatype.
    OutOfRange,
}

/// The fault in the text of a number, with its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Misspelt {
    pub(crate) offset: usize,
    pub(crate) expected: &'static str,
}

#[inline(always)]
fn digit_at(bytes: &[u8], at: usize) -> Option<u64> {
    match bytes.get(at) {
        Some(byte) => {
            let digit = byte.wrapping_sub(b'0');
            if digit < 10 {
                Some(u64::from(digit))
            } else {
                None
            }
        }
        None => None,
    }
}

/// The value of eight ASCII digits; `None` if one of the eight bytes is not a digit, or if there are fewer than eight bytes.
/// Works on all eight at once, as in Lemire's "Quickly parsing eight digits".
#[inline(always)]
fn eight_digits(bytes: &[u8], at: usize) -> Option<u64> {
    let chunk = bytes.get(at..)?.first_chunk::<8>()?;
    let word = u64::from_le_bytes(*chunk);
    // High nibble 3, and adding 6 does not carry out of the low nibble: exactly '0'..='9'.
    let high = word & 0xF0F0_F0F0_F0F0_F0F0;
    let carried = word.wrapping_add(0x0606_0606_0606_0606) & 0xF0F0_F0F0_F0F0_F0F0;
    if high != 0x3030_3030_3030_3030 || carried != 0x3030_3030_3030_3030 {
        return None;
    }
    let digits = word & 0x0F0F_0F0F_0F0F_0F0F;
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let low = (pairs & 0x0000_00FF_0000_00FF).wrapping_mul(0x000F_4240_0000_0064);
    let high = ((pairs >> 16) & 0x0000_00FF_0000_00FF).wrapping_mul(0x0000_2710_0000_0001);
    Some(low.wrapping_add(high) >> 32)
}

/// The value and the count of the digits that begin at `at`, up to eight of them; `None` when fewer
/// than eight bytes are left or the first is no digit. Takes the same time for any count, so that
/// numbers of varying length cost no mispredicted branches.
#[inline(always)]
fn digit_run(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let chunk = bytes.get(at..)?.first_chunk::<8>()?;
    let digits = u64::from_le_bytes(*chunk) ^ 0x3030_3030_3030_3030;
    // A byte of 10 or more sets its high bit. Its carry can only reach bytes after it.
    let others = (digits.wrapping_add(0x7676_7676_7676_7676) | digits) & 0x8080_8080_8080_8080;
    let count = others.trailing_zeros() / 8;
    if count == 0 {
        return None;
    }
    // Move the digits to the end; zeros come in before them.
    let digits = digits << (64 - 8 * count);
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let low = (pairs & 0x0000_00FF_0000_00FF).wrapping_mul(0x000F_4240_0000_0064);
    let high = ((pairs >> 16) & 0x0000_00FF_0000_00FF).wrapping_mul(0x0000_2710_0000_0001);
    Some((low.wrapping_add(high) >> 32, count as usize))
}

/// Powers of ten that [`digit_run`] shifts by.
const RUN_POWERS: [u64; 9] = [
    1,
    10,
    100,
    1_000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
];

/// A number of at most 19 digits, as nearly all are. `mantissa` is exact and below 2^63: signed
/// integers convert to doubles in one instruction where unsigned ones take several.
#[derive(Clone, Copy)]
pub(crate) struct Short<'a> {
    text: &'a [u8],
    negative: bool,
    mantissa: i64,
    exponent: i64,
    /// The offset of the byte after the number.
    pub(crate) end: usize,
}

/// Scans a number at `start`, or gives up: at text that is not a number, at more than 19 digits, and near the body's end.
/// [`scan`] then decides which.
#[inline(always)]
pub(crate) fn scan_short(bytes: &[u8], start: usize) -> Option<Short<'_>> {
    let negative = *bytes.get(start)? == b'-';
    let mut at = start + usize::from(negative);
    // Branches that are taken alike for number after number are better than computing: the next
    // step does not wait for them. So the usual case, one digit and a point, is asked for first.
    let first = digit_at(bytes, at)?;
    let leading_zero = first == 0;
    let (mut mantissa, mut digits) = (first, 1);
    if digit_at(bytes, at + 1).is_some() {
        if leading_zero {
            return None;
        }
        (mantissa, digits) = digit_run(bytes, at)?;
        if digits == 8
            && let Some((run, count)) = digit_run(bytes, at + 8)
        {
            mantissa = mantissa * RUN_POWERS.get(count)? + run;
            digits += count;
            if digits == 16 {
                return None;
            }
        }
    }
    at += digits;
    let mut exponent = 0;
    let mut next = *bytes.get(at)?;
    if next == b'.' {
        at += 1;
        let fraction_start = at;
        while let Some(eight) = eight_digits(bytes, at) {
            mantissa = mantissa.wrapping_mul(100_000_000).wrapping_add(eight);
            at += 8;
        }
        if let Some((run, count)) = digit_run(bytes, at) {
            mantissa = mantissa
                .wrapping_mul(*RUN_POWERS.get(count)?)
                .wrapping_add(run);
            at += count;
        }
        let fraction = at - fraction_start;
        if fraction == 0 {
            return None;
        }
        digits = digits + fraction - usize::from(leading_zero);
        if digits > MANTISSA_DIGITS || mantissa > i64::MAX as u64 {
            return None;
        }
        exponent = -(fraction as i64);
        next = *bytes.get(at)?;
    }
    if next | 0x20 == b'e' {
        let (power, end) = scan_exponent(bytes, at + 1).ok()?;
        exponent += power;
        at = end;
    }
    let text = bytes.get(start..at)?;
    Some(Short {
        text,
        negative,
        mantissa: mantissa as i64,
        exponent,
        end: at,
    })
}

impl Short<'_> {
    #[inline(always)]
    fn approximate(&self) -> Option<f64> {
        approximate(self.mantissa as f64, self.exponent)
    }

    #[inline(always)]
    pub(crate) fn to_f32(self) -> Option<f32> {
        nearest_f32(self.approximate()?, self.negative)
    }

    #[inline(always)]
    pub(crate) fn to_f64(self) -> Option<f64> {
        if self.mantissa as u64 <= EXACT_MANTISSA
            && let Some(value) = self.approximate()
        {
            return Some(if self.negative { -value } else { value });
        }
        let value = std::str::from_utf8(self.text).ok()?.parse::<f64>().ok()?;
        value.is_finite().then_some(value)
    }

    #[inline(always)]
    fn to_narrow<const MANTISSA_BITS: u32, const EXPONENT_BITS: u32>(self) -> Option<u16> {
        let infinity = ((1u16 << EXPONENT_BITS) - 1) << MANTISSA_BITS;
        match narrow::<MANTISSA_BITS, EXPONENT_BITS>(self.approximate()?) {
            Narrowed::Certain(bits) if bits < infinity => {
                Some(bits | u16::from(self.negative) << 15)
            }
            _ => None,
        }
    }

    #[inline(always)]
    pub(crate) fn to_f16_bits(self) -> Option<u16> {
        self.to_narrow::<10, 5>()
    }

    #[inline(always)]
    pub(crate) fn to_bf16_bits(self) -> Option<u16> {
        self.to_narrow::<7, 8>()
    }

    #[inline(always)]
    pub(crate) fn to_i64(self) -> Option<i64> {
        (self.exponent == 0).then_some(if self.negative {
            -self.mantissa
        } else {
            self.mantissa
        })
    }
}

/// A double within two units of the last place of `mantissa · 10^exponent`; `None` where the
/// exponent is too large for one operation.
#[inline(always)]
fn approximate(mantissa: f64, exponent: i64) -> Option<f64> {
    if exponent <= 0 {
        let power = EXACT_POWERS.get(usize::try_from(-exponent).ok()?)?;
        Some(mantissa / power)
    } else {
        let power = EXACT_POWERS.get(usize::try_from(exponent).ok()?)?;
        Some(mantissa * power)
    }
}

/// Rounds an approximation of a magnitude to a single, unless its error may matter.
#[inline(always)]
fn nearest_f32(value: f64, negative: bool) -> Option<f32> {
    // Bits of a double below a single's last place, and the midpoint among them.
    const BELOW: u64 = (1 << 29) - 1;
    const MIDPOINT: u64 = 1 << 28;
    let below = value.to_bits() & BELOW;
    let in_doubt = below.wrapping_sub(MIDPOINT - DOUBT_ULPS) <= 2 * DOUBT_ULPS;
    // Normal singles only, and below the greatest by more than the error; or an exact zero, which
    // only a mantissa of zero computes to.
    let normal = value > 1.18e-38 && value < 3.4e38;
    if (normal && !in_doubt) || value == 0.0 {
        // A branch on the sign would be mispredicted half of the time.
        let sign = u32::from(negative) << 31;
        return Some(f32::from_bits((value as f32).to_bits() | sign));
    }
    None
}

/// Scans the number at `start` by the grammar of RFC 8259 §6. Returns it and the offset after it; any byte may follow.
#[inline(always)]
pub(crate) fn scan(bytes: &[u8], start: usize) -> Result<(Decimal<'_>, usize), Misspelt> {
    let negative = bytes.get(start) == Some(&b'-');
    let digits_start = start + usize::from(negative);
    let mut at = digits_start;
    let mut mantissa: u64;
    match digit_at(bytes, at) {
        Some(0) => {
            mantissa = 0;
            at += 1;
            if digit_at(bytes, at).is_some() {
                return Err(Misspelt {
                    offset: at,
                    expected: "no digit after a leading zero",
                });
            }
        }
        Some(first) => {
            mantissa = first;
            at += 1;
            while let Some(digit) = digit_at(bytes, at) {
                mantissa = mantissa.wrapping_mul(10).wrapping_add(digit);
                at += 1;
            }
        }
        None => {
            return Err(Misspelt {
                offset: at,
                expected: "a digit",
            });
        }
    }
    let mut digit_count = at - digits_start;
    let mut fraction_digits = 0;
    if bytes.get(at) == Some(&b'.') {
        at += 1;
        let fraction_start = at;
        while let Some(eight) = eight_digits(bytes, at) {
            mantissa = mantissa.wrapping_mul(100_000_000).wrapping_add(eight);
            at += 8;
        }
        while let Some(digit) = digit_at(bytes, at) {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(digit);
            at += 1;
        }
        fraction_digits = at - fraction_start;
        if fraction_digits == 0 {
            return Err(Misspelt {
                offset: at,
                expected: "a digit after the decimal point",
            });
        }
        digit_count += fraction_digits;
    }
    let digits_end = at;
    let mut exponent = -(fraction_digits as i64);
    if let Some(b'e' | b'E') = bytes.get(at) {
        let (power, end) = scan_exponent(bytes, at + 1)?;
        exponent += power;
        at = end;
    }
    let mut exact = true;
    if digit_count > MANTISSA_DIGITS {
        // The accumulation above may have wrapped: gather the leading digits again.
        let digits = bytes.get(digits_start..digits_end).unwrap_or_default();
        let dropped;
        (mantissa, dropped) = leading_digits(digits);
        exact = dropped == 0;
        exponent += dropped as i64;
    }
    let text = bytes.get(start..at).unwrap_or_default();
    Ok((
        Decimal {
            text,
            negative,
            mantissa,
            exponent,
            exact,
        },
        at,
    ))
}

#[cold]
fn scan_exponent(bytes: &[u8], mut at: usize) -> Result<(i64, usize), Misspelt> {
    let minus = bytes.get(at) == Some(&b'-');
    if let Some(b'+' | b'-') = bytes.get(at) {
        at += 1;
    }
    let Some(first) = digit_at(bytes, at) else {
        return Err(Misspelt {
            offset: at,
            expected: "a digit in the exponent",
        });
    };
    let mut power = first as i64;
    at += 1;
    while let Some(digit) = digit_at(bytes, at) {
        power = (power * 10 + digit as i64).min(EXPONENT_CAP);
        at += 1;
    }
    Ok((if minus { -power } else { power }, at))
}

/// The first 19 significant digits of `digits` (which may hold a point), and how many significant
/// digits come after them.
#[cold]
fn leading_digits(digits: &[u8]) -> (u64, usize) {
    let significant = digits
        .iter()
        .filter(|b| **b != b'.')
        .skip_while(|b| **b == b'0');
    let (mut mantissa, mut taken, mut dropped) = (0u64, 0, 0);
    for byte in significant {
        if taken < MANTISSA_DIGITS {
            mantissa = mantissa * 10 + u64::from(byte - b'0');
            taken += 1;
        } else {
            dropped += 1;
        }
    }
    (mantissa, dropped)
}

impl<'a> Decimal<'a> {
    fn as_str(&self) -> &'a str {
        // Scanned bytes are ASCII; an empty text could only come from a caller that made one up.
        std::str::from_utf8(self.text).unwrap_or_default()
    }

    #[inline(always)]
    fn approximate(&self) -> Option<f64> {
        approximate(self.mantissa as f64, self.exponent)
    }

    #[inline(always)]
    fn sign64(&self, magnitude: f64) -> f64 {
        if self.negative { -magnitude } else { magnitude }
    }

    /// Returns the nearest double. Errors with `OutOfRange` when that is infinite.
    #[inline]
    pub fn to_f64(&self) -> Result<f64, NumberFault> {
        if self.exact
            && self.mantissa <= EXACT_MANTISSA
            && let Some(value) = self.approximate()
        {
            return Ok(self.sign64(value));
        }
        self.to_f64_slowly()
    }

    #[inline(never)]
    fn to_f64_slowly(&self) -> Result<f64, NumberFault> {
        let value = self
            .as_str()
            .parse::<f64>()
            .map_err(|_| NumberFault::OutOfRange)?;
        if value.is_finite() {
            Ok(value)
        } else {
            Err(NumberFault::OutOfRange)
        }
    }

    /// Returns the nearest single. Errors with `OutOfRange` when that is infinite.
    #[inline]
    pub fn to_f32(&self) -> Result<f32, NumberFault> {
        if let Some(nearest) = self
            .approximate()
            .and_then(|value| nearest_f32(value, self.negative))
        {
            return Ok(nearest);
        }
        self.to_f32_slowly()
    }

    #[inline(never)]
    fn to_f32_slowly(&self) -> Result<f32, NumberFault> {
        let value = self
            .as_str()
            .parse::<f32>()
            .map_err(|_| NumberFault::OutOfRange)?;
        if value.is_finite() {
            Ok(value)
        } else {
            Err(NumberFault::OutOfRange)
        }
    }

    /// The bits of the nearest binary16. Errors with `OutOfRange` when that is infinite.
    #[inline]
    pub fn to_f16_bits(&self) -> Result<u16, NumberFault> {
        self.to_narrow::<10, 5>()
    }

    /// The bits of the nearest bfloat16. Errors with `OutOfRange` when that is infinite.
    #[inline]
    pub fn to_bf16_bits(&self) -> Result<u16, NumberFault> {
        self.to_narrow::<7, 8>()
    }

    #[inline(always)]
    fn to_narrow<const MANTISSA_BITS: u32, const EXPONENT_BITS: u32>(
        &self,
    ) -> Result<u16, NumberFault> {
        let narrowed = match self
            .approximate()
            .map(narrow::<MANTISSA_BITS, EXPONENT_BITS>)
        {
            Some(Narrowed::Certain(bits)) => bits,
            _ => self.to_narrow_slowly::<MANTISSA_BITS, EXPONENT_BITS>()?,
        };
        let infinity = ((1u16 << EXPONENT_BITS) - 1) << MANTISSA_BITS;
        if narrowed >= infinity {
            return Err(NumberFault::OutOfRange);
        }
        Ok(narrowed | u16::from(self.negative) << 15)
    }

    /// Rounds through the nearest double. That is wrong only when the double is itself a midpoint
    /// while the decimal lies to one side of it, so there the decimal decides.
    #[cold]
    fn to_narrow_slowly<const MANTISSA_BITS: u32, const EXPONENT_BITS: u32>(
        &self,
    ) -> Result<u16, NumberFault> {
        let nearest = self.to_f64_slowly()?.abs();
        if nearest == 0.0 {
            return Ok(0);
        }
        let side = match narrow::<MANTISSA_BITS, EXPONENT_BITS>(nearest) {
            Narrowed::Midpoint(_) => self.compare_magnitude(nearest),
            Narrowed::Certain(bits) | Narrowed::Doubtful(bits) => return Ok(bits),
        };
        let nudged = match side {
            Ordering::Less => nearest.next_down(),
            Ordering::Equal => nearest,
            Ordering::Greater => nearest.next_up(),
        };
        Ok(narrow::<MANTISSA_BITS, EXPONENT_BITS>(nudged).bits())
    }

    /// The nearest value of an 8-bit format. Errors with `OutOfRange` when that would be beyond the greatest.
    pub fn to_fp8(&self, format: Fp8) -> Result<u8, NumberFault> {
        let nearest = self.to_f64_slowly()?.abs();
        let mut rounded = format.round(nearest);
        // As above: only where the double is a midpoint itself may the decimal lie to one side of it.
        if rounded.is_midpoint {
            rounded = format.round(match self.compare_magnitude(nearest) {
                Ordering::Less => nearest.next_down(),
                Ordering::Equal => nearest,
                Ordering::Greater => nearest.next_up(),
            });
        }
        format
            .byte(rounded, self.negative)
            .ok_or(NumberFault::OutOfRange)
    }

    /// Compares the exact magnitude of the decimal with a positive, finite double.
    fn compare_magnitude(&self, value: f64) -> Ordering {
        if let Some(order) = self.compare_in_u128(value) {
            return order;
        }
        // 800 digits hold any double exactly; this comparison needs far fewer.
        let printed = format!("{value:.800e}");
        let (digits, exponent) = printed.split_once('e').unwrap_or((&printed, "0"));
        let own_exponent = self.leading_exponent();
        let other_exponent: i64 = exponent.parse().unwrap_or(0);
        own_exponent.cmp(&other_exponent).then_with(|| {
            let number = self
                .text
                .split(|b| matches!(b, b'e' | b'E'))
                .next()
                .unwrap_or_default();
            let mut own = number
                .iter()
                .copied()
                .filter(u8::is_ascii_digit)
                .skip_while(|b| *b == b'0');
            let mut other = digits.bytes().filter(u8::is_ascii_digit);
            loop {
                match (own.next(), other.next()) {
                    (None, None) => return Ordering::Equal,
                    (a, b) => match a.unwrap_or(b'0').cmp(&b.unwrap_or(b'0')) {
                        Ordering::Equal => {}
                        order => return order,
                    },
                }
            }
        })
    }

    /// The power of ten of the first significant digit; the mantissa is not zero.
    fn leading_exponent(&self) -> i64 {
        self.exponent + i64::from(self.mantissa.checked_ilog10().unwrap_or(0))
    }

    /// [`Self::compare_magnitude`] in integers, for the common sizes.
    fn compare_in_u128(&self, value: f64) -> Option<Ordering> {
        if !self.exact {
            return None;
        }
        let bits = value.to_bits();
        let stored_exponent = i64::try_from(bits >> 52).ok()?;
        if stored_exponent == 0 {
            return None;
        }
        let whole = (bits & ((1 << 52) - 1)) | (1 << 52);
        let zeros = whole.trailing_zeros();
        // value = odd · 2^power
        let (odd, power) = (whole >> zeros, stored_exponent - 1075 + i64::from(zeros));
        let mut own = u128::from(self.mantissa);
        let mut other = u128::from(odd);
        let fives = |n: i64| 5u128.checked_pow(u32::try_from(n).ok()?);
        // own · 5^e · 2^e against odd · 2^power: move each factor to the side where it is positive.
        if self.exponent >= 0 {
            own = own.checked_mul(fives(self.exponent)?)?;
        } else {
            other = other.checked_mul(fives(-self.exponent)?)?;
        }
        let twos = power - self.exponent;
        let shift = |n: u128, by: i64| {
            let by = u32::try_from(by).ok()?;
            (by < n.leading_zeros()).then(|| n << by)
        };
        if twos >= 0 {
            other = shift(other, twos)?
        } else {
            own = shift(own, -twos)?
        }
        Some(own.cmp(&other))
    }

    /// The value as a signed integer of 64 bits. `1.0` and `1e3` are integers.
    #[inline]
    pub fn to_i64(&self) -> Result<i64, NumberFault> {
        if self.exact
            && self.exponent == 0
            && let Ok(magnitude) = i64::try_from(self.mantissa)
        {
            return Ok(if self.negative { -magnitude } else { magnitude });
        }
        i64::try_from(self.to_i128_slowly()?).map_err(|_| NumberFault::OutOfRange)
    }

    /// The value as an unsigned integer of 64 bits. `1.0`, `1e3` and `-0` are integers.
    #[inline]
    pub fn to_u64(&self) -> Result<u64, NumberFault> {
        if self.exact && self.exponent == 0 && !self.negative {
            return Ok(self.mantissa);
        }
        u64::try_from(self.to_i128_slowly()?).map_err(|_| NumberFault::OutOfRange)
    }

    /// The value as an integer of at most 20 digits. `4`, `4.0` and `4e0` are the same integer.
    #[inline]
    pub fn to_i128(&self) -> Result<i128, NumberFault> {
        if self.exact && self.exponent == 0 {
            let magnitude = i128::from(self.mantissa);
            return Ok(if self.negative { -magnitude } else { magnitude });
        }
        self.to_i128_slowly()
    }

    /// The integer, when it is one of at most 20 digits: enough for 64 bits.
    #[cold]
    fn to_i128_slowly(&self) -> Result<i128, NumberFault> {
        if self.mantissa == 0 {
            return Ok(0);
        }
        let number = self
            .text
            .split(|b| matches!(b, b'e' | b'E'))
            .next()
            .unwrap_or_default();
        let digits = || {
            number
                .iter()
                .filter(|b| b.is_ascii_digit())
                .skip_while(|b| **b == b'0')
        };
        // Trailing zeros of the digits move into the exponent.
        let (mut count, mut kept) = (0usize, 0usize);
        for digit in digits() {
            count += 1;
            if *digit != b'0' {
                kept = count;
            }
        }
        let first = self.leading_exponent();
        // The kept digits end at this power of ten.
        let last = first - (kept as i64 - 1);
        if last < 0 {
            return Err(NumberFault::NotAnInteger);
        }
        if first >= 20 {
            return Err(NumberFault::OutOfRange);
        }
        let mut magnitude = 0i128;
        for digit in digits().take(kept) {
            magnitude = magnitude * 10 + i128::from(digit - b'0');
        }
        for _ in 0..last {
            magnitude *= 10;
        }
        Ok(if self.negative { -magnitude } else { magnitude })
    }
}

/// A double rounded to a narrower type: its magnitude's bits, and how much they can be trusted if
/// the double was a few units of its last place off.
#[derive(Clone, Copy)]
enum Narrowed {
    Certain(u16),
    /// The value is so near a midpoint that a small error decides.
    Doubtful(u16),
    /// Exactly on a midpoint; rounded to even.
    Midpoint(u16),
}

impl Narrowed {
    fn bits(self) -> u16 {
        match self {
            Narrowed::Certain(bits) | Narrowed::Doubtful(bits) | Narrowed::Midpoint(bits) => bits,
        }
    }
}

/// Rounds a magnitude to a binary float of 16 bits. Magnitudes too great give infinity's bits.
#[inline(always)]
fn narrow<const MANTISSA_BITS: u32, const EXPONENT_BITS: u32>(magnitude: f64) -> Narrowed {
    let bias = (1i64 << (EXPONENT_BITS - 1)) - 1;
    let infinity = ((1u64 << EXPONENT_BITS) - 1) << MANTISSA_BITS;
    let bits = magnitude.to_bits() & !(1 << 63);
    if bits == 0 {
        // Only a mantissa of zero computes to zero: an exact zero.
        return Narrowed::Certain(0);
    }
    let exponent = (bits >> 52) as i64 - 1023;
    if exponent > bias {
        return Narrowed::Certain(infinity as u16);
    }
    let least = 1 - bias;
    let whole = (bits & ((1 << 52) - 1)) | (1 << 52);
    let subnormal_shift = (least - exponent).max(0);
    let drop = i64::from(52 - MANTISSA_BITS) + subnormal_shift;
    if drop > 54 {
        return Narrowed::Certain(0);
    }
    let kept = whole >> drop;
    let remainder = whole & ((1 << drop) - 1);
    let half = 1u64 << (drop - 1);
    let up = remainder > half || (remainder == half && kept & 1 == 1);
    // A normal value carries its implicit bit into the exponent field, hence one less there.
    let field = if exponent >= least {
        ((exponent + bias - 1) as u64) << MANTISSA_BITS
    } else {
        0
    };
    let rounded = (field + kept + u64::from(up)).min(infinity) as u16;
    if remainder == half {
        Narrowed::Midpoint(rounded)
    } else if remainder.abs_diff(half) <= DOUBT_ULPS {
        Narrowed::Doubtful(rounded)
    } else {
        Narrowed::Certain(rounded)
    }
}

/// The value nearest to `number` in a binary float of 16 bits; infinite where that is.
pub(crate) fn narrowed<const MANTISSA_BITS: u32, const EXPONENT_BITS: u32>(number: f64) -> f64 {
    let bits = narrow::<MANTISSA_BITS, EXPONENT_BITS>(number).bits();
    let magnitude = match MANTISSA_BITS {
        7 => half::bf16::from_bits(bits).to_f64(),
        _ => half::f16::from_bits(bits).to_f64(),
    };
    magnitude.copysign(number)
}
