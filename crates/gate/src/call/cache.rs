//! Answers a run from a result that was kept, or keeps its result; what is kept and who runs is
//! [`penstock_policy::cache`]'s to decide.
//!
//! A hit runs nothing, so it costs its request and its bytes, and no items. Whatever is wrong with the cache is no caller's
//! concern: the model is run, and the answer says that the cache was passed by.

use super::Call;
use super::run::{Runner, Wishes};
use crate::ports::{CacheAddress, CacheLooked, Headers, Ports};
use penstock_core::{Code, Problem};
use penstock_policy::cache::place::NO_TICKET;
use penstock_policy::cache::settings::{Scope, entry};
use penstock_policy::cache::{CacheEntry, Directives, Question, Served, Why, result};
use penstock_tensor::Tensor;

/// How long a caller first waits before it looks again for another's result; the fastest models take as long.
const FIRST_PAUSE_MS: u32 = 2;
/// How long it waits at most between two looks.
const LONGEST_PAUSE_MS: u32 = 25;

/// What a call's cache is, and what came of it so far.
pub(crate) struct Caching<'a> {
    entry: Option<&'a CacheEntry>,
    directives: Directives,
    served: Option<Served>,
}

/// Outputs, and whether the model ran for them.
pub(crate) struct Computed {
    pub outputs: Vec<Tensor>,
    pub ran: bool,
}

/// What a look came to, when it came to an end.
enum Found {
    Outputs(Vec<Tensor>, Served),
    Run(u64),
    Bypass(Why),
}

impl<'a> Caching<'a> {
    /// The cache of a model, and what the request asks of it.
    pub fn of<P: Ports>(call: &Call<'a, P>, model: &str) -> Self {
        let fields = call.request.headers.iter();
        let fields = fields.filter(|header| header.name == "cache-control");
        Self {
            entry: entry(&call.policies.cache, model),
            directives: Directives::parse(fields.map(|header| header.value.as_slice())),
            served: None,
        }
    }

    /// What the answer says of the cache; nothing where nothing was to be run, or the model has none.
    pub fn headers(&self, now_ms: u64) -> Headers {
        let (Some(entry), Some(served)) = (self.entry, self.served) else {
            return Headers::new();
        };
        let headers = served.headers(entry.ttl_s, now_ms).into_iter();
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
}

impl<P: Ports> Runner<'_, P> {
    /// Outputs of the model for these inputs, from the cache where it has them.
    pub(super) fn cached(
        &mut self,
        inputs: Vec<Tensor>,
        outputs: &[String],
        wishes: Wishes,
    ) -> Result<Computed, Problem> {
        let ports = self.call.ports;
        let now_ms = ports.unix_ms();
        let entry = self.cache.entry;
        let ttl_s = entry.map_or(0, |entry| entry.ttl_s);
        let terms = self.cache.directives.terms(ttl_s, now_ms);
        let cached = entry.filter(|_| terms.look || terms.keep);
        let Some(entry) = cached.filter(|entry| entry.places() > 0) else {
            if terms.only_if_cached {
                return Err(not_cached());
            }
            let outputs = self.compute(inputs, outputs, wishes)?;
            if entry.is_some() {
                self.cache.note(Served::Asked { stored: false });
            }
            return Ok(Computed { outputs, ran: true });
        };
        let wanted = self.wanted(outputs);
        let digest = Question {
            tenant: (entry.scope == Scope::Tenant).then_some(self.call.caller.tenant.as_str()),
            model: self.model,
            version: self.serving.version.get(),
            contract: &self.opened.fingerprint,
            inputs: &inputs,
            outputs: &wanted,
            is_joined: wishes.is_joined,
        }
        .digest();
        let at = CacheAddress {
            space: self.model,
            places: entry.places(),
            digest: &digest,
            lease_ms: entry.lease_ms,
        };
        let found = match terms.look {
            true => self.look(&at, terms.since_ms, terms.only_if_cached, wishes)?,
            false if terms.only_if_cached => return Err(not_cached()),
            false => Found::Run(NO_TICKET),
        };
        let ticket = match found {
            Found::Outputs(outputs, served) => {
                self.cache.note(served);
                let ran = false;
                return Ok(Computed { outputs, ran });
            }
            Found::Bypass(why) => {
                let outputs = self.compute(inputs, outputs, wishes)?;
                self.cache.note(Served::Bypass(why));
                return Ok(Computed { outputs, ran: true });
            }
            Found::Run(ticket) => ticket,
        };
        let outputs = match self.compute(inputs, outputs, wishes) {
            Ok(outputs) => outputs,
            Err(problem) => {
                // Who waits begins at once; where this fails, when the lease is over.
                let _ = ports.cache_release(&at, ticket);
                return Err(problem);
            }
        };
        let kept = result::encode(&outputs, entry.max_result_bytes);
        // A result too large is kept as nothing, so that the next need not wait to find out.
        let value = kept.as_deref().unwrap_or_default();
        let stored = ports
            .cache_keep(&at, ticket, value, ports.unix_ms())
            .is_ok();
        let stored = stored && kept.is_some();
        self.cache.note(match terms.look {
            true => Served::Miss { stored },
            false => Served::Asked { stored },
        });
        Ok(Computed { outputs, ran: true })
    }

