//! The steps of a batch, and which step follows the end of another. Pure functions: what follows depends only on what is stored
//! and never changes, so every host that looks computes the same.

use super::words::{Counts, Fault};
use crate::operations::words::{End, Operation, OperationState};
use penstock_core::{BatchId, Code, FileId, OperationId, json};
use serde::{Deserialize, Serialize};

/// The most lines of a step. A queue serves other tenants between steps, and a crash repeats the lines of one step at most.
pub(super) const MAX_LINES: u32 = 256;
/// The factor by which steps grow again after a step of one line.
const GROWTH: u32 = 4;
/// The most steps that repeat the work of one that needs no model. Each has the attempts of an operation.
const MAX_TRIES: u32 = 20;
/// Milliseconds before a step is repeated whose workers failed.
const AGAIN_MS: u64 = 1_000;
/// The header of a stored end that has the summary.
const SUMMARY: &str = "summary";

/// A step: its work, and the state of the batch before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Step {
    /// The batch, by its id.
    pub batch: String,
    /// The number of the step, from 1.
    pub number: u32,
    pub work: StepWork,
    pub at: At,
    /// Steps just before that had the same work, and whose workers failed.
    #[serde(default)]
    pub tries: u32,
}

/// The work of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(super) enum StepWork {
    /// Check all lines.
    Validate,
    /// Run the next lines.
    Lines { most: u32 },
    /// Write an error for the next line, whose runs ended with this one.
    Skip { code: String, message: String },
    /// Write the files.
    Finish { why: Finished, since_ms: u64 },
}

/// Why a batch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finished {
    /// All lines have run.
    Completed,
    /// Its time is over.
    Expired,
    /// A caller asked for its end.
    Cancelled,
}

/// The place of a batch in its input file, and its results so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct At {
    /// The place of the next line in the file.
    pub byte: u64,
    /// The lines that have an answer.
    pub lines: u64,
    /// All lines.
    pub total: u64,
    pub completed: u64,
    pub failed: u64,
    /// Bytes of the output file.
    pub output_bytes: u64,
    /// Bytes of the error file.
    #[serde(default)]
    pub error_bytes: u64,
    /// Steps just before that ran no line.
    pub idle: u32,
    /// The time at which the lines were found valid.
    pub began_ms: u64,
}

/// What a step that ended has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "done", rename_all = "snake_case")]
pub(super) enum Summary {
    Validated {
        total: u64,
    },
    Invalid {
        faults: Vec<Fault>,
    },
    /// The batch ended before its lines were checked.
    Stopped {
        why: Finished,
    },
    Ran(Ran),
    Finished {
        failed: u64,
        output: Option<String>,
        errors: Option<String>,
    },
}

/// What a step with lines has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ran {
    /// The place of the next line in the file; `None` if the step ran no line.
    pub byte: Option<u64>,
    pub completed: u64,
    pub failed: u64,
    /// Bytes of its body that belong to the output file. The rest belongs to the error file.
    pub output_bytes: u64,
    /// Bytes of its body that belong to the error file.
    #[serde(default)]
    pub error_bytes: u64,
    /// Milliseconds before the next step.
    pub wait_ms: u64,
    /// Why no further line runs.
    pub stopped: Option<Finished>,
}

/// The end of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StepEnd {
    pub ended_ms: u64,
    pub outcome: Outcome,
}

/// The outcome of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done(Summary),
    /// No worker has begun it.
    NotRun,
    /// Its workers failed, all in the same way.
    Failed {
        code: String,
        message: String,
    },
}

/// What follows a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Another step, not before a time.
    Step { step: Step, due_ms: u64 },
    /// Nothing: the batch is over.
    Over,
}

impl Step {
    /// The first step of a batch.
    pub fn first(batch: &BatchId) -> Self {
        Self {
            batch: batch.as_str().to_owned(),
            number: 1,
            work: StepWork::Validate,
            at: At::default(),
            tries: 0,
        }
    }

