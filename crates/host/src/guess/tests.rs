use super::facts::{Facts, Guess, Proposal};
use super::{guess, size_input, tried};
use penstock_nn::backend::PortType;
use penstock_nn::derive::{Description, derive};
use penstock_nn::{Backends, Dim, Graph, Port, TensorType};
use penstock_tensor::Contract;
use serde_json::{Value, json};
use std::path::PathBuf;

#[path = "../../../nn/tests/support/graphs.rs"]
mod graphs;
use graphs::{FLOAT, file, graph, int, ints, node, reals, value};

/// A folder with the files beside a graph.
struct Beside(tempfile::TempDir);

impl Beside {
    fn new(files: &[(&str, &Value)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content.to_string()).unwrap();
        }
        Self(folder)
    }

    fn graph(&self) -> PathBuf {
        self.0.path().join("model.onnx")
    }

    fn guess(&self, description: &Description) -> Guess {
        guess(&Facts {
            graph: &self.graph(),
            description,
            ran: &[],
        })
    }

    #[track_caller]
    fn adapter(&self, description: &Description) -> Proposal {
        match self.guess(description) {
            Guess::Adapter(proposal) => proposal,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn question(&self, description: &Description) -> String {
        match self.guess(description) {
            Guess::Ask(question) => question,
            other => panic!("{other:?}"),
        }
    }
}

fn port(name: &str, ty: TensorType, dims: &[&str]) -> Port {
    let dims = dims.iter().map(|dim| match dim.parse() {
        Ok(length) => Dim::Fixed(length),
        Err(_) => Dim::Symbolic((*dim).to_owned()),
    });
    Port {
        name: name.into(),
        ty: PortType::Tensor(ty),
        dims: Some(dims.collect()),
    }
}

fn described(inputs: &[Port], outputs: &[Port]) -> Description {
    Description {
        inputs: inputs.to_vec(),
        outputs: outputs.to_vec(),
        ..Description::default()
    }
}

/// A preprocessor as ViT's: images are scaled to the size of the input.
fn preprocessor() -> Value {
    json!({
        "do_resize": true, "size": { "height": 8, "width": 12 }, "resample": 2, "do_rescale": true,
        "rescale_factor": 0.00392156862745098, "do_normalize": true, "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    })
}

fn classes() -> Value {
    json!({ "architectures": ["ViTForImageClassification"], "id2label": { "0": "cat", "1": "dog" } })
}

fn picture() -> Description {
    let input = port("pixel_values", TensorType::Fp32, &["N", "3", "8", "12"]);
    described(&[input], &[port("logits", TensorType::Fp32, &["N", "2"])])
}

#[test]
fn an_image_is_prepared_as_the_file_beside_the_graph_says() {
    let beside = Beside::new(&[
        ("preprocessor_config.json", &preprocessor()),
        ("config.json", &classes()),
    ]);
    let proposal = beside.adapter(&picture());
    assert_eq!((proposal.name, &proposal.open[..]), ("image", &[][..]));
    assert!(proposal.remarks.is_empty(), "{:?}", proposal.remarks);
    let expected = json!({
        "input": "pixel_values", "layout": "NCHW", "scores": "logits", "labels": ["cat", "dog"], "width": 12,
        "height": 8, "fit": "stretch", "channels": "rgb", "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
    });
    assert_eq!(Value::Object(proposal.config), expected);
    // The same, with the channels last and in the other order, and without a scale.
    let mut other = preprocessor();
    other["do_rescale"] = json!(false);
    other["do_flip_channel_order"] = json!(true);
    let beside = Beside::new(&[
        ("preprocessor_config.json", &other),
        ("config.json", &classes()),
    ]);
    let mut last = picture();
    last.inputs[0] = port("x", TensorType::Fp32, &["N", "8", "12", "3"]);
    let config = beside.adapter(&last).config;
    assert_eq!(
        (&config["layout"], &config["channels"], &config["mean"]),
        (&json!("NHWC"), &json!("bgr"), &json!([0.485, 0.456, 0.406]))
    );
}

#[test]
fn a_missing_fact_about_images_is_asked_with_the_values_of_the_file() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut file = preprocessor();
        change(&mut file);
        let beside = Beside::new(&[
            ("preprocessor_config.json", &file),
            ("config.json", &classes()),
        ]);
        beside.adapter(&picture())
    };
    type Change<'a> = &'a dyn Fn(&mut Value);
    let cases: [(Change<'_>, &str, &[&str]); 5] = [
        // As ConvNeXt's: larger than the input, and cut.
        (
            &|file| {
                file["size"] = json!({ "shortest_edge": 256 });
                file["do_center_crop"] = json!(true);
                file["crop_size"] = json!({ "height": 8, "width": 12 });
            },
            "size = {\"shortest_edge\":256}",
            &["width", "height", "fit"],
        ),
        (
            &|file| file["size"] = json!({ "height": 9, "width": 12 }),
            "the graph of preprocessor_config.json",
            &["width", "height", "fit"],
        ),
        (
            &|file| drop(file.as_object_mut().unwrap().remove("do_normalize")),
            "Which mean and std",
            &["mean", "std"],
        ),
        (
            &|file| file["image_std"] = json!([0.2, 0.0, 0.2]),
            "Which mean and std",
            &["mean", "std"],
        ),
        (
            &|file| file["do_resize"] = json!(false),
            "How is an image made as large",
            &["width", "height", "fit"],
        ),
    ];
    for (change, question, missing) in cases {
        let proposal = with(change);
        let asked = proposal.open.join("\n");
        assert!(asked.contains(question), "{asked}");
        assert!(
            asked.contains("image_mean = [0.485,0.456,0.406]"),
            "{asked}"
        );
        for member in missing {
            assert!(!proposal.config.contains_key(*member), "{member}");
        }
    }
    let covered = with(&|file| {
        file["size"] = json!({ "shortest_edge": 8 });
        file["do_center_crop"] = json!(true);
        file["crop_size"] = json!({ "height": 8, "width": 8 });
    });
    // A square, and the graph takes another form.
    assert!(!covered.open.is_empty());
    let bicubic = with(&|file| file["resample"] = json!(3));
    assert!(bicubic.open.is_empty() && bicubic.remarks[0].contains("resample = 3"));
}

#[test]
fn steps_that_the_adapter_for_images_does_not_have_are_asked_about() {
    const FIT: &[&str] = &["width", "height", "fit"];
    const SCALE: &[&str] = &["mean", "std"];
    let with = |description: &Description, changes: &[&Value]| {
        let mut file = preprocessor();
        for change in changes {
            let members = change.as_object().unwrap().clone();
            file.as_object_mut().unwrap().extend(members);
        }
        let beside = Beside::new(&[
            ("preprocessor_config.json", &file),
            ("config.json", &classes()),
        ]);
        beside.adapter(description)
    };
    let size = "How is an image made as large";
    let cases: [(Value, &str, &[&str]); 10] = [
        (json!({ "crop_pct": 0.9 }), size, FIT),
        // The proportions are kept.
        (json!({ "crop_pct": 1.0 }), size, FIT),
        (json!({ "do_thumbnail": true }), size, FIT),
        (json!({ "do_pad": true }), size, FIT),
        (json!({ "include_top": true }), "by include_top:", SCALE),
        (
            json!({ "rescale_offset": true }),
            "by rescale_offset:",
            SCALE,
        ),
        (
            json!({ "rescale_offset": true, "include_top": true }),
            "by rescale_offset and include_top:",
            SCALE,
        ),
        // Without the factor, the offset does not count.
        (
            json!({ "do_rescale": false, "rescale_offset": true, "include_top": true }),
            "by include_top:",
            SCALE,
        ),
        (
            json!({ "do_color_quantize": true }),
            "the step do_color_quantize of",
            &[],
        ),
        (
            json!({ "do_crop_margin": true }),
            "the step do_crop_margin of",
            &[],
        ),
    ];
    for (change, question, missing) in cases {
        let proposal = with(&picture(), &[&change]);
        // The question, and the values of the file.
        assert_eq!(proposal.open.len(), 2, "{:?}", proposal.open);
        let asked = proposal.open.join("\n");
        assert!(asked.contains(question), "{asked}");
        assert!(asked.contains("image_std = [0.229,0.224,0.225]"), "{asked}");
        for member in missing {
            assert!(!proposal.config.contains_key(*member), "{member}");
        }
    }
    for off in [
        json!({ "crop_pct": null, "include_top": null, "rescale_offset": false, "do_pad": false, "do_thumbnail": null,
            "do_color_quantize": false }),
        json!({ "do_convert_rgb": true }),
        json!({ "do_rescale": false, "rescale_offset": true }),
    ] {
        let proposal = with(&picture(), &[&off]);
        assert!(proposal.open.is_empty(), "{:?}", proposal.open);
    }
    // As PoolFormer's: cut from a larger image than the one of the size.
    let mut square = picture();
    square.inputs[0] = port("pixel_values", TensorType::Fp32, &["N", "3", "8", "8"]);
    let cut = json!({ "size": { "shortest_edge": 8 }, "do_center_crop": true,
        "crop_size": { "height": 8, "width": 8 } });
    for whole in [json!({}), json!({ "crop_pct": 1.0 })] {
        let proposal = with(&square, &[&cut, &whole]);
        assert!(proposal.open.is_empty(), "{:?}", proposal.open);
        assert_eq!(proposal.config["fit"], "cover");
    }
    let smaller = with(&square, &[&cut, &json!({ "crop_pct": 0.9 })]);
    let asked = smaller.open.join("\n");
    assert!(
        asked.contains(size) && asked.contains("crop_pct = 0.9"),
        "{asked}"
    );
}

#[test]
fn an_image_without_such_a_file_or_without_classes_is_only_asked_about() {
    let asked = Beside::new(&[]).question(&picture());
    assert!(asked.contains("needs mean, std and size"), "{asked}");
    let no_classes = json!({ "architectures": ["ViTModel"] });
    let beside = Beside::new(&[
        ("preprocessor_config.json", &preprocessor()),
        ("config.json", &no_classes),
    ]);
    let asked = beside.question(&picture());
    assert!(
        asked.contains("ViTModel") && asked.contains("image_std"),
        "{asked}"
    );
    let table = described(
        &[port("x", TensorType::Fp32, &["N", "4"])],
        &[port("y", TensorType::Fp32, &["N", "2"])],
    );
    assert!(matches!(Beside::new(&[]).guess(&table), Guess::Nothing));
}

#[test]
fn open_axes_of_an_image_get_the_lengths_of_the_file() {
    let beside = Beside::new(&[("preprocessor_config.json", &preprocessor())]);
    let mut description = picture();
    let open = ["N", "num_channels", "height", "width"];
    description.inputs[0] = port("pixel_values", TensorType::Fp32, &open);
    let question = size_input(&beside.graph(), &mut description).expect("it tells");
    assert!(question.contains("3, 8, 12"), "{question}");
    assert_eq!(description.inputs, picture().inputs);
    assert_eq!(size_input(&beside.graph(), &mut description), None);
}

/// Means of the three colours, then two classes.
fn classifier() -> Vec<u8> {
    let weights = [0.1, -0.1, 0.0, 0.2, 0.3, 0.0];
    file(&graph(
        &[
            node(
                "ReduceMean",
                &["pixel_values"],
                &["means"],
                &[ints("axes", &[2, 3]), int("keepdims", 0)],
            ),
            node("MatMul", &["means", "w"], &["logits"], &[]),
        ],
        &[reals("w", &[3, 2], &weights)],
        &[value("pixel_values", FLOAT, &[0, 3, 8, 12])],
        &[value("logits", FLOAT, &[0, 2])],
    ))
}

#[test]
fn a_guessed_adapter_answers_an_example() {
    let beside = Beside::new(&[
        ("preprocessor_config.json", &preprocessor()),
        ("config.json", &classes()),
    ]);
    std::fs::write(beside.graph(), classifier()).unwrap();
    let graph = Graph::read(&beside.graph()).unwrap();
    let description = Description::of(&graph);
    let contract = Contract::parse(&derive(&description).text).unwrap();
    let mut proposal = beside.adapter(&description);
    let answer = tried(&proposal, &contract, &beside.graph(), &Backends::builtin()).unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["scores"].as_object().unwrap().len(), 2, "{answer}");
    // One that does not fit is found out by the run.
    proposal.set("labels", json!(["one"]));
    let refused = tried(&proposal, &contract, &beside.graph(), &Backends::builtin()).unwrap_err();
    assert!(refused.contains("[2, 1]"), "{refused}");
}

#[test]
fn sound_is_asked_about_with_the_rate_that_a_file_says() {
    let wave = described(
        &[port("input_values", TensorType::Fp32, &["N", "samples"])],
        &[port("logits", TensorType::Fp32, &["N", "frames", "32"])],
    );
    let extractor = json!({ "feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16_000,
        "feature_size": 1, "do_normalize": true });
    let beside = Beside::new(&[("preprocessor_config.json", &extractor)]);
    let asked = beside.question(&wave);
    for part in [
        "input_values",
        "16000 Hz",
        "Wav2Vec2FeatureExtractor",
        "do_normalize = true",
    ] {
        assert!(asked.contains(part), "{part}: {asked}");
    }
    let asked = Beside::new(&[]).question(&wave);
    assert!(asked.contains("sampling rate"), "{asked}");
    let silero = |width: &str| {
        described(
            &[
                port("input", TensorType::Fp32, &["N", width]),
                port("state", TensorType::Fp32, &["2", "N", "128"]),
                port("sr", TensorType::I64, &[]),
            ],
            &[
                port("output", TensorType::Fp32, &["N", "1"]),
                port("stateN", TensorType::Fp32, &["2", "N", "128"]),
            ],
        )
    };
    for width in ["576", "A"] {
        let proposal = Beside::new(&[]).adapter(&silero(width));
        assert_eq!((proposal.name, proposal.open.len()), ("silero-vad", 0));
    }
    assert!(matches!(
        Beside::new(&[]).guess(&silero("512")),
        Guess::Nothing
    ));
}

fn texts(outputs: &[Port]) -> Description {
    let input = |name: &str| port(name, TensorType::I64, &["N", "T"]);
    described(&[input("input_ids"), input("attention_mask")], outputs)
}

#[test]
fn the_class_and_the_labels_decide_about_the_adapter_of_a_text() {
    let logits = |dims: &[&str]| texts(&[port("logits", TensorType::Fp32, dims)]);
    let labels = json!({ "0": "no", "1": "yes" });
    let classes = |class: &str, more: Value| {
        let mut config = json!({ "architectures": [class], "max_position_embeddings": 512 });
        config
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        Beside::new(&[("tokenizer.json", &json!({})), ("config.json", &config)])
    };
    let sequence = "RobertaForSequenceClassification";
    let one = |more: Value| classes(sequence, more).adapter(&logits(&["N", "1"]));
    let proposal = classes(sequence, json!({ "id2label": labels })).adapter(&logits(&["N", "2"]));
    assert_eq!(
        (proposal.name, proposal.open.len()),
        ("text-classification", 0)
    );
    assert_eq!(
        proposal.config["inputs"],
        json!(["input_ids", "attention_mask"])
    );
    assert!(
        proposal
            .files
            .iter()
            .any(|(setting, ..)| *setting == "model_config")
    );
    let unnamed = classes(sequence, json!({})).adapter(&logits(&["N", "2"]));
    assert!(
        unnamed.open[0].contains("Which are the classes"),
        "{:?}",
        unnamed.open
    );
    let other = classes(sequence, json!({ "id2label": labels })).adapter(&logits(&["N", "3"]));
    assert!(
        other.open[0].contains("3 classes, and id2label 2"),
        "{:?}",
        other.open
    );
    // One label: a pair's score, with the function that a file names.
    let scored = one(json!({ "id2label": { "0": "LABEL_0" } }));
    assert_eq!(
        (scored.name, scored.config.get("function")),
        ("cross-encoder", None)
    );
    assert!(
        scored.remarks[0].contains("score of two texts"),
        "{:?}",
        scored.remarks
    );
    let identity = json!({ "id2label": { "0": "LABEL_0" },
        "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity" });
    assert_eq!(one(identity).config["function"], "none");
    let tags = classes("BertForTokenClassification", json!({ "id2label": labels }));
    let proposal = tags.adapter(&logits(&["N", "T", "2"]));
    assert_eq!(
        (proposal.name, proposal.open.len()),
        ("token-classification", 0)
    );
    let asked = tags.question(&logits(&["N", "2"]));
    assert!(asked.contains("2 axes"), "{asked}");
    let asked = classes("BertForMaskedLM", json!({})).question(&logits(&["N", "T", "30522"]));
    assert!(asked.contains("BertForMaskedLM"), "{asked}");
    // Their names end as those of encoders do.
    for class in ["GPT2LMHeadModel", "GPT2DoubleHeadsModel"] {
        let asked = classes(class, json!({})).question(&logits(&["N", "T", "50257"]));
        assert!(asked.contains(class), "{asked}");
    }
}

#[test]
fn vectors_need_a_file_that_says_how_they_are_pooled() {
    let hidden = port("last_hidden_state", TensorType::Fp32, &["N", "T", "6"]);
    let pooled = port("sentence_embedding", TensorType::Fp32, &["N", "6"]);
    let model = json!({ "architectures": ["MPNetModel"], "model_type": "mpnet", "max_position_embeddings": 514,
        "pad_token_id": 1 });
    let mean = json!({ "pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false });
    let beside = |files: &[(&str, &Value)]| {
        let tokenizer = json!({});
        let all: Vec<(&str, &Value)> = [("tokenizer.json", &tokenizer), ("config.json", &model)]
            .into_iter()
            .chain(files.iter().copied())
            .collect();
        Beside::new(&all)
    };
    let proposal =
        beside(&[("1_Pooling/config.json", &mean)]).adapter(&texts(std::slice::from_ref(&hidden)));
    assert!(proposal.open.is_empty(), "{:?}", proposal.open);
    assert_eq!(proposal.config["pooling"], "mean");
    // Two positions of such models come before those of the text.
    assert_eq!(proposal.config["max_tokens"], 512);
    assert!(
        proposal.remarks[0].contains("length 1"),
        "{:?}",
        proposal.remarks
    );
    let both = texts(&[hidden.clone(), pooled]);
    let shorter = json!({ "max_seq_length": 128 });
    let proposal = beside(&[("sentence_bert_config.json", &shorter)]).adapter(&both);
    assert_eq!(proposal.config["pooling"], "none");
    assert_eq!(proposal.config["output"], "sentence_embedding");
    assert_eq!(proposal.config["max_tokens"], 128);
    for (file, question) in [
        (json!({ "pooling_mode_max_tokens": true }), "max_tokens"),
        (
            json!({ "pooling_mode_max_tokens": true, "pooling_mode_cls_token": true }),
            "cls_token and max_tokens",
        ),
        (
            json!({ "pooling_mode_cls_token": true, "word_embedding_dimension": 7 }),
            "have 6 numbers",
        ),
    ] {
        let proposal = beside(&[("1_Pooling/config.json", &file)])
            .adapter(&texts(std::slice::from_ref(&hidden)));
        assert!(proposal.open[0].contains(question), "{:?}", proposal.open);
    }
    let dense = json!([{ "type": "sentence_transformers.models.Dense" }]);
    let proposal = beside(&[("1_Pooling/config.json", &mean), ("modules.json", &dense)])
        .adapter(&texts(&[hidden]));
    assert!(proposal.open[0].contains("Dense"), "{:?}", proposal.open);
}

#[test]
fn inputs_that_no_adapter_gives_are_asked_about() {
    let hidden = port("last_hidden_state", TensorType::Fp32, &["N", "T", "6"]);
    let beside = Beside::new(&[("tokenizer.json", &json!({}))]);
    let mut more = texts(std::slice::from_ref(&hidden));
    more.inputs
        .push(port("position_ids", TensorType::I64, &["N", "T"]));
    assert!(beside.question(&more).contains("position_ids"));
    let mut narrow = texts(std::slice::from_ref(&hidden));
    narrow.inputs[0] = port("input_ids", TensorType::I32, &["N", "T"]);
    assert!(beside.question(&narrow).contains("INT64"));
    let mut gap = texts(std::slice::from_ref(&hidden));
    gap.inputs[1] = port("token_type_ids", TensorType::I64, &["N", "T"]);
    assert!(beside.question(&gap).contains("without an attention_mask"));
    let asked = Beside::new(&[]).question(&texts(&[hidden]));
    assert!(asked.contains("no tokenizer.json"), "{asked}");
}
