//! Decides whether the end of a call that becomes an operation is announced.

use crate::call::{ModelCall, Surface};
use crate::ports::Ports;
use penstock_core::{Code, Problem};
use penstock_policy::webhooks::target::{HEADER, Target};

/// Returns the receiver of the end of a call; `None` if there is none.
pub(super) fn decide<P: Ports>(
    call: &ModelCall<'_, P>,
    deferred: bool,
) -> Result<Option<Target>, Problem> {
    let policies = call.policies;
    let asked = asked(call)?;
    // Without a host that sends webhooks, the wish for one would be stored in vain.
    let is_sent = policies.webhook_key.is_some();
    if asked.is_none() && !(deferred && is_sent) {
        return Ok(None);
    }
    let refused = |message: String| Problem::new(Code::WebhookRefused, message);
    if !is_sent {
        return Err(refused(format!(
            "this server sends no webhooks; leave the header `{HEADER}` out and read the operation instead, or ask the operator \
             ([[webhooks.tenants]])"
        )));
    }
    if !deferred {
        let remedy = match call.surface {
            Surface::Grpc(_) => "call `penstock.v1.Operations/ModelInferAsync`",
            _ => "send `Prefer: respond-async` too",
        };
        return Err(refused(format!(
            "only operations are announced, and this call is answered at once; {remedy}, or leave the header `{HEADER}` out"
        )));
    }
    let tenant = &call.caller.tenant;
    (policies.webhooks.decide(tenant, asked)).map_err(refused)
}

/// Returns the URL in the header.
fn asked<'a, P: Ports>(call: &ModelCall<'a, P>) -> Result<Option<&'a str>, Problem> {
    let mut lines = (call.request.headers.iter()).filter(|header| header.name == HEADER);
    let Some(line) = lines.next() else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&line.value);
    match (text, lines.next()) {
        (Ok(text), None) => Ok(Some(text.trim())),
        (_, Some(_)) => Err(Problem::new(
            Code::WebhookRefused,
            format!("there are several headers `{HEADER}`; send one"),
        )),
        (Err(_), _) => Err(Problem::new(
            Code::WebhookRefused,
            format!("the header `{HEADER}` is not text; send a URL"),
        )),
    }
}
