//! The work of a step that needs no model: the check of the lines, the choice of the lines to run, and the files of results.

use super::entries::{FileRecord, Kind, Names, PART_BYTES, owner};
use super::instance::Batches;
use super::line::{Check, Splitter, answer_id, is_request, parse, unanswered, without_bom};
use super::slice::Slice;
use super::step::{
    Finished, Outcome, Step, StepEnd, StepWork, Summary, end_of, result_id, step_id,
};
use super::words::{Fault, Line, Lines, Work};
use crate::operations::words::End;
use crate::records::decode;
use penstock_core::{BatchId, FileId, Kv, KvError};

/// Bytes of the input file after which a step takes no further line. They are in memory as a whole.
const MAX_INPUT_BYTES: u64 = 1 << 20;

impl Batches {
    /// Begins the step with this body, which its worker has claimed. Does its work, or returns the lines that are to run.
    pub async fn begin<K: Kv>(
        &mut self,
        kv: &K,
        body: &[u8],
        (now_ms, random): (u64, u128),
    ) -> Result<Work, KvError> {
        let unreadable = || KvError::new("the step of a batch is not readable");
        let step = Step::decode(body).ok_or_else(unreadable)?;
        let id = step.batch().ok_or_else(unreadable)?;
        let done = |summary: Summary| Work::Done(end_of(&summary, Vec::new()));
        let Some((record, cancel_ms, _)) = self.record(kv, &id).await? else {
            // The batch was swept, and no caller sees it any more.
            return Ok(done(Summary::Stopped {
                why: Finished::Cancelled,
            }));
        };
        let stopped = match cancel_ms {
            Some(_) => Some(Finished::Cancelled),
            None if now_ms >= record.expires_ms => Some(Finished::Expired),
            None => None,
        };
        let input = Input::open(kv, &record.input_file).await?;
        let mut lines = Lines {
            batch: id.clone(),
            endpoint: record.endpoint.clone(),
            lines: Vec::new(),
            output_bytes: step.at.output_bytes,
            error_bytes: step.at.error_bytes,
            expires_ms: record.expires_ms,
            idle: step.at.idle,
        };
        Ok(match &step.work {
            StepWork::Validate => done(match stopped {
                Some(why) => Summary::Stopped { why },
                None => self.check(kv, &input, &record.endpoint).await?,
            }),
            StepWork::Lines { .. } if stopped.is_some() => {
                let mut slice = Slice::new(&lines, self.settings.max_file_bytes);
                match stopped {
                    Some(Finished::Cancelled) => slice.cancel(),
                    _ => slice.expire(),
                }
                Work::Done(slice.end())
            }
            StepWork::Lines { most } => {
                lines.lines = self
                    .take(kv, &input, &step, &record.endpoint, *most)
                    .await?;
                Work::Run(lines)
            }
            StepWork::Skip { code, message } => {
                let skipped = self.take(kv, &input, &step, &record.endpoint, 1).await?;
                let mut slice = Slice::new(&lines, self.settings.max_file_bytes);
                for line in &skipped {
                    slice.fail(line, code, message);
                }
                Work::Done(slice.end())
            }
            StepWork::Finish { why, since_ms } => {
                let of = (&id, record.caller.tenant.as_str());
                let end = self
                    .finish(kv, &input, of, &step, (*why, *since_ms), (now_ms, random))
                    .await?;
                Work::Done(end)
            }
        })
    }

    /// Checks all lines of a file.
    async fn check<K: Kv>(
        &self,
        kv: &K,
        input: &Input,
        endpoint: &str,
    ) -> Result<Summary, KvError> {
        let Some(bytes) = input.bytes else {
            let fault = Fault {
                code: "file_not_found".to_owned(),
                line: None,
                message: "the input file is not there any more; upload it again".to_owned(),
                param: Some("input_file_id".to_owned()),
            };
            return Ok(Summary::Invalid {
                faults: vec![fault],
            });
        };
        let mut check = Check::new(endpoint, self.settings.max_lines);
        input
            .scan(kv, (0, bytes), |line, _| check.line(line))
            .await?;
        Ok(match check.end() {
            Ok(total) => Summary::Validated { total },
            Err(faults) => Summary::Invalid { faults },
        })
    }

