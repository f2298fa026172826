//! The 8-bit floating-point formats: the value of a byte, and the byte nearest to a number.
//!
//! The formats are those of ONNX ("Float stored in 8 bits"); E4M3FN and E5M2 are also those of the Open Compute Project's OFP8
//! specification. Why own code: no maintained crate has the two FNUZ formats and rounds decimal numbers correctly.

use crate::datatype::Datatype;

/// An 8-bit floating-point format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fp8 {
    /// 4 bits of exponent and 3 of mantissa; no infinity.
    E4m3fn,
    /// The same with another bias; no infinity, no negative zero.
    E4m3fnuz,
    /// 5 bits of exponent and 2 of mantissa, as IEEE 754 would have them.
    E5m2,
    /// The same with another bias; no infinity, no negative zero.
    E5m2fnuz,
}

/// The bit of the sign.
const SIGN: u8 = 0x80;

/// The position of a magnitude between two neighbouring values of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nearest {
    /// The bits of the nearer value; of two equally near ones the even one. One more than the greatest if that is nearer.
    code: u8,
    /// Whether both are equally near.
    pub(crate) is_midpoint: bool,
}

impl Fp8 {
    /// All formats of 8 bits. Other modules name a format by its index here.
    pub const ALL: [Self; 4] = [Self::E4m3fn, Self::E4m3fnuz, Self::E5m2, Self::E5m2fnuz];

    /// The format of a datatype; `None` for other datatypes.
    pub const fn of(datatype: Datatype) -> Option<Self> {
        match datatype {
            Datatype::Fp8E4m3fn => Some(Self::E4m3fn),
            Datatype::Fp8E4m3fnuz => Some(Self::E4m3fnuz),
            Datatype::Fp8E5m2 => Some(Self::E5m2),
            Datatype::Fp8E5m2fnuz => Some(Self::E5m2fnuz),
            _ => None,
        }
    }

    /// Bits of the mantissa, bias of the exponent, and the greatest magnitude's bits.
    const fn layout(self) -> (u32, i32, u8) {
        match self {
            Self::E4m3fn => (3, 7, 0x7E),
            Self::E4m3fnuz => (3, 8, 0x7F),
            Self::E5m2 => (2, 15, 0x7B),
            Self::E5m2fnuz => (2, 16, 0x7F),
        }
    }

    /// Returns whether the bits of the negative zero mean NaN.
    const fn is_unsigned_zero(self) -> bool {
        matches!(self, Self::E4m3fnuz | Self::E5m2fnuz)
    }

    /// The value of a magnitude's bits, without regard to NaN and infinity.
    fn magnitude(self, code: u8) -> f64 {
        let (mantissa_bits, bias, _) = self.layout();
        let mantissa = f64::from(code & ((1 << mantissa_bits) - 1));
        let field = i32::from(code >> mantissa_bits);
        let implicit = f64::from(u8::from(field > 0)) * f64::from(1u8 << mantissa_bits);
        // A power of two, so this is exact.
        (implicit + mantissa) * 2f64.powi(field.max(1) - bias - mantissa_bits as i32)
    }

    /// The value of a byte.
    pub fn to_f64(self, byte: u8) -> f64 {
        let (_, _, greatest) = self.layout();
        let code = byte & !SIGN;
        if byte == SIGN && self.is_unsigned_zero() {
            return f64::NAN;
        }
        let magnitude = match code.checked_sub(greatest) {
            None | Some(0) => self.magnitude(code),
            Some(1) if self == Self::E5m2 => f64::INFINITY,
            Some(_) => f64::NAN,
        };
        if byte & SIGN == 0 {
            magnitude
        } else {
            -magnitude
        }
    }

    /// The greatest finite value of the format.
    pub fn max(self) -> f64 {
        self.magnitude(self.layout().2)
    }

