//! The lines of a batch: reading those of the input file, and writing those of the output and the error file.

use super::words::{Fault, Line};
use penstock_core::json;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::HashSet;

/// The longest `custom_id` in bytes. Each line of a result repeats it, also if the line has no room for its answer.
pub const MAX_CUSTOM_ID_BYTES: usize = 512;
/// The most faults of a file that are listed, as violations of a body.
pub const MAX_FAULTS: usize = 32;
/// The only method of a line.
const METHOD: &str = "POST";

/// A line as it is written in the file.
#[derive(Deserialize)]
struct Written<'a> {
    custom_id: Option<String>,
    method: Option<String>,
    url: Option<String>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

/// Returns whether a line has a request. Lines of white space have none.
pub fn is_request(line: &[u8]) -> bool {
    !line.trim_ascii().is_empty()
}

/// Returns a line without the byte order mark with which some editors begin a file.
pub(super) fn without_bom(line: &[u8]) -> &[u8] {
    line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
}

/// Reads one line; the faults are those of the line alone. `at` is its number in the file, from 1.
pub fn parse(line: &[u8], endpoint: &str, at: u64) -> Result<(String, Vec<u8>), Fault> {
    let fault = |code: &str, param: Option<&str>, message: String| Fault {
        code: code.to_owned(),
        line: Some(at),
        message,
        param: param.map(str::to_owned),
    };
    let line = without_bom(line);
    // The parser's message would quote a line that is a text as a whole, and would take a list for an object.
    if !line.trim_ascii_start().starts_with(b"{") {
        let message = "the line is not a JSON object with `custom_id`, `method`, `url` and `body`";
        return Err(fault("invalid_json_line", None, message.to_owned()));
    }
    let written: Written<'_> = serde_json::from_slice(line).map_err(|error| {
        fault(
            "invalid_json_line",
            None,
            format!(
                "the line is not a JSON object with `custom_id`, `method`, `url` and `body`: {error}"
            ),
        )
    })?;
    let missing = |name: &str| {
        fault(
            "missing_required_parameter",
            Some(name),
            format!("the line has no `{name}`"),
        )
    };
    let custom_id = written.custom_id.ok_or_else(|| missing("custom_id"))?;
    if !(1..=MAX_CUSTOM_ID_BYTES).contains(&custom_id.len()) {
        let message = format!("`custom_id` must have 1 to {MAX_CUSTOM_ID_BYTES} bytes");
        return Err(fault("invalid_custom_id", Some("custom_id"), message));
    }
    let method = written.method.ok_or_else(|| missing("method"))?;
    if method != METHOD {
        let message = format!("`method` must be {METHOD}");
        return Err(fault("invalid_method", Some("method"), message));
    }
    let url = written.url.ok_or_else(|| missing("url"))?;
    if url != endpoint {
        let message = format!("`url` must be the endpoint of the batch, {endpoint}");
        return Err(fault("mismatched_url", Some("url"), message));
    }
    let body = written.body.ok_or_else(|| missing("body"))?.get();
    if !body.starts_with('{') {
        let message = "`body` must be a JSON object, the body of the call".to_owned();
        return Err(fault("invalid_body", Some("body"), message));
    }
    Ok((custom_id, body.as_bytes().to_vec()))
}

/// Divides a file into lines while its parts are read.
#[derive(Debug, Default)]
pub struct Splitter {
    /// The beginning of a line whose end is in a later part.
    rest: Vec<u8>,
}

impl Splitter {
    /// Takes the next part of a file, and passes each line that it ends, with its size in the file. `take` returns whether to go on;
    /// the result is whether it did.
    pub fn part(&mut self, part: &[u8], mut take: impl FnMut(&[u8], u64) -> bool) -> bool {
        let mut pieces = part.split_inclusive(|byte| *byte == b'\n');
        if !self.rest.is_empty() {
            let Some(piece) = pieces.next() else {
                return true;
            };
            self.rest.extend_from_slice(piece);
            if self.rest.ends_with(b"\n") {
                let line = std::mem::take(&mut self.rest);
                if !take(&line, line.len() as u64) {
                    return false;
                }
            }
        }
        for piece in pieces {
            match piece.ends_with(b"\n") {
                true => {
                    if !take(piece, piece.len() as u64) {
                        return false;
                    }
                }
                false => self.rest = piece.to_vec(),
            }
        }
        true
    }

    /// Passes the last line, if the file does not end with a line feed.
    pub fn end(self, mut take: impl FnMut(&[u8], u64) -> bool) {
        if !self.rest.is_empty() {
            take(&self.rest, self.rest.len() as u64);
        }
    }
}

