//! Every number is rounded as the datatype asks, on the fast road and on the slow one.

use penstock_tensor::fp8::Fp8;
use penstock_tensor::{
    Contract, Datatype, InferRequest, Rejection, Tensor, Unknown, parse_predict, render,
};
use proptest::prelude::*;

/// Unknown members are refused, so that tests see each of them; `lenient.rs` has the other mode.
fn parse_infer(
    body: &[u8],
    tail_bytes: u64,
    contract: &Contract,
) -> Result<InferRequest, Rejection> {
    penstock_tensor::parse_infer(body, tail_bytes, contract, Unknown::Refuse)
}

fn contract(datatype: Datatype) -> Contract {
    let text = format!(
        "description = \"\"\n[[inputs]]\nname = \"x\"\ndatatype = \"{datatype}\"\nshape = [\"N\"]\n\
         [[outputs]]\nname = \"y\"\ndatatype = \"{datatype}\"\nshape = [\"N\"]\n"
    );
    Contract::parse(&text).unwrap()
}

/// The number's bytes, after making sure that it reads the same first in a row, last in a row, and
/// in the other form of request.
fn read(number: &str, datatype: Datatype) -> Result<Vec<u8>, Rejection> {
    let contract = contract(datatype);
    let body = format!("{{\"inputs\":{{\"x\":[{number},{number}]}}}}          ");
    let predict = parse_predict(body.as_bytes(), &contract).map(|r| r.inputs[0].data.clone());
    let body = format!(
        "{{\"inputs\":[{{\"name\":\"x\",\"shape\":[2],\"datatype\":\"{datatype}\",\"data\":[ {number} , {number}]}}]}}"
    );
    let infer = parse_infer(body.as_bytes(), 0, &contract).map(|r| r.inputs[0].data.clone());
    assert_eq!(predict.is_ok(), infer.is_ok(), "{number}");
    if let (Ok(a), Ok(b)) = (&predict, &infer) {
        assert_eq!(a, b, "{number}");
        let (first, last) = a.split_at(a.len() / 2);
        assert_eq!(first, last, "{number} reads differently in another place");
    }
    predict.map(|data| data[..data.len() / 2].to_vec())
}

fn rule_of(number: &str, datatype: Datatype) -> String {
    let rejection = read(number, datatype).unwrap_err();
    assert_eq!(rejection.violations[0].pointer, "/inputs/x/0", "{number}");
    rejection.violations[0].rule.clone()
}

fn bits16(number: &str, datatype: Datatype) -> u16 {
    u16::from_le_bytes(read(number, datatype).unwrap().try_into().unwrap())
}

/// A decimal just below `exact`, which is not zero and has a point.
fn just_below(exact: &str) -> String {
    let (whole, fraction) = exact.split_once('.').unwrap();
    let fraction = fraction.trim_end_matches('0');
    let (digits, point) = match fraction {
        "" => (whole.to_owned(), "."),
        _ => (format!("{whole}.{fraction}"), ""),
    };
    let (kept, last) = digits.split_at(digits.trim_end_matches('0').len() - 1);
    let borrowed: u64 = last.parse().unwrap();
    let width = last.len();
    format!("{kept}{:0width$}{point}{}", borrowed - 1, "9".repeat(40))
}

#[test]
fn decimals_around_every_fp16_midpoint_round_to_nearest_and_ties_to_even() {
    let contract = contract(Datatype::Fp16);
    for start in (0..0x7BFFu16).step_by(512) {
        let (mut texts, mut expected) = (Vec::new(), Vec::new());
        for bits in start..(start + 512).min(0x7BFF) {
            let (low, high) = (
                half::f16::from_bits(bits).to_f64(),
                half::f16::from_bits(bits + 1).to_f64(),
            );
            let exact = format!("{:.40}", (low + high) / 2.0);
            let even = bits + (bits & 1);
            texts.extend([
                just_below(&exact),
                exact.clone(),
                format!("{exact}0001"),
                format!("{low:e}"),
            ]);
            expected.extend([bits, even, bits + 1, bits]);
        }
        let body = format!("{{\"inputs\":[{}]}}", texts.join(","));
        let items = Contract {
            limits: penstock_tensor::contract::Limits {
                max_items: 1 << 20,
                ..contract.limits
            },
            ..contract.clone()
        };
        let read = parse_predict(body.as_bytes(), &items).unwrap();
        let found = read.inputs[0]
            .data
            .as_chunks::<2>()
            .0
            .iter()
            .map(|b| u16::from_le_bytes(*b));
        for ((found, expected), text) in found.zip(expected).zip(&texts) {
            assert_eq!(found, expected, "{text}");
        }
    }
}

