//! Files, batches and workers that run them, which the tests of batches share.

use crate::operations_common::{NOW_MS, caller};
use penstock_core::{FileId, OperationId};
use penstock_policy::batches::service::{BatchesService, KvBatches};
use penstock_policy::batches::slice::Slice;
use penstock_policy::batches::words::{Batch, File, NewBatch, NewFile, Work};
use penstock_policy::operations::service::{KvOperations, OperationsService};
use penstock_policy::operations::words::Claim;
use penstock_testkit::MemoryKv;
use serde_json::Value;
use std::cell::Cell;

pub const ENDPOINT: &str = "/v1/embeddings";

pub fn line(custom_id: &str) -> String {
    format!(
        "{{\"custom_id\":\"{custom_id}\",\"method\":\"POST\",\"url\":\"{ENDPOINT}\",\"body\":{{\"input\":\"a\"}}}}\n"
    )
}

pub fn lines(ids: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<u8> {
    let lines = ids.into_iter().map(|id| line(id.as_ref()));
    lines.collect::<String>().into_bytes()
}

pub fn new_file(tenant: &str, content: &[u8]) -> NewFile {
    NewFile {
        tenant: tenant.to_owned(),
        filename: "in.jsonl".to_owned(),
        content: content.to_vec(),
    }
}

pub fn new_batch(tenant: &str, input_file: &FileId) -> NewBatch {
    NewBatch {
        caller: caller(tenant),
        priority: Some(2),
        endpoint: ENDPOINT.to_owned(),
        input_file: input_file.clone(),
        metadata: vec![("job".to_owned(), "nightly".to_owned())],
        request_id: "req_1".to_owned(),
    }
}

/// The ids of the lines of a file of results, in order. Each line must be an object with the members of OpenAI's form.
pub fn ids_in(content: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(content).unwrap();
    let ids = text.lines().map(|line| {
        let value: Value = serde_json::from_str(line).unwrap();
        let members: Vec<&str> = value
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(members, ["id", "custom_id", "response", "error"]);
        assert_ne!(value["response"].is_null(), value["error"].is_null());
        assert!(value["id"].as_str().unwrap().starts_with("batch_req_"));
        value["custom_id"].as_str().unwrap().to_owned()
    });
    ids.collect()
}

/// The services of one host, over a store in memory.
pub struct Host {
    pub kv: MemoryKv,
    pub batches: KvBatches<MemoryKv>,
    pub operations: KvOperations<MemoryKv>,
    pub now_ms: Cell<u64>,
    random: Cell<u128>,
}

impl Host {
    pub fn new(policy: &str) -> Self {
        Self::over(MemoryKv::default(), policy)
    }

    pub fn over(kv: MemoryKv, policy: &str) -> Self {
        Self {
            batches: KvBatches::open(policy, kv.clone()).unwrap(),
            operations: KvOperations::open(policy, kv.clone()).unwrap(),
            kv,
            now_ms: Cell::new(NOW_MS),
            random: Cell::new(1),
        }
    }

    pub fn at(&self) -> (u64, u128) {
        let random = self.random.get();
        self.random.set(random + 1);
        // The low bits choose the shard.
        (
            self.now_ms.get(),
            random.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835),
        )
    }

    pub fn upload(&self, tenant: &str, content: &[u8]) -> File {
        self.batches
            .upload(new_file(tenant, content), self.at())
            .unwrap()
    }

    pub fn create(&self, tenant: &str, content: &[u8]) -> Batch {
        let file = self.upload(tenant, content);
        self.batches
            .create(new_batch(tenant, &file.id), self.at())
            .unwrap()
    }

    pub fn read(&self, batch: &Batch) -> Batch {
        let found = self.batches.batch(&batch.id, "t", self.now_ms.get());
        found.unwrap().expect("the batch is there")
    }

    pub fn content(&self, file: &FileId) -> Vec<u8> {
        let found = self.batches.content(file, "t", self.now_ms.get());
        found.unwrap().expect("the file is there")
    }

    /// Runs one step: `most` lines at most, each answered by `status`. Returns the operation that follows.
    pub fn step(
        &self,
        operation: &OperationId,
        most: usize,
        status: impl Fn(&str) -> u16,
    ) -> Option<OperationId> {
        let claim = || {
            let claim = self
                .operations
                .claim(operation, "worker", 0, self.now_ms.get());
            claim.unwrap()
        };
        let claim = match claim() {
            // A step after a line that could not run is due later.
            Claim::Later(at_ms) => {
                self.now_ms.set(at_ms);
                claim()
            }
            claim => claim,
        };
        match claim {
            Claim::Granted(run) => {
                let end = match self.batches.begin(&run.submission.body, self.at()).unwrap() {
                    Work::Done(end) => end,
                    Work::Run(lines) => {
                        let mut slice = Slice::new(&lines, self.batches.rules().max_file_bytes);
                        for line in lines.lines.iter().take(most) {
                            slice.answer(line, status(&line.custom_id), "req_1", b"{}");
                        }
                        slice.end()
                    }
                };
                let of = (run.epoch, run.attempt);
                assert!(
                    self.operations
                        .complete(operation, of, end, self.now_ms.get())
                        .unwrap()
                );
            }
            Claim::Ended(_) => {}
            claim => panic!("{claim:?}"),
        }
        let next = self.batches.advance(operation, self.at()).unwrap();
        next.map(|next| next.operation)
    }

    /// Runs a batch to its end.
    pub fn run(&self, batch: &Batch, most: usize, status: impl Fn(&str) -> u16) -> Batch {
        let mut next = self.read(batch).next.map(|next| next.operation);
        while let Some(operation) = next {
            next = self.step(&operation, most, &status);
        }
        self.read(batch)
    }
}
