//! Implements `penstock:batches` over `penstock-policy`, on the durable store.

#[cfg(feature = "batches")]
pub use component::{Component, bindings};

/// Defines the conversions between the records of one set of bindings and the words of the policy. The component and the gate
/// have different bindings of the same interface.
macro_rules! conversions {
    ($wit:ident) => {
        use $wit::BatchState as WitState;

        const STATES: [(words::BatchState, WitState); 8] = [
            (words::BatchState::Validating, WitState::Validating),
            (words::BatchState::Failed, WitState::Failed),
            (words::BatchState::InProgress, WitState::InProgress),
            (words::BatchState::Finalizing, WitState::Finalizing),
            (words::BatchState::Completed, WitState::Completed),
            (words::BatchState::Expired, WitState::Expired),
            (words::BatchState::Cancelling, WitState::Cancelling),
            (words::BatchState::Cancelled, WitState::Cancelled),
        ];

        fn purpose_to_wit(purpose: words::Purpose) -> $wit::Purpose {
            match purpose {
                words::Purpose::Batch => $wit::Purpose::Batch,
                words::Purpose::BatchOutput => $wit::Purpose::BatchOutput,
            }
        }

        fn purpose_from_wit(purpose: $wit::Purpose) -> words::Purpose {
            match purpose {
                $wit::Purpose::Batch => words::Purpose::Batch,
                $wit::Purpose::BatchOutput => words::Purpose::BatchOutput,
            }
        }
    };
}

/// The component's side: its exports.
#[cfg(feature = "batches")]
mod component {
    use crate::kv::{DEFAULT, WitKv};
    use crate::types::caller_from_wit;
    use penstock_core::{BatchId, FileId, OperationId};
    use penstock_policy::batches::service::{BatchesService, KvBatches};
    use penstock_policy::batches::words;

    #[allow(missing_docs)]
    #[doc(hidden)]
    pub mod bindings {
        wit_bindgen::generate!({
            world: "penstock:batches/component",
            path: ["../../wit/types", "../../wit/deps/keyvalue", "../../wit/batches"],
            with: {
                "penstock:types/callers@0.1.0": crate::types::callers,
                "wasi:keyvalue/store@0.2.0-draft2": crate::kv::store,
                "wasi:keyvalue/atomics@0.2.0-draft2": crate::kv::atomics,
                "wasi:keyvalue/batch@0.2.0-draft2": crate::kv::batch,
            },
            pub_export_macro: true,
            default_bindings_module: "penstock_guest::batches::bindings",
        });
    }

    use bindings::exports::penstock::batches::batches as wit;

    conversions!(wit);

    /// The type that exports the interface.
    pub struct Component;

    impl wit::Guest for Component {
        type Policy = KvBatches<WitKv>;
    }

    fn refusal(refusal: words::Refusal) -> wit::Refusal {
        wit::Refusal {
            kind: match refusal.kind {
                words::RefusalKind::Full => wit::RefusalKind::Full,
                words::RefusalKind::TooLarge => wit::RefusalKind::TooLarge,
                words::RefusalKind::NoSuchFile => wit::RefusalKind::NoSuchFile,
                words::RefusalKind::NotNow => wit::RefusalKind::NotNow,
                words::RefusalKind::StoreFailed => wit::RefusalKind::StoreFailed,
            },
            message: refusal.message,
        }
    }

    fn file_to_wit(file: words::File) -> wit::File {
        wit::File {
            id: file.id.as_str().to_owned(),
            filename: file.filename,
            purpose: purpose_to_wit(file.purpose),
            bytes: file.bytes,
            created_ms: file.created_ms,
            expires_ms: file.expires_ms,
        }
    }

    fn page_from_wit(page: wit::Page) -> words::Page {
        words::Page {
            after: page.after,
            most: page.most,
            oldest_first: page.oldest_first,
        }
    }

    fn next_to_wit(next: words::Next) -> wit::Next {
        wit::Next {
            operation: next.operation.as_str().to_owned(),
            tenant: next.tenant,
            endpoint: next.endpoint,
            priority: next.priority,
            items: next.items,
            due_ms: next.due_ms,
        }
    }

