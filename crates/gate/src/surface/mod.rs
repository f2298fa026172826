//! Contains the surfaces, which are the forms of model calls. Each converts a body to [`Work`], which runs and writes
//! the answer. The pipeline contains the code that all surfaces share.

mod batch;
pub(crate) mod body;
mod classify;
mod content;
mod embeddings;
mod explain;
mod generate;
mod grpc;
mod infer;
mod moderations;
mod predict;
mod rerank;
mod scan;
mod texts;

use crate::call::{ModelCall, Surface};
use crate::catalogue::Opened;
use crate::coding::{self, Coding};
use crate::ports::Ports;
use crate::route::Target;
use crate::run::Work;
use body::body_kind;
use penstock_core::Problem;
use penstock_tensor::Buffer;
use std::borrow::Cow;

/// Decodes a body for the call's surface.
pub(crate) fn decode<P: Ports>(
    call: &ModelCall<'_, P>,
    opened: &Opened<P>,
    (model, target): (&str, &Target),
    coding: Option<Coding>,
) -> Result<Box<dyn Work<P>>, Problem> {
    let limit = opened.contract.limits.max_body_bytes;
    let limit = limit.min(call.policies.body_limit);
    let body = || coding::body(&call.request.body, coding, limit);
    let json = || -> Result<Cow<'_, Buffer>, Problem> {
        body_kind(call.request.content_type()?, false)?;
        body()
    };
    match call.surface {
        Surface::Predict => match call.options.explain.clone()? {
            true => explain::decode_with_prediction(call, opened, model, body),
            false => Ok(Box::new(predict::decode(call, opened, model, body)?)),
        },
        Surface::Explain => explain::decode(call, opened, model, body),
        Surface::BatchPredict => batch::decode(opened, &json()?),
        Surface::Infer => infer::decode(call, opened, model, body),
        Surface::Generate => generate::decode(call, opened, model, (&json()?, false)),
        Surface::GenerateStream => generate::decode(call, opened, model, (&json()?, true)),
        Surface::Grpc(form) => grpc::decode(call, opened, &*body()?, (target, limit), form),
        Surface::Embeddings => embeddings::decode(opened, model, &json()?),
        Surface::Classify => classify::decode(opened, model, &json()?),
        Surface::Moderations => moderations::decode(opened, model, &json()?),
        Surface::Rerank => rerank::decode(opened, model, &json()?),
        Surface::Score => rerank::decode_score(opened, model, &json()?),
    }
}

/// Returns the problem of a body that must name a model and names none.
pub(crate) fn unnamed<P: Ports>(call: &ModelCall<'_, P>, coding: Option<Coding>) -> Problem {
    let body = coding::body(&call.request.body, coding, call.policies.body_limit);
    match body {
        Ok(body) if call.surface == Surface::Embeddings => embeddings::unnamed(&body),
        Ok(body) => texts::unnamed(&body),
        Err(problem) => problem,
    }
}
