//! `[webhooks]` in `penstock.toml`, and the decision whether an operation gets a webhook.

use super::delivery::EventKind;
use super::target::{HEADER, Target, Url, allowed};
use serde::Deserialize;

/// The most tenants with webhooks. The list is searched for each call that is accepted.
const MAX_TENANTS: usize = 1_000;
/// The most hosts that an operator may allow.
const MAX_ALLOWED: usize = 100;

/// The receivers of the ends of operations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhooksSettings {
    /// Hosts that webhooks may reach although their addresses are private, and without encryption: `host` or `host:port`.
    pub allow_hosts: Vec<String>,
    /// A PEM file with certificate authorities to trust beside those of the machine.
    pub ca_file: Option<String>,
    /// Entries `[[webhooks.tenants]]`: the webhooks that each tenant may use.
    pub tenants: Vec<TenantWebhooks>,
}

/// The webhooks of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantWebhooks {
    /// The name of the tenant.
    pub tenant: String,
    /// The URL that is told of all operations of the tenant; `None` if only calls name URLs.
    pub url: Option<String>,
    /// Whether calls may name a URL of their own.
    pub per_call: bool,
    /// The events that are sent; empty for all.
    pub events: Vec<EventKind>,
    /// A file with one secret, or two while they are changed, one in a line.
    pub secrets_file: String,
}

impl Default for TenantWebhooks {
    fn default() -> Self {
        Self {
            tenant: String::new(),
            url: None,
            per_call: true,
            events: Vec::new(),
            secrets_file: String::new(),
        }
    }
}

impl WebhooksSettings {
    /// Returns whether any tenant has webhooks.
    pub fn is_on(&self) -> bool {
        !self.tenants.is_empty()
    }

    /// The webhooks of a tenant.
    pub fn tenant(&self, tenant: &str) -> Option<&TenantWebhooks> {
        self.tenants.iter().find(|of| of.tenant == tenant)
    }

    /// Decides whether the end of a tenant's operation is announced, and where. `asked` is the URL that the call named. The error
    /// is a sentence for the caller.
    pub fn decide(&self, tenant: &str, asked: Option<&str>) -> Result<Option<Target>, String> {
        let of_tenant = self.tenant(tenant);
        let Some(asked) = asked else {
            let has_url = of_tenant.is_some_and(|of_tenant| of_tenant.url.is_some());
            return Ok(has_url.then(|| Target {
                tenant: tenant.to_owned(),
                url: None,
            }));
        };
        let Some(of_tenant) = of_tenant else {
            return Err(format!(
                "your tenant has no secret to sign webhooks with; leave the header `{HEADER}` out, or ask the operator for one \
                 ([[webhooks.tenants]])"
            ));
        };
        if !of_tenant.per_call {
            return Err(format!(
                "calls of your tenant may not name a webhook; leave the header `{HEADER}` out, or ask the operator \
                 ([[webhooks.tenants]] `per_call`)"
            ));
        }
        match Url::parse(asked, &self.allow_hosts) {
            Ok(_) => Ok(Some(Target {
                tenant: tenant.to_owned(),
                url: Some(asked.to_owned()),
            })),
            Err(wrong) => Err(format!("the URL in the header `{HEADER}` {wrong}")),
        }
    }

    /// All faults of the settings, each with its remedy.
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        if self.tenants.len() > MAX_TENANTS {
            let message = format!("must be at most {MAX_TENANTS} tables");
            faults.push(("tenants".to_owned(), message));
        }
        if self.allow_hosts.len() > MAX_ALLOWED {
            let message = format!("must be at most {MAX_ALLOWED} hosts");
            faults.push(("allow_hosts".to_owned(), message));
        }
        for (at, entry) in self.allow_hosts.iter().enumerate() {
            if let Err(wrong) = allowed(entry) {
                let message = format!("must be a host or `host:port`, but `{entry}` {wrong}");
                faults.push((format!("allow_hosts[{at}]"), message));
            }
        }
        for (at, of) in self.tenants.iter().enumerate() {
            let mut fault = |setting: &str, message: &str| {
                faults.push((format!("tenants[{at}].{setting}"), message.to_owned()));
            };
            if of.tenant.is_empty() {
                fault("tenant", "must name a tenant");
            }
            if self.tenants[..at].iter().any(|o| o.tenant == of.tenant) {
                fault("tenant", "must not repeat a tenant; each has one table");
            }
            if of.secrets_file.is_empty() {
                fault(
                    "secrets_file",
                    "must name a file with a secret: `whsec_` and 24 to 64 bytes in base64",
                );
            }
            if let Some(url) = &of.url
                && let Err(wrong) = Url::parse(url, &self.allow_hosts)
            {
                fault("url", &wrong);
            }
            if of.url.is_none() && !of.per_call {
                fault("url", "must be there if calls may not name one");
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let settings: WebhooksSettings = toml::from_str(text).unwrap();
        let faults = settings.faults().into_iter();
        faults
            .map(|(at, message)| format!("{at}: {message}"))
            .collect()
    }

    #[test]
    fn settings_are_read_and_wrong_ones_are_named() {
        let right = r#"
            allow_hosts = ["hooks.internal:8080"]
            [[tenants]]
            tenant = "a"
            url = "http://hooks.internal:8080/x"
            events = ["operation.failed"]
            secrets_file = "a.secret"
            [[tenants]]
            tenant = "b"
            secrets_file = "b.secret"
        "#;
        assert_eq!(faults(right), Vec::<String>::new());
        assert_eq!(faults(""), Vec::<String>::new());
        let wrong = faults(
            r#"
            [[tenants]]
            url = "http://a"
            [[tenants]]
            per_call = false
            secrets_file = "x"
        "#,
        );
        for part in [
            "tenants[0].tenant: must name",
            "tenants[0].secrets_file: must name a file",
            "tenants[0].url: must begin with https://",
            "tenants[1].tenant: must not repeat",
            "tenants[1].url: must be there",
        ] {
            assert!(wrong.iter().any(|fault| fault.starts_with(part)), "{part}");
        }
        for text in [
            "tenant = 1",
            "[[tenants]]\nevents = [\"operation.started\"]",
        ] {
            assert!(toml::from_str::<WebhooksSettings>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_operation_is_announced_to_its_calls_url_or_its_tenants() {
        let settings = WebhooksSettings {
            tenants: vec![
                TenantWebhooks {
                    tenant: "a".to_owned(),
                    url: Some("https://a.example".to_owned()),
                    ..TenantWebhooks::default()
                },
                TenantWebhooks {
                    tenant: "b".to_owned(),
                    per_call: false,
                    ..TenantWebhooks::default()
                },
            ],
            ..WebhooksSettings::default()
        };
        let decide = |tenant, asked| {
            let decided = settings.decide(tenant, asked);
            decided.map(|target| target.map(|target| target.url))
        };
        let url = "https://b.example/x";
        assert_eq!(decide("a", None), Ok(Some(None)));
        assert_eq!(decide("a", Some(url)), Ok(Some(Some(url.to_owned()))));
        assert_eq!(decide("b", None), Ok(None));
        assert!(decide("b", Some(url)).unwrap_err().contains("`per_call`"));
        assert_eq!(decide("c", None), Ok(None));
        assert!(decide("c", Some(url)).unwrap_err().contains("no secret"));
        let refused = decide("a", Some("https://127.0.0.1")).unwrap_err();
        assert!(refused.starts_with("the URL in the header `webhook-url` leads to"));
    }
}
