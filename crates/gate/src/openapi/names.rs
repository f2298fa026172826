//! Names a model's schemas and operations. Different models have different names, also after a generator has
//! converted the names to its language's style.
//!
//! Generators rewrite names: `my.model`, `my_model` and `My-Model` all become the class `MyModel`. A name here is
//! therefore a list of words, each a capital letter, small letters and digits, and two models never have the same
//! words. Every style (`PascalCase`, `camelCase`, `snake_case`, `kebab-case`) keeps words apart. Usual names, small
//! letters with hyphens, give the expected words: `silero-vad` becomes `SileroVad`. Everything else is spelt out:
//!
//! | in the model's name | words |
//! |---|---|
//! | `-` between two parts | none: the next part starts a word |
//! | `.`, `_`, another `-` | `Dot`, `Underscore`, `Dash` |
//! | a capital letter, several | `Cap`, `Caps` before the part: `My` is `CapMy`, `BERT` is `CapsBert` |
//! | a part directly after another, as in `MyModel`, `l6v2` | `Joined` between them |
//! | digits that start a part, as in `resnet-50` | `Number50` |
//! | a single letter, as in `gpt-j` | `LetterJ`: two capitals in a row are one word to many generators |
//! | any other character | `Char` and its code point |
//! | a part equal to one of the words above; `model` at the start, because `predictModel` is for any model | `Word` before it |

use std::fmt::Write;

/// Words with a special meaning. A part of a model's name that equals one of them is marked with `Word`.
const RESERVED: [&str; 10] = [
    "cap",
    "caps",
    "char",
    "dash",
    "dot",
    "joined",
    "letter",
    "number",
    "underscore",
    "word",
];

/// The word after the verb in the operations on any model: `predictModel`, `predictModelVersion`.
const ANY: &str = "model";

/// Converts a model's name to words.
pub fn words(model: &str) -> String {
    let mut out = String::with_capacity(model.len() + 8);
    let mut rest = model;
    let mut before = Before::Start;
    while let Some(first) = rest.chars().next() {
        let part = part_of(rest);
        if part == 0 {
            let hyphen = first == '-' && before == Before::Part && part_of(&rest[1..]) > 0;
            if !hyphen {
                separator(first, &mut out);
            }
            before = if hyphen {
                Before::Hyphen
            } else {
                Before::Separator
            };
            rest = &rest[first.len_utf8()..];
            continue;
        }
        if before == Before::Part {
            out.push_str("Joined");
        }
        let at_start = before == Before::Start;
        write_part(&rest[..part], at_start, &mut out);
        before = Before::Part;
        rest = &rest[part..];
    }
    out
}

/// The element before a part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Start,
    Part,
    /// A single hyphen between parts, which is not spelt out.
    Hyphen,
    /// One or more characters that are spelt out.
    Separator,
}

/// Returns the length of the part at the start of `text`; 0 if no part starts there. A part is a letter and small
/// letters, or several capitals, each with optional digits; or digits alone. The last of several capitals starts its
/// own part if small letters follow.
fn part_of(text: &str) -> usize {
    let count = |from: usize, fits: fn(&u8) -> bool| {
        let rest = text.as_bytes().get(from..).unwrap_or_default();
        rest.iter().take_while(|b| fits(b)).count()
    };
    let capitals = count(0, u8::is_ascii_uppercase);
    let small = count(capitals, u8::is_ascii_lowercase);
    let letters = match (capitals, small) {
        (0 | 1, small) => capitals + small,
        (capitals, 0) => capitals,
        (capitals, _) => return capitals - 1,
    };
    letters + count(letters, u8::is_ascii_digit)
}

fn separator(c: char, out: &mut String) {
    match c {
        '.' => out.push_str("Dot"),
        '_' => out.push_str("Underscore"),
        '-' => out.push_str("Dash"),
        // Writing to a string cannot fail.
        other => drop(write!(out, "Char{}", u32::from(other))),
    }
}

fn write_part(part: &str, at_start: bool, out: &mut String) {
    let digits = part.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let letters = &part[..part.len() - digits.len()];
    let mut small = letters.to_ascii_lowercase();
    if letters != small {
        let several = letters.len() > 1 && letters.bytes().all(|b| b.is_ascii_uppercase());
        out.push_str(if several { "Caps" } else { "Cap" });
    }
    if letters.is_empty() {
        out.push_str("Number");
    } else if RESERVED.contains(&small.as_str()) || (at_start && small == ANY) {
        out.push_str("Word");
    } else if letters.len() == 1 && digits.is_empty() {
        out.push_str("Letter");
    }
    if let Some(first) = small.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    out.push_str(&small);
    out.push_str(digits);
}

/// Returns the name of a model's schema. Names of schemas for any model do not contain `For`.
pub fn component(what: &str, model: &str) -> String {
    format!("{what}For{}", words(model))
}

