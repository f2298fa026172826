//! Decides the action of an administrator's request, and its answer. The command line performs the same [`Action`]s,
//! over HTTP or, if no server runs, directly on the store.

use super::fields::{Body, Query, RETRY_AFTER_S, problem};
use super::store::StoreKv;
use penstock_core::{Code, Kv, Problem};
use penstock_policy::auth::api_key::{self, Pepper};
use penstock_policy::auth::record::TenantRecord;
use penstock_policy::auth::registry::{
    self, CreatedKey, ListedKey, NewKey, NewTenant, PageToken, RegistryError,
};
use penstock_policy::auth::settings::is_name;
use rand::RngCore;
use serde_json::{Value, json};

/// The prefix of all paths.
pub(super) const BASE: &str = "/admin/v1/";

/// An action of an administrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Creates a tenant: `POST /admin/v1/tenants`.
    CreateTenant(NewTenant),
    /// Lists tenants by pages: `GET /admin/v1/tenants`.
    ListTenants {
        /// The page to continue with.
        page: Option<PageToken>,
    },
    /// Shows one tenant: `GET /admin/v1/tenants/{tenant}`.
    ShowTenant(String),
    /// Disables or enables a tenant: `POST /admin/v1/tenants/{tenant}:disable`, or `:enable`.
    SetTenant {
        /// The name of the tenant.
        tenant: String,
        /// Whether its callers are admitted.
        enabled: bool,
    },
    /// Creates a key: `POST /admin/v1/keys`.
    CreateKey(NewKey),
    /// Lists keys by pages: `GET /admin/v1/keys`.
    ListKeys {
        /// The tenant of the keys, or `None` for all.
        tenant: Option<String>,
        /// The page to continue with.
        page: Option<PageToken>,
    },
    /// Shows one key: `GET /admin/v1/keys/{id}`.
    ShowKey(String),
    /// Replaces a key: `POST /admin/v1/keys/{id}:rotate`.
    RotateKey {
        /// The id of the key that is replaced.
        id: String,
        /// Seconds for which it stays valid beside its successor.
        overlap_s: u64,
    },
    /// Revokes a key for good: `POST /admin/v1/keys/{id}:revoke`.
    RevokeKey(String),
}

/// An action that was carried out.
pub struct Done {
    /// The HTTP status of the answer.
    pub status: u16,
    /// The body of the answer, as JSON.
    pub body: Value,
    /// A description of the action for the log, without secrets.
    pub said: String,
}

/// The resource that a path names.
enum Resource<'p> {
    Tenants,
    Tenant(&'p str, Option<&'p str>),
    Keys,
    Key(&'p str, Option<&'p str>),
}

fn resource(path: &str) -> Option<Resource<'_>> {
    let path = path.strip_prefix(BASE)?;
    let (collection, rest) = match path.split_once('/') {
        Some((collection, rest)) => (collection, Some(rest)),
        None => (path, None),
    };
    let split = |rest: &'_ str| -> (usize, bool) {
        rest.find(':').map_or((rest.len(), false), |at| (at, true))
    };
    let parts = rest.map(|rest| {
        let (end, verb) = split(rest);
        (&rest[..end], verb.then(|| &rest[end + 1..]))
    });
    match (collection, parts) {
        ("tenants", None) => Some(Resource::Tenants),
        ("tenants", Some((tenant, verb))) => Some(Resource::Tenant(tenant, verb)),
        ("keys", None) => Some(Resource::Keys),
        ("keys", Some((id, verb))) => Some(Resource::Key(id, verb)),
        _ => None,
    }
}

