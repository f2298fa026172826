//! Shows a custom policy: three calls a minute for each tenant. docs/EXTENDING.md shows how to build and serve it.
#![allow(missing_docs)]

wit_bindgen::generate!({
    world: "penstock:policy/component",
    path: ["../../wit/types", "../../wit/deps/keyvalue", "../../wit/policy"],
    generate_all,
});
use exports::penstock::policy::policy::*;
use wasi::keyvalue::{atomics, store};

const CALLS: i64 = 3;
const WINDOW_MS: u64 = 60_000;

struct Example;
export!(Example);

impl Guest for Example {
    type Policy = Example;
    type Admission = Example;
}

impl GuestPolicy for Example {
    fn open(_penstock_toml: String) -> Result<Policy, String> {
        Ok(Policy::new(Example))
    }

    fn scope(&self) -> Scope {
        Scope {
            calls: true,
            headers: Vec::new(),
            settles: false,
        }
    }

    fn admit(&self, call: Call, now_ms: u64, _random: u64) -> Result<Admitted, Refusal> {
        let window = now_ms / WINDOW_MS;
        let key = |window: u64| format!("example/{}/{window}", call.caller.tenant);
        // Other hosts have no store `counters`. A store that fails refuses the call; a policy may also admit it.
        let used = store::open("counters")
            .or_else(|_| store::open("default"))
            .and_then(|counters| {
                let used = atomics::increment(&counters, &key(window), 1)?;
                // The first call of a minute removes the counter of the minute before.
                (used == 1).then(|| counters.delete(&key(window.saturating_sub(1))));
                Ok(used)
            })
            .map_err(|_| refuse(RefusalKind::StoreFailed, "the counters cannot be read", 1))?;
        if used > CALLS {
            let wait_s = (WINDOW_MS - now_ms % WINDOW_MS).div_ceil(1000) as u32;
            let message = format!("{used} calls in this minute, {CALLS} are allowed");
            return Err(refuse(RefusalKind::UsedUp, &message, wait_s));
        }
        let (name, value) = ("x-calls-left".into(), (CALLS - used).to_string().into());
        Ok(Admitted {
            admission: Admission::new(Example),
            headers: vec![Header { name, value }],
        })
    }
}

impl GuestAdmission for Example {
    fn settle(&self, _: Outcome, _: u64) {}
}

fn refuse(kind: RefusalKind, message: &str, retry_after_s: u32) -> Refusal {
    Refusal {
        kind,
        message: message.into(),
        retry_after_s,
        headers: Vec::new(),
    }
}