/// Returns the id of an operation of one model.
pub fn operation(verb: &str, model: &str) -> String {
    format!("{verb}{}", words(model))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Converts to `snake_case` as generators do: a word starts at a capital after a small letter or digit, and at
    /// the last of several capitals.
    fn snake(name: &str) -> String {
        let bytes = name.as_bytes();
        let mut out = String::new();
        for (i, b) in bytes.iter().enumerate() {
            let small_behind = bytes.get(i + 1).is_some_and(u8::is_ascii_lowercase);
            let after_word = i > 0 && !bytes[i - 1].is_ascii_uppercase();
            if b.is_ascii_uppercase() && i > 0 && (after_word || small_behind) {
                out.push('_');
            }
            out.push(char::from(b.to_ascii_lowercase()));
        }
        out
    }

    /// Converts words back to a model's name.
    fn model(words: &str) -> String {
        let mut list: Vec<String> = Vec::new();
        for c in words.chars() {
            match list.last_mut() {
                Some(last) if !c.is_ascii_uppercase() => last.push(c),
                _ => list.push(c.to_string()),
            }
        }
        let mut out = String::new();
        let mut hyphen = false;
        let mut words = list.iter().peekable();
        while let Some(word) = words.next() {
            let mut separated = |text: &str| {
                out.push_str(text);
                hyphen = false;
            };
            match word.as_str() {
                "Joined" => separated(""),
                "Dot" => separated("."),
                "Underscore" => separated("_"),
                "Dash" => separated("-"),
                other if other.starts_with("Char") && other[4..].parse::<u32>().is_ok() => {
                    let code = other[4..].parse().unwrap();
                    separated(&char::from_u32(code).unwrap().to_string());
                }
                mut part => {
                    if hyphen {
                        out.push('-');
                    }
                    hyphen = true;
                    let capital = part == "Cap";
                    let capitals = part == "Caps";
                    if capital || capitals {
                        part = words.next().unwrap();
                    }
                    let mut text = match part {
                        "Word" | "Letter" => words.next().unwrap().to_lowercase(),
                        other => match other.strip_prefix("Number") {
                            Some(digits) if digits.parse::<u64>().is_ok() => digits.to_owned(),
                            _ => other.to_lowercase(),
                        },
                    };
                    if capital {
                        text[..1].make_ascii_uppercase();
                    }
                    if capitals {
                        text.make_ascii_uppercase();
                    }
                    out.push_str(&text);
                }
            }
        }
        out
    }

    #[test]
    fn the_usual_names_read_as_expected_and_the_others_are_spelt_out() {
        for (name, expected) in [
            ("digits", "Digits"),
            ("silero-vad", "SileroVad"),
            ("resnet50", "Resnet50"),
            ("resnet-50", "ResnetNumber50"),
            ("all-minilm-l6-v2", "AllMinilmL6V2"),
            ("my.model", "MyDotModel"),
            ("my_model", "MyUnderscoreModel"),
            ("My-Model", "CapMyCapModel"),
            ("MyModel", "CapMyJoinedCapModel"),
            ("all-MiniLM-L6-v2", "AllCapMiniJoinedCapsLmCapL6V2"),
            ("BERTBase", "CapsBertJoinedCapBase"),
            ("my-dot-net", "MyWordDotNet"),
            ("gpt-j", "GptLetterJ"),
            ("t5v1", "T5JoinedV1"),
            ("--a", "DashDashLetterA"),
            ("a-", "LetterADash"),
            ("é", "Char233"),
            ("my-model", "MyModel"),
            ("model", "WordModel"),
            ("model-version", "WordModelVersion"),
            ("model2", "WordModel2"),
            ("version", "Version"),
            ("", ""),
        ] {
            assert_eq!(words(name), expected, "{name}");
            assert_eq!(model(expected), name);
        }
    }

    #[test]
    fn no_two_names_of_up_to_six_characters_share_their_words() {
        let alphabet = ['a', 'b', 'A', '1', '0', '-', '_', '.'];
        let mut seen: HashMap<String, String> = HashMap::new();
        let mut level = vec![String::new()];
        for _ in 0..6 {
            let longer = level
                .iter()
                .flat_map(|name| alphabet.map(|c| format!("{name}{c}")));
            level = longer.collect();
            for name in &level {
                let component = component("PredictRequest", name);
                assert!(component.bytes().all(|b| b.is_ascii_alphanumeric()));
                if let Some(other) = seen.insert(snake(&component), name.clone()) {
                    panic!("{name} and {other} are both {component}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_models_name_can_be_read_back_from_its_words(
            pieces in proptest::collection::vec(
                prop_oneof![
                    proptest::sample::select([RESERVED.as_slice(), &[ANY]].concat()).prop_map(str::to_owned),
                    "[A-Za-z][a-z]{0,3}[0-9]{0,2}",
                    "[A-Z]{1,4}",
                    "[-_.]{1,2}",
                    "[0-9]{1,3}",
                    "Cap|Dot|Joined|Number7|Char45|é|:",
                ],
                0..8,
            ),
        ) {
            let name = pieces.concat();
            let found = words(&name);
            prop_assert_eq!(model(&found), name);
            // Splitting the name in another style must give the same words.
            let pascal: String = snake(&found)
                .split('_')
                .map(|word| word[..1.min(word.len())].to_uppercase() + &word[1.min(word.len())..])
                .collect();
            prop_assert_eq!(pascal, found);
        }
    }
}
