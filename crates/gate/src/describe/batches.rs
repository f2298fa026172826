//! Answers the routes of files and batches, in OpenAI's form.

use super::operations::is_loopback;
use crate::answer::batch::{Batch, BatchList, File, FileDeleted, FileList, WINDOW};
use crate::exchange::Exchange;
use crate::multipart;
use crate::policies::Policies;
use crate::ports::Ports;
use crate::record::{Request, Response};
use crate::route::{Route, percent_decoded, shorten};
use penstock_core::{BatchId, Caller, Code, FileId, Problem, Violation, negotiate};
use penstock_policy::auth::words::Admitted;
use penstock_policy::batches::service::BatchesService;
use penstock_policy::batches::words::{
    Batch as Words, NewBatch, NewFile, Next, Page, Purpose, Refusal, RefusalKind,
};
use penstock_policy::operations::notes::{Note, Push};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The paths that the lines of a batch may call: those whose bodies name the model.
pub(crate) const ENDPOINTS: [&str; 5] = [
    "/v1/embeddings",
    "/v1/moderations",
    "/v1/classify",
    "/v1/rerank",
    "/v1/score",
];

/// The batches on a page, if the request names no number, and the most: as at OpenAI.
const BATCH_PAGE: (u32, u32) = (20, 100);
/// The files on a page, if the request names no number, and the most. Each is read by an operation of the store.
const FILE_PAGE: (u32, u32) = (100, 1_000);
/// The longest name of a file in bytes. Most file systems have this limit.
const MAX_FILENAME_BYTES: usize = 255;
/// The most notes of a client on a batch, and the most characters of a name and of a note: as at OpenAI.
const MAX_METADATA: usize = 16;
const MAX_METADATA_NAME: usize = 64;
const MAX_METADATA_TEXT: usize = 512;

