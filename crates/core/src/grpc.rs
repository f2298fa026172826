//! The framing and the statuses of gRPC: the status of each error, the bounds of messages in a body, and the timeout of a
//! caller. The server frames and unframes messages; the gate interprets them.
//!
//! The format is gRPC's "over HTTP/2" specification. One byte before each message says whether it is compressed, and four
//! bytes give its length. The status is in the trailers.

use crate::problem::Code;
use std::fmt;
use std::time::Duration;

/// The content type of calls, and the prefix of the content types of other codecs.
pub const CONTENT_TYPE: &str = "application/grpc";

/// The header or trailer with a call's status.
pub const STATUS: &str = "grpc-status";
/// The header or trailer with the message, percent-encoded.
pub const MESSAGE: &str = "grpc-message";
/// The header or trailer with a `google.rpc.Status` in base64.
pub const DETAILS: &str = "grpc-status-details-bin";
/// The header or trailer with the milliseconds after which a retry can pass, from gRPC's retry design.
pub const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// A status code of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum GrpcStatus {
    /// The call succeeded; there is no error.
    Ok = 0,
    /// The caller cancelled the call.
    Cancelled = 1,
    /// The cause of the error is unknown.
    Unknown = 2,
    /// The request is not valid, independent of the state of the server.
    InvalidArgument = 3,
    /// The deadline of the call passed.
    DeadlineExceeded = 4,
    /// The named object does not exist.
    NotFound = 5,
    /// The object to be created exists already.
    AlreadyExists = 6,
    /// The caller has no right to this call.
    PermissionDenied = 7,
    /// A limit is used up.
    ResourceExhausted = 8,
    /// The current state does not allow the call.
    FailedPrecondition = 9,
    /// It collided with another call.
    Aborted = 10,
    /// A position is out of range.
    OutOfRange = 11,
    /// The method does not exist.
    Unimplemented = 12,
    /// The server failed internally, by no fault of the caller.
    Internal = 13,
    /// The service is unavailable now; a retry may succeed.
    Unavailable = 14,
    /// Data was lost or corrupted, and cannot be restored.
    DataLoss = 15,
    /// The request has no valid credential.
    Unauthenticated = 16,
}

impl GrpcStatus {
    /// All of them, by number.
    pub const ALL: [GrpcStatus; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The number of the status in `grpc-status`.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The name in the specification.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Cancelled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }

