//! Each fault of a `model.toml` is found with its line, and a sound one is read as written.

use penstock_tensor::contract::{
    AxisBounds, Backend, Bound, Category, Dim, Format, Isolation, PipelineStep, dims_oip,
};
use penstock_tensor::{Contract, Datatype};

const WHOLE: &str = r#"description = "what it does"
format = "openvino"
[[inputs]]
name = "bytes"
datatype = "INT32"
shape = ["N", 2048]
minimum = 0
maximum = 256
description = "the first bytes"
[[inputs]]
name = "image"
datatype = "FP32"
shape = ["N", 3, "H"]
maximum = 1
[[outputs]]
name = "target_label"
datatype = "FP32"
shape = ["N", 2]
labels = ["a", "b"]
[axes]
H = { min = 2, max = 960, description = "rows" }
[adapter]
name = "magika"
config = "config.json"
[limits]
max_body_bytes = 1048576
max_items = 64
[engine]
backend = "tract"
lanes = 2
intra_op_threads = 1
isolation = "process"
process_memory_bytes = 1073741824
"#;

const LEAST: &str = r#"description = ""
[[inputs]]
name = "x"
datatype = "FP32"
shape = []
[[outputs]]
name = "y"
datatype = "FP32"
shape = [1]
"#;

#[test]
fn a_bound_beyond_an_8_bit_format_is_refused_like_one_beyond_fp16() {
    for (datatype, bound, holds) in [
        ("FP8E4M3FN", "448", true),
        ("FP8E4M3FN", "1000", false),
        ("FP8E5M2", "inf", false),
        ("FP16", "1e6", false),
    ] {
        let text = format!(
            "description = \"\"\n[[inputs]]\nname = \"x\"\ndatatype = \"{datatype}\"\nshape = [\"N\", 2]\nmaximum = {bound}\n\
             [[outputs]]\nname = \"y\"\ndatatype = \"FP32\"\nshape = [\"N\", 2]\n"
        );
        assert_eq!(Contract::parse(&text).is_ok(), holds, "{datatype} {bound}");
    }
}

#[test]
fn a_whole_contract_is_read_as_written() {
    let contract = Contract::parse(WHOLE).unwrap();
    assert_eq!(contract.format, Format::Openvino);
    assert_eq!(contract.inputs[0].datatype, Datatype::Int32);
    assert_eq!(
        contract.inputs[0].shape,
        [Dim::Symbol("N".into()), Dim::Fixed(2048)]
    );
    assert_eq!(contract.inputs[0].minimum, Some(Bound::Integer(0)));
    assert_eq!(contract.inputs[1].maximum, Some(Bound::Real(1.0)));
    assert_eq!(dims_oip(&contract.inputs[1]), [-1, 3, -1]);
    assert_eq!(contract.batch_axis(), Some("N"));
    let rows = AxisBounds {
        min: 2,
        max: Some(960),
        description: Some("rows".into()),
    };
    assert_eq!(contract.axes.get("H"), Some(&rows));
    assert_eq!(
        contract.adapter.as_ref().unwrap().config.as_deref(),
        Some("config.json")
    );
    assert_eq!(
        (contract.limits.max_body_bytes, contract.limits.max_items),
        (1_048_576, 64)
    );
    assert_eq!(
        (contract.engine.backend, contract.engine.lanes),
        (Backend::Tract, Some(2))
    );
    assert_eq!(
        (
            contract.engine.isolation,
            contract.engine.process_memory_bytes
        ),
        (Some(Isolation::Process), Some(1 << 30))
    );
    assert_eq!(contract.labelled_output().unwrap().1, ["a", "b"]);
    let metadata = serde_json::to_value(&contract).unwrap();
    assert_eq!(
        metadata["inputs"][1]["shape"],
        serde_json::json!(["N", 3, "H"])
    );
    assert_eq!(metadata["inputs"][0]["maximum"], 256);
    assert_eq!(metadata["engine"]["backend"], "tract");
}

#[test]
fn a_member_that_is_left_out_has_its_default() {
    let contract = Contract::parse(LEAST).unwrap();
    assert_eq!(contract.format, Format::Onnx);
    assert_eq!(
        (contract.limits.max_body_bytes, contract.limits.max_items),
        (16 * 1024 * 1024, 256)
    );
    assert_eq!(contract.engine.backend, Backend::Auto);
    assert_eq!(contract.engine.isolation, None);
    assert_eq!((contract.batch_axis(), contract.engine.lanes), (None, None));
}