/// A route of files and batches.
pub(crate) enum Stored<'r> {
    /// The list of files, and the upload.
    Files,
    /// One file.
    File(&'r str),
    /// The content of a file.
    Content(&'r str),
    /// The list of batches, and the creation.
    Batches,
    /// One batch.
    Batch(&'r str),
    /// The request for the end of a batch.
    Cancel(&'r str),
}

impl<'r> Stored<'r> {
    /// Returns the route as one of files and batches; `None` for others.
    pub(crate) fn of(route: &'r Route) -> Option<Self> {
        Some(match route {
            Route::FileList => Self::Files,
            Route::File(id) => Self::File(id),
            Route::FileContent(id) => Self::Content(id),
            Route::BatchList => Self::Batches,
            Route::Batch(id) => Self::Batch(id),
            Route::BatchCancel(id) => Self::Cancel(id),
            _ => return None,
        })
    }

    /// Returns whether the path is that of a list, to which a client may add.
    pub(crate) fn is_list(&self) -> bool {
        matches!(self, Self::Files | Self::Batches)
    }
}

/// Answers a route of files and batches.
pub(crate) fn answer<P: Ports>(
    (ports, policies): (&P, &Policies<P>),
    exchange: &mut Exchange<'_>,
    stored: &Stored<'_>,
    admitted: &Admitted,
) -> Result<Response, Problem> {
    if !policies.batch_rules.enabled {
        return Err(Problem::new(
            Code::UnknownPath,
            "there are no files and batches here; the operator enables them with `[batches]` and `[operations]` `enabled = true`",
        ));
    }
    let request = exchange.request;
    let asked = Asked {
        batches: &policies.batches,
        caller: &admitted.caller,
        now_ms: exchange.context.unix_ms,
        // Not the randomness of the request's id, which logs have: these ids are permissions.
        random: ports.random(),
    };
    match (stored, request.method.as_str()) {
        (Stored::Files, "POST") => asked.upload(request),
        (Stored::Files, _) => asked.files(request),
        (Stored::File(id), "DELETE") => asked.delete(id),
        (Stored::File(id), _) => asked.file(id),
        (Stored::Content(id), _) => asked.content(request, id),
        (Stored::Batches, "POST") => {
            let request_id = exchange.context.request_id.as_str();
            let batch = asked.create(request, admitted.priority, request_id)?;
            Ok(described(exchange, batch))
        }
        (Stored::Batches, _) => asked.batches(request),
        (Stored::Batch(id), _) => {
            let batch = asked.find(id)?;
            Ok(described(exchange, batch))
        }
        (Stored::Cancel(id), _) => {
            let batch = asked.cancel(id)?;
            Ok(described(exchange, batch))
        }
    }
}

/// Returns the answer that describes a batch, and has the host look at its next step. Another host may have had it, and be gone.
fn described(exchange: &mut Exchange<'_>, batch: Words) -> Response {
    if let Some(next) = &batch.next {
        exchange.headers.host_note = Some(Note {
            push: Some(push_of(next)),
            ..Note::about(&next.operation)
        });
    }
    Response::json(200, &Batch::from(batch))
}

/// The facts that the host's queue needs about a step.
pub(crate) fn push_of(next: &Next) -> Push {
    Push {
        tenant: next.tenant.clone(),
        model: next.endpoint.clone(),
        priority: next.priority,
        items: next.items,
    }
}

/// Returns the id of a batch that a path names.
pub(crate) fn batch_id(id: &str) -> Option<BatchId> {
    BatchId::parse(id)
}

struct Asked<'a, B> {
    batches: &'a B,
    caller: &'a Caller,
    now_ms: u64,
    random: u128,
}

impl<B: BatchesService> Asked<'_, B> {
    fn tenant(&self) -> &str {
        &self.caller.tenant
    }

    fn at(&self) -> (u64, u128) {
        (self.now_ms, self.random)
    }

    fn upload(&self, request: &Request) -> Result<Response, Problem> {
        if request.header("content-encoding").is_some() {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "uploads are not decoded; send the form without Content-Encoding",
            ));
        }
        let content_type = request.content_type()?.unwrap_or_default();
        let boundary = multipart::boundary(content_type).ok_or_else(|| {
            Problem::new(
                Code::UnsupportedMediaType,
                format!(
                    "uploads are `multipart/form-data` with a boundary of 1 to 70 characters, not `{}`",
                    shorten(content_type)
                ),
            )
        })?;
        let parts = multipart::parts(&request.body, &boundary).map_err(|fault| {
            Problem::new(Code::InvalidBody, format!("the form is broken: {fault}"))
        })?;
        let part = |name: &str| parts.iter().find(|part| part.name == name);
        let purpose = part("purpose").map(|part| part.content);
        if purpose != Some(Purpose::Batch.as_str().as_bytes()) {
            let sent = String::from_utf8_lossy(purpose.unwrap_or_default());
            return Err(wrong(
                "purpose",
                format!(
                    "the field `purpose` is `{}`; files have the purpose `batch`",
                    shorten(&sent)
                ),
            ));
        }
        let file = part("file").ok_or_else(|| {
            wrong(
                "file",
                "the form has no field `file`; send the lines of the batch in it".to_owned(),
            )
        })?;
        let filename = file
            .filename
            .clone()
            .unwrap_or_else(|| "batch.jsonl".to_owned());
        if !(1..=MAX_FILENAME_BYTES).contains(&filename.len()) {
            let message = format!("the name of the file must have 1 to {MAX_FILENAME_BYTES} bytes");
            return Err(wrong("file", message));
        }
        let new = NewFile {
            tenant: self.tenant().to_owned(),
            filename,
            content: file.content.to_vec(),
        };
        let stored = self
            .batches
            .upload(new, self.at())
            .map_err(Refusal::problem)?;
        Ok(Response::json(200, &File::from(stored)))
    }

    fn file(&self, id: &str) -> Result<Response, Problem> {
        let found = match FileId::parse(id) {
            Some(id) => self.batches.file(&id, self.tenant(), self.now_ms),
            None => Ok(None),
        };
        let found = found.map_err(Refusal::problem)?;
        let file = found.ok_or_else(|| unknown_file(id))?;
        Ok(Response::json(200, &File::from(file)))
    }

    fn content(&self, request: &Request, id: &str) -> Result<Response, Problem> {
        let found = match FileId::parse(id) {
            Some(id) => self.batches.content(&id, self.tenant(), self.now_ms),
            None => Ok(None),
        };
        let content = found.map_err(Refusal::problem)?;
        let content = content.ok_or_else(|| unknown_file(id))?;
        let offered = Route::FileContent(String::new()).media_types();
        let accept = request.header_list("accept");
        let chosen = negotiate::choose(accept.as_deref(), offered);
        Ok(Response::new(
            200,
            chosen.unwrap_or("application/jsonl"),
            content,
        ))
    }

    fn delete(&self, id: &str) -> Result<Response, Problem> {
        let deleted = match FileId::parse(id) {
            Some(id) => self.batches.delete_file(&id, self.tenant(), self.now_ms),
            None => Ok(None),
        };
        let deleted = deleted.map_err(Refusal::problem)?;
        let file = deleted.ok_or_else(|| unknown_file(id))?;
        Ok(Response::json(200, &FileDeleted::of(&file)))
    }

    fn files(&self, request: &Request) -> Result<Response, Problem> {
        self.may_list()?;
        let Asking { page, purpose } = Asking::of(request, FILE_PAGE, true)?;
        let listing = self
            .batches
            .files(self.tenant(), &page, purpose, self.now_ms)
            .map_err(placeless)?;
        Ok(Response::json(200, &FileList::from(listing)))
    }

    fn batches(&self, request: &Request) -> Result<Response, Problem> {
        self.may_list()?;
        let Asking { page, .. } = Asking::of(request, BATCH_PAGE, false)?;
        let listing = self
            .batches
            .batches(self.tenant(), &page, self.now_ms)
            .map_err(placeless)?;
        Ok(Response::json(200, &BatchList::from(listing)))
    }

    /// Refuses lists of callers without credentials on other machines, because they would see those of others.
    fn may_list(&self) -> Result<(), Problem> {
        let address = self.caller.address.as_deref();
        match self.caller.anonymous && address.is_none_or(|address| !is_loopback(address)) {
            true => Err(Problem::new(
                Code::PermissionDenied,
                "callers without credentials cannot list files and batches, because they would see those of others; keep the ids, \
                 or send an API key",
            )),
            false => Ok(()),
        }
    }

    fn create(
        &self,
        request: &Request,
        priority: Option<u8>,
        request_id: &str,
    ) -> Result<Words, Problem> {
        let body: Body = serde_json::from_slice(&request.body).map_err(|error| {
            Problem::new(
                Code::InvalidBody,
                format!(
                    "the body is not a JSON object with `input_file_id`, `endpoint` and `completion_window`: {}",
                    shorten(&error.to_string())
                ),
            )
        })?;
        let missing = |name: &'static str| wrong(name, format!("`{name}` is missing"));
        let input = body.input_file_id.ok_or_else(|| missing("input_file_id"))?;
        let endpoint = body.endpoint.ok_or_else(|| missing("endpoint"))?;
        let window = body
            .completion_window
            .ok_or_else(|| missing("completion_window"))?;
        if !ENDPOINTS.contains(&endpoint.as_str()) {
            let message = format!(
                "`endpoint` is `{}`; batches call one of {}",
                shorten(&endpoint),
                ENDPOINTS.join(", ")
            );
            return Err(wrong("endpoint", message));
        }
        if window != WINDOW {
            let message = format!(
                "`completion_window` is `{}`; it must be `{WINDOW}`",
                shorten(&window)
            );
            return Err(wrong("completion_window", message));
        }
        let metadata = metadata_of(body.metadata)?;
        let input_file = FileId::parse(&input).ok_or_else(|| {
            let message = format!(
                "`input_file_id` is `{}`, which is no id of a file",
                shorten(&input)
            );
            wrong("input_file_id", message)
        })?;
        let new = NewBatch {
            caller: self.caller.clone(),
            priority,
            endpoint,
            input_file,
            metadata,
            request_id: request_id.to_owned(),
        };
        self.batches
            .create(new, self.at())
            .map_err(|refusal| match refusal.kind {
                RefusalKind::NoSuchFile => wrong("input_file_id", refusal.message),
                _ => refusal.problem(),
            })
    }

    fn find(&self, id: &str) -> Result<Words, Problem> {
        let found = match batch_id(id) {
            Some(id) => self.batches.batch(&id, self.tenant(), self.now_ms),
            None => Ok(None),
        };
        found
            .map_err(Refusal::problem)?
            .ok_or_else(|| unknown_batch(id))
    }

    fn cancel(&self, id: &str) -> Result<Words, Problem> {
        let found = match batch_id(id) {
            Some(id) => self.batches.cancel(&id, self.tenant(), self.now_ms),
            None => Ok(None),
        };
        found
            .map_err(Refusal::problem)?
            .ok_or_else(|| unknown_batch(id))
    }
}

