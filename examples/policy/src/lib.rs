//! A quota component of your own: three calls a minute for each tenant. It takes the place of the built-in quota in the
//! manifest, so no other limit holds. docs/EXTENDING.md shows how it is built and served.

#![allow(missing_docs)]

wit_bindgen::generate!({
    world: "penstock:quota/component",
    path: ["../../wit/types", "../../wit/deps/keyvalue", "../../wit/quota"],
    generate_all,
});

use exports::penstock::quota::quota::{self as wit, Admitted, Call, Header, Refusal, RefusalKind};
use wasi::keyvalue::{atomics, store};

const CALLS: i64 = 3;
const WINDOW_MS: u64 = 60_000;

struct Component;
struct Policy;
struct Admission;
export!(Component);

impl wit::Guest for Component {
    type Policy = Policy;
    type Admission = Admission;
}

impl wit::GuestPolicy for Policy {
    /// `penstock.toml` is here, for settings of your own.
    fn open(_text: String) -> Result<wit::Policy, String> {
        Ok(wit::Policy::new(Self))
    }

    /// The gate asks for nothing that is `false` here.
    fn scope(&self) -> wit::Scope {
        wit::Scope {
            calls: true,
            items: false,
            settles: false,
        }
    }

    fn fallbacks(&self, _now_ms: u64, _random: u64) -> Vec<String> {
        Vec::new()
    }

    fn admit(&self, call: Call, now_ms: u64, _random: u64) -> Result<Admitted, Refusal> {
        let window = now_ms / WINDOW_MS;
        let key = format!("example/{}/{window}", call.caller.tenant);
        // A store that fails refuses the call. Admit it here instead if your limit may fail open.
        let used = store::open("counters")
            .and_then(|counters| atomics::increment(&counters, &key, 1))
            .map_err(|_| refusal(RefusalKind::StoreFailed, "the counters cannot be read", 1))?;
        if used > CALLS {
            let wait_s = (WINDOW_MS - now_ms % WINDOW_MS).div_ceil(1000) as u32;
            let message = format!("{} calls in this minute, {CALLS} are allowed", used);
            return Err(refusal(RefusalKind::UsedUp, &message, wait_s));
        }
        let left = Header {
            name: "x-calls-left".into(),
            value: (CALLS - used).to_string(),
        };
        let admission = wit::Admission::new(Admission);
        Ok(Admitted {
            admission,
            wait_ms: 0,
            headers: vec![left],
        })
    }
}

/// Nothing is counted after the call is admitted.
impl wit::GuestAdmission for Admission {
    fn charge_items(&self, _: u64, _: u64, _: u64) -> Result<Vec<Header>, Refusal> {
        Ok(Vec::new())
    }

    fn refund_items(&self, _: u64) -> Vec<Header> {
        Vec::new()
    }

    fn settle(&self, _: u64, _: u64) {}
}

fn refusal(kind: RefusalKind, message: &str, retry_after_s: u32) -> Refusal {
    let (limit, message) = ("example".to_owned(), message.to_owned());
    Refusal {
        kind,
        limit,
        message,
        retry_after_s,
        headers: Vec::new(),
    }
}