    /// The corresponding HTTP status, for logs and metrics.
    pub const fn to_http(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::Cancelled => 499,
            Self::InvalidArgument | Self::FailedPrecondition | Self::OutOfRange => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Aborted => 409,
            Self::ResourceExhausted => 429,
            Self::Unknown | Self::Internal | Self::DataLoss => 500,
            Self::Unimplemented => 501,
            Self::Unavailable => 503,
            Self::DeadlineExceeded => 504,
        }
    }

    /// The gRPC status for an HTTP status without `grpc-status`, by the mapping of the specification.
    pub const fn of_http(status: u16) -> Self {
        match status {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502..=504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for GrpcStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Code {
    /// The gRPC status of the error. No error of this server is OUT_OF_RANGE, which tells a client to stop at the end of a
    /// list, nor CANCELLED, UNKNOWN or DATA_LOSS.
    pub const fn grpc_status(self) -> GrpcStatus {
        use GrpcStatus as G;
        match self {
            Code::MalformedRequest
            | Code::MalformedJson
            | Code::MalformedProtobuf
            | Code::InvalidBody
            | Code::ContextLengthExceeded
            | Code::IncompleteBody
            | Code::InvalidContentCoding
            | Code::IdempotencyKeyMissing
            | Code::IdempotencyKeyInvalid
            | Code::WebhookRefused
            | Code::InvalidParameter
            | Code::TargetTooLong
            | Code::InvalidInputs
            | Code::ModelRejectedInputs => G::InvalidArgument,
            Code::CredentialsMissing
            | Code::CredentialsMalformed
            | Code::CredentialsAmbiguous
            | Code::CredentialsInvalid
            | Code::CredentialsExpired
            | Code::CredentialsRevoked
            | Code::SignatureReplayed => G::Unauthenticated,
            Code::PermissionDenied | Code::TenantDisabled => G::PermissionDenied,
            Code::UnknownModel
            | Code::UnknownVersion
            | Code::UnknownOperation
            | Code::UnknownFile
            | Code::UnknownBatch
            | Code::VersionGone
            | Code::UnknownResource => G::NotFound,
            // In gRPC a path is a method.
            Code::UnknownPath
            | Code::MethodNotAllowed
            | Code::NotAcceptable
            | Code::UnsupportedMediaType
            | Code::NotSupported => G::Unimplemented,
            Code::RequestTimeout | Code::DeadlineExceeded => G::DeadlineExceeded,
            Code::IdempotencyInFlight => G::Aborted,
            Code::AlreadyExists => G::AlreadyExists,
            Code::FailedPrecondition
            | Code::IdempotencyKeyExhausted
            | Code::IdempotencyKeyReused
            | Code::ReplayUnavailable
            | Code::NotCached => G::FailedPrecondition,
            Code::BodyTooLarge | Code::QuotaExceeded | Code::HeadersTooLarge => {
                G::ResourceExhausted
            }
            Code::Internal | Code::InferenceFailed | Code::ModelContractBroken => G::Internal,
            Code::ModelNotReady | Code::Overloaded | Code::StoreUnavailable => G::Unavailable,
        }
    }
}

/// The longest message of an error, in bytes. With its escapes it must fit the headers that clients accept, 8 KiB by default.
pub const MAX_MESSAGE_BYTES: usize = 1024;

/// Encodes a message for `grpc-message`: visible ASCII and spaces unchanged, everything else and `%` as `%XX` of its UTF-8.
/// Cuts it at [`MAX_MESSAGE_BYTES`].
pub fn encode_message(message: &str) -> String {
    let end = message.floor_char_boundary(MAX_MESSAGE_BYTES);
    let cut = message.get(..end).unwrap_or_default();
    let mut encoded = String::with_capacity(cut.len());
    for byte in cut.bytes() {
        match byte {
            b'%' | ..0x20 | 0x7f.. => encoded.push_str(&format!("%{byte:02X}")),
            _ => encoded.push(char::from(byte)),
        }
    }
    encoded
}

/// The codec of a gRPC content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Protobuf, the only supported one.
    Protobuf,
    /// Another codec, or gRPC-Web, which has another framing.
    Other,
}

/// The codec of a content type; `None` if it is not gRPC.
pub fn codec(content_type: &[u8]) -> Option<Codec> {
    let essence = content_type
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii();
    // Every request is asked, so nothing is allocated.
    let (start, rest) = essence.split_at_checked(CONTENT_TYPE.len())?;
    match rest {
        _ if !start.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes()) => None,
        b"" => Some(Codec::Protobuf),
        _ if rest.eq_ignore_ascii_case(b"+proto") => Some(Codec::Protobuf),
        [b'+' | b'-', ..] => Some(Codec::Other),
        _ => None,
    }
}

/// The most digits of a `grpc-timeout`.
const MAX_TIMEOUT_DIGITS: usize = 8;

/// Parses a `grpc-timeout`: up to eight digits and a unit. `None` for another form.
pub fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty()
        || digits.len() > MAX_TIMEOUT_DIGITS
        || !digits.iter().all(u8::is_ascii_digit)
    {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3_600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// The number of bytes before each message.
pub const FRAME_HEAD_BYTES: usize = 5;

/// The prefix of an uncompressed message. `None` if its length does not fit, which is beyond any body's limit.
pub fn frame_head(message_bytes: usize) -> Option<[u8; FRAME_HEAD_BYTES]> {
    let [a, b, c, d] = u32::try_from(message_bytes).ok()?.to_be_bytes();
    Some([0, a, b, c, d])
}

/// One message of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whether it is compressed, in the coding that `grpc-encoding` names.
    pub compressed: bool,
    /// The bytes of the message without its frame, still compressed if `compressed`.
    pub bytes: Vec<u8>,
}