impl Action {
    /// Reads the action of a request.
    ///
    /// # Errors
    ///
    /// All faults of the request.
    pub fn of(
        method: &str,
        path: &str,
        query: Option<&str>,
        body: &[u8],
        now_ms: u64,
    ) -> Result<Self, Problem> {
        let unknown = || {
            let message = "the admin API has no such path; docs/KEYS.md lists them";
            Err(Problem::new(Code::UnknownPath, message))
        };
        let Some(resource) = resource(path) else {
            return unknown();
        };
        let allowed = |allow: &'static str| {
            let message = format!("{method} is not allowed for this path; use {allow}");
            Err(Problem::new(Code::MethodNotAllowed, message).with_allow(allow))
        };
        match (resource, method) {
            (Resource::Tenants, "GET") => {
                let mut query = Query::of(query, &["page_token"])?;
                let page = query.page()?;
                Ok(Self::ListTenants { page })
            }
            (Resource::Tenants, "POST") => {
                let mut body = Body::of(body)?;
                let new = NewTenant {
                    tenant: body.text("tenant", true),
                    description: body.text("description", false),
                };
                body.end(new.faults())?;
                Ok(Self::CreateTenant(new))
            }
            (Resource::Tenants, _) => allowed("GET, POST"),
            (Resource::Tenant(tenant, None), "GET") => {
                Query::of(query, &[])?;
                Ok(Self::ShowTenant(tenant.to_owned()))
            }
            (Resource::Tenant(_, None), _) => allowed("GET"),
            (Resource::Tenant(tenant, Some(verb @ ("enable" | "disable"))), "POST") => {
                Body::of(body)?.end(Vec::new())?;
                Ok(Self::SetTenant {
                    tenant: tenant.to_owned(),
                    enabled: verb == "enable",
                })
            }
            (Resource::Tenant(_, Some("enable" | "disable")), _) => allowed("POST"),
            (Resource::Tenant(_, Some(_)), _) => unknown(),
            (Resource::Keys, "GET") => {
                let mut query = Query::of(query, &["tenant", "page_token"])?;
                Ok(Self::ListKeys {
                    tenant: query.tenant()?,
                    page: query.page()?,
                })
            }
            (Resource::Keys, "POST") => {
                let mut body = Body::of(body)?;
                let new = NewKey {
                    tenant: body.text("tenant", true),
                    tier: body.text("tier", true),
                    scopes: body.scopes("scopes"),
                    name: body.text("name", false),
                    expires_ms: body.number("expires_ms"),
                    signs: body.flag("signs"),
                };
                body.end(new.faults(now_ms))?;
                Ok(Self::CreateKey(new))
            }
            (Resource::Keys, _) => allowed("GET, POST"),
            (Resource::Key(id, None), "GET") => {
                Query::of(query, &[])?;
                Ok(Self::ShowKey(id.to_owned()))
            }
            (Resource::Key(_, None), _) => allowed("GET"),
            (Resource::Key(id, Some("rotate")), "POST") => {
                let mut body = Body::of(body)?;
                body.must("overlap_s");
                let overlap_s = body.number("overlap_s").unwrap_or(0);
                body.end(Vec::new())?;
                Ok(Self::RotateKey {
                    id: id.to_owned(),
                    overlap_s,
                })
            }
            (Resource::Key(id, Some("revoke")), "POST") => {
                Body::of(body)?.end(Vec::new())?;
                Ok(Self::RevokeKey(id.to_owned()))
            }
            (Resource::Key(_, Some("rotate" | "revoke")), _) => allowed("POST"),
            (Resource::Key(_, Some(_)), _) => unknown(),
        }
    }

    /// Returns the method, path with query, and body of the action's request.
    pub fn request(&self) -> (&'static str, String, Option<Value>) {
        let get = |path: String| ("GET", format!("{BASE}{path}"), None);
        let post = |path: String, body: Value| ("POST", format!("{BASE}{path}"), Some(body));
        let listing = |collection: &str, tenant: &Option<String>, page: &Option<PageToken>| {
            let tenant = tenant.as_ref().map(|tenant| format!("tenant={tenant}"));
            let page = page.map(|page| format!("page_token={page}"));
            let query: Vec<String> = tenant.into_iter().chain(page).collect();
            match query.is_empty() {
                true => collection.to_owned(),
                false => format!("{collection}?{}", query.join("&")),
            }
        };
        match self {
            Self::CreateTenant(NewTenant {
                tenant,
                description,
            }) => post(
                "tenants".to_owned(),
                json!({ "tenant": tenant, "description": description }),
            ),
            Self::ListTenants { page } => get(listing("tenants", &None, page)),
            Self::ShowTenant(tenant) => get(format!("tenants/{tenant}")),
            Self::SetTenant { tenant, enabled } => {
                let verb = if *enabled { "enable" } else { "disable" };
                post(format!("tenants/{tenant}:{verb}"), json!({}))
            }
            Self::CreateKey(new) => {
                let mut body = json!({
                    "tenant": new.tenant, "tier": new.tier, "scopes": new.scopes, "name": new.name, "signs": new.signs,
                });
                if let Some(expires_ms) = new.expires_ms {
                    body["expires_ms"] = json!(expires_ms);
                }
                post("keys".to_owned(), body)
            }
            Self::ListKeys { tenant, page } => get(listing("keys", tenant, page)),
            Self::ShowKey(id) => get(format!("keys/{id}")),
            Self::RotateKey { id, overlap_s } => post(
                format!("keys/{id}:rotate"),
                json!({ "overlap_s": overlap_s }),
            ),
            Self::RevokeKey(id) => post(format!("keys/{id}:revoke"), json!({})),
        }
    }

    /// Performs the action, and waits until the data behind the answer are durable.
    ///
    /// # Errors
    ///
    /// The reason why it was not done, or may not be durable.
    pub async fn perform(
        self,
        kv: &StoreKv,
        pepper: &Pepper,
        now_ms: u64,
    ) -> Result<Done, Problem> {
        let done = self.act(kv, pepper, now_ms).await;
        let settled = kv.settled().await.map_err(|error| {
            let message = format!("the operation may not be durable: {error}");
            Problem::new(Code::StoreUnavailable, message).retry_after(RETRY_AFTER_S)
        });
        let done = done.map_err(problem)?;
        settled?;
        Ok(done)
    }

    async fn act<K: Kv>(self, kv: &K, pepper: &Pepper, now_ms: u64) -> Result<Done, RegistryError> {
        let random = |bytes: &mut [u8]| rand::rng().fill_bytes(bytes);
        let ok = |body: Value, said: String| Done {
            status: 200,
            body,
            said,
        };
        Ok(match self {
            Self::CreateTenant(new) => {
                let record = registry::create_tenant(kv, &new, now_ms).await?;
                Done {
                    status: 201,
                    body: tenant_json(&record),
                    said: format!("created the tenant {}", record.tenant),
                }
            }
            Self::ListTenants { page } => {
                let page = registry::list_tenants(kv, page).await?;
                let tenants: Vec<Value> = page.entries.iter().map(tenant_json).collect();
                let said = format!("listed {} tenants", tenants.len());
                ok(listed("tenants", tenants, page.next), said)
            }
            Self::ShowTenant(tenant) => {
                let record = registry::show_tenant(kv, &tenant).await?;
                ok(
                    tenant_json(&record),
                    format!("showed the tenant {}", record.tenant),
                )
            }
            Self::SetTenant { tenant, enabled } => {
                let record = registry::set_tenant(kv, &tenant, enabled, now_ms).await?;
                let done = if enabled { "enabled" } else { "disabled" };
                ok(
                    tenant_json(&record),
                    format!("{done} the tenant {}", record.tenant),
                )
            }
            Self::CreateKey(new) => {
                let made = registry::create_key(kv, pepper, &new, now_ms, random).await?;
                let said = format!(
                    "created the API key {} of the tenant {}",
                    made.record.id, made.record.tenant
                );
                Done {
                    status: 201,
                    body: made_json(made, now_ms),
                    said,
                }
            }
            Self::ListKeys { tenant, page } => {
                let page = registry::list_keys(kv, tenant.as_deref(), page).await?;
                let keys: Vec<Value> = page
                    .entries
                    .iter()
                    .map(|key| key_json(key, now_ms))
                    .collect();
                let said = format!("listed {} API keys", keys.len());
                ok(listed("keys", keys, page.next), said)
            }
            Self::ShowKey(id) => {
                let key = registry::show_key(kv, &id).await?;
                let said = format!("showed the API key {}", key.record.id);
                ok(key_json(&key, now_ms), said)
            }
            Self::RotateKey { id, overlap_s } => {
                let overlap_ms = overlap_s.saturating_mul(1_000);
                let (made, old) =
                    registry::rotate_key(kv, pepper, &id, overlap_ms, now_ms, random).await?;
                let said = format!(
                    "rotated the API key {} to {}; the old key stays valid for {overlap_s} s",
                    old.record.id, made.record.id
                );
                let mut body = made_json(made, now_ms);
                body["rotated"] = key_json(&old, now_ms);
                ok(body, said)
            }
            Self::RevokeKey(id) => {
                let key = registry::revoke_key(kv, &id, now_ms).await?;
                let said = format!("revoked the API key {}", key.record.id);
                ok(key_json(&key, now_ms), said)
            }
        })
    }
}