#[test]
fn decimals_around_bf16_midpoints_round_to_nearest_and_ties_to_even() {
    for bits in (0..0x7F7Fu16).step_by(37).chain([0, 1, 0x7F, 0x80, 0x7F7E]) {
        let value = |bits| half::bf16::from_bits(bits).to_f64();
        let exact = format!("{:.150}", (value(bits) + value(bits + 1)) / 2.0);
        assert_eq!(bits16(&exact, Datatype::Bf16), bits + (bits & 1), "{exact}");
        let above = format!("{exact}0001");
        assert_eq!(bits16(&above, Datatype::Bf16), bits + 1, "{above}");
        let negative = format!("-{}", just_below(&exact));
        assert_eq!(
            bits16(&negative, Datatype::Bf16),
            bits | 0x8000,
            "{negative}"
        );
    }
}

#[test]
fn the_greatest_float_is_read_and_the_first_that_rounds_to_infinity_is_refused() {
    let cases = [
        (Datatype::Fp16, "65504", "65519.999999999999999999", "65520"),
        (
            Datatype::Bf16,
            "338953138925153547590470800371487866880",
            "3.3961775292304e38",
            "3.3961775292305e38",
        ),
        (
            Datatype::Fp32,
            "3.4028234663852886e38",
            "3.4028235677973365e38",
            "3.4028235677973367e38",
        ),
        (
            Datatype::Fp64,
            "1.7976931348623157e308",
            "1.7976931348623158e308",
            "1.7976931348623159e308",
        ),
    ];
    for (datatype, greatest, fits, too_great) in cases {
        assert_eq!(
            read(greatest, datatype).unwrap(),
            read(fits, datatype).unwrap(),
            "{datatype}"
        );
        assert_eq!(
            rule_of(too_great, datatype),
            "number_out_of_range",
            "{datatype}"
        );
        assert_eq!(
            rule_of(&format!("-{too_great}"), datatype),
            "number_out_of_range"
        );
        assert_eq!(
            rule_of("1e999999999999999999999", datatype),
            "number_out_of_range"
        );
        let zero = read("1e-999999999999999999999", datatype).unwrap();
        assert!(zero.iter().all(|byte| *byte == 0), "{datatype}");
    }
    assert_eq!(rule_of("1e39", Datatype::Fp32), "number_out_of_range");
    assert_eq!(rule_of("70000", Datatype::Fp16), "number_out_of_range");
}

#[test]
fn a_minus_sign_before_zero_is_kept_by_floats() {
    for datatype in [
        Datatype::Fp16,
        Datatype::Bf16,
        Datatype::Fp32,
        Datatype::Fp64,
    ] {
        for zero in [
            "-0",
            "-0.0",
            "-0e5",
            "-0.000000000000000000000000000",
            "-1e-400",
        ] {
            assert_eq!(
                read(zero, datatype).unwrap().last(),
                Some(&0x80),
                "{zero} as {datatype}"
            );
        }
    }
    for datatype in [Datatype::Uint8, Datatype::Int64, Datatype::Uint64] {
        assert!(read("-0", datatype).unwrap().iter().all(|byte| *byte == 0));
        assert!(
            read("-0.0", datatype)
                .unwrap()
                .iter()
                .all(|byte| *byte == 0)
        );
    }
}