    /// Reads the body of an operation; `None` for other bodies.
    pub fn decode(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// The body of its operation.
    pub fn encode(&self) -> Vec<u8> {
        json::to_bytes(self)
    }

    /// The id of the batch.
    pub fn batch(&self) -> Option<BatchId> {
        BatchId::parse(&self.batch)
    }

    /// The most lines that it runs.
    pub fn items(&self) -> u64 {
        match self.work {
            StepWork::Lines { most } => {
                u64::from(most).min(self.at.total.saturating_sub(self.at.lines).max(1))
            }
            _ => 1,
        }
    }

    /// The step after this one.
    fn then(&self, work: StepWork, at: At) -> Self {
        Self {
            batch: self.batch.clone(),
            number: self.number.saturating_add(1),
            work,
            at,
            tries: 0,
        }
    }
}

/// The id of the operation of a step: the same for every host that computes it.
pub(super) fn step_id(batch: &BatchId, number: u32) -> OperationId {
    let mut hasher = blake3::Hasher::new_derive_key("penstock batches 2026 id of a step");
    hasher.update(batch.as_str().as_bytes());
    hasher.update(&number.to_le_bytes());
    OperationId::generate(batch.unix_ms(), low_bits(&hasher))
}

/// The id of a file with results: the same for every attempt to write it.
pub(super) fn result_id(batch: &BatchId, what: &str, created_ms: u64) -> FileId {
    let mut hasher =
        blake3::Hasher::new_derive_key("penstock batches 2026 id of a file of results");
    hasher.update(batch.as_str().as_bytes());
    hasher.update(what.as_bytes());
    FileId::generate(created_ms, low_bits(&hasher))
}

fn low_bits(hasher: &blake3::Hasher) -> u128 {
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    u128::from_le_bytes(bytes)
}

/// The end of an operation that did its work.
pub(super) fn end_of(summary: &Summary, body: Vec<u8>) -> End {
    End {
        state: OperationState::Succeeded,
        code: String::new(),
        message: String::new(),
        status: 200,
        headers: vec![(SUMMARY.to_owned(), json::to_ascii(summary))],
        body_bytes: body.len() as u64,
        body: Some(body),
    }
}

impl StepEnd {
    /// The end of a step's operation; `None` while it has none.
    pub fn of(operation: &Operation) -> Option<Self> {
        let end = operation.end.as_ref()?;
        let summary = end.headers.iter().find(|(name, _)| name == SUMMARY);
        let summary = summary.and_then(|(_, text)| serde_json::from_str(text).ok());
        let outcome = match (end.state, summary) {
            (OperationState::Succeeded, Some(summary)) => Outcome::Done(summary),
            _ if operation.attempts == 0 => Outcome::NotRun,
            _ => Outcome::Failed {
                code: match end.code.is_empty() {
                    true => Code::Internal.as_str().to_owned(),
                    false => end.code.clone(),
                },
                message: end.message.clone(),
            },
        };
        Some(Self {
            ended_ms: operation.ended_ms.unwrap_or_default(),
            outcome,
        })
    }
}

impl At {
    /// The place after a step with lines.
    pub fn after(&self, ran: &Ran) -> Self {
        let lines = ran.completed + ran.failed;
        Self {
            byte: ran.byte.unwrap_or(self.byte),
            lines: self.lines + lines,
            completed: self.completed + ran.completed,
            failed: self.failed + ran.failed,
            output_bytes: self.output_bytes + ran.output_bytes,
            error_bytes: self.error_bytes + ran.error_bytes,
            idle: match lines {
                0 => self.idle.saturating_add(1),
                _ => 0,
            },
            ..*self
        }
    }