fn listed(name: &str, entries: Vec<Value>, next: Option<PageToken>) -> Value {
    let mut body = json!({ name: entries });
    if let Some(next) = next {
        body["next_page_token"] = json!(next.to_string());
    }
    body
}

/// Returns a new key as JSON, with its secrets.
pub fn made_json(made: CreatedKey, now_ms: u64) -> Value {
    let mut body = json!({ "api_key": made.api_key });
    if let Some(secret) = made.signing_secret {
        body["signing_secret"] = json!(secret);
    }
    let shown = ListedKey {
        record: made.record,
        revoked_ms: None,
        last_used_ms: None,
    };
    body["key"] = key_json(&shown, now_ms);
    body
}

fn key_json(key: &ListedKey, now_ms: u64) -> Value {
    let ListedKey {
        record,
        revoked_ms,
        last_used_ms,
    } = key;
    let mut body = json!({
        "id": record.id, "tenant": record.tenant, "tier": record.tier, "scopes": record.scopes, "name": record.name,
        "signs": record.signs, "state": key.state(now_ms).as_str(), "created_ms": record.created_ms,
    });
    let times = [
        ("expires_ms", record.expires_ms),
        ("revoked_ms", *revoked_ms),
        ("last_used_ms", *last_used_ms),
    ];
    for (name, time) in times {
        if let Some(time) = time {
            body[name] = json!(time);
        }
    }
    let others = [
        ("rotated_from", &record.rotated_from),
        ("rotated_to", &record.rotated_to),
    ];
    for (name, id) in others {
        if let Some(id) = id {
            body[name] = json!(id);
        }
    }
    body
}

