//! Defines the answers about the server: probes and metadata.

use crate::oip;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

/// The answer of a process that runs.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Health {
    #[schemars(extend("const" = OK))]
    status: &'static str,
}

const OK: &str = "ok";

impl Health {
    pub(crate) const OK: Self = Self { status: OK };
}

/// The public keys by which receivers check webhooks.
#[derive(Serialize, JsonSchema)]
pub(crate) struct WebhookKeys<'a> {
    keys: [WebhookKey<'a>; 1],
}

/// A public key of the signatures `v1a` of webhooks.
#[derive(Serialize, JsonSchema)]
pub(crate) struct WebhookKey<'a> {
    #[schemars(extend("const" = ED25519))]
    algorithm: &'static str,
    /// `whpk_`, and the key in base64.
    public_key: &'a str,
}

const ED25519: &str = "ed25519";

impl<'a> WebhookKeys<'a> {
    pub(crate) fn new(public_key: &'a str) -> Self {
        Self {
            keys: [WebhookKey {
                algorithm: ED25519,
                public_key,
            }],
        }
    }
}

/// The answer of a live server, in the Open Inference Protocol's form.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ServerLive {
    live: bool,
}

impl ServerLive {
    pub(crate) const LIVE: Self = Self { live: true };
}

/// The server's metadata in the Open Inference Protocol's form.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    /// The supported extensions of the protocol.
    extensions: &'static [&'static str],
}

impl ServerMetadata {
    pub(crate) const OURS: Self = Self {
        name: "penstock",
        version: env!("CARGO_PKG_VERSION"),
        extensions: &oip::EXTENSIONS,
    };
}

/// The state of the server. Callers that may see models also get the other members.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Status")]
pub(crate) struct Readiness<'a> {
    /// Whether the server accepts calls.
    pub(crate) ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) models: Option<Vec<ModelState>>,
    /// The reason why the server accepts no calls, if it is not a model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'a str>,
    /// The folders of the models directory that are not models.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) skipped: Vec<SkippedFolder>,
    /// Facts about the server, such as the expiry of its certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Map<String, Value>")]
    pub(crate) server: Option<&'a Value>,
}

/// The state of a version of a model, or of a required model that does not exist.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ModelState {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
    /// Whether the version can run now.
    pub(crate) ready: bool,
    /// Whether the server is ready only if this model is.
    pub(crate) required: bool,
    /// The reason why the version cannot run, or a remark about a version that can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// The comparison with another backend: `pending`, `agrees`, `differs`, or `unknown` if it could not be made. Absent
    /// if nothing is compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agreement: Option<String>,
}

/// A folder of the models directory that is not a model.
#[derive(Serialize, JsonSchema)]
pub(crate) struct SkippedFolder {
    pub(crate) folder: String,
    /// The reason why it is not a model, and the remedy.
    pub(crate) reason: String,
}

/// The answer of a model that can run now, in the Open Inference Protocol's form.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ModelReady<'a> {
    pub(crate) name: &'a str,
    pub(crate) ready: bool,
}