/// The body that creates a batch. Unknown members are ignored, as everywhere.
#[derive(Deserialize)]
struct Body {
    input_file_id: Option<String>,
    endpoint: Option<String>,
    completion_window: Option<String>,
    metadata: Option<Map<String, Value>>,
}

/// Checks the client's notes.
fn metadata_of(metadata: Option<Map<String, Value>>) -> Result<Vec<(String, String)>, Problem> {
    let metadata = metadata.unwrap_or_default();
    if metadata.len() > MAX_METADATA {
        let message = format!("`metadata` has more than {MAX_METADATA} members");
        return Err(wrong("metadata", message));
    }
    let texts = metadata.into_iter().map(|(name, value)| match value {
        Value::String(text)
            if name.chars().count() <= MAX_METADATA_NAME
                && text.chars().count() <= MAX_METADATA_TEXT =>
        {
            Ok((name, text))
        }
        _ => Err(wrong(
            "metadata",
            format!(
                "`metadata` has names of at most {MAX_METADATA_NAME} characters and texts of at most {MAX_METADATA_TEXT}"
            ),
        )),
    });
    texts.collect()
}

/// The problem of a member of the body that is wrong.
fn wrong(name: &str, message: String) -> Problem {
    let violation = Violation::new(format!("/{name}"), "invalid", "", message.clone());
    Problem::new(Code::InvalidBody, message).with_violations(vec![violation], 0)
}