#[test]
fn integers_reach_to_the_ends_of_their_datatype_and_no_further() {
    for datatype in Datatype::ALL {
        let Some((least, greatest)) = datatype.integer_range() else {
            continue;
        };
        let size = datatype.size_bytes().unwrap();
        for value in [least, greatest, 0, 1] {
            let bytes = value.to_le_bytes();
            for spelling in [
                format!("{value}"),
                format!("{value}.0"),
                format!("{value}.0e0"),
                format!("{value}.000000000000000000000000"),
            ] {
                assert_eq!(
                    read(&spelling, *datatype).unwrap(),
                    bytes[..size],
                    "{spelling} {datatype}"
                );
            }
        }
        for value in [least - 1, greatest + 1] {
            assert_eq!(
                rule_of(&value.to_string(), *datatype),
                "number_out_of_range",
                "{value} {datatype}"
            );
        }
        assert_eq!(rule_of("1e30", *datatype), "number_out_of_range");
        for fraction in [
            "1.5",
            "0.1",
            "15e-1",
            "1e-1",
            "1e-99999999999999999999",
            "0.00000000000000000000000000001",
        ] {
            assert_eq!(rule_of(fraction, *datatype), "not_an_integer", "{fraction}");
        }
    }
    assert_eq!(read("1e3", Datatype::Int32).unwrap(), 1000i32.to_le_bytes());
    assert_eq!(read("12.5e1", Datatype::Uint8).unwrap(), [125]);
    assert_eq!(
        read("1000000000000000000000000e-24", Datatype::Uint8).unwrap(),
        [1]
    );
    assert_eq!(read("0e999999999999", Datatype::Uint8).unwrap(), [0]);
}

/// JSON numbers of every length and shape.
fn decimal() -> impl Strategy<Value = String> {
    "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?"
}

/// Decimals that lie near the midpoint of two singles.
fn near_single_midpoint() -> impl Strategy<Value = String> {
    (0x0080_0000u32..0x7F00_0000, -3i64..=3, 12usize..40).prop_map(|(bits, ulps, digits)| {
        let (low, high) = (
            f64::from(f32::from_bits(bits)),
            f64::from(f32::from_bits(bits + 1)),
        );
        let middle = f64::from_bits(((low + high) / 2.0).to_bits().wrapping_add_signed(ulps));
        format!("{middle:.digits$e}")
    })
}