    /// Looks until something is there, or it is clear that nothing will be.
    fn look(
        &self,
        at: &CacheAddress<'_>,
        since_ms: u64,
        only_if_cached: bool,
        wishes: Wishes,
    ) -> Result<Found, Problem> {
        let ports = self.call.ports;
        let mut waiting_since_ms = None;
        let mut pause_ms = FIRST_PAUSE_MS;
        loop {
            let now_ms = ports.unix_ms();
            let looked = ports.cache_look(at, since_ms, waiting_since_ms, now_ms);
            let found = match looked {
                Ok(CacheLooked::Hit(value, _)) if value.is_empty() => Found::Bypass(Why::TooLarge),
                Ok(CacheLooked::Hit(value, kept_ms)) => match result::decode(&value) {
                    Some(outputs) => {
                        let served = match waiting_since_ms {
                            None => Served::Hit { kept_ms },
                            Some(_) => Served::Collapsed { kept_ms },
                        };
                        Found::Outputs(outputs, served)
                    }
                    // Of another release: overwritten by the next run.
                    None => Found::Run(NO_TICKET),
                },
                Ok(CacheLooked::Run(ticket)) => Found::Run(ticket),
                Ok(CacheLooked::Wait) if only_if_cached => Found::Bypass(Why::Busy),
                Ok(CacheLooked::Wait) => {
                    let since = *waiting_since_ms.get_or_insert(now_ms);
                    let waited_us = now_ms.saturating_sub(since).saturating_mul(1_000);
                    if let Some(limit_us) = wishes.timeout_us.filter(|limit| waited_us >= *limit) {
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
                Ok(CacheLooked::Bypass) => Found::Bypass(Why::Busy),
                Err(_) => Found::Bypass(Why::StoreFailure),
            };
            return match found {
                Found::Outputs(..) => Ok(found),
                Found::Run(ticket) if only_if_cached => {
                    let _ = ports.cache_release(at, ticket);
                    Err(not_cached())
                }
                _ if only_if_cached => Err(not_cached()),
                _ => Ok(found),
            };
        }
    }

    /// The outputs asked for, in the contract's order; none where it is all of them.
    fn wanted(&self, outputs: &[String]) -> Vec<String> {
        let all = self.contract().outputs.iter().map(|spec| &spec.name);
        let wanted: Vec<String> = all.filter(|name| outputs.contains(name)).cloned().collect();
        match wanted.len() == self.contract().outputs.len() {
            true => Vec::new(),
            false => wanted,
        }
    }
}

fn not_cached() -> Problem {
    Problem::new(
        Code::NotCached,
        "nothing is kept that answers this call, and `only-if-cached` has nothing run; leave it out of Cache-Control",
    )
}