#[test]
fn the_batch_axis_leads_every_shape_and_stands_nowhere_else() {
    let with = |input: &str, output: &str| {
        let text = LEAST
            .replace("shape = []", &format!("shape = {input}"))
            .replace("shape = [1]", &format!("shape = {output}"));
        Contract::parse(&text)
            .unwrap()
            .batch_axis()
            .map(str::to_owned)
    };
    assert_eq!(with("[\"B\", 2]", "[\"B\"]").as_deref(), Some("B"));
    for (input, output) in [
        ("[]", "[\"B\"]"),
        ("[\"B\"]", "[]"),
        ("[\"A\"]", "[\"B\"]"),
        ("[1]", "[1]"),
        ("[\"B\", \"B\"]", "[\"B\"]"),
        ("[\"B\"]", "[2, \"B\"]"),
    ] {
        assert_eq!(with(input, output), None, "{input} {output}");
    }
}

/// The line and the message of each fault after replacing a piece of the whole contract.
fn faults(from: &str, to: &str) -> Vec<(usize, String)> {
    assert!(WHOLE.contains(from), "{from}");
    let faults = Contract::parse(&WHOLE.replacen(from, to, 1)).expect_err(to);
    assert!(
        faults
            .iter()
            .all(|fault| fault.remedy.ends_with('.') && fault.column >= 1),
        "{faults:?}"
    );
    faults
        .into_iter()
        .map(|fault| (fault.line, fault.message))
        .collect()
}

