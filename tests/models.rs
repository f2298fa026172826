//! Real models behind the built components, over HTTP.

use crate::common;

use common::{Options, Server, media, root};
use serde_json::{Value, json};

fn label(server: &Server, body: &[u8]) -> String {
    // As `curl --data-binary` sends it.
    let answer = server.post(
        "/v1/models/magika:predict",
        "application/x-www-form-urlencoded",
        body,
    );
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.bytes)
    );
    let value = answer.json();
    let prediction = &value["predictions"][0];
    assert!(
        prediction["confidence"].as_f64().is_some_and(|c| c > 0.5),
        "{value}"
    );
    prediction["label"].as_str().expect("a label").to_owned()
}

fn content_is_recognised(server: &Server) {
    let readme = std::fs::read(root().join("README.md")).unwrap();
    assert_eq!(label(server, &readme), "markdown");
    assert_eq!(label(server, &png()), "png");
    // The test's own program is an ELF file.
    let elf = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert_eq!(label(server, &elf[..elf.len().min(900_000)]), "elf");
    let python = std::fs::read(root().join("scripts/make_models.py")).unwrap();
    assert_eq!(label(server, &python), "python");
    assert_eq!(label(server, b""), "empty");
}

/// A picture of one white pixel.
fn png() -> Vec<u8> {
    media::png_of(
        &[0, 0, 0, 1, 0, 0, 0, 1, 8, 2, 0, 0, 0],
        &[0x78, 0x9c, 0x63, 0xf8, 0xcf, 0xc0, 0, 0, 3, 1, 1, 0],
    )
}

#[test]
fn magika_recognises_files_through_its_adapter() {
    content_is_recognised(&Server::start());
}

#[test]
fn magika_recognises_files_on_tract_where_no_native_library_is_given() {
    let server = Server::start_with(Options {
        tract: true,
        ..Options::default()
    });
    content_is_recognised(&server);
    // The log may come a moment after the first answer.
    server.logged("model magika version 1: ready on tract");
}

#[test]
fn identity_gives_back_fp32_numbers_bit_for_bit() {
    let server = Server::start();
    let edges = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        f32::MIN_POSITIVE,
        -f32::MIN_POSITIVE,
        f32::from_bits(1),
        f32::from_bits(0x007f_ffff),
        f32::MAX,
        f32::MIN,
        f32::EPSILON,
        0.1,
        1.0 / 3.0,
        16_777_216.0,
        16_777_217.0,
        1e-38,
        3.402_823e38,
        1.175_494_2e-38,
        core::f32::consts::PI,
        8_388_608.5,
    ];
    let mut bits: Vec<u32> = edges.iter().map(|f: &f32| f.to_bits()).collect();
    // And a spread over all finite bit patterns.
    bits.extend(
        (0..4000u32)
            .map(|i| i.wrapping_mul(0x9e37_79b1))
            .filter(|b| f32::from_bits(*b).is_finite()),
    );
    bits.truncate(bits.len() / 4 * 4);
    for chunk in bits.chunks(64 * 4) {
        let rows: Vec<String> = chunk
            .chunks(4)
            .map(|r| {
                let numbers: Vec<String> = r
                    .iter()
                    .map(|b| format!("{:?}", f32::from_bits(*b)))
                    .collect();
                format!("[{}]", numbers.join(","))
            })
            .collect();
        let answer = server.post_json(
            "/v1/models/identity:predict",
            &format!("{{\"inputs\":{{\"a\":[{}]}}}}", rows.join(",")),
        );
        assert_eq!(
            answer.status,
            200,
            "{}",
            String::from_utf8_lossy(&answer.bytes)
        );
        let value = answer.json();
        let predictions = value["predictions"].as_array().unwrap();
        let got: Vec<u32> = predictions
            .iter()
            .flat_map(|p| p["b"].as_array().unwrap())
            // Read back as FP32: `as f32` of the nearest f64 would round twice.
            .map(|n| n.to_string().parse::<f32>().unwrap().to_bits())
            .collect();
        assert_eq!(got, chunk);
    }
}

#[test]
fn digits_reaches_its_stated_accuracy_over_http() {
    let server = Server::start();
    let contract = std::fs::read_to_string(root().join("models/digits/model.toml")).unwrap();
    // "right on 354 of the 360 held out"
    let (_, after) = contract
        .split_once("right on ")
        .expect("models/digits/model.toml states it");
    let stated: Vec<usize> = after
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok())
        .take(2)
        .collect();
    let rows = std::fs::read_to_string(root().join("tests/data/digits-heldout.csv")).unwrap();
    let rows: Vec<(String, Vec<u32>)> = rows
        .lines()
        .filter(|l| l.starts_with(|c: char| c.is_ascii_digit()))
        .map(|l| {
            let (label, pixels) = l.split_once(',').unwrap();
            (
                label.to_owned(),
                pixels.split(',').map(|p| p.parse().unwrap()).collect(),
            )
        })
        .collect();
    assert_eq!(rows.len(), stated[1]);
    let mut right = 0;
    for chunk in rows.chunks(50) {
        let pixels: Vec<&Vec<u32>> = chunk.iter().map(|(_, p)| p).collect();
        let answer = server.post_json(
            "/v1/models/digits:predict",
            &json!({ "inputs": { "pixels": pixels } }).to_string(),
        );
        assert_eq!(
            answer.status,
            200,
            "{}",
            String::from_utf8_lossy(&answer.bytes)
        );
        let value = answer.json();
        let predictions = value["predictions"].as_array().unwrap();
        assert_eq!(predictions.len(), chunk.len());
        right += predictions
            .iter()
            .zip(chunk)
            .filter(|(p, (label, _))| p["label"] == **label)
            .count();
    }
    assert_eq!(right, stated[0], "of {} over HTTP", rows.len());
}