    fn batch_to_wit(batch: words::Batch) -> wit::Batch {
        let state = STATES.iter().find(|(state, _)| *state == batch.state);
        let faults = batch.faults.into_iter().map(|fault| wit::Fault {
            code: fault.code,
            line: fault.line,
            message: fault.message,
            param: fault.param,
        });
        wit::Batch {
            id: batch.id.as_str().to_owned(),
            state: state.map_or(WitState::Failed, |(_, state)| *state),
            endpoint: batch.endpoint,
            input_file: batch.input_file.as_str().to_owned(),
            output_file: batch.output_file.map(|id| id.as_str().to_owned()),
            error_file: batch.error_file.map(|id| id.as_str().to_owned()),
            faults: faults.collect(),
            created_ms: batch.created_ms,
            expires_ms: batch.expires_ms,
            times: wit::Times {
                in_progress_ms: batch.times.in_progress_ms,
                finalizing_ms: batch.times.finalizing_ms,
                cancelling_ms: batch.times.cancelling_ms,
                ended_ms: batch.times.ended_ms,
            },
            counts: wit::Counts {
                total: batch.counts.total,
                completed: batch.counts.completed,
                failed: batch.counts.failed,
            },
            metadata: batch.metadata,
            next: batch.next.map(next_to_wit),
        }
    }

    fn lines_to_wit(lines: words::Lines) -> wit::Lines {
        let each = lines.lines.into_iter().map(|line| wit::Line {
            custom_id: line.custom_id,
            body: line.body,
            number: line.number,
            end: line.end,
        });
        wit::Lines {
            batch: lines.batch.as_str().to_owned(),
            endpoint: lines.endpoint,
            lines: each.collect(),
            output_bytes: lines.output_bytes,
            error_bytes: lines.error_bytes,
            expires_ms: lines.expires_ms,
            idle: lines.idle,
        }
    }

    fn joined((high, low): (u64, u64)) -> u128 {
        (u128::from(high) << 64) | u128::from(low)
    }

    impl wit::GuestPolicy for KvBatches<WitKv> {
        fn open(text: String) -> Result<wit::Policy, String> {
            Self::open(&text, WitKv::new(&[DEFAULT])).map(wit::Policy::new)
        }

        fn settings(&self) -> wit::Settings {
            let rules = self.rules();
            wit::Settings {
                enabled: rules.enabled,
                max_file_bytes: rules.max_file_bytes,
                slice_ms: rules.slice_ms,
            }
        }

        fn upload(
            &self,
            new: wit::NewFile,
            now_ms: u64,
            random: (u64, u64),
        ) -> Result<wit::File, wit::Refusal> {
            let new = words::NewFile {
                tenant: new.tenant,
                filename: new.filename,
                content: new.content,
            };
            let stored = BatchesService::upload(self, new, (now_ms, joined(random)));
            stored.map(file_to_wit).map_err(refusal)
        }

        fn get_file(
            &self,
            id: String,
            tenant: String,
            now_ms: u64,
        ) -> Result<Option<wit::File>, wit::Refusal> {
            let Some(id) = FileId::parse(&id) else {
                return Ok(None);
            };
            let found = BatchesService::file(self, &id, &tenant, now_ms).map_err(refusal)?;
            Ok(found.map(file_to_wit))
        }

        fn content(
            &self,
            id: String,
            tenant: String,
            now_ms: u64,
        ) -> Result<Option<Vec<u8>>, wit::Refusal> {
            let Some(id) = FileId::parse(&id) else {
                return Ok(None);
            };
            BatchesService::content(self, &id, &tenant, now_ms).map_err(refusal)
        }

        fn delete_file(
            &self,
            id: String,
            tenant: String,
            now_ms: u64,
        ) -> Result<Option<wit::File>, wit::Refusal> {
            let Some(id) = FileId::parse(&id) else {
                return Ok(None);
            };
            let found = BatchesService::delete_file(self, &id, &tenant, now_ms).map_err(refusal)?;
            Ok(found.map(file_to_wit))
        }

