//! Contains the gate's entry point, and the state that an instance keeps between requests.

use crate::connection::Connection;
use crate::cors::Cors;
use crate::describe::readiness::Required;
use crate::exchange::{Context, Exchange};
use crate::instance::Instance;
use crate::pipeline;
use crate::ports::Ports;
use crate::record::{Request, Response};
use penstock_core::metrics::note::HOST_COUNTS;
use penstock_core::{Problem, RequestId};

/// The environment variable with the host's token.
const HOST_TOKEN: &str = "PENSTOCK_HOST_TOKEN";
/// The environment variable by which a host requests the data for an audit log.
const HOST_AUDITS: &str = "PENSTOCK_AUDIT";

/// One instance of the gate, with its ports and the data that it has read through them.
pub struct Gate<P: Ports> {
    instance: Instance<P>,
    host: Option<Host>,
    cors: Cors,
}

/// The host's settings for the gate.
struct Host {
    /// The token that begins the host's headers; `None` if the host sends no such headers.
    token: Option<String>,
    /// Whether the host keeps an audit log.
    audits: bool,
    /// Whether the host counts requests.
    counts: bool,
}

impl Host {
    fn read<P: Ports>(ports: &P) -> Self {
        let token = ports.environment(HOST_TOKEN);
        let token = token.filter(|token| !token.is_empty());
        Self {
            audits: token.is_some() && ports.environment(HOST_AUDITS).is_some(),
            counts: token.is_some() && ports.environment(HOST_COUNTS).is_some(),
            token,
        }
    }
}

impl<P: Ports> Gate<P> {
    /// Creates a gate that has read nothing yet.
    pub fn new(ports: P) -> Self {
        Self {
            instance: Instance {
                ports,
                policies: None,
                catalogue: None,
                required: Required::default(),
            },
            host: None,
            cors: Cors::default(),
        }
    }

    /// Answers one request completely. Every path of the code ends in an answer.
    pub fn handle(&mut self, request: &Request) -> Response {
        let context = self.context(request);
        let ports = &self.instance.ports;
        let host = self.host.get_or_insert_with(|| Host::read(ports));
        let connection = Connection::of(request, host.token.as_deref());
        let mut exchange = Exchange::new(request, &context, &connection);
        let answered = pipeline::answer(&mut self.instance, &mut exchange, host.audits);
        let mut response = exchange.respond(answered);
        self.cors.add(&self.instance.ports, request, &mut response);
        if host.audits {
            exchange.trail.tell(&mut response);
        }
        // The host's own requests are not counted.
        if host.counts && connection.work.is_none() {
            exchange.trail.note(&mut response);
        }
        response
    }

    /// Answers a request that an entry point could not read completely, for example because its body ended early.
    pub fn refuse(&self, request: &Request, problem: &Problem) -> Response {
        let (context, connection) = (self.context(request), Connection::default());
        let exchange = Exchange::new(request, &context, &connection);
        let mut response = exchange.render(problem);
        response.push("x-request-id", context.request_id.as_str());
        self.cors.add(&self.instance.ports, request, &mut response);
        response
    }

    fn context(&self, request: &Request) -> Context {
        let ports = &self.instance.ports;
        let unix_ms = ports.unix_ms();
        let random = ports.random();
        let request_id = request
            .header("x-request-id")
            .and_then(RequestId::from_header)
            .unwrap_or_else(|| RequestId::generate(unix_ms, random));
        Context {
            request_id,
            random,
            unix_ms,
            started_ns: ports.monotonic_ns(),
        }
    }
}
