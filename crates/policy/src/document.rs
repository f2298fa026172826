//! Finds the section of each policy in the operator's `penstock.toml`. A policy reads its own section and ignores the
//! others. The host reads all of them at start and refuses unknown sections.

#[cfg(feature = "auth")]
use crate::auth::settings::AuthSettings;
use crate::batches::BatchesSettings;
use crate::cache::settings::{self as cache_settings, CacheEntry};
use crate::cors::CorsSettings;
use crate::disclosure::{self, Disclosure};
use crate::idempotency::IdempotencySettings;
use crate::operations::OperationsSettings;
use crate::quota::QuotaDocument;
use crate::quota::limits::{Backoff, Limit};
use crate::usage::UsageSettings;
use crate::validation::ValidationSettings;
use crate::webhooks::WebhooksSettings;
use serde::Deserialize;

/// Reads `[[limits]]` and `[backoff]`; the error is a sentence for the operator.
pub fn quota(text: &str) -> Result<QuotaDocument, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        limits: Vec<Limit>,
        #[serde(default)]
        backoff: Backoff,
    }
    let Document { limits, backoff } = read(text)?;
    let document = QuotaDocument { limits, backoff };
    match document.faults() {
        faults if faults.is_empty() => Ok(document),
        faults => Err(sentence(faults)),
    }
}

/// Reads `[auth]`; the error is a sentence for the operator.
#[cfg(feature = "auth")]
pub fn auth(text: &str) -> Result<AuthSettings, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        auth: AuthSettings,
    }
    let Document { auth } = read(text)?;
    checked("auth", auth.faults(), auth)
}

/// The key sets that `[[auth.issuers]]` names as files: the issuer's name, and the file.
pub fn key_set_files(text: &str) -> Result<Vec<(String, String)>, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        auth: Auth,
    }
    #[derive(Default, Deserialize)]
    struct Auth {
        #[serde(default)]
        issuers: Vec<Issuer>,
    }
    #[derive(Deserialize)]
    struct Issuer {
        name: String,
        jwks_file: Option<String>,
    }
    let Document { auth } = read(text)?;
    let named = |issuer: Issuer| issuer.jwks_file.map(|file| (issuer.name, file));
    Ok(auth.issuers.into_iter().filter_map(named).collect())
}

/// Joins faults of settings into one sentence.
pub fn sentence(faults: Vec<(String, String)>) -> String {
    let faults: Vec<String> = faults
        .into_iter()
        .map(|(setting, message)| format!("`{setting}` {message}"))
        .collect();
    faults.join("; ")
}

/// Reads `[idempotency]`; the error is a sentence for the operator.
pub fn idempotency(text: &str) -> Result<IdempotencySettings, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        idempotency: IdempotencySettings,
    }
    let Document { idempotency } = read(text)?;
    checked("idempotency", idempotency.faults(), idempotency)
}

/// Reads `[usage]`; the error is a sentence for the operator.
pub fn usage(text: &str) -> Result<UsageSettings, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        usage: UsageSettings,
    }
    let Document { usage } = read(text)?;
    checked("usage", usage.faults(), usage)
}

/// Reads `[operations]`; the error is a sentence for the operator.
pub fn operations(text: &str) -> Result<OperationsSettings, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        operations: OperationsSettings,
    }
    let Document { operations } = read(text)?;
    checked("operations", operations.faults(), operations)
}

/// Reads `[batches]`; the error is a sentence for the operator.
pub fn batches(text: &str) -> Result<BatchesSettings, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        batches: BatchesSettings,
    }
    let Document { batches } = read(text)?;
    checked("batches", batches.faults(), batches)
}

/// Reads `[webhooks]`; the error is a sentence for the operator.
pub fn webhooks(text: &str) -> Result<WebhooksSettings, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        webhooks: WebhooksSettings,
    }
    let Document { webhooks } = read(text)?;
    checked("webhooks", webhooks.faults(), webhooks)
}

/// Reads `[validation]`; the error is a sentence for the operator.
pub fn validation(text: &str) -> Result<ValidationSettings, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        validation: ValidationSettings,
    }
    let Document { validation } = read(text)?;
    Ok(validation)
}

/// The default of `[server] max_body_bytes`.
pub const DEFAULT_MAX_BODY_BYTES: u64 = 16 << 20;
/// The default of an instance's memory in `[instances]`.
pub const DEFAULT_MEMORY_BYTES: u64 = 256 << 20;
/// Copies of a body that must fit into an instance's memory. The gate holds the body, its tensors with up to eight bytes
/// for each two of JSON, and those tensors a second time as blocks.
pub const MEMORY_PER_BODY: u64 = 16;