        fn list_files(
            &self,
            tenant: String,
            page: wit::Page,
            purpose: Option<wit::Purpose>,
            now_ms: u64,
        ) -> Result<wit::FileListing, wit::Refusal> {
            let (page, purpose) = (page_from_wit(page), purpose.map(purpose_from_wit));
            let listing = BatchesService::files(self, &tenant, &page, purpose, now_ms);
            let listing = listing.map_err(refusal)?;
            Ok(wit::FileListing {
                data: listing.data.into_iter().map(file_to_wit).collect(),
                has_more: listing.has_more,
            })
        }

        fn create(
            &self,
            new: wit::NewBatch,
            now_ms: u64,
            random: (u64, u64),
        ) -> Result<wit::Batch, wit::Refusal> {
            let Some(input_file) = FileId::parse(&new.input_file) else {
                return Err(refusal(words::Refusal::not_an_id()));
            };
            let new = words::NewBatch {
                caller: caller_from_wit(new.caller),
                priority: new.priority,
                endpoint: new.endpoint,
                input_file,
                metadata: new.metadata,
                request_id: new.request_id,
            };
            let made = BatchesService::create(self, new, (now_ms, joined(random)));
            made.map(batch_to_wit).map_err(refusal)
        }

        fn get_batch(
            &self,
            id: String,
            tenant: String,
            now_ms: u64,
        ) -> Result<Option<wit::Batch>, wit::Refusal> {
            let Some(id) = BatchId::parse(&id) else {
                return Ok(None);
            };
            let found = BatchesService::batch(self, &id, &tenant, now_ms).map_err(refusal)?;
            Ok(found.map(batch_to_wit))
        }

        fn list_batches(
            &self,
            tenant: String,
            page: wit::Page,
            now_ms: u64,
        ) -> Result<wit::BatchListing, wit::Refusal> {
            let page = page_from_wit(page);
            let listing = BatchesService::batches(self, &tenant, &page, now_ms).map_err(refusal)?;
            Ok(wit::BatchListing {
                data: listing.data.into_iter().map(batch_to_wit).collect(),
                has_more: listing.has_more,
            })
        }

        fn cancel(
            &self,
            id: String,
            tenant: String,
            now_ms: u64,
        ) -> Result<Option<wit::Batch>, wit::Refusal> {
            let Some(id) = BatchId::parse(&id) else {
                return Ok(None);
            };
            let found = BatchesService::cancel(self, &id, &tenant, now_ms).map_err(refusal)?;
            Ok(found.map(batch_to_wit))
        }

        fn is_cancelled(&self, id: String) -> Result<bool, wit::Refusal> {
            let Some(id) = BatchId::parse(&id) else {
                return Ok(false);
            };
            BatchesService::is_cancelled(self, &id).map_err(refusal)
        }

        fn begin(
            &self,
            step: Vec<u8>,
            now_ms: u64,
            random: (u64, u64),
        ) -> Result<wit::Work, wit::Refusal> {
            let work = BatchesService::begin(self, &step, (now_ms, joined(random)));
            Ok(match work.map_err(refusal)? {
                words::Work::Done(end) => wit::Work::Done(wit::Done {
                    headers: end.headers,
                    body: end.body.unwrap_or_default(),
                }),
                words::Work::Run(lines) => wit::Work::Run(lines_to_wit(lines)),
            })
        }

        fn advance(
            &self,
            operation: String,
            now_ms: u64,
            random: (u64, u64),
        ) -> Result<Option<wit::Next>, wit::Refusal> {
            let Some(operation) = OperationId::parse(&operation) else {
                return Ok(None);
            };
            let next = BatchesService::advance(self, &operation, (now_ms, joined(random)));
            Ok(next.map_err(refusal)?.map(next_to_wit))
        }
    }
}

/// The gate's side: its imports.
#[cfg(feature = "gate")]
mod gate {
    use crate::imports::bindings::penstock::batches::batches as wit;
    use crate::types::caller_to_wit;
    use penstock_core::{BatchId, FileId, OperationId};
    use penstock_policy::batches::service::BatchesService;
    use penstock_policy::batches::words;
    use penstock_policy::operations::words::{End, OperationState};

    conversions!(wit);

    fn refusal(refusal: wit::Refusal) -> words::Refusal {
        let kind = match refusal.kind {
            wit::RefusalKind::Full => words::RefusalKind::Full,
            wit::RefusalKind::TooLarge => words::RefusalKind::TooLarge,
            wit::RefusalKind::NoSuchFile => words::RefusalKind::NoSuchFile,
            wit::RefusalKind::NotNow => words::RefusalKind::NotNow,
            wit::RefusalKind::StoreFailed => words::RefusalKind::StoreFailed,
        };
        words::Refusal::new(kind, refusal.message)
    }

