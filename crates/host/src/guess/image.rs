//! The adapter for images: `preprocessor_config.json` of transformers has the values that a graph does not have.

use super::facts::{Facts, Guess, Proposal, architecture, fixed, json_beside, labels};
use penstock_nn::backend::PortType;
use penstock_nn::derive::Description;
use penstock_nn::{Dim, Port, TensorType};
use serde_json::Value;
use std::path::Path;

/// The file with the preparation of images, and of sound.
pub(super) const PREPROCESSOR: &str = "preprocessor_config.json";

/// The input that models of transformers read images from, with the channels first.
const PIXELS: &str = "pixel_values";

/// The factor by which images are scaled if the file does not name another.
const USUAL_FACTOR: f64 = 1.0 / 255.0;

/// Pillow's number of the interpolation that the adapter's `smooth` follows.
const BILINEAR: u64 = 2;

/// Steps of the file that need no question of their own: the adapter has them, the question about the size covers them
/// (`do_thumbnail`, `do_pad`), or they change only labels.
const STEPS: [&str; 10] = [
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
    "do_flip_channel_order",
    "do_thumbnail",
    "do_pad",
    "do_convert_rgb",
    "do_convert_annotations",
    "do_reduce_labels",
];

/// The place of the channels among the axes.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    First,
    Last,
}

impl Layout {
    /// The places of channels, height and width.
    fn places(self) -> [usize; 3] {
        match self {
            Self::First => [1, 2, 3],
            Self::Last => [3, 1, 2],
        }
    }
}

/// The layout of an input that may take images. Transformers put the channels first.
fn layout(port: &Port) -> Option<Layout> {
    let dims = port.dims.as_deref().filter(|dims| dims.len() == 4)?;
    let counts = |at: usize| fixed(&dims[at]).is_some_and(|length| [1, 3].contains(&length));
    match (counts(1), counts(3)) {
        (true, _) => Some(Layout::First),
        (false, true) => Some(Layout::Last),
        _ => (port.name == PIXELS).then_some(Layout::First),
    }
}

/// Writes the lengths that the files beside a graph give into open axes of its image. Without them no first run would
/// find the right ones. Returns a question about them.
pub(crate) fn size_input(graph: &Path, description: &mut Description) -> Option<String> {
    let file = json_beside(graph, PREPROCESSOR)?;
    let [port] = description.inputs.as_mut_slice() else {
        return None;
    };
    let layout = layout(port).filter(|_| port.name == PIXELS)?;
    let (width, height) = target(&file)?;
    let channels = u32::try_from(file["image_mean"].as_array()?.len()).ok()?;
    let mut told = Vec::new();
    let dims = port.dims.as_deref_mut()?;
    for (place, length) in layout.places().into_iter().zip([channels, height, width]) {
        if let Dim::Symbolic(_) = dims[place] {
            dims[place] = Dim::Fixed(length);
            told.push(length.to_string());
        }
    }
    (!told.is_empty()).then(|| {
        format!(
            "Does {PIXELS} take other lengths than {} along its open axes? These are the ones of {PREPROCESSOR}.",
            told.join(", ")
        )
    })
}

pub(super) fn guess(facts: &Facts<'_>) -> Guess {
    let [port] = facts.description.inputs.as_slice() else {
        return Guess::Nothing;
    };
    let Some(layout) = layout(port) else {
        return Guess::Nothing;
    };
    let input = &port.name;
    let Some(file) = facts.json(PREPROCESSOR).filter(Value::is_object) else {
        return Guess::Ask(format!(
            "Does {input} take an image? The adapter \"image\" (docs/ADAPTERS.md) makes it from PNG or JPEG. Its \
             configuration needs mean, std and size, which the graph does not contain."
        ));
    };
    let said = said(&file);
    if port.ty != PortType::Tensor(TensorType::Fp32) {
        return Guess::Ask(format!(
            "Does {input} take an image? It is {}, and the adapter \"image\" gives FP32. {said}",
            port.ty
        ));
    }
    let config = facts.json("config.json");
    let names = labels(config.as_ref());
    let class = architecture(config.as_ref());
    let is_classifier = class.is_some_and(|class| class.ends_with("ForImageClassification"));
    let output = facts.named_or_only("logits");
    let (true, false, Some(output)) = (is_classifier, names.is_empty(), output) else {
        return Guess::Ask(format!(
            "What does the model make of an image? The adapter \"image\" (docs/ADAPTERS.md) answers with classes, and \
             config.json names {}. {said}",
            class.unwrap_or("no model with id2label")
        ));
    };
    let mut proposal = Proposal {
        name: "image",
        ..Proposal::default()
    };
    proposal.set("input", input.clone());
    facts.name_output(output, &mut proposal.config);
    proposal.set(
        "layout",
        if layout == Layout::First {
            "NCHW"
        } else {
            "NHWC"
        },
    );
    // Such models give logits: their own library applies the softmax.
    proposal.set("scores", "logits");
    let classes = facts
        .lengths(output)
        .and_then(|lengths| lengths.last().copied()?);
    if classes.is_some_and(|classes| classes as usize != names.len()) {
        proposal.open.push(format!(
            "Is this the graph of config.json beside it? {} has {} classes, and id2label {}.",
            output.name,
            classes.unwrap_or_default(),
            names.len()
        ));
    }
    proposal.set("labels", names);
    size(&file, port, layout, &mut proposal);
    channels(&file, port, layout, &mut proposal);
    numbers(&file, &mut proposal);
    steps(&file, &mut proposal);
    if !proposal.open.is_empty() {
        proposal.open.push(format!(
            "{said} Complete adapter.json, then remove the marks before [adapter]."
        ));
    }
    Guess::Adapter(proposal)
}

