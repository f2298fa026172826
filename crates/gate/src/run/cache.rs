//! Answers a run from the cache, or stores its result there. [`penstock_policy::cache`] decides which results are
//! stored and which of several equal calls runs.
//!
//! A cache hit runs nothing, so it is charged its request and its bytes, and no items. A failure of the cache fails
//! no call: the model runs, and the answer states that the cache was bypassed.

use crate::call::ModelCall;
use crate::ports::{Headers, Ports};
use penstock_core::{Code, ModelVersion, Problem};
use penstock_policy::cache::service::CacheService;
use penstock_policy::cache::settings::{Scope, entry};
use penstock_policy::cache::words::{CacheAddress, NO_TICKET};
use penstock_policy::cache::{self, CacheEntry, DIGEST_BYTES, Directives, Served, Why, result};
use penstock_tensor::{Contract, Tensor};

/// The first pause in milliseconds before a call checks again for another call's result. The fastest models take
/// about as long.
const FIRST_PAUSE_MS: u32 = 2;
/// The longest pause in milliseconds between two checks.
const LONGEST_PAUSE_MS: u32 = 25;

/// The cache of a call's model, and the result of its look-ups so far.
pub(crate) struct Caching<'a> {
    model: &'a str,
    entry: Option<&'a CacheEntry>,
    directives: Directives,
    served: Option<Served>,
}

/// The data that decides whether two runs have the same result.
pub(crate) struct Question<'a> {
    pub tenant: &'a str,
    pub version: ModelVersion,
    pub contract: &'a Contract,
    pub fingerprint: &'a [u8; DIGEST_BYTES],
    pub inputs: &'a [Tensor],
    /// The requested outputs; empty means all.
    pub outputs: &'a [String],
    pub is_combined: bool,
    /// The time in microseconds that the call may wait for another call's run.
    pub timeout_us: Option<u64>,
}

/// The result of a look-up.
pub(crate) enum CacheOutcome<'a> {
    /// The outputs, from a cache hit.
    Found(Vec<Tensor>),
    /// The cache has no result: the caller runs the model and passes the outputs to [`Caching::keep`].
    Run(Keep<'a>),
}

/// The treatment of a run's outputs.
pub(crate) enum Keep<'a> {
    /// They are not stored, because the model has no cache.
    Nothing,
    /// They are not stored, and the answer states the reason.
    Say(Served),
    /// They are stored in a slot.
    Slot(CacheSlot<'a>),
}

/// The cache entry for the outputs of a run.
pub(crate) struct CacheSlot<'a> {
    space: &'a str,
    digest: [u8; DIGEST_BYTES],
    entry: &'a CacheEntry,
    ticket: u64,
    /// Whether the cache was searched before the run.
    is_miss: bool,
}

impl CacheSlot<'_> {
    fn address(&self) -> CacheAddress<'_> {
        CacheAddress {
            space: self.space,
            places: self.entry.places(),
            digest: &self.digest,
            lease_ms: self.entry.lease_ms,
        }
    }
}

/// The result of waiting for a cache entry.
enum Found {
    Outputs(Vec<Tensor>, Served),
    Run(u64),
    Bypass(Why),
}

impl<'a> Caching<'a> {
    /// Creates the cache access of a call with the request's `Cache-Control`.
    pub fn of<P: Ports>(call: &ModelCall<'a, P>, model: &'a str) -> Self {
        let fields = call.request.headers.iter();
        let fields = fields.filter(|header| header.name == "cache-control");
        Self {
            model,
            entry: entry(&call.policies.cache, model),
            directives: Directives::parse(fields.map(|header| header.value.as_slice())),
            served: None,
        }
    }

    /// Returns the headers that report a cache hit or miss. There are none if nothing had to run, or if the model has
    /// no cache; then the clock is not read.
    pub fn headers(&self, now_ms: impl FnOnce() -> u64) -> Headers {
        let (Some(entry), Some(served)) = (self.entry, self.served) else {
            return Headers::new();
        };
        let headers = served.headers(entry.ttl_s, now_ms()).into_iter();
        headers
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    fn note(&mut self, served: Served) {
        self.served = Some(match self.served {
            Some(before) => before.and(served),
            None => served,
        });
    }

    /// Looks up the outputs of a run.
    pub fn look_up<P: Ports>(
        &mut self,
        (ports, results): (&P, &P::Cache),
        question: &Question<'_>,
    ) -> Result<CacheOutcome<'a>, Problem> {
        let now_ms = ports.unix_ms();
        let ttl_s = self.entry.map_or(0, |entry| entry.ttl_s);
        let options = self.directives.options(ttl_s, now_ms);
        let cached = self.entry.filter(|_| options.look || options.keep);
        let Some(entry) = cached.filter(|entry| entry.places() > 0) else {
            if options.only_if_cached {
                return Err(not_cached());
            }
            return Ok(CacheOutcome::Run(match self.entry {
                Some(_) => Keep::Say(Served::Asked { stored: false }),
                None => Keep::Nothing,
            }));
        };
        let mut slot = CacheSlot {
            space: self.model,
            digest: question.digest(self.model, entry),
            entry,
            ticket: NO_TICKET,
            is_miss: options.look,
        };
        if !options.look {
            if options.only_if_cached {
                return Err(not_cached());
            }
            return Ok(CacheOutcome::Run(Keep::Slot(slot)));
        }
        let limits = (options.only_if_cached, question.timeout_us);
        match wait((ports, results), &slot.address(), options.since_ms, limits)? {
            Found::Outputs(outputs, served) => {
                self.note(served);
                Ok(CacheOutcome::Found(outputs))
            }
            Found::Bypass(why) => Ok(CacheOutcome::Run(Keep::Say(Served::Bypass(why)))),
            Found::Run(ticket) => {
                slot.ticket = ticket;
                Ok(CacheOutcome::Run(Keep::Slot(slot)))
            }
        }
    }