    fn file_id(id: &str) -> Result<FileId, words::Refusal> {
        FileId::parse(id).ok_or_else(words::Refusal::not_an_id)
    }

    fn batch_id(id: &str) -> Result<BatchId, words::Refusal> {
        BatchId::parse(id).ok_or_else(words::Refusal::not_an_id)
    }

    fn file(file: wit::File) -> Result<words::File, words::Refusal> {
        Ok(words::File {
            id: file_id(&file.id)?,
            filename: file.filename,
            purpose: purpose_from_wit(file.purpose),
            bytes: file.bytes,
            created_ms: file.created_ms,
            expires_ms: file.expires_ms,
        })
    }

    fn page(page: &words::Page) -> wit::Page {
        wit::Page {
            after: page.after.clone(),
            most: page.most,
            oldest_first: page.oldest_first,
        }
    }

    fn next(next: wit::Next) -> Result<words::Next, words::Refusal> {
        let operation = OperationId::parse(&next.operation);
        Ok(words::Next {
            operation: operation.ok_or_else(words::Refusal::not_an_id)?,
            tenant: next.tenant,
            endpoint: next.endpoint,
            priority: next.priority,
            items: next.items,
            due_ms: next.due_ms,
        })
    }

    fn batch(batch: wit::Batch) -> Result<words::Batch, words::Refusal> {
        let state = STATES.iter().find(|(_, state)| *state == batch.state);
        let faults = batch.faults.into_iter().map(|fault| words::Fault {
            code: fault.code,
            line: fault.line,
            message: fault.message,
            param: fault.param,
        });
        Ok(words::Batch {
            id: batch_id(&batch.id)?,
            state: state.map_or(words::BatchState::Failed, |(state, _)| *state),
            endpoint: batch.endpoint,
            input_file: file_id(&batch.input_file)?,
            output_file: batch.output_file.as_deref().map(file_id).transpose()?,
            error_file: batch.error_file.as_deref().map(file_id).transpose()?,
            faults: faults.collect(),
            created_ms: batch.created_ms,
            expires_ms: batch.expires_ms,
            times: words::Times {
                in_progress_ms: batch.times.in_progress_ms,
                finalizing_ms: batch.times.finalizing_ms,
                cancelling_ms: batch.times.cancelling_ms,
                ended_ms: batch.times.ended_ms,
            },
            counts: words::Counts {
                total: batch.counts.total,
                completed: batch.counts.completed,
                failed: batch.counts.failed,
            },
            metadata: batch.metadata,
            next: batch.next.map(next).transpose()?,
        })
    }

    fn halves(random: u128) -> (u64, u64) {
        ((random >> 64) as u64, random as u64)
    }

    impl BatchesService for wit::Policy {
        fn rules(&self) -> words::Rules {
            let settings = self.settings();
            words::Rules {
                enabled: settings.enabled,
                max_file_bytes: settings.max_file_bytes,
                slice_ms: settings.slice_ms,
            }
        }

        fn upload(
            &self,
            new: words::NewFile,
            (now_ms, random): (u64, u128),
        ) -> Result<words::File, words::Refusal> {
            let new = wit::NewFile {
                tenant: new.tenant,
                filename: new.filename,
                content: new.content,
            };
            let stored = wit::Policy::upload(self, &new, now_ms, halves(random));
            file(stored.map_err(refusal)?)
        }

        fn file(
            &self,
            id: &FileId,
            tenant: &str,
            now_ms: u64,
        ) -> Result<Option<words::File>, words::Refusal> {
            let found = wit::Policy::get_file(self, id.as_str(), tenant, now_ms);
            found.map_err(refusal)?.map(file).transpose()
        }

        fn content(
            &self,
            id: &FileId,
            tenant: &str,
            now_ms: u64,
        ) -> Result<Option<Vec<u8>>, words::Refusal> {
            wit::Policy::content(self, id.as_str(), tenant, now_ms).map_err(refusal)
        }