    /// The next lines of a file, at most `most`.
    async fn take<K: Kv>(
        &self,
        kv: &K,
        input: &Input,
        step: &Step,
        endpoint: &str,
        most: u32,
    ) -> Result<Vec<Line>, KvError> {
        let missing = || KvError::new("the input file of a batch is not there any more");
        let bytes = input.bytes.ok_or_else(missing)?;
        let at = step.at;
        let left = usize::try_from(at.total.saturating_sub(at.lines)).unwrap_or(usize::MAX);
        let most = left.min(most as usize);
        let mut lines: Vec<Line> = Vec::new();
        let mut end = at.byte;
        let mut changed = false;
        if most > 0 {
            input
                .scan(kv, (at.byte, bytes), |line, size| {
                    end += size;
                    if !is_request(line) {
                        return true;
                    }
                    match parse(line, endpoint, 0) {
                        Ok((custom_id, body)) => lines.push(Line {
                            custom_id,
                            body,
                            number: at.lines + lines.len() as u64,
                            end,
                        }),
                        Err(_) => {
                            changed = true;
                            return false;
                        }
                    }
                    lines.len() < most && end - at.byte < MAX_INPUT_BYTES
                })
                .await?;
        }
        match changed || lines.is_empty() {
            // Every line was valid when the file was checked, and files do not change.
            true => Err(KvError::new("the input file of a batch is not readable")),
            false => Ok(lines),
        }
    }

    /// Writes the files of a batch. A repeated attempt writes the same.
    async fn finish<K: Kv>(
        &mut self,
        kv: &K,
        input: &Input,
        (id, tenant): (&BatchId, &str),
        step: &Step,
        (why, since_ms): (Finished, u64),
        (now_ms, random): (u64, u128),
    ) -> Result<End, KvError> {
        let mut output = Results::new(result_id(id, "output", since_ms));
        let mut errors = Results::new(result_id(id, "error", since_ms));
        let owner = owner(tenant);
        let mut numbers = [0, 0];
        for (number, file) in numbers.iter_mut().zip([&output, &errors]) {
            let of = (file.id.as_str(), &file.names, owner.as_str());
            *number = self.enlist(kv, Kind::File, of, (now_ms, random)).await?;
        }
        for number in 1..step.number {
            let operation = step_id(id, number);
            let seen = self.steps.step(kv, &operation, now_ms).await?;
            let seen = seen.ok_or_else(|| KvError::new("a step of a batch is missing"))?;
            let Some(StepEnd {
                outcome: Outcome::Done(Summary::Ran(ran)),
                ..
            }) = StepEnd::of(&seen.operation)
            else {
                continue;
            };
            let body = self.steps.step_end(kv, &operation, now_ms).await?;
            let divide = usize::try_from(ran.output_bytes).unwrap_or(usize::MAX);
            let (answers, faults) = body.split_at(divide.min(body.len()));
            output.write(kv, answers).await?;
            errors.write(kv, faults).await?;
        }
        let mut failed = step.at.failed;
        if why != Finished::Completed {
            let rest = self.unanswered(kv, input, id, step, why).await?;
            failed += rest.lines;
            errors.write(kv, &rest.written).await?;
        }
        let [output_number, errors_number] = numbers;
        let mut ids = [None, None];
        for (at, (file, what, number)) in [
            (output, "output", output_number),
            (errors, "error", errors_number),
        ]
        .into_iter()
        .enumerate()
        {
            if file.bytes == 0 {
                continue;
            }
            let (file_id, bytes) = file.end(kv).await?;
            let of = (tenant, format!("{id}_{what}.jsonl"), bytes);
            self.publish(kv, &file_id, of, number).await?;
            if let Some(id) = ids.get_mut(at) {
                *id = Some(file_id.as_str().to_owned());
            }
        }
        let [output, errors] = ids;
        let summary = Summary::Finished {
            failed,
            output,
            errors,
        };
        Ok(end_of(&summary, Vec::new()))
    }