fn agrees_with_std(number: &str) {
    let single: f32 = number.parse().unwrap();
    match read(number, Datatype::Fp32) {
        Ok(data) => assert_eq!(data, single.to_le_bytes(), "{number}"),
        Err(_) => assert!(single.is_infinite(), "{number}"),
    }
    let double: f64 = number.parse().unwrap();
    match read(number, Datatype::Fp64) {
        Ok(data) => assert_eq!(data, double.to_le_bytes(), "{number}"),
        Err(_) => assert!(double.is_infinite(), "{number}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_decimal_reads_as_the_standard_library_reads_it(number in decimal()) {
        agrees_with_std(&number);
    }

    #[test]
    fn decimals_near_a_midpoint_of_singles_round_correctly(number in near_single_midpoint()) {
        agrees_with_std(&number);
    }

    #[test]
    fn any_single_survives_a_round_trip(bits in any::<u32>()) {
        let value = f32::from_bits(bits);
        prop_assume!(value.is_finite());
        for text in [serde_json::to_string(&value).unwrap(), format!("{:?}", f64::from(value)), format!("{value:e}"), value.to_string()] {
            prop_assert_eq!(read(&text, Datatype::Fp32).unwrap(), value.to_le_bytes(), "{}", text);
        }
        round_trip(Datatype::Fp32, &value.to_le_bytes());
    }

    #[test]
    fn any_double_survives_a_round_trip(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        prop_assume!(value.is_finite());
        let text = serde_json::to_string(&value).unwrap();
        prop_assert_eq!(read(&text, Datatype::Fp64).unwrap(), value.to_le_bytes(), "{}", text);
        round_trip(Datatype::Fp64, &value.to_le_bytes());
    }

    #[test]
    fn any_narrow_float_survives_a_round_trip(bits in any::<u16>()) {
        if half::f16::from_bits(bits).is_finite() {
            round_trip(Datatype::Fp16, &bits.to_le_bytes());
        }
        if half::bf16::from_bits(bits).is_finite() {
            round_trip(Datatype::Bf16, &bits.to_le_bytes());
        }
    }

    #[test]
    fn any_integer_survives_a_round_trip(value in any::<i64>()) {
        prop_assert_eq!(read(&value.to_string(), Datatype::Int64).unwrap(), value.to_le_bytes());
        round_trip(Datatype::Int64, &value.to_le_bytes());
        round_trip(Datatype::Uint64, &value.to_le_bytes());
        round_trip(Datatype::Int32, &value.to_le_bytes()[..4]);
        round_trip(Datatype::Uint16, &value.to_le_bytes()[..2]);
        round_trip(Datatype::Int8, &value.to_le_bytes()[..1]);
    }
}

/// Renders one element and reads it back.
fn round_trip(datatype: Datatype, bytes: &[u8]) {
    let tensor = Tensor {
        name: "x".into(),
        datatype,
        shape: vec![],
        data: bytes.to_vec().into(),
    };
    let mut out = Vec::new();
    assert_eq!(render::write_nested(&mut out, &tensor), 0);
    let text = String::from_utf8(out).unwrap();
    assert_eq!(
        read(&text, datatype).unwrap(),
        bytes,
        "{text} as {datatype}"
    );
}

#[test]
fn decimals_round_to_the_nearest_fp8_and_halves_to_the_even_one() {
    for (datatype, format) in [
        (Datatype::Fp8E4m3fn, Fp8::E4m3fn),
        (Datatype::Fp8E4m3fnuz, Fp8::E4m3fnuz),
        (Datatype::Fp8E5m2, Fp8::E5m2),
        (Datatype::Fp8E5m2fnuz, Fp8::E5m2fnuz),
    ] {
        let positive = (0u8..0x80).filter(|code| format.to_f64(*code).is_finite());
        let codes: Vec<u8> = positive.collect();
        for pair in codes.windows(2) {
            let [low, high] = [pair[0], pair[1]];
            let half = (format.to_f64(low) + format.to_f64(high)) / 2.0;
            let written = format!("{half:.60}");
            let even = if low & 1 == 0 { low } else { high };
            assert_eq!(read(&written, datatype).unwrap(), [even], "{written}");
            // Nearer to the half than any double is.
            let above = format!("{written}{}1", "0".repeat(300));
            assert_eq!(read(&above, datatype).unwrap(), [high], "{above}");
            let negative = read(&format!("-{above}"), datatype).unwrap();
            assert_eq!(negative, [high | 0x80]);
        }
        let greatest = format!("{}", format.max());
        let last = *codes.last().unwrap();
        assert_eq!(read(&greatest, datatype).unwrap(), [last]);
        for beyond in ["1e9", "-1e9", "1e400"] {
            assert_eq!(rule_of(beyond, datatype), "number_out_of_range");
        }
        let zero = read("-0.0", datatype).unwrap();
        let has_sign = matches!(datatype, Datatype::Fp8E4m3fn | Datatype::Fp8E5m2);
        assert_eq!(zero, [if has_sign { 0x80 } else { 0 }]);
    }
    // Half a step beyond the greatest value: 464 goes back to the even 448, and 61440 would be infinite.
    assert_eq!(read("464", Datatype::Fp8E4m3fn).unwrap(), [0x7E]);
    assert_eq!(
        rule_of("464.0001", Datatype::Fp8E4m3fn),
        "number_out_of_range"
    );
    assert_eq!(rule_of("61440", Datatype::Fp8E5m2), "number_out_of_range");
    assert_eq!(read("61439.999", Datatype::Fp8E5m2).unwrap(), [0x7B]);
}