/// The reason why a body is not a sequence of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// The byte before a message is neither 0 nor 1.
    Flag(u8),
    /// A message is larger than the limit.
    TooLarge {
        /// The stated length of the message in bytes.
        bytes: u64,
        /// The largest accepted length in bytes.
        limit: u64,
    },
}

impl fmt::Display for FrameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(
                f,
                "a message begins with the byte {flag}; it is 1 for a compressed message and else 0"
            ),
            Self::TooLarge { bytes, limit } => write!(
                f,
                "a message of {bytes} bytes is announced; at most {limit} are accepted"
            ),
        }
    }
}

impl FrameFault {
    /// The error of the answer.
    pub const fn code(&self) -> Code {
        match self {
            Self::Flag(_) => Code::MalformedRequest,
            Self::TooLarge { .. } => Code::BodyTooLarge,
        }
    }
}

/// Splits a body that arrives in pieces into messages. It holds the bytes of one message. It reserves memory for the
/// claimed length only when a second piece of the message arrives.
#[derive(Debug)]
pub struct Deframer {
    limit: u64,
    head: [u8; FRAME_HEAD_BYTES],
    head_bytes: usize,
    message: Vec<u8>,
    pieces: u32,
}

impl Deframer {
    /// A splitter for messages of at most `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            head: [0; FRAME_HEAD_BYTES],
            head_bytes: 0,
            message: Vec::new(),
            pieces: 0,
        }
    }

    /// The bytes that it holds of an incomplete message.
    pub fn held_bytes(&self) -> usize {
        self.message.len()
    }

    /// Returns whether the body may end here.
    pub fn is_between_messages(&self) -> bool {
        self.head_bytes == 0
    }

    /// Consumes `piece` up to the end of a message, and returns the message if it is complete. Otherwise the whole piece was
    /// consumed. After a fault it must not be used again.
    pub fn next(&mut self, piece: &mut &[u8]) -> Result<Option<Message>, FrameFault> {
        while self.head_bytes < FRAME_HEAD_BYTES {
            let Some((byte, rest)) = piece.split_first() else {
                return Ok(None);
            };
            self.head[self.head_bytes] = *byte;
            self.head_bytes += 1;
            *piece = rest;
            if self.head[0] > 1 {
                return Err(FrameFault::Flag(self.head[0]));
            }
        }
        let [flag, length @ ..] = self.head;
        let length = u32::from_be_bytes(length);
        if u64::from(length) > self.limit {
            return Err(FrameFault::TooLarge {
                bytes: length.into(),
                limit: self.limit,
            });
        }
        let missing = length as usize - self.message.len();
        let (taken, rest) = piece.split_at(missing.min(piece.len()));
        *piece = rest;
        if !taken.is_empty() {
            self.pieces += 1;
            // A length without following bytes reserves no memory.
            if self.pieces == 2 {
                self.message.reserve_exact(missing);
            }
            self.message.extend_from_slice(taken);
        }
        if taken.len() < missing {
            return Ok(None);
        }
        self.head_bytes = 0;
        self.pieces = 0;
        Ok(Some(Message {
            compressed: flag == 1,
            bytes: std::mem::take(&mut self.message),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_status_that_is_none_of_those_it_must_not_have() {
        for code in Code::ALL {
            let status = code.grpc_status();
            let never = [
                GrpcStatus::Ok,
                GrpcStatus::Cancelled,
                GrpcStatus::Unknown,
                GrpcStatus::OutOfRange,
                GrpcStatus::DataLoss,
            ];
            assert!(!never.contains(&status), "{}", code.as_str());
            // An error is the server's fault here if it is over HTTP, and only then.
            let ours = matches!(status, GrpcStatus::Internal);
            assert_eq!(ours, code.status() == 500, "{}", code.as_str());
            let again = matches!(status, GrpcStatus::Unavailable);
            assert_eq!(again, code.status() == 503, "{}", code.as_str());
            let unknown = matches!(status, GrpcStatus::Unauthenticated);
            assert_eq!(unknown, code.status() == 401, "{}", code.as_str());
        }
        for (number, status) in GrpcStatus::ALL.iter().enumerate() {
            assert_eq!(usize::from(status.number()), number);
        }
    }

    #[test]
    fn a_message_is_percent_encoded_and_cut_between_characters() {
        assert_eq!(encode_message("a b~"), "a b~");
        assert_eq!(encode_message("50 %\n"), "50 %25%0A");
        assert_eq!(encode_message("é\u{7f}"), "%C3%A9%7F");
        let long = "é".repeat(MAX_MESSAGE_BYTES);
        assert_eq!(encode_message(&long).len(), MAX_MESSAGE_BYTES * 3);
        let odd = format!("x{long}");
        assert_eq!(encode_message(&odd).len(), 1 + (MAX_MESSAGE_BYTES - 2) * 3);
    }

    #[test]
    fn content_types_are_told_apart() {
        for (text, expected) in [
            ("application/grpc", Some(Codec::Protobuf)),
            (
                "Application/gRPC+proto; charset=utf-8",
                Some(Codec::Protobuf),
            ),
            ("application/grpc ;x=y", Some(Codec::Protobuf)),
            ("application/grpc+json", Some(Codec::Other)),
            ("application/grpc-web", Some(Codec::Other)),
            ("application/grpc-web+proto", Some(Codec::Other)),
            ("application/grpcx", None),
            ("application/json", None),
            ("", None),
        ] {
            assert_eq!(codec(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_timeout_is_up_to_eight_digits_and_a_unit() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("0n", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3_600))),
            ("999999999S", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("+1S", None),
            ("1.5S", None),
            (" 1S", None),
        ] {
            assert_eq!(timeout(text.as_bytes()), expected, "{text}");
        }
    }

    fn framed(messages: &[(bool, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (compressed, message) in messages {
            let mut head = frame_head(message.len()).unwrap();
            head[0] = u8::from(*compressed);
            body.extend_from_slice(&head);
            body.extend_from_slice(message);
        }
        body
    }

    #[test]
    fn messages_are_the_same_however_a_body_is_cut() {
        let messages: [(bool, &[u8]); 4] = [
            (false, b"first"),
            (true, b""),
            (true, b"a longer second message"),
            (false, b"x"),
        ];
        let body = framed(&messages);
        for size in 1..=body.len() {
            let mut deframer = Deframer::new(100);
            let mut found = Vec::new();
            for mut piece in body.chunks(size) {
                while let Some(message) = deframer.next(&mut piece).unwrap() {
                    found.push((message.compressed, message.bytes));
                }
                assert!(piece.is_empty());
            }
            let found: Vec<_> = found.iter().map(|(c, b)| (*c, b.as_slice())).collect();
            assert_eq!(found, messages, "in pieces of {size}");
            assert!(deframer.is_between_messages());
        }
    }

    #[test]
    fn a_body_that_ends_within_a_message_is_known_at_every_length() {
        let body = framed(&[(false, b"first"), (false, b"second")]);
        for end in 0..body.len() {
            let mut deframer = Deframer::new(100);
            let mut piece = &body[..end];
            let mut whole = 0;
            while deframer.next(&mut piece).unwrap().is_some() {
                whole += 1;
            }
            assert_eq!(whole, usize::from(end >= 10), "{end}");
            assert_eq!(
                deframer.is_between_messages(),
                end == 0 || end == 10,
                "{end}"
            );
        }
    }

    #[test]
    fn a_length_beyond_the_limit_and_a_flag_that_is_none_are_faults_at_once() {
        let mut deframer = Deframer::new(4);
        let mut piece: &[u8] = &[0, 0xff, 0xff, 0xff, 0xff];
        let fault = deframer.next(&mut piece).unwrap_err();
        assert_eq!(
            fault,
            FrameFault::TooLarge {
                bytes: u32::MAX.into(),
                limit: 4
            }
        );
        assert_eq!(fault.code(), Code::BodyTooLarge);
        let mut deframer = Deframer::new(4);
        assert_eq!(deframer.next(&mut &b"\x02"[..]), Err(FrameFault::Flag(2)));
        let mut deframer = Deframer::new(u64::MAX);
        let mut piece: &[u8] = &[0, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(deframer.next(&mut piece), Ok(None));
        assert!(deframer.message.capacity() < 64, "nothing on its word");
    }
}