/// The problem of a list that is refused. A body has no part in it.
fn placeless(refusal: Refusal) -> Problem {
    let mut problem = refusal.problem();
    if problem.code == Code::InvalidBody {
        problem.code = Code::InvalidParameter;
    }
    problem
}

fn unknown_file(id: &str) -> Problem {
    Problem::new(
        Code::UnknownFile,
        format!(
            "you have no file `{}`; it may have expired. GET /v1/files lists yours",
            shorten(id)
        ),
    )
}

fn unknown_batch(id: &str) -> Problem {
    Problem::new(
        Code::UnknownBatch,
        format!(
            "you have no batch `{}`; it may have expired. GET /v1/batches lists yours",
            shorten(id)
        ),
    )
}

/// The parameters of a list.
struct Asking {
    page: Page,
    purpose: Option<Purpose>,
}

impl Asking {
    fn of(request: &Request, (usual, most): (u32, u32), of_files: bool) -> Result<Self, Problem> {
        let mut asking = Self {
            page: Page {
                most: usual,
                ..Page::default()
            },
            purpose: None,
        };
        for (name, sent) in request.parameters() {
            let invalid = |form: &str| {
                Problem::new(
                    Code::InvalidParameter,
                    format!(
                        "the parameter `{}` is `{}`; {form}",
                        shorten(name),
                        shorten(sent)
                    ),
                )
            };
            let value = percent_decoded(&sent.replace('+', " "))
                .ok_or_else(|| invalid("write `%` as `%25`"))?;
            match name {
                "limit" => {
                    let limit: u32 = value
                        .parse()
                        .map_err(|_| invalid("write the number of entries on a page"))?;
                    asking.page.most = limit.clamp(1, most);
                }
                "after" if value.is_empty() => {}
                "after" => asking.page.after = Some(value),
                "order" if of_files => {
                    asking.page.oldest_first = match value.as_str() {
                        "asc" => true,
                        "desc" => false,
                        _ => return Err(invalid("write `asc` or `desc`")),
                    };
                }
                "purpose" if of_files => {
                    let purpose = Purpose::parse(&value);
                    asking.purpose =
                        Some(purpose.ok_or_else(|| invalid("write `batch` or `batch_output`"))?);
                }
                _ => {
                    let known = match of_files {
                        true => "`limit`, `after`, `order` and `purpose`",
                        false => "`limit` and `after`",
                    };
                    return Err(Problem::new(
                        Code::InvalidParameter,
                        format!(
                            "there is no parameter `{}`; they are {known}",
                            shorten(name)
                        ),
                    ));
                }
            }
        }
        Ok(asking)
    }
}