        fn delete_file(
            &self,
            id: &FileId,
            tenant: &str,
            now_ms: u64,
        ) -> Result<Option<words::File>, words::Refusal> {
            let found = wit::Policy::delete_file(self, id.as_str(), tenant, now_ms);
            found.map_err(refusal)?.map(file).transpose()
        }

        fn files(
            &self,
            tenant: &str,
            asked: &words::Page,
            purpose: Option<words::Purpose>,
            now_ms: u64,
        ) -> Result<words::Listing<words::File>, words::Refusal> {
            let purpose = purpose.map(purpose_to_wit);
            let listing = wit::Policy::list_files(self, tenant, &page(asked), purpose, now_ms);
            let listing = listing.map_err(refusal)?;
            Ok(words::Listing {
                data: (listing.data.into_iter().map(file)).collect::<Result<_, _>>()?,
                has_more: listing.has_more,
            })
        }

        fn create(
            &self,
            new: words::NewBatch,
            (now_ms, random): (u64, u128),
        ) -> Result<words::Batch, words::Refusal> {
            let new = wit::NewBatch {
                caller: caller_to_wit(&new.caller),
                priority: new.priority,
                endpoint: new.endpoint,
                input_file: new.input_file.as_str().to_owned(),
                metadata: new.metadata,
                request_id: new.request_id,
            };
            let made = wit::Policy::create(self, &new, now_ms, halves(random));
            batch(made.map_err(refusal)?)
        }

        fn batch(
            &self,
            id: &BatchId,
            tenant: &str,
            now_ms: u64,
        ) -> Result<Option<words::Batch>, words::Refusal> {
            let found = wit::Policy::get_batch(self, id.as_str(), tenant, now_ms);
            found.map_err(refusal)?.map(batch).transpose()
        }

        fn batches(
            &self,
            tenant: &str,
            asked: &words::Page,
            now_ms: u64,
        ) -> Result<words::Listing<words::Batch>, words::Refusal> {
            let listing = wit::Policy::list_batches(self, tenant, &page(asked), now_ms);
            let listing = listing.map_err(refusal)?;
            Ok(words::Listing {
                data: (listing.data.into_iter().map(batch)).collect::<Result<_, _>>()?,
                has_more: listing.has_more,
            })
        }

        fn cancel(
            &self,
            id: &BatchId,
            tenant: &str,
            now_ms: u64,
        ) -> Result<Option<words::Batch>, words::Refusal> {
            let found = wit::Policy::cancel(self, id.as_str(), tenant, now_ms);
            found.map_err(refusal)?.map(batch).transpose()
        }

        fn is_cancelled(&self, id: &BatchId) -> Result<bool, words::Refusal> {
            wit::Policy::is_cancelled(self, id.as_str()).map_err(refusal)
        }

        fn begin(
            &self,
            step: &[u8],
            (now_ms, random): (u64, u128),
        ) -> Result<words::Work, words::Refusal> {
            let work = wit::Policy::begin(self, step, now_ms, halves(random));
            Ok(match work.map_err(refusal)? {
                wit::Work::Done(done) => words::Work::Done(End {
                    state: OperationState::Succeeded,
                    code: String::new(),
                    message: String::new(),
                    status: 200,
                    headers: done.headers,
                    body_bytes: done.body.len() as u64,
                    body: Some(done.body),
                }),
                wit::Work::Run(lines) => {
                    let each = lines.lines.into_iter().map(|line| words::Line {
                        custom_id: line.custom_id,
                        body: line.body,
                        number: line.number,
                        end: line.end,
                    });
                    words::Work::Run(words::Lines {
                        batch: batch_id(&lines.batch)?,
                        endpoint: lines.endpoint,
                        lines: each.collect(),
                        output_bytes: lines.output_bytes,
                        error_bytes: lines.error_bytes,
                        expires_ms: lines.expires_ms,
                        idle: lines.idle,
                    })
                }
            })
        }

        fn advance(
            &self,
            operation: &OperationId,
            (now_ms, random): (u64, u128),
        ) -> Result<Option<words::Next>, words::Refusal> {
            let found = wit::Policy::advance(self, operation.as_str(), now_ms, halves(random));
            found.map_err(refusal)?.map(next).transpose()
        }
    }
}