    /// The position of a magnitude, at least zero, among the values of the format.
    pub(crate) fn round(self, magnitude: f64) -> Nearest {
        let (_, _, greatest) = self.layout();
        // Values grow with their bits: bisect.
        let (mut low, mut high) = (0, greatest);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            match self.magnitude(middle) <= magnitude {
                true => low = middle,
                false => high = middle - 1,
            }
        }
        let midpoint = (self.magnitude(low) + self.magnitude(low + 1)) / 2.0;
        let is_midpoint = magnitude == midpoint;
        let up = magnitude > midpoint || (is_midpoint && low & 1 == 1);
        Nearest {
            code: low + u8::from(up),
            is_midpoint,
        }
    }

    /// The byte of a rounded magnitude; `None` if the nearest value exceeds the greatest.
    pub(crate) fn byte(self, nearest: Nearest, negative: bool) -> Option<u8> {
        let Nearest { code, .. } = nearest;
        let has_sign = negative && !(code == 0 && self.is_unsigned_zero());
        let sign = if has_sign { SIGN } else { 0 };
        (code <= self.layout().2).then_some(code | sign)
    }

    /// The value nearest to a number; infinite if that exceeds the greatest.
    pub fn nearest(self, value: f64) -> f64 {
        match self.byte(self.round(value.abs()), value.is_sign_negative()) {
            Some(byte) => self.to_f64(byte),
            None => f64::INFINITY.copysign(value),
        }
    }

    /// The byte nearest to a number; of two equally near ones the even one. Numbers beyond the greatest value become the greatest.
    pub fn saturated(self, value: f64) -> u8 {
        if value.is_nan() {
            return match self.is_unsigned_zero() {
                true => SIGN,
                false => 0x7F,
            };
        }
        let magnitude = value.abs().min(self.max());
        let byte = self.byte(self.round(magnitude), value.is_sign_negative());
        byte.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extremes_are_those_of_the_formats_tables() {
        // ONNX, "Float stored in 8 bits": greatest, least positive normal and subnormal values.
        for (format, greatest, normal, subnormal) in [
            (Fp8::E4m3fn, 448.0, 2f64.powi(-6), 2f64.powi(-9)),
            (Fp8::E4m3fnuz, 240.0, 2f64.powi(-7), 2f64.powi(-10)),
            (Fp8::E5m2, 57344.0, 2f64.powi(-14), 2f64.powi(-16)),
            (Fp8::E5m2fnuz, 57344.0, 2f64.powi(-15), 2f64.powi(-17)),
        ] {
            assert_eq!(format.max(), greatest);
            let all = || (0..=u8::MAX).map(|byte| format.to_f64(byte));
            let finite = || all().filter(|value| value.is_finite());
            assert_eq!(finite().fold(0.0, f64::max), greatest);
            assert_eq!(finite().fold(0.0, f64::min), -greatest);
            let positive = finite().filter(|value| *value > 0.0);
            assert_eq!(positive.fold(f64::MAX, f64::min), subnormal);
            assert!(all().any(|value| value == normal));
            let (nan, infinite) = match format {
                Fp8::E4m3fn => (2, 0),
                Fp8::E5m2 => (6, 2),
                Fp8::E4m3fnuz | Fp8::E5m2fnuz => (1, 0),
            };
            assert_eq!(all().filter(|value| value.is_nan()).count(), nan);
            assert_eq!(all().filter(|value| value.is_infinite()).count(), infinite);
        }
    }

    #[test]
    fn every_byte_is_the_nearest_to_its_value_and_halves_go_to_the_even_one() {
        for format in Fp8::ALL {
            let (_, _, greatest) = format.layout();
            for byte in 0..=u8::MAX {
                let value = format.to_f64(byte);
                if value.is_finite() {
                    assert_eq!(format.saturated(value), byte, "{format:?} {byte:#x}");
                }
            }
            assert!(format.to_f64(format.saturated(f64::NAN)).is_nan());
            for code in 0..greatest {
                let half = (format.to_f64(code) + format.to_f64(code + 1)) / 2.0;
                let even = code + (code & 1);
                assert_eq!(format.saturated(half), even, "{format:?} {code:#x}");
                assert_eq!(format.saturated(half.next_down()), code);
                assert_eq!(format.saturated(half.next_up()), code + 1);
                assert!(format.round(half).is_midpoint);
            }
            assert_eq!(format.saturated(f64::INFINITY), greatest);
            assert_eq!(format.byte(format.round(1e9), false), None);
        }
    }

    #[test]
    fn a_negative_zero_is_zero_where_its_bits_are_nan() {
        assert_eq!(Fp8::E4m3fn.saturated(-0.0), 0x80);
        assert_eq!(Fp8::E4m3fnuz.saturated(-0.0), 0);
        assert_eq!(Fp8::E5m2fnuz.saturated(-1e-9), 0);
    }
}