/// Checks all lines of a file.
#[derive(Debug)]
pub struct Check<'a> {
    endpoint: &'a str,
    max_lines: u64,
    /// The number of the last line, from 1.
    at: u64,
    requests: u64,
    seen: HashSet<String>,
    faults: Vec<Fault>,
}

impl<'a> Check<'a> {
    /// A check of the lines for an endpoint.
    pub fn new(endpoint: &'a str, max_lines: u64) -> Self {
        Self {
            endpoint,
            max_lines,
            at: 0,
            requests: 0,
            seen: HashSet::new(),
            faults: Vec::new(),
        }
    }

    /// Checks the next line. Returns whether the check goes on.
    pub fn line(&mut self, line: &[u8]) -> bool {
        self.at += 1;
        if !is_request(line) {
            return true;
        }
        self.requests += 1;
        if self.requests > self.max_lines {
            let message = format!(
                "the file has more than {} lines, the limit; divide it into several batches",
                self.max_lines
            );
            self.faults.push(Fault {
                code: "too_many_lines".to_owned(),
                line: None,
                message,
                param: None,
            });
            return false;
        }
        match parse(line, self.endpoint, self.at) {
            Err(fault) => self.faults.push(fault),
            Ok((custom_id, _)) => {
                if self.seen.contains(&custom_id) {
                    self.faults.push(Fault {
                        code: "duplicate_custom_id".to_owned(),
                        line: Some(self.at),
                        message: "an earlier line has the same `custom_id`".to_owned(),
                        param: Some("custom_id".to_owned()),
                    });
                } else {
                    self.seen.insert(custom_id);
                }
            }
        }
        self.faults.len() < MAX_FAULTS
    }

    /// The number of requests, or the faults.
    pub fn end(mut self) -> Result<u64, Vec<Fault>> {
        if self.requests == 0 {
            self.faults.push(Fault {
                code: "empty_file".to_owned(),
                line: None,
                message: "the file has no line; write one JSON object in each line".to_owned(),
                param: None,
            });
        }
        match self.faults.is_empty() {
            true => Ok(self.requests),
            false => Err(self.faults),
        }
    }
}

/// Writes the line of an answer. `body` is JSON.
pub fn answered(id: &str, line: &Line, status: u16, request_id: &str, body: &[u8]) -> Vec<u8> {
    // A body may be of several lines of JSON, and a line of the file may not.
    let compact = match body.contains(&b'\n') {
        true => serde_json::from_slice::<serde_json::Value>(body)
            .ok()
            .map(|value| json::to_bytes(&value)),
        false => None,
    };
    let body = compact.as_deref().unwrap_or(body);
    let mut written = Vec::with_capacity(body.len() + 256);
    written.extend_from_slice(b"{\"id\":");
    written.extend(json::to_bytes(id));
    written.extend_from_slice(b",\"custom_id\":");
    written.extend(json::to_bytes(&line.custom_id));
    written.extend_from_slice(format!(",\"response\":{{\"status_code\":{status}").as_bytes());
    written.extend_from_slice(b",\"request_id\":");
    written.extend(json::to_bytes(request_id));
    written.extend_from_slice(b",\"body\":");
    written.extend_from_slice(body);
    written.extend_from_slice(b"},\"error\":null}\n");
    written
}

/// Writes the line of a request without an answer.
pub fn unanswered(id: &str, custom_id: &str, code: &str, message: &str) -> Vec<u8> {
    let mut written = json::to_bytes(&json!({
        "id": id,
        "custom_id": custom_id,
        "response": null,
        "error": { "code": code, "message": message },
    }));
    written.push(b'\n');
    written
}

