//! Compares the tokenizer with the results of the package `tokenizers` (scripts/tokenizer_cases.py).

use super::*;
use proptest::prelude::*;

type Row = (String, Option<String>, Option<usize>, Vec<u32>, Vec<u32>);

#[derive(Deserialize)]
struct Case {
    name: String,
    tokenizer: TokenizerFile,
    /// A text, a second one, to how many tokens both are cut, the numbers, their types.
    rows: Vec<Row>,
}

fn cases() -> Vec<Case> {
    let text = match std::env::var("PENSTOCK_TOKENIZER_CASES") {
        Ok(path) => std::fs::read_to_string(path).unwrap(),
        Err(_) => include_str!("../../tests/data/tokenizers.json").to_owned(),
    };
    serde_json::from_str(&text).unwrap()
}

#[test]
fn texts_and_pairs_become_the_numbers_that_the_package_tokenizers_gives_them() {
    let mut rows = 0;
    let mut wrong = Vec::new();
    for case in cases() {
        let tokenizer = Tokenizer::new(case.tokenizer).unwrap();
        for (first, second, most, ids, types) in case.rows {
            let mut a = tokenizer.encode(&first).unwrap();
            let mut b = second
                .as_deref()
                .map(|text| tokenizer.encode(text).unwrap());
            if let Some(most) = most {
                tokenizer.cut(&mut a, b.as_mut(), most, Truncation::LongestFirst);
            }
            let row = tokenizer.row(&a, b.as_deref());
            if (&row.ids, &row.types) != (&ids, &types) {
                wrong.push(format!(
                    "{}: {first:?} {second:?} {most:?}\n  {:?}\n  {ids:?}",
                    case.name, row.ids
                ));
            }
            rows += 1;
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {rows} differ:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(12)].join("\n")
    );
    assert!(rows > 200, "{rows}");
}

fn small(changes: serde_json::Value) -> Result<Tokenizer, String> {
    let mut file = serde_json::json!({
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "vocab": { "[UNK]": 0, "[SEP]": 1, "a": 2, "##b": 3, "c": 4, "[": 5, "SE": 6, "##P": 7, "]": 8 } },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "added_tokens": [{ "id": 1, "content": "[SEP]", "special": true }],
    });
    for (name, value) in changes.as_object().unwrap() {
        file[name] = value.clone();
    }
    let file: TokenizerFile = serde_json::from_value(file).map_err(|e| e.to_string())?;
    Tokenizer::new(file)
}

#[test]
fn a_special_token_in_a_text_is_text() {
    let tokenizer = small(serde_json::json!({})).unwrap();
    let ids: Vec<u32> = tokenizer
        .encode("a [SEP]")
        .unwrap()
        .iter()
        .map(|p| p.id)
        .collect();
    assert_eq!(ids, [2, 5, 6, 7, 8]);
}

#[test]
fn every_token_says_which_characters_of_the_text_it_stands_for() {
    let lower = serde_json::json!({ "normalizer": { "type": "BertNormalizer" } });
    let tokenizer = small(lower).unwrap();
    let ranges = |text: &str| -> Vec<(u32, u32)> {
        let pieces = tokenizer.encode(text).unwrap();
        pieces.iter().map(|p| (p.start, p.end)).collect()
    };
    assert_eq!(ranges("AB  c"), [(0, 1), (1, 2), (4, 5)]);
    assert_eq!(ranges("\u{c4} c"), [(0, 1), (2, 3)]);
    assert_eq!(ranges("e\u{301}\u{e9}c c"), [(0, 4), (5, 6)]);
}

#[test]
fn a_file_that_cannot_be_followed_is_refused_with_what_is_wrong() {
    for (changes, expected) in [
        (
            serde_json::json!({ "normalizer": { "type": "Nothing" } }),
            "Nothing",
        ),
        (
            serde_json::json!({ "model": { "type": "WordPiece", "vocab": { "a": 0 } } }),
            "unk_token",
        ),
        (
            serde_json::json!({ "model": { "type": "BPE", "vocab": { "a": 0 }, "merges": ["a b"] } }),
            "merge 0",
        ),
        (
            serde_json::json!({ "model": { "type": "Unigram", "vocab": { "a": 0 } } }),
            "Unigram",
        ),
        (
            serde_json::json!({ "pre_tokenizer": { "type": "Split", "pattern": { "Regex": "(?<=a)b" }, "behavior": "Removed" } }),
            "look-around",
        ),
        (
            serde_json::json!({ "normalizer": { "type": "Precompiled", "precompiled_charsmap": "AAAA" } }),
            "too short",
        ),
        (
            serde_json::json!({ "padding": { "direction": "Left", "pad_id": 0 } }),
            "left",
        ),
    ] {
        let refused = small(changes.clone()).err().unwrap_or_default();
        assert!(refused.contains(expected), "{changes}: {refused}");
    }
}

#[test]
fn a_text_that_is_too_large_is_refused_before_anything_is_made_of_it() {
    let tokenizer = small(serde_json::json!({ "normalizer": { "type": "NFKD" } })).unwrap();
    assert_eq!(
        tokenizer.encode(&"a".repeat(MAX_TEXT_CHARS + 1)),
        Err(Unencodable::TooLarge)
    );
    // One character that becomes eighteen.
    assert_eq!(
        tokenizer.encode(&"\u{fdfa}".repeat(MAX_TEXT_CHARS / 2)),
        Err(Unencodable::TooLarge)
    );
    assert!(tokenizer.encode(&"a ".repeat(MAX_TEXT_CHARS / 2)).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_text_becomes_tokens_that_lie_within_it(text in "\\PC{0,60}|.{0,60}") {
        for case in cases().into_iter().step_by(5) {
            let tokenizer = Tokenizer::new(case.tokenizer).unwrap();
            let length = text.chars().count() as u32;
            if let Ok(pieces) = tokenizer.encode(&text) {
                prop_assert!(pieces.iter().all(|p| p.start <= p.end && p.end <= length));
            }
        }
    }
}
