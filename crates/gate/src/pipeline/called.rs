//! Finds the surface that a route calls, and whether the call is to become an operation.

use crate::call::Surface;
use crate::exchange::Exchange;
use crate::grpc::Form;
use crate::grpc::serve::Rpc;
use crate::prefer::{Deferral, Preferences};
use crate::record::Request;
use crate::route::{Route, Target, target};
use crate::surface::body::model_of;

/// Reads the model's name from the body if the path has none. Authentication and the rate limits need the name.
pub(super) fn name_model(request: &Request, route: &mut Route) {
    if let Some(named) = route.named_in_body() {
        *named = target(&model_of(request).unwrap_or_default(), None);
    }
}

/// Returns the surface that a route calls, and its target; `None` if the route calls no model.
pub(super) fn surface<'r>(route: &'r Route, rpc: Option<&Rpc>) -> Option<(Surface, &'r Target)> {
    Some(match route {
        Route::Predict(target) | Route::PredictAsync(target) => (Surface::Predict, target),
        Route::BatchPredict(target) | Route::BatchPredictAsync(target) => {
            (Surface::BatchPredict, target)
        }
        Route::Explain(target) => (Surface::Explain, target),
        Route::Embeddings(target) => (Surface::Embeddings, target),
        Route::Classify(target) => (Surface::Classify, target),
        Route::Moderations(target) => (Surface::Moderations, target),
        Route::Rerank(target) => (Surface::Rerank, target),
        Route::Score(target) => (Surface::Score, target),
        Route::Infer(target) => match rpc {
            Some(rpc) => (Surface::Grpc(rpc.form()), target),
            None => (Surface::Infer, target),
        },
        Route::Generate(target) => (Surface::Generate, target),
        Route::GenerateStream(target) => (Surface::GenerateStream, target),
        _ => return None,
    })
}

/// Reads whether a call is to become an operation. Streams never do, and over gRPC only the method for it does, because the others
/// cannot answer with an operation.
pub(super) fn deferral(exchange: &Exchange<'_>, route: &Route, surface: Surface) -> Deferral {
    Deferral {
        demanded: matches!(route, Route::PredictAsync(_) | Route::BatchPredictAsync(_))
            || surface == Surface::Grpc(Form::Operation),
        preferences: Preferences::of(exchange.request),
        events: exchange.events,
        streams_full: exchange.connection.streams_full,
        possible: !matches!(
            surface,
            Surface::GenerateStream | Surface::Grpc(Form::Unary | Form::Stream)
        ),
    }
}