    /// The lines of the error file for the requests that did not run.
    async fn unanswered<K: Kv>(
        &self,
        kv: &K,
        input: &Input,
        id: &BatchId,
        step: &Step,
        why: Finished,
    ) -> Result<Rest, KvError> {
        let (code, message) = match why {
            Finished::Cancelled => (
                "batch_cancelled",
                "The batch was cancelled before this request ran.",
            ),
            Finished::Completed | Finished::Expired => (
                "batch_expired",
                "This request could not be executed before the completion window expired.",
            ),
        };
        let mut rest = Rest::default();
        let Some(bytes) = input.bytes else {
            return Ok(rest);
        };
        let at = step.at;
        input
            .scan(kv, (at.byte, bytes), |line, _| {
                if !is_request(line) {
                    return true;
                }
                #[derive(serde::Deserialize)]
                struct Named {
                    custom_id: String,
                }
                let named = serde_json::from_slice::<Named>(without_bom(line));
                let custom_id = named.map(|named| named.custom_id).unwrap_or_default();
                let answer = answer_id(id.as_str(), at.lines + rest.lines);
                rest.written
                    .extend(unanswered(&answer, &custom_id, code, message));
                rest.lines += 1;
                at.lines + rest.lines < at.total
            })
            .await?;
        Ok(rest)
    }
}

/// The lines of requests that did not run.
#[derive(Default)]
struct Rest {
    lines: u64,
    written: Vec<u8>,
}

/// The input file of a batch. It is read while the batch is not over, also after it has expired for its tenant.
struct Input {
    names: Option<Names>,
    /// Its size; `None` if it is gone.
    bytes: Option<u64>,
}

impl Input {
    async fn open<K: Kv>(kv: &K, id: &str) -> Result<Self, KvError> {
        let names = FileId::parse(id).map(|id| Names::of_file(&id));
        let head = match &names {
            Some(names) => kv.get(&names.head()).await?,
            None => None,
        };
        let record = head.as_deref().and_then(decode::<FileRecord>);
        let mut bytes = record.map(|record| record.bytes);
        // A deletion removes the first part last, and leaves the record.
        if let (Some(names), Some(1..)) = (&names, bytes)
            && !kv.exists(&names.part(0)).await?
        {
            bytes = None;
        }
        Ok(Self { names, bytes })
    }

    /// Passes the lines from a place on, with their sizes, while `take` returns true.
    async fn scan<K: Kv>(
        &self,
        kv: &K,
        (from, bytes): (u64, u64),
        mut take: impl FnMut(&[u8], u64) -> bool,
    ) -> Result<(), KvError> {
        let Some(names) = &self.names else {
            return Ok(());
        };
        let size = PART_BYTES as u64;
        let mut splitter = Splitter::default();
        let mut skipped = usize::try_from(from % size).unwrap_or_default();
        for part in from / size..bytes.div_ceil(size) {
            let found = kv.get(&names.part(part)).await?;
            let found = found.ok_or_else(|| KvError::new("a part of a file is missing"))?;
            let rest = found
                .get(std::mem::take(&mut skipped)..)
                .unwrap_or_default();
            if !splitter.part(rest, &mut take) {
                return Ok(());
            }
        }
        splitter.end(take);
        Ok(())
    }
}

/// A file of results that is being written, part by part.
struct Results {
    id: FileId,
    names: Names,
    buffer: Vec<u8>,
    parts: u64,
    bytes: u64,
}

impl Results {
    fn new(id: FileId) -> Self {
        Self {
            names: Names::of_file(&id),
            id,
            buffer: Vec::new(),
            parts: 0,
            bytes: 0,
        }
    }

    async fn write<K: Kv>(&mut self, kv: &K, bytes: &[u8]) -> Result<(), KvError> {
        self.buffer.extend_from_slice(bytes);
        self.bytes += bytes.len() as u64;
        let whole = self.buffer.len() / PART_BYTES * PART_BYTES;
        for part in self.buffer.chunks_exact(PART_BYTES) {
            kv.set(&self.names.part(self.parts), part).await?;
            self.parts += 1;
        }
        self.buffer.drain(..whole);
        Ok(())
    }

    /// Writes the last part. Returns the id and the size.
    async fn end<K: Kv>(self, kv: &K) -> Result<(FileId, u64), KvError> {
        if !self.buffer.is_empty() {
            kv.set(&self.names.part(self.parts), &self.buffer).await?;
        }
        Ok((self.id, self.bytes))
    }
}