    /// Stores the outputs of a run. `outputs` is `None` if the run failed.
    pub fn keep<P: Ports>(
        &mut self,
        (ports, results): (&P, &P::Cache),
        keep: Keep<'_>,
        outputs: Option<&[Tensor]>,
    ) {
        let (slot, outputs) = match (keep, outputs) {
            (Keep::Nothing, _) | (Keep::Say(_), None) => return,
            (Keep::Say(served), Some(_)) => return self.note(served),
            (Keep::Slot(slot), None) => {
                // This lets waiting calls start at once. If it fails, they start when the lease ends.
                let _ = results.release(&slot.address(), slot.ticket);
                return;
            }
            (Keep::Slot(slot), Some(outputs)) => (slot, outputs),
        };
        let kept = result::encode(outputs, slot.entry.max_result_bytes);
        // Store an empty value for a result that is too large. The next call then knows it without waiting.
        let value = kept.as_deref().unwrap_or_default();
        let now_ms = ports.unix_ms();
        let stored = results
            .keep(&slot.address(), slot.ticket, value, now_ms)
            .is_ok();
        let stored = stored && kept.is_some();
        self.note(match slot.is_miss {
            true => Served::Miss { stored },
            false => Served::Asked { stored },
        });
    }
}

impl Question<'_> {
    fn digest(&self, model: &str, entry: &CacheEntry) -> [u8; DIGEST_BYTES] {
        cache::Question {
            tenant: (entry.scope == Scope::Tenant).then_some(self.tenant),
            model,
            version: self.version.get(),
            contract: self.fingerprint,
            inputs: self.inputs,
            outputs: &self.wanted(),
            is_combined: self.is_combined,
        }
        .digest()
    }

    /// Returns the requested outputs in the contract's order; empty if all are requested.
    fn wanted(&self) -> Vec<String> {
        let all = self.contract.outputs.iter().map(|spec| &spec.name);
        let wanted: Vec<String> = all
            .filter(|name| self.outputs.contains(name))
            .cloned()
            .collect();
        match wanted.len() == self.contract.outputs.len() {
            true => Vec::new(),
            false => wanted,
        }
    }
}

/// Checks the cache until a result is there, or until none is to be expected.
fn wait<P: Ports>(
    (ports, results): (&P, &P::Cache),
    at: &CacheAddress<'_>,
    since_ms: u64,
    (only_if_cached, timeout_us): (bool, Option<u64>),
) -> Result<Found, Problem> {
    let mut waiting_since_ms = None;
    let mut pause_ms = FIRST_PAUSE_MS;
    loop {
        let now_ms = ports.unix_ms();
        let looked = results.look_up(at, since_ms, waiting_since_ms, now_ms);
        let found = match looked {
            Ok(cache::Lookup::Hit(kept)) if kept.value.is_empty() => Found::Bypass(Why::TooLarge),
            Ok(cache::Lookup::Hit(kept)) => match result::decode(&kept.value) {
                Some(outputs) => {
                    let served = match waiting_since_ms {
                        None => Served::Hit {
                            kept_ms: kept.kept_ms,
                        },
                        Some(_) => Served::Collapsed {
                            kept_ms: kept.kept_ms,
                        },
                    };
                    Found::Outputs(outputs, served)
                }
                // Another release wrote the entry in another form. The next run overwrites it.
                None => Found::Run(NO_TICKET),
            },
            Ok(cache::Lookup::Run(ticket)) => Found::Run(ticket),
            Ok(cache::Lookup::Wait) if only_if_cached => Found::Bypass(Why::Busy),
            Ok(cache::Lookup::Wait) => {
                let since = *waiting_since_ms.get_or_insert(now_ms);
                let waited_us = now_ms.saturating_sub(since).saturating_mul(1_000);
                if let Some(limit_us) = timeout_us.filter(|limit| waited_us >= *limit) {
                    return Err(Problem::new(
                        Code::DeadlineExceeded,
                        format!(
                            "another call runs the same, and did not end within the {limit_us} microseconds this one may \
                             take"
                        ),
                    ));
                }
                ports.sleep_ms(pause_ms);
                pause_ms = (pause_ms * 2).min(LONGEST_PAUSE_MS);
                continue;
            }
            Ok(cache::Lookup::Bypass) => Found::Bypass(Why::Busy),
            Err(_) => Found::Bypass(Why::StoreFailure),
        };
        return match found {
            Found::Outputs(..) => Ok(found),
            Found::Run(ticket) if only_if_cached => {
                let _ = results.release(at, ticket);
                Err(not_cached())
            }
            _ if only_if_cached => Err(not_cached()),
            _ => Ok(found),
        };
    }
}

fn not_cached() -> Problem {
    Problem::new(
        Code::NotCached,
        "the cache has no result for this call, and `only-if-cached` forbids a run; remove it from Cache-Control",
    )
}
