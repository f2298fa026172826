//! Nanoseconds per number of parsing and writing an image-sized tensor, beside serde_json and the
//! standard library in the same run. Run with `cargo bench -p penstock-tensor`.

use penstock_tensor::{Contract, Datatype, Tensor, Unknown, parse_infer, parse_predict, render};
use std::hint::black_box;
use std::time::Instant;

const SHAPE: [usize; 4] = [1, 3, 48, 192];
const NUMBERS: usize = 3 * 48 * 192;
/// The best of this many runs counts: other work on the machine only ever adds.
const RUNS: usize = 60;

fn contract(datatype: &str) -> Contract {
    let tensor = |kind: &str, name: &str| {
        format!(
            "[[{kind}]]\nname = \"{name}\"\ndatatype = \"{datatype}\"\nshape = [\"N\", 3, 48, 192]\n"
        )
    };
    let text = format!(
        "description = \"\"\n{}{}",
        tensor("inputs", "x"),
        tensor("outputs", "y")
    );
    Contract::parse(&text).expect("the bench's contract is valid")
}

/// Values between -0.5 and 0.5 that need all their digits.
fn values() -> impl Iterator<Item = f32> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    (0..NUMBERS).map(move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    })
}

fn nested(numbers: &[String], separator: &str) -> String {
    fn level(out: &mut String, shape: &[usize], numbers: &mut std::slice::Iter<String>, sep: &str) {
        let Some((length, rest)) = shape.split_first() else {
            out.push_str(numbers.next().expect("as many numbers as the shape says"));
            return;
        };
        out.push('[');
        for i in 0..*length {
            if i > 0 {
                out.push_str(sep);
            }
            level(out, rest, numbers, sep);
        }
        out.push(']');
    }
    let mut out = String::new();
    level(&mut out, &SHAPE, &mut numbers.iter(), separator);
    out
}

fn best_ns_per_number(mut run: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_nanos() as f64 / NUMBERS as f64);
    }
    best
}

/// The work of a straightforward server: a tree of values, then the tensor.
fn through_serde_json(body: &[u8], datatype: Datatype) -> Vec<u8> {
    fn collect(value: &serde_json::Value, datatype: Datatype, data: &mut Vec<u8>) {
        match value {
            serde_json::Value::Array(values) => {
                values
                    .iter()
                    .for_each(|value| collect(value, datatype, data));
            }
            value if datatype == Datatype::Fp32 => {
                data.extend_from_slice(&(value.as_f64().unwrap_or(0.0) as f32).to_le_bytes());
            }
            value if datatype == Datatype::Fp64 => {
                data.extend_from_slice(&value.as_f64().unwrap_or(0.0).to_le_bytes());
            }
            value => data.extend_from_slice(&(value.as_i64().unwrap_or(0) as i32).to_le_bytes()),
        }
    }
    let body: serde_json::Value = serde_json::from_slice(body).expect("the bench's body is JSON");
    let mut data = Vec::new();
    collect(&body["inputs"]["x"], datatype, &mut data);
    data
}

fn parse(name: &str, datatype: Datatype, numbers: &[String], separator: &str) {
    let contract = contract(datatype.as_str());
    let body = format!("{{\"inputs\":{{\"x\":{}}}}}", nested(numbers, separator)).into_bytes();
    let own = best_ns_per_number(|| {
        black_box(parse_predict(black_box(&body), &contract)).expect("the bench's body fits");
    });
    let flat = numbers.join(separator);
    let infer = format!(
        "{{\"inputs\":[{{\"name\":\"x\",\"shape\":[1,3,48,192],\"datatype\":\"{datatype}\",\"data\":[{flat}]}}]}}"
    );
    let oip = best_ns_per_number(|| {
        black_box(parse_infer(
            black_box(infer.as_bytes()),
            0,
            &contract,
            Unknown::Ignore,
        ))
        .expect("the bench's body fits");
    });
    let tree = best_ns_per_number(|| {
        black_box(through_serde_json(black_box(&body), datatype));
    });
    // The conversion alone, numbers already cut out: what no scanner with std's parser can beat.
    let std = best_ns_per_number(|| {
        for number in numbers {
            match datatype {
                Datatype::Fp32 => drop(black_box(black_box(number).parse::<f32>())),
                Datatype::Fp64 => drop(black_box(black_box(number).parse::<f64>())),
                _ => drop(black_box(black_box(number).parse::<i32>())),
            }
        }
    });
    println!(
        "{name:<34} {:>4.1} B  predict {own:>5.1} ns  infer {oip:>5.1} ns  serde_json tree {tree:>6.1} ns \
         ({:>4.1}x)  std parse alone {std:>5.1} ns",
        flat.len() as f64 / NUMBERS as f64,
        tree / own
    );
}

fn write(name: &str, tensor: &Tensor) {
    let mut out = Vec::with_capacity(1 << 20);
    let own = best_ns_per_number(|| {
        out.clear();
        render::write_nested(&mut out, black_box(tensor));
        black_box(&out);
    });
    println!("{name:<34}         write   {own:>5.1} ns");
}

fn main() {
    let shortest: Vec<String> = values().map(|v| v.to_string()).collect();
    let six: Vec<String> = values().map(|v| format!("{v:.6}")).collect();
    let widened: Vec<String> = values().map(|v| f64::from(v * 0.999).to_string()).collect();
    let exponents: Vec<String> = values().map(|v| format!("{:e}", v * 1e-6)).collect();
    let small: Vec<String> = values()
        .map(|v| ((v * 255.0) as i32 + 128).to_string())
        .collect();
    parse("FP32 \"0.123456\"", Datatype::Fp32, &six, ",");
    parse("FP32 shortest", Datatype::Fp32, &shortest, ",");
    parse(
        "FP32 shortest, after \", \"",
        Datatype::Fp32,
        &shortest,
        ", ",
    );
    parse("FP32 17 digits (Python)", Datatype::Fp32, &widened, ", ");
    parse("FP32 with exponents", Datatype::Fp32, &exponents, ",");
    parse("FP32 \"17\"", Datatype::Fp32, &small, ",");
    parse("FP64 17 digits", Datatype::Fp64, &widened, ",");
    parse("INT32 \"17\"", Datatype::Int32, &small, ",");
    let tensor = |datatype, data| Tensor {
        name: "x".into(),
        datatype,
        shape: SHAPE.map(|n| n as u64).to_vec(),
        data,
    };
    write(
        "FP32",
        &tensor(
            Datatype::Fp32,
            values().flat_map(f32::to_le_bytes).collect(),
        ),
    );
    write(
        "FP64",
        &tensor(
            Datatype::Fp64,
            values().flat_map(|v| f64::from(v).to_le_bytes()).collect(),
        ),
    );
}
