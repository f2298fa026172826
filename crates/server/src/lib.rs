//! The HTTP server: it accepts connections and requests, bounds their time, and words its refusals. An accepted request
//! goes through an [`EntryPoint`].
//!
//! Every refusal here is from the same catalogue as the gate's, in the style that the caller asked for.
//!
//! * `accept`, `connection`: which connections are served, and until when; `drain`: how the server stops;
//! * [`tls`]: the certificate; [`proxies`]: the client's address behind proxies; [`audit`]: the audit log;
//! * `http1`, `http2`: one connection; `rest`, `framing`, `frames`, `activity`: its activity; `io`: its bytes;
//! * `admission`, `upload`, `respond`: one request: its head, its body, its answer;
//! * `grpc`, `grpc_head`, `grpc_messages`, `grpc_answer`: the same over gRPC;
//! * [`work`], `workers`, `events`: the queue of operations; their runs, and clients that wait for them; their event streams;
//! * `metered`, `scrape`: the counters of requests, and their text;
//! * `state`: the limits and their present use; [`settings`]: the operator's settings.

mod accept;
mod activity;
mod addresses;
mod admission;
pub mod audit;
mod body;
mod caller;
mod clock;
mod connection;
mod drain;
mod entry_point;
mod events;
mod frames;
mod framing;
mod grpc;
mod grpc_answer;
mod grpc_head;
mod grpc_messages;
mod headers;
mod http1;
mod http2;
mod io;
mod metered;
mod outbound;
pub mod proxies;
mod request_info;
mod respond;
mod rest;
mod scrape;
pub mod settings;
mod state;
pub mod tls;
mod upload;
mod wait;
pub mod work;
mod workers;

pub use clock::unix_ms;
pub use entry_point::EntryPoint;
pub use state::{NotReady, Server, ServerOptions};
pub use work::{Ends, EndsReceiver, WorkSettings};