/// Returns whether a tier of the policy has a priority.
pub fn ranks_tiers(text: &str) -> Result<bool, String> {
    let document: toml::Table = toml::from_str(text).map_err(|e| e.to_string())?;
    let tiers = document.get("auth").and_then(|auth| auth.get("tiers"));
    let tiers = tiers.and_then(toml::Value::as_table);
    Ok(tiers.is_some_and(|tiers| tiers.values().any(|tier| tier.get("priority").is_some())))
}

/// The largest accepted body, before and after decoding: the bound of `[server]`, but no more than an instance's memory
/// allows. The host reads both sections completely; other members are ignored here.
pub fn body_limit(text: &str) -> Result<u64, String> {
    #[derive(Deserialize)]
    #[serde(default)]
    struct Server {
        max_body_bytes: u64,
    }
    impl Default for Server {
        fn default() -> Self {
            Self {
                max_body_bytes: DEFAULT_MAX_BODY_BYTES,
            }
        }
    }
    #[derive(Deserialize)]
    #[serde(default)]
    struct Instances {
        memory_bytes: u64,
    }
    impl Default for Instances {
        fn default() -> Self {
            Self {
                memory_bytes: DEFAULT_MEMORY_BYTES,
            }
        }
    }
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        server: Server,
        #[serde(default)]
        instances: Instances,
    }
    let Document { server, instances } = read(text)?;
    let holdable = (instances.memory_bytes / MEMORY_PER_BODY).max(1);
    Ok(server.max_body_bytes.min(holdable))
}

/// The models that `/ready` waits for: `[models] required`. The host reads the section completely and checks the names.
pub fn required_models(text: &str) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        models: Models,
    }
    #[derive(Default, Deserialize)]
    struct Models {
        #[serde(default)]
        required: Vec<String>,
    }
    let Document { models } = read(text)?;
    Ok(models.required)
}

/// Reads `[cors]`; the error is a sentence for the operator.
pub fn cors(text: &str) -> Result<CorsSettings, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        cors: CorsSettings,
    }
    let Document { cors } = read(text)?;
    checked("cors", cors.faults(), cors)
}

/// Reads `[[disclosure]]`; the error is a sentence for the operator.
pub fn disclosure(text: &str) -> Result<Vec<Disclosure>, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        disclosure: Vec<Disclosure>,
    }
    let Document { disclosure } = read(text)?;
    match disclosure::faults(&disclosure) {
        faults if faults.is_empty() => Ok(disclosure),
        faults => Err(sentence(faults)),
    }
}

/// Reads `[[cache]]`; the error is a sentence for the operator.
pub fn cache(text: &str) -> Result<Vec<CacheEntry>, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        cache: Vec<CacheEntry>,
    }
    let Document { cache } = read(text)?;
    match cache_settings::faults(&cache) {
        faults if faults.is_empty() => Ok(cache),
        faults => Err(sentence(faults)),
    }
}

fn read<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, String> {
    toml::from_str(text).map_err(|e| {
        let line = e
            .span()
            .and_then(|span| text.get(..span.start))
            .map_or(1, |before| 1 + before.matches('\n').count());
        format!("line {line}: {}", e.message())
    })
}

