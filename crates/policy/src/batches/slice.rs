//! The results of the lines that a step runs. The gate runs the lines and hands each answer in.

use super::line::{answer_id, answered, unanswered};
use super::step::{Finished, Ran, Summary, end_of};
use super::words::{Line, Lines};
use crate::operations::words::End;

/// Bytes of results after which a step ends. They are in memory as a whole, and a crash repeats them.
const MAX_RESULT_BYTES: usize = 4 << 20;
/// Milliseconds after which a step begins no further line. A crash repeats the lines of this time at most, and a caller that
/// cancels waits for one line at most, or for the wait before a line that could not run.
pub const MAX_SLICE_MS: u64 = 5_000;
/// The shortest wait before a line is tried again that could not run now.
const FIRST_WAIT_MS: u64 = 1_000;
/// The longest such wait. The limit of a day may be used up for hours, but a batch that was cancelled ends after the wait, and each wait
/// costs only a small step.
const LONGEST_WAIT_MS: u64 = 60_000;

/// The results of a step so far.
///
/// ```
/// use penstock_core::BatchId;
/// use penstock_policy::batches::slice::Slice;
/// use penstock_policy::batches::words::{Line, Lines};
///
/// let line = Line { custom_id: "a".into(), body: b"{}".to_vec(), number: 0, end: 70 };
/// let lines = Lines {
///     batch: BatchId::generate(0, 1), endpoint: "/v1/embeddings".into(), lines: vec![line],
///     output_bytes: 0, error_bytes: 0, expires_ms: u64::MAX, idle: 0,
/// };
/// let mut slice = Slice::new(&lines, 1 << 20);
/// slice.answer(&lines.lines[0], 200, "req_1", b"{\"data\":[]}");
/// let end = slice.end();
/// assert!(end.body.unwrap().ends_with(b"\"error\":null}\n"));
/// ```
#[derive(Debug)]
pub struct Slice<'a> {
    lines: &'a Lines,
    max_file_bytes: u64,
    output: Vec<u8>,
    errors: Vec<u8>,
    ran: Ran,
}

impl<'a> Slice<'a> {
    /// No results yet. Each file of results may have `max_file_bytes`.
    pub fn new(lines: &'a Lines, max_file_bytes: u64) -> Self {
        Self {
            lines,
            max_file_bytes,
            output: Vec::new(),
            errors: Vec::new(),
            ran: Ran::default(),
        }
    }

    /// Takes the answer of a line. `body` is JSON.
    pub fn answer(&mut self, line: &Line, status: u16, request_id: &str, body: &[u8]) {
        let id = answer_id(self.lines.batch.as_str(), line.number);
        let written = answered(&id, line, status, request_id, body);
        let succeeded = (200..300).contains(&status);
        let bytes = self.lines.output_bytes + (self.output.len() + written.len()) as u64;
        match (succeeded, bytes <= self.max_file_bytes) {
            (true, true) => {
                self.output.extend(written);
                self.ran.completed += 1;
                self.ran.byte = Some(line.end);
            }
            (true, false) => {
                let message = format!(
                    "the output file would have more than {} bytes (batches.max_file_bytes); send this line in another batch",
                    self.max_file_bytes
                );
                self.fail(line, "output_file_full", &message);
            }
            (false, _) => {
                let bytes = self.lines.error_bytes + (self.errors.len() + written.len()) as u64;
                if bytes > self.max_file_bytes {
                    let message = format!(
                        "the call failed with status {status}, and the error file has no room for its answer (batches.max_file_bytes)"
                    );
                    return self.fail(line, "error_file_full", &message);
                }
                self.errors.extend(written);
                self.ran.failed += 1;
                self.ran.byte = Some(line.end);
            }
        }
    }

    /// Takes a line that has no answer.
    pub(super) fn fail(&mut self, line: &Line, code: &str, message: &str) {
        let id = answer_id(self.lines.batch.as_str(), line.number);
        (self.errors).extend(unanswered(&id, &line.custom_id, code, message));
        self.ran.failed += 1;
        self.ran.byte = Some(line.end);
    }

    /// Returns whether the step has as many results as it may.
    pub fn is_full(&self) -> bool {
        self.output.len() + self.errors.len() >= MAX_RESULT_BYTES
    }

    /// Ends the step before the next line, which cannot run now. The next step tries it again.
    pub fn wait(&mut self, retry_after_s: Option<u32>) {
        let idle = match self.ran.byte {
            Some(_) => 0,
            None => self.lines.idle.min(16),
        };
        let asked_ms = u64::from(retry_after_s.unwrap_or_default()) * 1_000;
        let wait_ms = asked_ms.max(FIRST_WAIT_MS << idle);
        self.ran.wait_ms = wait_ms.min(LONGEST_WAIT_MS);
    }

