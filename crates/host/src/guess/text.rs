//! The adapters for texts: the class of the model decides which, as `config.json` of transformers names it.

use super::facts::{Facts, Guess, Proposal, architecture, labels};
use penstock_nn::backend::PortType;
use penstock_nn::{Port, TensorType};
use penstock_tensor::contract::MAX_ADAPTER_FILE_BYTES;
use serde_json::Value;

/// The inputs of models that read tokens, in the order in which the adapters give them.
const INPUTS: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];

/// `max_tokens` of the adapters is at most this.
const MOST_TOKENS: u64 = 32_768;

/// Tokenizers without a limit write a number beyond this as `model_max_length`.
const NO_LIMIT: u64 = 1 << 24;

/// Models whose positions begin behind the number of the padding token.
const SHIFTED: [&str; 6] = [
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "mpnet",
    "data2vec-text",
];

/// The kind of a model's answer for a text.
enum Head {
    Vectors,
    Classes,
    /// One number, for a pair of texts.
    Score,
    Tags,
}

/// The number of tokens that the model's table of positions has room for.
pub(crate) fn positions(config: &Value) -> Option<u64> {
    let most = config.get("max_position_embeddings")?.as_u64()?;
    let kind = config["model_type"].as_str().unwrap_or_default();
    if !SHIFTED.contains(&kind) {
        return Some(most);
    }
    let padding = config["pad_token_id"].as_u64().unwrap_or(1);
    most.checked_sub(padding.saturating_add(1))
}

pub(super) fn guess(facts: &Facts<'_>) -> Guess {
    if facts.input(INPUTS[0]).is_none() {
        return Guess::Nothing;
    }
    let inputs = match inputs(facts) {
        Ok(inputs) => inputs,
        Err(question) => return Guess::Ask(question),
    };
    let Some(tokenizer) = facts.bytes("tokenizer.json") else {
        return Guess::Ask(
            "The model reads tokens. Which tokenizer produces them? There is no tokenizer.json beside the graph; \
             docs/ADAPTERS.md lists the adapters that need one."
                .into(),
        );
    };
    if tokenizer.len() as u64 > MAX_ADAPTER_FILE_BYTES {
        return Guess::Ask(format!(
            "The model reads tokens, but its tokenizer.json has {} bytes and an adapter reads at most {MAX_ADAPTER_FILE_BYTES}. \
             Does the model serve token ids only?",
            tokenizer.len()
        ));
    }
    let config = facts.json("config.json");
    let config = config.as_ref();
    let head = match head(facts, config) {
        Ok(head) => head,
        Err(question) => return Guess::Ask(question),
    };
    let mut proposal = Proposal {
        files: vec![("tokenizer", "tokenizer.json", tokenizer)],
        ..Proposal::default()
    };
    proposal.set("inputs", inputs);
    match max_tokens(facts, config) {
        Some(most) => proposal.set("max_tokens", most),
        None => proposal.open.push(
            "How many tokens may a text have, special tokens included? Neither config.json nor tokenizer_config.json says \
             it. Write \"max_tokens\" into adapter.json, then remove the marks before [adapter]."
                .into(),
        ),
    }
    let made = match head {
        Head::Vectors => vectors(facts, &mut proposal),
        Head::Classes | Head::Score | Head::Tags => classes(facts, config, &head, &mut proposal),
    };
    match made {
        Ok(()) => Guess::Adapter(proposal),
        Err(question) => Guess::Ask(question),
    }
}