fn tenant_json(record: &TenantRecord) -> Value {
    let mut body = json!({
        "tenant": record.tenant, "description": record.description, "created_ms": record.created_ms,
        "state": if record.disabled_ms.is_some() { "disabled" } else { "enabled" },
    });
    if let Some(disabled_ms) = record.disabled_ms {
        body["disabled_ms"] = json!(disabled_ms);
    }
    body
}

/// Returns whether a text may be part of the path of a request for a key or tenant. Check it before the request is sent.
pub fn is_id_or_name(text: &str) -> bool {
    api_key::is_id(text) || is_name(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_back::{NOW_MS, assert_read_back, assert_refused, read};
    use penstock_policy::auth::scopes::Scope;

    fn of(method: &str, target: &str, body: &str) -> Result<Action, Problem> {
        read(Action::of, method, target, body)
    }

    #[test]
    fn the_server_reads_the_requests_of_the_command_line() {
        let page = PageToken::parse("3.17");
        let scope = |text: &str| Scope::try_from(text.to_owned()).unwrap();
        for action in [
            Action::CreateTenant(NewTenant {
                tenant: "acme".into(),
                description: "a \"customer\"".into(),
            }),
            Action::ListTenants { page: None },
            Action::ListTenants { page },
            Action::ShowTenant("a.b".into()),
            Action::SetTenant {
                tenant: "a".into(),
                enabled: true,
            },
            Action::SetTenant {
                tenant: "a".into(),
                enabled: false,
            },
            Action::CreateKey(NewKey {
                tenant: "acme".into(),
                tier: "free".into(),
                scopes: vec![scope("predict:magika"), scope("*")],
                name: "n".into(),
                expires_ms: Some(NOW_MS + 1),
                signs: true,
            }),
            Action::ListKeys {
                tenant: Some("acme".into()),
                page,
            },
            Action::ListKeys {
                tenant: None,
                page: None,
            },
            Action::ShowKey("7Kx0aQ2mBv9Z".into()),
            Action::RotateKey {
                id: "7Kx0aQ2mBv9Z".into(),
                overlap_s: 5,
            },
            Action::RevokeKey("7Kx0aQ2mBv9Z".into()),
        ] {
            let request = action.request();
            assert_read_back(Action::of, action, request);
        }
    }

    #[test]
    fn every_fault_of_a_body_is_named_with_its_place() {
        let body = r#"{"tenant": 1, "tier": "a b", "scopes": ["predict", 7, "nope"], "expires_ms": 5, "sings": true,
            "name": "a", "name": "b"}"#;
        let problem = of("POST", "/admin/v1/keys", body).unwrap_err();
        assert_eq!(problem.code, Code::InvalidBody);
        let mut places: Vec<&str> = problem
            .violations
            .iter()
            .map(|v| v.pointer.as_str())
            .collect();
        places.sort_unstable();
        assert_eq!(
            places,
            [
                "/expires_ms",
                "/name",
                "/scopes/1",
                "/scopes/2",
                "/sings",
                "/tenant",
                "/tier"
            ]
        );
        let problem = of("POST", "/admin/v1/keys", "").unwrap_err();
        assert_eq!(problem.violations.len(), 3, "{problem:?}");
        let many: String = (0..50).map(|n| format!("\"m{n}\":0,")).collect();
        let body = format!("{{{}\"tenant\":\"a\"}}", many);
        let problem = of("POST", "/admin/v1/tenants", &body).unwrap_err();
        assert_eq!(
            (problem.violations.len(), problem.violations_omitted),
            (32, 18)
        );
    }

    #[test]
    fn a_request_with_a_fault_is_refused_with_its_code() {
        for (method, target, body, code) in [
            ("GET", "/", "", Code::UnknownPath),
            ("GET", "/admin/v1", "", Code::UnknownPath),
            ("GET", "/admin/v1/models", "", Code::UnknownPath),
            ("POST", "/admin/v1/keys/a:b", "", Code::UnknownPath),
            (
                "POST",
                "/admin/v1/keys/a:revoke:revoke",
                "",
                Code::UnknownPath,
            ),
            ("DELETE", "/admin/v1/keys", "", Code::MethodNotAllowed),
            ("GET", "/admin/v1/keys/a:revoke", "", Code::MethodNotAllowed),
            ("DELETE", "/admin/v1/keys/a", "", Code::MethodNotAllowed),
            (
                "GET",
                "/admin/v1/keys?tenants=a",
                "",
                Code::InvalidParameter,
            ),
            (
                "GET",
                "/admin/v1/keys?tenant=a&tenant=a",
                "",
                Code::InvalidParameter,
            ),
            (
                "GET",
                "/admin/v1/keys?tenant=%41",
                "",
                Code::InvalidParameter,
            ),
            (
                "GET",
                "/admin/v1/tenants?page_token=x",
                "",
                Code::InvalidParameter,
            ),
            ("GET", "/admin/v1/tenants/a?x=1", "", Code::InvalidParameter),
            ("POST", "/admin/v1/tenants", "{", Code::MalformedJson),
            ("POST", "/admin/v1/tenants", "{} {}", Code::MalformedJson),
            ("POST", "/admin/v1/tenants", "[]", Code::InvalidBody),
            ("POST", "/admin/v1/tenants", "null", Code::InvalidBody),
            (
                "POST",
                "/admin/v1/tenants/a:enable",
                "{\"x\":1}",
                Code::InvalidBody,
            ),
            ("POST", "/admin/v1/keys/a:rotate", "{}", Code::InvalidBody),
            (
                "POST",
                "/admin/v1/keys/a:rotate",
                "{\"overlap_s\":-1}",
                Code::InvalidBody,
            ),
            (
                "POST",
                "/admin/v1/keys/a:rotate",
                "{\"overlap_s\":1.5}",
                Code::InvalidBody,
            ),
        ] {
            assert_refused(Action::of, method, target, body, code);
        }
        let deep = format!("{{\"tenant\":{}", "[".repeat(100_000));
        let refused = of("POST", "/admin/v1/tenants", &deep).unwrap_err();
        assert_eq!(refused.code, Code::MalformedJson);
    }
}