/// The answers of the Python package `magika` 1.0.3 for the same bytes: label and score.
#[test]
fn magika_answers_as_the_reference_implementation_does() {
    let server = Server::start();
    let elf_head = [
        &b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0"[..],
        &[0; 40],
    ]
    .concat();
    let numbers: Vec<u8> = (0..2048u32)
        .map(|i| (i * i * 31 + i * 7 + (i >> 3) * 113) as u8)
        .collect();
    let long: String = std::iter::once("# long\n".to_owned())
        .chain((0..600).map(|i| format!("def f{i}(x):\n    return x + {i}\n\n")))
        .collect();
    let cut = [
        " ".repeat(4095).as_bytes(),
        "é".as_bytes(),
        " ".repeat(10).as_bytes(),
    ]
    .concat();
    for (content, label, score) in [
        (&b"# Title\n\nSome *text*.\n"[..], "markdown", 0.892_515_420_913_696_3),
        (&elf_head, "unknown", 0.153_518_259_525_299_07),
        (b"", "empty", 1.0),
        (b"\xff\x00\x9c", "unknown", 1.0),
        (b"abc", "txt", 1.0),
        (b"1234567", "txt", 1.0),
        (b"12345678", "txt", 0.984_412_491_321_563_7),
        (" ".repeat(5000).as_bytes(), "txt", 1.0),
        (b" \n\t\x0b\x0c\r hello  ", "txt", 1.0),
        (&cut, "unknown", 1.0),
        (b"\x1c\x1d \x85abcdefgh hello", "txt", 0.973_861_336_708_068_8),
        (&numbers, "unknown", 0.999_672_412_872_314_5),
        (long.as_bytes(), "txt", 0.446_437_358_856_201_17),
        (b"{\"name\": \"penstock\", \"version\": 1, \"items\": [1, 2, 3], \"nested\": {\"a\": null}}\n", "jsonl", 0.965_194_642_543_792_7),
        (b"<!DOCTYPE html>\n<html><head><title>x</title></head><body><p>hi</p></body></html>\n", "html", 0.820_745_289_325_714_1),
    ] {
        let value = server.post("/v1/models/magika:predict", "application/octet-stream", content).json();
        let prediction = &value["predictions"][0];
        assert_eq!(prediction["label"], label, "{value}");
        let confidence = prediction["confidence"].as_f64().unwrap();
        assert!((confidence - score).abs() < 1e-3, "{label}: {confidence} here, {score} there");
    }
}

#[test]
fn every_demo_model_answers_both_protocols() {
    let server = Server::start();
    let zeros = |n: usize| vec![0; n];
    for (model, inputs) in [
        ("identity", vec![("a", "FP32", vec![1, 4], zeros(4))]),
        ("digits", vec![("pixels", "FP32", vec![1, 64], zeros(64))]),
        (
            "magika",
            vec![("bytes", "INT32", vec![1, 2048], zeros(2048))],
        ),
        (
            "cls",
            vec![("x", "FP32", vec![1, 3, 48, 192], zeros(27_648))],
        ),
        (
            "minilm",
            vec![
                ("input_ids", "INT64", vec![1, 4], vec![101, 7592, 2088, 102]),
                ("attention_mask", "INT64", vec![1, 4], vec![1; 4]),
                ("token_type_ids", "INT64", vec![1, 4], zeros(4)),
            ],
        ),
    ] {
        let oip: Vec<Value> = inputs
            .iter()
            .map(|(name, datatype, shape, data)| json!({"name":name,"datatype":datatype,"shape":shape,"data":data}))
            .collect();
        let answer = server.post_json(
            &format!("/v2/models/{model}/infer"),
            &json!({ "inputs": oip }).to_string(),
        );
        assert_eq!(
            answer.status,
            200,
            "{model}: {}",
            String::from_utf8_lossy(&answer.bytes)
        );
        let value = answer.json();
        let metadata = server.get(&format!("/v2/models/{model}")).json();
        for (output, described) in value["outputs"]
            .as_array()
            .unwrap()
            .iter()
            .zip(metadata["outputs"].as_array().unwrap())
        {
            assert_eq!(output["name"], described["name"]);
            assert_eq!(output["datatype"], described["datatype"]);
            let elements: u64 = output["shape"]
                .as_array()
                .unwrap()
                .iter()
                .map(|d| d.as_u64().unwrap())
                .product();
            assert_eq!(output["data"].as_array().unwrap().len() as u64, elements);
        }
        let ready = server.get(&format!("/v2/models/{model}/versions/1/ready"));
        assert_eq!(ready.status, 200);
    }
    let list = server.get("/v1/models").json();
    assert_eq!(list["models"].as_array().unwrap().len(), 6, "{list}");
    assert_eq!(server.get("/ready").status, 200);
}