/// The graph's inputs as the adapters name them, or a question if an adapter cannot give them.
fn inputs(facts: &Facts<'_>) -> Result<Vec<&'static str>, String> {
    let ports = &facts.description.inputs;
    if let Some(other) = (ports.iter()).find(|port| !INPUTS.contains(&port.name.as_str())) {
        return Err(format!(
            "The model reads tokens and {}. Which values does that input take? No adapter for texts gives it, so callers \
             send tensors.",
            other.name
        ));
    }
    let is_integer = |port: &&Port| port.ty == PortType::Tensor(TensorType::I64);
    if let Some(other) = ports.iter().find(|port| !is_integer(port)) {
        return Err(format!(
            "The model reads tokens, and {} is {}. Adapters give INT64: can the graph be exported with it?",
            other.name, other.ty
        ));
    }
    let named: Vec<&str> = (INPUTS.into_iter())
        .take_while(|name| facts.input(name).is_some())
        .collect();
    match named.len() == ports.len() {
        true => Ok(named),
        false => Err(
            "The model reads tokens and token_type_ids without an attention_mask. Can the graph be exported with one? \
             Adapters give the mask before the types."
                .into(),
        ),
    }
}

/// Returns the kind of the model's answer for a text, or a question if no file says it.
fn head(facts: &Facts<'_>, config: Option<&Value>) -> Result<Head, String> {
    let is_pooled = facts.json("1_Pooling/config.json").is_some()
        || facts.output("sentence_embedding").is_some();
    let class = architecture(config);
    let ends = |with: &str| class.is_some_and(|class| class.ends_with(with));
    if ends("ForSequenceClassification") {
        let count = match labels(config).len() {
            0 => config.and_then(|config| config["num_labels"].as_u64()),
            count => Some(count as u64),
        };
        let count = count.or_else(|| {
            let output = facts.named_or_only("logits")?;
            facts.lengths(output)?.get(1).copied()?.map(u64::from)
        });
        return Ok(match count {
            Some(1) => Head::Score,
            _ => Head::Classes,
        });
    }
    // GPT2LMHeadModel and GPT2DoubleHeadsModel have a head: they do not give vectors.
    let is_encoder = ends("Model") && !ends("HeadModel") && !ends("HeadsModel");
    match class {
        _ if ends("ForTokenClassification") => Ok(Head::Tags),
        _ if is_encoder || is_pooled => Ok(Head::Vectors),
        Some(class) => Err(format!(
            "What does the model make of a text? config.json names {class}, for which there is no adapter; \
             docs/ADAPTERS.md lists them."
        )),
        None => Err(
            "What does the model make of a text: a vector, classes, a score of two texts, or a tag for each token? \
             Neither architectures in config.json nor 1_Pooling/config.json says it; docs/ADAPTERS.md has an adapter for \
             each."
                .into(),
        ),
    }
}

/// The most tokens of a text: the least of the limits that the files give.
fn max_tokens(facts: &Facts<'_>, config: Option<&Value>) -> Option<u64> {
    let number = |file: &str, member: &str| facts.json(file)?.get(member)?.as_u64();
    [
        number("sentence_bert_config.json", "max_seq_length"),
        number("tokenizer_config.json", "model_max_length").filter(|most| *most < NO_LIMIT),
        config.and_then(positions),
    ]
    .into_iter()
    .flatten()
    .min()
    .map(|most| most.min(MOST_TOKENS))
}

/// Adds the members of `text-embedding`.
fn vectors(facts: &Facts<'_>, proposal: &mut Proposal) -> Result<(), String> {
    proposal.name = "text-embedding";
    let pooled = facts.output("sentence_embedding");
    let Some(output) = pooled.or_else(|| facts.named_or_only("last_hidden_state")) else {
        return Err(
            "Which output has the text's vector, or a vector for each token? None is called sentence_embedding or \
             last_hidden_state; the adapter \"text-embedding\" (docs/ADAPTERS.md) takes its name as \"output\"."
                .into(),
        );
    };
    is_float(output)?;
    let lengths = facts.lengths(output).unwrap_or_default();
    let axes = if pooled.is_some() { 2 } else { 3 };
    let (true, Some(Some(width))) = (lengths.len() == axes, lengths.last()) else {
        return Err(format!(
            "Does {} have the vector of a text? The adapter \"text-embedding\" needs a vector for each token, or an \
             output sentence_embedding.",
            output.name
        ));
    };
    facts.name_output(output, &mut proposal.config);
    proposal.set("dimensions", *width);
    if pooled.is_some() {
        proposal.set("pooling", "none");
    } else {
        pooling(facts, *width, proposal);
    }
    normalisation(facts, proposal);
    Ok(())
}

/// Adds the way in which the tokens' vectors become one, or a question.
fn pooling(facts: &Facts<'_>, width: u32, proposal: &mut Proposal) {
    let Some(file) = facts.json("1_Pooling/config.json") else {
        proposal.open.push(
            "How do the vectors of the tokens become one? Write \"pooling\": \"mean\", \"cls\" (the first) or \"last\" \
             into adapter.json, then remove the marks before [adapter]. There is no 1_Pooling/config.json beside the graph."
                .into(),
        );
        return;
    };
    let mut modes: Vec<&str> = (file.as_object().into_iter().flatten())
        .filter(|(_, value)| **value == true)
        .filter_map(|(member, _)| member.strip_prefix("pooling_mode_"))
        .chain(file["pooling_mode"].as_str())
        .collect();
    modes.sort_unstable();
    let ours = match modes.as_slice() {
        ["mean_tokens" | "mean"] => "mean",
        ["cls_token" | "cls"] => "cls",
        ["lasttoken" | "last"] => "last",
        _ => {
            proposal.open.push(format!(
                "How do the vectors of the tokens become one? 1_Pooling/config.json names {}, and the adapter has mean, cls \
                 and last: write one of them as \"pooling\" into adapter.json if it gives the same.",
                if modes.is_empty() { "no way".into() } else { modes.join(" and ") }
            ));
            return;
        }
    };
    proposal.set("pooling", ours);
    let named = (file.get("word_embedding_dimension")).or_else(|| file.get("embedding_dimension"));
    if let Some(named) = named
        .and_then(Value::as_u64)
        .filter(|named| *named != u64::from(width))
    {
        proposal.open.push(format!(
            "Is this the graph of the files beside it? Its vectors have {width} numbers, and those of \
             1_Pooling/config.json {named}."
        ));
    }
}

/// Adds whether vectors have length 1. `modules.json` lists the steps of a model of sentence-transformers.
fn normalisation(facts: &Facts<'_>, proposal: &mut Proposal) {
    let Some(modules) = facts.json("modules.json") else {
        proposal.remarks.push(
            "Are the vectors scaled to length 1? The adapter does so, and no modules.json says otherwise; if not, write \
             \"normalize\": false into adapter.json."
                .into(),
        );
        return;
    };
    let steps: Vec<&str> = (modules.as_array().into_iter().flatten())
        .filter_map(|step| step["type"].as_str()?.rsplit('.').next())
        .collect();
    proposal.set("normalize", steps.contains(&"Normalize"));
    let known = ["Transformer", "Pooling", "Normalize"];
    if let Some(other) = steps.iter().find(|step| !known.contains(step)) {
        proposal.open.push(format!(
            "Does the graph contain the step {other} of modules.json? The adapter has no such step. If it does, remove the \
             marks before [adapter]."
        ));
    }
}

/// Adds the members of the adapters with scores.
fn classes(
    facts: &Facts<'_>,
    config: Option<&Value>,
    head: &Head,
    proposal: &mut Proposal,
) -> Result<(), String> {
    let Some(output) = facts.named_or_only("logits") else {
        return Err(
            "Which output has the scores? None is called logits; docs/ADAPTERS.md has the member \"output\" for its name."
                .into(),
        );
    };
    is_float(output)?;
    facts.name_output(output, &mut proposal.config);
    let lengths = facts.lengths(output).unwrap_or_default();
    let (name, axes) = match head {
        Head::Tags => ("token-classification", 3),
        Head::Score => ("cross-encoder", 2),
        _ => ("text-classification", 2),
    };
    proposal.name = name;
    let is_list = matches!(head, Head::Score) && lengths.len() == 1;
    if lengths.len() != axes && !is_list {
        return Err(format!(
            "Which output has the scores? {} has {} axes, and the adapter \"{name}\" takes {axes}, as config.json says.",
            output.name,
            lengths.len()
        ));
    }
    let width = if is_list { Some(1) } else { lengths[axes - 1] };
    let count = labels(config).len();
    if let (true, Some(bytes)) = (count > 0, facts.bytes("config.json")) {
        proposal.files.push(("model_config", "config.json", bytes));
    }
    if let Head::Score = head {
        score(config, proposal);
        return match width {
            Some(1) | None => Ok(()),
            Some(width) => Err(format!(
                "Is this the graph of config.json beside it? {} has {width} numbers for a text, and config.json one label.",
                output.name
            )),
        };
    }
    if is_regression(config) {
        proposal.set("function", "none");
    }
    if count == 0 {
        proposal.open.push(format!(
            "Which are the classes of {}? Write their names as \"labels\" into adapter.json, in order, then remove the marks \
             before [adapter]. config.json has no id2label.",
            output.name
        ));
        return Ok(());
    }
    if let Some(width) = width.filter(|width| *width as usize != count) {
        proposal.open.push(format!(
            "Is this the graph of config.json beside it? {} has {width} classes, and id2label {count}.",
            output.name
        ));
    }
    Ok(())
}

fn is_regression(config: Option<&Value>) -> bool {
    config.is_some_and(|config| config["problem_type"] == "regression")
}

/// Adds the function that makes a score of a cross-encoder's number.
fn score(config: Option<&Value>, proposal: &mut Proposal) {
    let named = config.and_then(|config| {
        let old = config["sbert_ce_default_activation_function"].as_str();
        old.or_else(|| config["sentence_transformers"]["activation_fn"].as_str())
    });
    match named.and_then(|path| path.rsplit('.').next()) {
        Some("Identity") => proposal.set("function", "none"),
        Some("Sigmoid") => proposal.set("function", "sigmoid"),
        Some(other) => proposal.open.push(format!(
            "Which function makes a score of the model's number? config.json names {other}, and the adapter has sigmoid \
             and none: write \"function\" into adapter.json."
        )),
        None if is_regression(config) => proposal.set("function", "none"),
        None => proposal.remarks.push(
            "Is the model's number the score of two texts? config.json says that there is one. For a score of one text, \
             write name = \"text-classification\" under [adapter]."
                .into(),
        ),
    }
}

fn is_float(output: &Port) -> Result<(), String> {
    match output.ty {
        PortType::Tensor(TensorType::Fp32) => Ok(()),
        other => Err(format!(
            "Can the graph be exported with FP32 as {}? It is {other}, and adapters read FP32.",
            output.name
        )),
    }
}
