//! Builds the audit record of a request: the caller, the resource and the decision. It never contains the request's
//! content.
//!
//! A component has no file to write to. It therefore passes the record to the host in a header of the answer, and the
//! host removes the header. It does so only if Penstock's own host requests it. The same holds for the note by which the host
//! counts requests.

use crate::record::Response;
use crate::route::shorten;
use penstock_core::metrics::note::{self, Seen};
use penstock_core::{Caller, Code, RouteKind, json};
use serde::Serialize;

/// The header with the audit record. The host removes it from the answer.
pub const HEADER: &str = "penstock-audit";

/// The facts known for the audit record of a request.
#[derive(Debug, Default)]
pub struct Trail {
    /// The caller, after authentication.
    pub caller: Option<Caller>,
    /// The kind of credential that identified the caller.
    pub credential: Option<&'static str>,
    /// The kind of route, if the path has one.
    pub route: Option<RouteKind>,
    /// The model that the caller named, if the call names one.
    pub model: Option<String>,
    /// Whether the answer is for an authenticated caller.
    pub personal: bool,
    /// Whether authentication admitted the caller.
    pub admitted: bool,
    /// The code of the problem, if the request was refused or failed.
    pub code: Option<Code>,
}

#[derive(Serialize)]
struct AuditRecord<'a> {
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_version: Option<&'a str>,
}

impl Trail {
    /// Adds the audit record to the headers of the answer.
    pub fn tell(&self, response: &mut Response) {
        let caller = self.caller.as_ref();
        // Over gRPC the HTTP status is always 200, so the problem's code decides.
        let told = self.code.map(Code::status);
        let refused = [Some(response.status), told]
            .into_iter()
            .any(|status| matches!(status, Some(401 | 403 | 429)));
        let version = response.header("x-model-version").map(str::to_owned);
        let said = AuditRecord {
            decision: match (self.admitted, refused) {
                (true, false) => "admitted",
                (false, false) if self.route.is_none() => "none",
                _ => "refused",
            },
            code: self.code.map(Code::as_str),
            tenant: caller.map(|caller| caller.tenant.as_str()),
            api_key_id: caller.and_then(|caller| caller.api_key_id.as_deref()),
            subject: caller
                .and_then(|caller| caller.subject.as_deref())
                .map(shorten),
            tier: caller.map(|caller| caller.tier.as_str()),
            credential: self.credential,
            route: self.route.map(RouteKind::as_str),
            model: self.model.as_deref().map(shorten),
            model_version: version.as_deref(),
        };
        response.push(HEADER, json::to_ascii(&said));
    }

    /// Adds the note for the host's metrics to the headers of the answer. A model is named only if the answer names its version,
    /// so a name that a client made up is never told.
    pub fn note(&self, response: &mut Response) {
        let is_known = response.header("x-model-version").is_some();
        let seen = Seen {
            route: self.route,
            code: self.code,
            model: self.model.as_deref().filter(|_| is_known),
        };
        response.push(note::HEADER, seen.to_header());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trail_is_one_line_of_ascii_json_whatever_was_sent() {
        let mut response = Response::new(200, "application/json", Vec::new());
        response.push("x-model-version", "3");
        let trail = Trail {
            caller: Some(Caller {
                subject: Some("J\u{f6}rg \u{1f600}\r\nx: y".into()),
                ..Caller::anonymous(None)
            }),
            credential: Some("token"),
            route: Some(RouteKind::Predict),
            model: Some("\u{1b}[0m\"".into()),
            admitted: true,
            personal: true,
            code: None,
        };
        trail.tell(&mut response);
        let line = response.header(HEADER).unwrap();
        assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line}");
        let said: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(said["decision"], "admitted");
        assert_eq!(said["model_version"], "3");
        assert!(
            said["subject"]
                .as_str()
                .unwrap()
                .starts_with("J\u{f6}rg \u{1f600}")
        );
    }

    #[test]
    fn a_model_is_noted_only_with_the_version_that_answered() {
        let trail = Trail {
            route: Some(RouteKind::Predict),
            model: Some("digits".into()),
            code: Some(Code::InvalidInputs),
            ..Trail::default()
        };
        let noted = |version: Option<&str>| {
            let mut response = Response::new(422, "application/json", Vec::new());
            if let Some(version) = version {
                response.push("x-model-version", version);
            }
            trail.note(&mut response);
            response.header(note::HEADER).map(str::to_owned)
        };
        assert_eq!(
            noted(Some("3")).as_deref(),
            Some("predict invalid_inputs digits")
        );
        assert_eq!(noted(None).as_deref(), Some("predict invalid_inputs -"));
    }

    #[test]
    fn a_refusal_over_grpc_is_recorded_by_its_code() {
        for (code, decision) in [
            (None, "admitted"),
            (Some(Code::InvalidBody), "admitted"),
            (Some(Code::QuotaExceeded), "refused"),
        ] {
            let mut response = Response::new(200, "application/grpc", Vec::new());
            let trail = Trail {
                admitted: true,
                code,
                ..Trail::default()
            };
            trail.tell(&mut response);
            let line = response.header(HEADER).unwrap();
            let said: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(said["decision"], decision, "{code:?}");
        }
    }
}