    /// The counts of the lines.
    pub fn counts(&self) -> Counts {
        Counts {
            total: self.total,
            completed: self.completed,
            failed: self.failed,
        }
    }
}

/// Decides what follows a step that has ended.
pub(super) fn after(step: &Step, end: &StepEnd) -> After {
    let now_ms = end.ended_ms;
    let again = |work: StepWork| After::Step {
        step: step.then(work, step.at),
        due_ms: now_ms.saturating_add(AGAIN_MS),
    };
    let summary = match &end.outcome {
        Outcome::NotRun => return again(step.work.clone()),
        Outcome::Failed { code, message } => {
            return match &step.work {
                // One of the lines may be the cause. Alone, it does not harm the others.
                StepWork::Lines { most } if *most > 1 => again(StepWork::Lines { most: 1 }),
                StepWork::Lines { .. } => again(StepWork::Skip {
                    code: code.clone(),
                    message: message.clone(),
                }),
                StepWork::Validate | StepWork::Skip { .. } | StepWork::Finish { .. }
                    if step.tries >= MAX_TRIES =>
                {
                    After::Over
                }
                // No model has a part in it, so its workers died. The results of the batch would be lost with it.
                StepWork::Validate | StepWork::Skip { .. } | StepWork::Finish { .. } => {
                    let mut next = step.then(step.work.clone(), step.at);
                    next.tries = step.tries + 1;
                    After::Step {
                        step: next,
                        due_ms: now_ms.saturating_add(AGAIN_MS),
                    }
                }
            };
        }
        Outcome::Done(summary) => summary,
    };
    match summary {
        Summary::Validated { total } => {
            let at = At {
                total: *total,
                began_ms: now_ms,
                ..step.at
            };
            After::Step {
                step: step.then(StepWork::Lines { most: MAX_LINES }, at),
                due_ms: now_ms,
            }
        }
        Summary::Ran(ran) => {
            let at = step.at.after(ran);
            let finish = |why| StepWork::Finish {
                why,
                since_ms: now_ms,
            };
            let work = if at.lines >= at.total {
                finish(Finished::Completed)
            } else if let Some(why) = ran.stopped {
                finish(why)
            } else {
                let most = match step.work {
                    StepWork::Lines { most } => most.saturating_mul(GROWTH).min(MAX_LINES),
                    _ => 1,
                };
                StepWork::Lines { most }
            };
            After::Step {
                step: step.then(work, at),
                due_ms: now_ms.saturating_add(ran.wait_ms),
            }
        }
        Summary::Invalid { .. } | Summary::Stopped { .. } | Summary::Finished { .. } => After::Over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn step(work: StepWork) -> Step {
        let batch = BatchId::generate(NOW, 1);
        Step {
            work,
            at: At {
                byte: 10,
                lines: 2,
                total: 9,
                completed: 1,
                failed: 1,
                output_bytes: 5,
                error_bytes: 6,
                idle: 3,
                began_ms: NOW,
            },
            ..Step::first(&batch)
        }
    }

    fn lines(most: u32) -> Step {
        step(StepWork::Lines { most })
    }

    fn follow(step: &Step, outcome: Outcome) -> After {
        let end = StepEnd {
            ended_ms: NOW,
            outcome,
        };
        after(step, &end)
    }

    fn work(after: &After) -> &StepWork {
        match after {
            After::Step { step, .. } => &step.work,
            After::Over => panic!("it is over"),
        }
    }

    fn failed() -> Outcome {
        Outcome::Failed {
            code: "internal".to_owned(),
            message: "it trapped".to_owned(),
        }
    }

    fn ran(completed: u64, failed: u64, stopped: Option<Finished>) -> Outcome {
        Outcome::Done(Summary::Ran(Ran {
            byte: Some(40),
            completed,
            failed,
            output_bytes: 7,
            error_bytes: 8,
            wait_ms: 3,
            stopped,
        }))
    }

    #[test]
    fn the_lines_follow_the_check_and_the_files_follow_the_last_line() {
        let first = Step::first(&BatchId::generate(NOW, 1));
        let valid = follow(&first, Outcome::Done(Summary::Validated { total: 9 }));
        let After::Step { step, due_ms } = valid else {
            panic!("the lines follow")
        };
        assert_eq!(
            (step.number, step.at.total, step.at.began_ms, due_ms),
            (2, 9, NOW, NOW)
        );
        assert_eq!(step.work, StepWork::Lines { most: MAX_LINES });

        let After::Step { step, due_ms } = follow(&lines(2), ran(3, 1, None)) else {
            panic!("more lines follow")
        };
        assert_eq!(due_ms, NOW + 3);
        assert_eq!(step.work, StepWork::Lines { most: 8 });
        assert_eq!(
            (
                step.at.byte,
                step.at.lines,
                step.at.completed,
                step.at.failed
            ),
            (40, 6, 4, 2)
        );
        assert_eq!((step.at.output_bytes, step.at.error_bytes), (12, 14));
        assert_eq!(step.at.idle, 0);
        let last = follow(&lines(8), ran(6, 1, None));
        let finish = |why| StepWork::Finish { why, since_ms: NOW };
        assert_eq!(*work(&last), finish(Finished::Completed));
        for why in [Finished::Cancelled, Finished::Expired] {
            let stopped = follow(&lines(8), ran(1, 0, Some(why)));
            assert_eq!(*work(&stopped), finish(why));
            // A request for the end that comes after the last line changes nothing.
            let late = follow(&lines(8), ran(7, 0, Some(why)));
            assert_eq!(*work(&late), finish(Finished::Completed));
        }
    }

    #[test]
    fn a_line_whose_run_fails_is_tried_alone_and_then_passed_over() {
        let alone = follow(&lines(64), failed());
        assert_eq!(*work(&alone), StepWork::Lines { most: 1 });
        let passed = follow(&lines(1), failed());
        let StepWork::Skip { code, .. } = work(&passed) else {
            panic!("it is passed over")
        };
        assert_eq!(code, "internal");
        let After::Step { step, .. } = passed else {
            unreachable!()
        };
        assert_eq!(
            *work(&follow(&step, ran(0, 1, None))),
            StepWork::Lines { most: 1 }
        );
    }

    #[test]
    fn a_step_that_no_worker_began_is_repeated_and_one_that_cannot_end_ends_the_batch() {
        let finish = StepWork::Finish {
            why: Finished::Completed,
            since_ms: NOW,
        };
        let skip = StepWork::Skip {
            code: "a".to_owned(),
            message: "b".to_owned(),
        };
        for kind in [
            StepWork::Validate,
            StepWork::Lines { most: 3 },
            finish,
            skip,
        ] {
            let step = step(kind.clone());
            assert_eq!(*work(&follow(&step, Outcome::NotRun)), kind);
            if !matches!(kind, StepWork::Lines { .. }) {
                assert_eq!(*work(&follow(&step, failed())), kind);
                let last = Step {
                    tries: MAX_TRIES,
                    ..step
                };
                assert_eq!(follow(&last, failed()), After::Over);
            }
        }
    }

    #[test]
    fn a_batch_whose_file_is_not_valid_is_over() {
        let first = Step::first(&BatchId::generate(NOW, 1));
        for summary in [
            Summary::Invalid { faults: Vec::new() },
            Summary::Stopped {
                why: Finished::Cancelled,
            },
        ] {
            assert_eq!(follow(&first, Outcome::Done(summary)), After::Over);
        }
    }

    #[test]
    fn a_step_and_its_end_read_back_as_they_were() {
        let written = lines(3);
        assert_eq!(Step::decode(&written.encode()), Some(written));
        assert_eq!(Step::decode(b"{}"), None);
        let batch = BatchId::generate(NOW, 1);
        assert_ne!(step_id(&batch, 1), step_id(&batch, 2));
        assert_eq!(step_id(&batch, 1).unix_ms(), NOW);
        assert_ne!(
            result_id(&batch, "output", NOW),
            result_id(&batch, "error", NOW)
        );
    }
}