/// The values of the file that bear on the preparation, for a question.
fn said(file: &Value) -> String {
    const MEMBERS: [&str; 17] = [
        "size",
        "crop_size",
        "crop_pct",
        "do_resize",
        "do_center_crop",
        "resample",
        "do_rescale",
        "rescale_factor",
        "do_normalize",
        "image_mean",
        "image_std",
        "do_flip_channel_order",
        "do_pad",
        "do_thumbnail",
        "include_top",
        "rescale_offset",
        "do_color_quantize",
    ];
    const MOST_CHARS: usize = 500;
    let values: Vec<String> = (MEMBERS.iter())
        .filter_map(|member| Some(format!("{member} = {}", file.get(*member)?)))
        .collect();
    let values: String = values.join(", ").chars().take(MOST_CHARS).collect();
    format!("{PREPROCESSOR} says: {values}.")
}

/// Returns whether the file has a member that is neither null nor false.
fn is_on(file: &Value, member: &str) -> bool {
    !matches!(file[member], Value::Null | Value::Bool(false))
}

/// Width and height of an object with both, or with a single number for both if `is_square`.
fn rectangle(size: &Value, is_square: bool) -> Option<(u32, u32)> {
    let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
    match size {
        Value::Number(_) if is_square => number(size).map(|side| (side, side)),
        _ => Some((number(size.get("width")?)?, number(size.get("height")?)?)),
    }
}

/// Width and height of the image that the model reads.
fn target(file: &Value) -> Option<(u32, u32)> {
    match file["do_center_crop"].as_bool() {
        Some(true) => rectangle(&file["crop_size"], true),
        _ => rectangle(&file["size"], false),
    }
}

/// Adds the size and the fit, or a question.
fn size(file: &Value, port: &Port, layout: Layout, proposal: &mut Proposal) {
    let crops = file["do_center_crop"].as_bool();
    let resizes = file["do_resize"].as_bool().unwrap_or(true);
    let shortest = file["size"].get("shortest_edge").and_then(Value::as_u64);
    let whole = rectangle(&file["size"], false);
    let cut = rectangle(&file["crop_size"], true);
    let fit = match (resizes, crops, whole, shortest, cut) {
        // Without a cut, and with one of the whole.
        (true, Some(false), Some(size), ..) => Some((size, "stretch")),
        (true, None, Some(size), _, None) => Some((size, "stretch")),
        (true, Some(true), Some(size), _, Some(cut)) if size == cut => Some((size, "stretch")),
        (true, Some(true), None, Some(side), Some(cut))
            if cut.0 == cut.1 && u64::from(cut.0) == side =>
        {
            Some((cut, "cover"))
        }
        _ => None,
    };
    // PoolFormer's processor keeps the proportions with crop_pct, scales to size / crop_pct and cuts: 1 is "cover". Donut's
    // keeps the proportions and pads.
    let is_cover = matches!(fit, Some((_, "cover"))) && file["crop_pct"].as_f64() == Some(1.0);
    let has_other_fit = (is_on(file, "crop_pct") && !is_cover)
        || is_on(file, "do_thumbnail")
        || is_on(file, "do_pad");
    let Some(((width, height), fit)) = fit.filter(|_| !has_other_fit) else {
        proposal.open.push(
            "How is an image made as large as the input? The adapter has \"stretch\" and \"cover\", and the file says \
             neither: write \"width\", \"height\" and \"fit\"."
                .into(),
        );
        return;
    };
    let [_, at_height, at_width] = layout.places();
    let dims = port.dims.as_deref().unwrap_or_default();
    let differs = |at: usize, length: u32| {
        dims.get(at)
            .and_then(fixed)
            .is_some_and(|fixed| fixed != length)
    };
    if differs(at_height, height) || differs(at_width, width) {
        proposal.open.push(format!(
            "Is this the graph of {PREPROCESSOR} beside it? The file makes images of {width} by {height}, and {} takes \
             others: write \"width\", \"height\" and \"fit\".",
            port.name
        ));
        return;
    }
    proposal.set("width", width);
    proposal.set("height", height);
    proposal.set("fit", fit);
    if file["resample"].as_u64() != Some(BILINEAR) {
        proposal.remarks.push(format!(
            "Are the answers right although the adapter scales images with \"smooth\"? {PREPROCESSOR} says resample = {}; \
             it is 2 for the same.",
            file["resample"]
        ));
    }
}

