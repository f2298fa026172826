//! Answers `/v1/usage` with the caller's own counts.

use crate::answer::usage::Usage;
use crate::policies::Policies;
use crate::ports::Ports;
use crate::record::{Request, Response};
use crate::route::shorten;
use penstock_core::clock::days_from_date;
use penstock_core::kv::RETRY_STORE_S;
use penstock_core::{Caller, Code, Problem};
use penstock_policy::usage::service::UsageService;
use penstock_policy::usage::{DAY_MS, MAX_DAYS};

/// The number of days in a report if the request names none.
const DEFAULT_USAGE_DAYS: u64 = 30;

/// Answers with the caller's own counts by day, model and API key.
pub(super) fn usage<P: Ports>(
    policies: &Policies<P>,
    request: &Request,
    caller: &Caller,
    unix_ms: u64,
) -> Result<Response, Problem> {
    if !policies.counts {
        return Err(Problem::new(
            Code::UnknownPath,
            "usage is not counted here; the operator enables it with `[usage]` `enabled = true`",
        ));
    }
    let invalid = |name: &str, value: &str, form: &str| {
        Problem::new(
            Code::InvalidParameter,
            format!("the parameter `{name}` is `{}`; {form}", shorten(value)),
        )
    };
    let today = unix_ms / DAY_MS;
    let (mut first, mut last, mut start) = (None, None, None);
    for (name, value) in request.parameters() {
        let date = || {
            days_from_date(value).ok_or_else(|| invalid(name, value, "write a date as YYYY-MM-DD"))
        };
        match name {
            "from" => first = Some(date()?),
            "to" => last = Some(date()?),
            "page_token" => {
                let token = value
                    .split_once('.')
                    .and_then(|(day, place)| Some((day.parse().ok()?, place.parse().ok()?)));
                start = Some(token.ok_or_else(|| {
                    invalid(
                        name,
                        value,
                        "give the `next_page_token` of an answer, or leave it out",
                    )
                })?);
            }
            _ => {
                return Err(Problem::new(
                    Code::InvalidParameter,
                    format!(
                        "there is no parameter `{}`; they are `from`, `to` and `page_token`",
                        shorten(name)
                    ),
                ));
            }
        }
    }
    let last = last.unwrap_or(today);
    let first = first.unwrap_or(last.saturating_sub(DEFAULT_USAGE_DAYS - 1));
    if first > last || last - first >= MAX_DAYS {
        return Err(Problem::new(
            Code::InvalidParameter,
            format!(
                "`from` must not be after `to`, and at most {MAX_DAYS} days are reported at once"
            ),
        ));
    }
    let report = policies
        .usage
        .read((first, last), Some(&caller.tenant), start)
        .map_err(|message| {
            Problem::new(
                Code::StoreUnavailable,
                format!("the counts cannot be read: {message}"),
            )
            .retry_after(RETRY_STORE_S)
        })?;
    Ok(Response::json(200, &Usage::new(&caller.tenant, &report)))
}