/// A piece of the whole contract, its replacement, and the line and the message of the fault.
type Fault = (&'static str, &'static str, usize, &'static str);

const FAULTS_OF_INPUTS: &[Fault] = &[
    (
        "description = \"what it does\"",
        "",
        1,
        "model.toml has no description",
    ),
    (
        "description = \"what it does\"",
        "description = 1",
        1,
        "description is an integer",
    ),
    (
        "description = \"what it does\"",
        "description = \"\"\nlimit = 1",
        2,
        "model.toml has no member \"limit\"",
    ),
    (
        "format = \"openvino\"",
        "format = \"pt\"",
        2,
        "format is \"pt\"",
    ),
    ("name = \"bytes\"", "", 3, "an input has no name"),
    ("name = \"bytes\"", "name = \"\"", 4, "name is \"\""),
    (
        "name = \"bytes\"",
        "name = \"a\\nb\"",
        4,
        "name is \"a\\nb\"",
    ),
    (
        "name = \"image\"",
        "name = \"bytes\"",
        11,
        "input \"bytes\" is described twice",
    ),
    (
        "datatype = \"INT32\"",
        "datatype = \"int32\"",
        5,
        "datatype is \"int32\"",
    ),
    ("datatype = \"INT32\"", "", 3, "an input has no datatype"),
    (
        "datatype = \"INT32\"
shape = [\"N\", 2048]
minimum = 0
maximum = 256",
        "datatype = \"BYTES\"
shape = [\"N\", 2048]
minimum = 0",
        7,
        "minimum is given for BYTES",
    ),
    ("shape = [\"N\", 2048]", "", 3, "an input has no shape"),
    (
        "shape = [\"N\", 2048]",
        "shape = \"N\"",
        6,
        "shape is a string",
    ),
    (
        "shape = [\"N\", 2048]",
        "shape = [\"N\", -1]",
        6,
        "the length of an axis is -1",
    ),
    (
        "shape = [\"N\", 2048]",
        "shape = [\"N\", 2.5]",
        6,
        "an axis is a float",
    ),
    (
        "shape = [\"N\", 2048]",
        "shape = [\"N\", \"a b\"]",
        6,
        "an axis is named \"a b\"",
    ),
    (
        "shape = [\"N\", 2048]",
        "shape = [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]",
        6,
        "shape has 17 axes",
    ),
    (
        "shape = [\"N\", 2048]",
        "shape = [\"N\", 4611686018427387904, 2]",
        6,
        "a tensor of shape [N, 4611686018427387904, 2] has more bytes than 2^63",
    ),
    (
        "minimum = 0",
        "minimum = 300",
        7,
        "minimum 300 is greater than maximum 256",
    ),
    (
        "minimum = 0",
        "minimum = 0.5",
        7,
        "minimum for INT32 is a float",
    ),
    (
        "maximum = 256",
        "maximum = 2147483648",
        8,
        "maximum for INT32 is 2147483648",
    ),
    (
        "maximum = 1\n",
        "maximum = 1e39\n",
        14,
        "maximum is out of the range of FP32",
    ),
    (
        "maximum = 1\n",
        "maximum = nan\n",
        14,
        "maximum is out of the range of FP32",
    ),
    (
        "maximum = 1\n",
        "labels = [\"a\"]\n",
        14,
        "an input has no member \"labels\"",
    ),
];

const FAULTS_BELOW_INPUTS: &[Fault] = &[
    (
        "name = \"target_label\"",
        "name = \"confidence\"",
        16,
        "an output is named \"confidence\", a member that predictions of a model with labels already have",
    ),
    (
        "labels = [\"a\", \"b\"]",
        "labels = [\"a\"]",
        19,
        "1 labels for an axis of length 2",
    ),
    (
        "labels = [\"a\", \"b\"]",
        "labels = []",
        19,
        "labels is empty",
    ),
    (
        "labels = [\"a\", \"b\"]",
        "labels = [1, \"b\"]",
        19,
        "a label is an integer",
    ),
    (
        "shape = [\"N\", 2]\n",
        "shape = [\"N\", 3, 2]\n",
        19,
        "labels are given for shape [N, 3, 2]",
    ),
    (
        "shape = [\"N\", 2]\n",
        "shape = []\n",
        19,
        "labels are given for a scalar",
    ),
    (
        "H = { min = 2,",
        "W = { min = 2,",
        21,
        "no tensor has an axis \"W\"",
    ),
    (
        "H = { min = 2,",
        "H = { min = 961,",
        21,
        "min 961 is greater than max 960",
    ),
    (
        "H = { min = 2,",
        "H = { least = 2,",
        21,
        "an axis has no member \"least\"",
    ),
    ("name = \"magika\"", "", 22, "adapter has no name"),
    (
        "name = \"magika\"",
        "name = \"../x\"",
        23,
        "the adapter's name is \"../x\"",
    ),
    (
        "config = \"config.json\"",
        "config = \"a/b\"",
        24,
        "the adapter's config file is \"a/b\"",
    ),
    (
        "config = \"config.json\"",
        "config = \"..\"",
        24,
        "the adapter's config file is \"..\"",
    ),
    (
        "config = \"config.json\"",
        "config = \".env\"",
        24,
        "the adapter's config file is \".env\"",
    ),
    (
        "max_body_bytes = 1048576",
        "max_body_bytes = 0",
        26,
        "max_body_bytes is 0",
    ),
    ("max_items = 64", "max_items = 0", 27, "max_items is 0"),
    (
        "max_items = 64",
        "max_item = 64",
        27,
        "limits has no member \"max_item\"",
    ),
    (
        "backend = \"tract\"",
        "backend = \"cuda\"",
        29,
        "backend is \"cuda\"",
    ),
    ("lanes = 2", "lanes = 65536", 30, "lanes is 65536"),
    (
        "\"process\"",
        "\"container\"",
        32,
        "isolation is \"container\"",
    ),
    (
        "= 1073741824",
        "= 1048576",
        33,
        "process_memory_bytes is 1048576",
    ),
    (
        "[engine]",
        "[engines]",
        28,
        "model.toml has no member \"engines\"",
    ),
];

#[test]
fn each_fault_is_found_on_its_line() {
    for (from, to, line, message) in [FAULTS_OF_INPUTS, FAULTS_BELOW_INPUTS].concat() {
        assert_eq!(
            faults(from, to),
            [(line, message.to_owned())],
            "{from} -> {to}"
        );
    }
}

#[test]
fn only_one_output_has_labels() {
    let second = "[[outputs]]\nname = \"z\"\ndatatype = \"FP32\"\nshape = [\"N\", 1]\nlabels = [\"c\"]\n[axes]";
    assert_eq!(
        faults("[axes]", second),
        [(
            24,
            "output \"z\" and another output both have labels".to_owned()
        )]
    );
}

#[test]
fn all_faults_are_found_in_one_reading() {
    let text = WHOLE
        .replace("format = \"openvino\"", "format = 7")
        .replace("\"INT32\"", "\"INT\"")
        .replace("max_items = 64", "max_items = -1\nmax = 1");
    let faults = Contract::parse(&text).unwrap_err();
    let lines: Vec<usize> = faults.iter().map(|fault| fault.line).collect();
    assert_eq!(lines, [2, 5, 27, 28]);
    assert_eq!(
        faults[0].to_string(),
        "line 2, column 10: format is an integer. Write a string."
    );
}

#[test]
fn text_that_is_not_toml_has_its_line_too() {
    let faults = Contract::parse("description = \"\"\nformat = \n").unwrap_err();
    assert_eq!((faults[0].line, faults[0].column), (2, 10), "{faults:?}");
    assert!(faults[0].message.starts_with("not TOML: "));
    assert!(Contract::parse("").is_err());
}

#[test]
fn a_moderation_and_a_pipeline_are_read_with_what_is_usual() {
    let more = "[moderation]\nthreshold = 0.25\n[moderation.categories]\nharassment = \"a\"\n\
                \"hate/threatening\" = { label = \"b\", threshold = 1 }\n[pipeline]\nrecognise = \"ocr-rec@3\"\n";
    let contract = Contract::parse(&format!("{WHOLE}{more}")).unwrap();
    let categories = contract.moderation.unwrap().categories;
    assert_eq!(
        categories["harassment"],
        Category {
            label: "a".into(),
            threshold: 0.25
        }
    );
    assert_eq!(categories["hate/threatening"].threshold, 1.0);
    let step = PipelineStep {
        model: "ocr-rec".into(),
        version: 3,
    };
    assert_eq!(contract.pipeline["recognise"], step);
    let plain = Contract::parse(LEAST).unwrap();
    assert!(plain.moderation.is_none() && plain.pipeline.is_empty());
}

#[test]
fn a_moderation_or_a_pipeline_that_cannot_be_followed_is_refused_with_its_line() {
    let steps: String = (0..9).map(|at| format!("s{at} = \"m@1\"\n")).collect();
    for (more, expected) in [
        ("[moderation]\n", "no categories"),
        ("[moderation]\ncategories = []\n", "categories"),
        ("[moderation.categories]\n", "0 categories"),
        ("[moderation.categories]\nhate = 1\n", "a category"),
        (
            "[moderation.categories]\nhate = { threshold = 0.5 }\n",
            "no label",
        ),
        (
            "[moderation.categories]\nhate = { label = \"a\", threshold = 2 }\n",
            "threshold",
        ),
        (
            "[moderation.categories]\nhate = { label = \"a\", more = 1 }\n",
            "more",
        ),
        ("[pipeline]\na = 1\n", "a step"),
        ("[pipeline]\na = \"m\"\n", "not a model at a version"),
        ("[pipeline]\na = \"m@latest\"\n", "not a model at a version"),
        ("[pipeline]\na = \"m@0\"\n", "not a model at a version"),
        ("[pipeline]\na = \"../m@1\"\n", "not a model at a version"),
        (&format!("[pipeline]\n{steps}"), "9 steps"),
    ] {
        let faults = Contract::parse(&format!("{WHOLE}{more}")).expect_err(more);
        assert!(
            faults.iter().any(|f| f.message.contains(expected)),
            "{more}: {faults:?}"
        );
    }
    let alone = Contract::parse(&format!("{LEAST}[pipeline]\na = \"m@1\"\n")).unwrap_err();
    assert!(alone[0].message.contains("no [adapter]"), "{alone:?}");
}

#[test]
fn only_floating_point_inputs_may_let_in_what_is_not_finite() {
    let contract = |datatype: &str, output: &str| {
        Contract::parse(&format!(
            "description = \"\"\n[[inputs]]\nname = \"x\"\ndatatype = \"{datatype}\"\nshape = [1]\n\
             allow_non_finite = true\n[[outputs]]\nname = \"y\"\ndatatype = \"FP32\"\nshape = [1]\n{output}"
        ))
    };
    assert!(contract("FP16", "").unwrap().inputs[0].allow_non_finite);
    let faults = contract("INT64", "").unwrap_err();
    assert_eq!((faults.len(), faults[0].line), (1, 6));
    assert!(faults[0].message.contains("INT64"), "{faults:?}");
    // Nothing is promised of outputs.
    assert!(contract("FP32", "allow_non_finite = true\n").is_err());
}