/// Adds the order of the colours, or a question.
fn channels(file: &Value, port: &Port, layout: Layout, proposal: &mut Proposal) {
    let dims = port.dims.as_deref().unwrap_or_default();
    let count = dims.get(layout.places()[0]).and_then(fixed);
    match (count, file["do_flip_channel_order"].as_bool()) {
        (Some(1), _) => proposal.open.push(
            "Does the model read grey images? It has one channel, and the file does not say how colours become grey: write \
             \"channels\": \"grey\"."
                .into(),
        ),
        (_, Some(true)) => proposal.set("channels", "bgr"),
        // As transformers read images.
        (_, _) => proposal.set("channels", "rgb"),
    }
}

/// Adds mean and deviation of the values, or a question. The adapter's are those of values from 0 to 255, and the
/// file's those of values that were multiplied by its factor.
fn numbers(file: &Value, proposal: &mut Proposal) {
    let list = |member: &str| -> Option<Vec<f64>> {
        file.get(member)?
            .as_array()?
            .iter()
            .map(Value::as_f64)
            .collect()
    };
    let factor = match (file["do_rescale"].as_bool(), file.get("rescale_factor")) {
        (Some(false), _) => Some(1.0),
        (_, None) => Some(USUAL_FACTOR),
        (_, Some(factor)) => factor.as_f64().filter(|factor| *factor > 0.0),
    };
    let (mean, std) = (list("image_mean"), list("image_std"));
    let values = match (file["do_normalize"].as_bool(), factor, mean, std) {
        (Some(true), Some(factor), Some(mean), Some(std))
            if mean.len() == std.len() && std.iter().all(|std| *std > 0.0) =>
        {
            Some((factor, mean, std))
        }
        (Some(false), Some(factor), mean, _) => {
            let channels = mean.map_or(3, |mean| mean.len());
            Some((factor, vec![0.0; channels], vec![1.0; channels]))
        }
        _ => None,
    };
    // EfficientNet's processor shifts the values with rescale_offset, and divides by std once more with include_top.
    let rescales = file["do_rescale"].as_bool() != Some(false);
    let others: Vec<&str> = [("rescale_offset", rescales), ("include_top", true)]
        .into_iter()
        .filter(|(member, counts)| *counts && is_on(file, member))
        .map(|(member, _)| member)
        .collect();
    let Some((factor, mean, std)) = values.filter(|_| others.is_empty()) else {
        let reason = match others.as_slice() {
            [] => "does not say both".to_owned(),
            others => format!("changes them by {}", others.join(" and ")),
        };
        proposal.open.push(format!(
            "Which mean and std do the values of a pixel have, from 0 to 255? The file {reason}: write \"mean\" and \"std\"."
        ));
        return;
    };
    // Eight digits: the adapter reads FP32.
    let whole = |values: Vec<f64>| -> Vec<f64> {
        let rounded = |value: f64| format!("{value:.7e}").parse().unwrap_or(value);
        values
            .into_iter()
            .map(|value| rounded(value / factor))
            .collect()
    };
    proposal.set("mean", whole(mean));
    proposal.set("std", whole(std));
}

/// Adds a question for each step that the adapter does not have.
fn steps(file: &Value, proposal: &mut Proposal) {
    let others = (file.as_object().into_iter().flatten())
        .map(|(member, _)| member.as_str())
        .filter(|member| member.starts_with("do_") && !STEPS.contains(member))
        .filter(|member| is_on(file, member));
    for step in others {
        proposal.open.push(format!(
            "Does the graph contain the step {step} of {PREPROCESSOR}? The adapter has no such step."
        ));
    }
}