fn checked<T, N: std::fmt::Display>(
    section: &str,
    faults: Vec<(N, String)>,
    settings: T,
) -> Result<T, String> {
    if faults.is_empty() {
        return Ok(settings);
    }
    let named = |(setting, message): (N, String)| (format!("{section}.{setting}"), message);
    Err(sentence(faults.into_iter().map(named).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_tensor::Unknown;

    #[test]
    fn a_policy_reads_its_own_section_and_passes_over_the_others() {
        let text = "[server]\nx = 1\n[idempotency]\nttl_s = 600\n[usage]\nenabled = true\n[[limits]]\nname = \"a\"\n";
        assert_eq!(idempotency(text).map(|s| s.ttl_s), Ok(600));
        assert_eq!(usage(text).map(|s| s.enabled), Ok(true));
        assert_eq!(idempotency("").map(|s| s.ttl_s), Ok(86_400));
        assert_eq!(usage("").map(|s| s.enabled), Ok(false));
        let text = "[cors]\nallowed_origins = [\"*\"]\n[[disclosure]]\ntop = 3\n";
        assert_eq!(cors(text).map(|s| s.allowed_origins.len()), Ok(1));
        assert_eq!(disclosure(text).map(|d| d.len()), Ok(1));
        assert_eq!(cors("").map(|s| s.allowed_origins.len()), Ok(0));
        assert_eq!(disclosure(""), Ok(Vec::new()));
        let unknown = |text| validation(text).map(|settings| settings.unknown());
        assert_eq!(unknown(""), Ok(Unknown::Ignore));
        let refused = unknown("[validation]\nunknown_members = \"refuse\"\n");
        assert_eq!(refused, Ok(Unknown::Refuse));
        for text in ["unknown_members = \"maybe\"", "unknown_member = \"refuse\""] {
            let error = validation(&format!("[validation]\n{text}\n")).unwrap_err();
            assert!(error.starts_with("line 2: unknown "), "{error}");
        }
    }

    #[test]
    fn a_fault_is_named_with_its_place() {
        for (text, words) in [
            ("[idempotency]\nttl = 1\n", "line 2: unknown field `ttl`"),
            (
                "[idempotency]\nttl_s = 1\n",
                "`idempotency.ttl_s` must be 60",
            ),
            ("[idempotency]\nrequired = [\"x\"]\n", "names `x`"),
            ("nonsense", "line 1"),
        ] {
            let error = idempotency(text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_largest_body_is_what_is_allowed_and_what_there_is_memory_for() {
        for (text, limit) in [
            ("", 16 << 20),
            ("[server]\nmax_body_bytes = 1000\nmax_in_flight = 3\n", 1000),
            (
                "[server]\nmax_body_bytes = 1000\n[instances]\nmemory_bytes = 160\n",
                10,
            ),
            ("[instances]\nmemory_bytes = 0\n", 1),
        ] {
            assert_eq!(body_limit(text), Ok(limit), "{text}");
        }
        assert!(body_limit("[server]\nmax_body_bytes = \"x\"\n").is_err());
    }

    #[test]
    fn required_models_are_none_unless_they_are_named() {
        for (text, required) in [
            ("", vec![]),
            ("[models]\npoll_interval_ms = 50\n", vec![]),
            ("[models]\nrequired = [\"a\", \"*\"]\n", vec!["a", "*"]),
        ] {
            let read = required_models(text).unwrap();
            assert_eq!(read, required, "{text}");
        }
        assert!(required_models("[models]\nrequired = \"a\"\n").is_err());
    }

    #[test]
    fn faults_of_cors_and_disclosure_are_named_with_their_place() {
        let error = cors("[cors]\nallowed_origins = [\"x\"]\n").unwrap_err();
        assert!(error.contains("`cors.allowed_origins` has `x`"), "{error}");
        let error = cors("[cors]\norigins = []\n").unwrap_err();
        assert!(error.contains("line 2: unknown field"), "{error}");
        let error = disclosure("[[disclosure]]\ntop = 1\n[[disclosure]]\n").unwrap_err();
        assert!(
            error.contains("`disclosure[1].models` has no rule"),
            "{error}"
        );
        let error = disclosure("[[disclosure]]\nmodels = [\"a b\"]\n").unwrap_err();
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn a_cache_is_read_with_what_is_usual_and_its_faults_have_their_places() {
        use crate::cache::Scope;
        let read = cache("[server]\nx = 1\n[[cache]]\nmodel = \"cls\"\n").unwrap();
        let [entry] = read.as_slice() else {
            panic!("one entry")
        };
        assert_eq!(
            (entry.model.as_str(), entry.ttl_s, entry.max_bytes),
            ("cls", 60, 67_108_864)
        );
        assert_eq!(
            (entry.max_result_bytes, entry.scope),
            (65_536, Scope::Tenant)
        );
        let shared = "[[cache]]\nmodel = \"cls\"\nscope = \"shared\"\nlease_ms = 5000\n";
        assert_eq!(
            cache(shared).map(|c| (c[0].scope, c[0].lease_ms)),
            Ok((Scope::Shared, 5_000))
        );
        assert_eq!(cache(""), Ok(Vec::new()));
        for (text, words) in [
            ("[[cache]]\n", "`cache[0].model` must be the name"),
            ("[[cache]]\nmodel = \"a b\"\n", "not `a b`"),
            (
                "[[cache]]\nmodel = \"a\"\n[[cache]]\nmodel = \"a\"\n",
                "`cache[1].model` is `a`",
            ),
            (
                "[[cache]]\nmodel = \"a\"\nttl_s = 0\n",
                "`cache[0].ttl_s` must be 1 to 604800",
            ),
            (
                "[[cache]]\nmodel = \"a\"\nmax_bytes = 60000\n",
                "holds no result of 65536 bytes",
            ),
            (
                "[[cache]]\nmodel = \"a\"\nmax_result_bytes = 4194304\n",
                "must be 256 to 3145728",
            ),
            (
                "[[cache]]\nmodel = \"a\"\nlease_ms = 1\n",
                "must be 100 to 300000 ms",
            ),
            (
                "[[cache]]\nmodel = \"a\"\nttl = 1\n",
                "line 3: unknown field",
            ),
            ("[[cache]]\nmodel = \"a\"\nscope = \"all\"\n", "line 3"),
            ("[cache]\nmodel = \"a\"\n", "line 1"),
        ] {
            let error = cache(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