/// The id of a line's answer: the same for all attempts.
pub fn answer_id(batch: &str, number: u64) -> String {
    let mut hasher =
        blake3::Hasher::new_derive_key("penstock batches 2026 id of the answer of a line");
    hasher.update(batch.as_bytes());
    hasher.update(&number.to_le_bytes());
    format!("batch_req_{}", &hasher.finalize().to_hex()[..24])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ENDPOINT: &str = "/v1/embeddings";

    fn good(id: &str) -> String {
        format!(
            r#"{{"custom_id":"{id}","method":"POST","url":"/v1/embeddings","body":{{"input":"a"}}}}"#
        )
    }

    fn check(text: &str) -> Result<u64, Vec<(String, Option<u64>)>> {
        let mut check = Check::new(ENDPOINT, 4);
        for line in text.split_inclusive('\n') {
            if !check.line(line.as_bytes()) {
                break;
            }
        }
        let short = |fault: Fault| (fault.code, fault.line);
        (check.end()).map_err(|faults| faults.into_iter().map(short).collect())
    }

    #[test]
    fn a_line_has_an_id_the_method_post_the_endpoint_and_an_object() {
        let (id, body) = parse(good("a").as_bytes(), ENDPOINT, 1).unwrap();
        assert_eq!(
            (id.as_str(), body.as_slice()),
            ("a", &br#"{"input":"a"}"#[..])
        );
        let long = "i".repeat(MAX_CUSTOM_ID_BYTES + 1);
        for (line, code, param) in [
            ("{", "invalid_json_line", None),
            ("[]", "invalid_json_line", None),
            ("{}", "missing_required_parameter", Some("custom_id")),
            (&good(""), "invalid_custom_id", Some("custom_id")),
            (&good(&long), "invalid_custom_id", Some("custom_id")),
            (
                &good("a").replace("POST", "GET"),
                "invalid_method",
                Some("method"),
            ),
            (
                &good("a").replace("/v1/emb", "/v1/x"),
                "mismatched_url",
                Some("url"),
            ),
            (
                &good("a").replace(r#"{"input":"a"}"#, "3"),
                "invalid_body",
                Some("body"),
            ),
            (
                &good("a").replace("body", "b"),
                "missing_required_parameter",
                Some("body"),
            ),
        ] {
            let fault = parse(line.as_bytes(), ENDPOINT, 7).unwrap_err();
            assert_eq!(
                (fault.code.as_str(), fault.param.as_deref(), fault.line),
                (code, param, Some(7)),
                "{line}"
            );
        }
    }

    #[test]
    fn a_file_is_checked_as_a_whole_and_its_faults_name_their_lines() {
        let (a, b) = (good("a"), good("b"));
        assert_eq!(check(&format!("{a}\n\n  \r\n{b}")), Ok(2));
        let fault = |code: &str, line| (code.to_owned(), line);
        for (text, faults) in [
            (String::new(), vec![fault("empty_file", None)]),
            ("\n \n".to_owned(), vec![fault("empty_file", None)]),
            (
                format!("{a}\n{a}\n"),
                vec![fault("duplicate_custom_id", Some(2))],
            ),
            (
                format!("{a}\nx\n\n[1]\n"),
                vec![
                    fault("invalid_json_line", Some(2)),
                    fault("invalid_json_line", Some(4)),
                ],
            ),
            (
                ["a", "b", "c", "d", "e"].map(good).join("\n"),
                vec![fault("too_many_lines", None)],
            ),
        ] {
            assert_eq!(check(&text), Err(faults), "{text}");
        }
    }

    #[test]
    fn no_more_faults_are_listed_than_may_be() {
        let mut check = Check::new(ENDPOINT, 1_000);
        let lines = (0..1_000).take_while(|_| check.line(b"x")).count();
        assert_eq!(lines, MAX_FAULTS - 1);
        assert_eq!(check.end().unwrap_err().len(), MAX_FAULTS);
    }

    #[test]
    fn the_line_of_an_answer_is_one_line_of_json_with_the_answers_body() {
        let line = Line {
            custom_id: "a\"\n".to_owned(),
            body: Vec::new(),
            number: 0,
            end: 0,
        };
        for body in [&b"{\"data\":[1]}"[..], b"{\n \"data\": [1]\n}"] {
            let written = answered("batch_req_1", &line, 200, "req_1", body);
            assert_eq!(written.iter().filter(|byte| **byte == b'\n').count(), 1);
            let value: serde_json::Value = serde_json::from_slice(&written).unwrap();
            assert_eq!(
                value,
                json!({
                    "id": "batch_req_1", "custom_id": "a\"\n", "error": null,
                    "response": { "status_code": 200, "request_id": "req_1", "body": { "data": [1] } },
                })
            );
        }
    }

    proptest! {
        #[test]
        fn a_file_has_the_same_lines_however_it_is_divided(
            text in "[ab\n]{0,40}",
            sizes in prop::collection::vec(1_usize..9, 1..9),
        ) {
            let bytes = text.as_bytes();
            let whole: Vec<Vec<u8>> = bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
            let mut splitter = Splitter::default();
            let mut lines = Vec::new();
            let mut take = |line: &[u8], size: u64| {
                assert_eq!(line.len() as u64, size);
                lines.push(line.to_vec());
                true
            };
            let (mut at, mut sizes) = (0, sizes.into_iter().cycle());
            while at < bytes.len() {
                let end = (at + sizes.next().unwrap()).min(bytes.len());
                splitter.part(&bytes[at..end], &mut take);
                at = end;
            }
            splitter.end(&mut take);
            prop_assert_eq!(lines, whole);
        }
    }
}