    /// Ends the batch before the next line: a caller asked for it.
    pub fn cancel(&mut self) {
        self.ran.stopped = Some(Finished::Cancelled);
    }

    /// Ends the batch before the next line: its time is over.
    pub fn expire(&mut self) {
        self.ran.stopped = Some(Finished::Expired);
    }

    /// The end of the step's operation.
    pub fn end(mut self) -> End {
        self.ran.output_bytes = self.output.len() as u64;
        self.ran.error_bytes = self.errors.len() as u64;
        let mut body = self.output;
        body.extend(self.errors);
        end_of(&Summary::Ran(self.ran), body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_core::BatchId;

    fn lines(idle: u32) -> Lines {
        let line = |number: u64| Line {
            custom_id: format!("l{number}"),
            body: b"{}".to_vec(),
            number,
            end: 10 * (number + 1),
        };
        Lines {
            batch: BatchId::generate(1, 1),
            endpoint: "/v1/embeddings".to_owned(),
            lines: (0..3).map(line).collect(),
            output_bytes: 0,
            error_bytes: 0,
            expires_ms: u64::MAX,
            idle,
        }
    }

    fn ran(slice: Slice<'_>) -> (Ran, String) {
        let end = slice.end();
        let summary = serde_json::from_str(&end.headers[0].1).unwrap();
        let Summary::Ran(ran) = summary else { panic!() };
        (ran, String::from_utf8(end.body.unwrap()).unwrap())
    }

    #[test]
    fn answers_that_succeeded_come_before_those_that_failed() {
        let lines = lines(0);
        let mut slice = Slice::new(&lines, 1 << 20);
        for (line, status) in lines.lines.iter().zip([200, 422, 207]) {
            slice.answer(line, status, "req_1", b"{}");
        }
        let (ran, body) = ran(slice);
        assert_eq!((ran.completed, ran.failed, ran.byte), (2, 1, Some(30)));
        let (output, errors) = body.split_at(ran.output_bytes as usize);
        assert!(output.contains("\"l0\"") && output.contains("\"l2\""));
        assert!(errors.contains("\"l1\"") && errors.contains("\"status_code\":422"));
    }

    #[test]
    fn a_line_for_which_the_output_file_has_no_room_fails_and_says_so() {
        let lines = lines(0);
        let mut slice = Slice::new(&lines, 10);
        slice.answer(&lines.lines[0], 200, "req_1", b"{}");
        let (ran, body) = ran(slice);
        assert_eq!((ran.completed, ran.failed, ran.output_bytes), (0, 1, 0));
        assert!(body.contains("output_file_full") && body.contains("more than 10 bytes"));
    }

    #[test]
    fn an_answer_of_a_failed_line_for_which_the_error_file_has_no_room_is_left_out() {
        let mut lines = lines(0);
        let body = format!("{{\"error\":\"{}\"}}", "x".repeat(300));
        let mut slice = Slice::new(&lines, 1_000);
        for line in &lines.lines {
            slice.answer(line, 422, "req_1", body.as_bytes());
        }
        let (done, written) = ran(slice);
        assert_eq!((done.failed, done.error_bytes), (3, written.len() as u64));
        assert_eq!(written.matches("error_file_full").count(), 1);
        lines.error_bytes = 900;
        let mut slice = Slice::new(&lines, 1_000);
        slice.answer(&lines.lines[0], 422, "req_1", body.as_bytes());
        assert!(ran(slice).1.contains("error_file_full"));
    }

    #[test]
    fn a_line_that_cannot_run_now_is_waited_for_longer_each_time() {
        for (idle, asked_s, wait_ms) in [
            (0, None, 1_000),
            (0, Some(7), 7_000),
            (3, None, 8_000),
            (3, Some(9), 9_000),
            (99, Some(86_400), LONGEST_WAIT_MS),
        ] {
            let lines = lines(idle);
            let mut slice = Slice::new(&lines, 1 << 20);
            slice.wait(asked_s);
            assert_eq!(ran(slice).0.wait_ms, wait_ms, "{idle} {asked_s:?}");
        }
        let lines = lines(5);
        let mut slice = Slice::new(&lines, 1 << 20);
        slice.answer(&lines.lines[0], 200, "req_1", b"{}");
        slice.wait(None);
        assert_eq!(
            ran(slice).0.wait_ms,
            1_000,
            "a step that ran a line begins again"
        );
    }
}
