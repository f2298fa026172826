//! Decodes compressed request bodies: `content-encoding: gzip`, `deflate` or `zstd` (RFC 9110 §8.4, RFC 8878). The
//! decoded size has the same limit as an uncompressed body. The gate decodes, not the server. A sandboxed component
//! therefore handles untrusted bytes, and only after authentication and the rate limits.
//!
//! `deflate` is the zlib format (RFC 9110 §8.4.1.2, RFC 1950), which Triton's clients send. Some clients send raw
//! deflate data under that name; it is refused. Nested codings are refused, because they only cost time. The
//! decoder's memory and the number of its restarts have bounds that do not depend on the body's claims.

use crate::record::Request;
use crate::route::shorten;
use penstock_core::{Code, Problem};
use penstock_tensor::Buffer;
use std::borrow::Cow;
use structured_zstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use structured_zstd::decoding::{BlockDecodingStrategy, ContentChecksum, FrameDecoder};
use zlib_rs::{Inflate, InflateFlush, Status};

/// The value of `Accept-Encoding` in a 415 answer (RFC 9110 §12.5.3): the supported codings.
pub const ACCEPTED: &str = "gzip, deflate, zstd";

/// The bytes that one step decodes: the largest block of zstd. A body can exceed its limit by at most this much
/// before the decoder notices.
pub const STEP_BYTES: usize = 128 << 10;
/// The largest window of zstd in bytes. RFC 9659 sets this limit for the content coding.
pub const MAX_WINDOW_BYTES: u64 = 8 << 20;
/// The most gzip members or zstd frames, because each starts a new decoder. Tools that compress in parallel write
/// members of 64 KiB or more.
pub const MAX_PARTS: usize = 4_096;
/// The most blocks, because the tables of a block can cost more than its bytes. Encoders write blocks of about 16 KiB
/// to 128 KiB unless the application flushes.
pub const MAX_BLOCKS: usize = 65_536;

/// Selects the `gzip` format and the largest window, in zlib's encoding of both.
const GZIP_WINDOW_BITS: u8 = 16 + ZLIB_WINDOW_BITS;
/// The largest window of the zlib format.
const ZLIB_WINDOW_BITS: u8 = 15;
/// The most steps in a row without input or output. A decoder holds up to 64 bits, and a block has at least one.
const MAX_IDLE: u32 = 64;

/// A content coding that the gate decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// The coding `gzip` (RFC 1952).
    Gzip,
    /// `deflate`, which is the zlib format (RFC 1950).
    Deflate,
    /// The coding `zstd` (RFC 8878).
    Zstd,
}

impl Coding {
    /// Returns the name in `Content-Encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        }
    }
}

/// The reason why a body cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The decoded body exceeds the limit.
    TooLarge,
    /// The bytes are not valid in this coding. The text describes the error.
    Malformed(String),
}

/// Returns the coding of a request's body; `None` if it is not compressed. Errors with 415 for an unsupported coding.
/// The answer may list the codings in [`ACCEPTED`].
pub fn of(request: &Request) -> Result<Option<Coding>, Problem> {
    let Some(list) = request.header_list("content-encoding") else {
        return Ok(None);
    };
    let mut names = list
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    let message = match (names.next(), names.next()) {
        (None, _) => return Ok(None),
        (Some(_), Some(_)) => format!(
            "the body has several content codings, `{}`; send it with one of {ACCEPTED}, or uncompressed",
            shorten(&list)
        ),
        (Some(name), None) => match name.to_ascii_lowercase().as_str() {
            "identity" => return Ok(None),
            // `x-gzip` is the old name of `gzip` (RFC 9110 §8.4.1.3).
            "gzip" | "x-gzip" => return Ok(Some(Coding::Gzip)),
            "deflate" => return Ok(Some(Coding::Deflate)),
            "zstd" => return Ok(Some(Coding::Zstd)),
            _ => format!(
                "the content coding `{}` is not accepted; send the body with one of {ACCEPTED}, or uncompressed",
                shorten(name)
            ),
        },
    };
    Err(Problem::new(Code::UnsupportedMediaType, message))
}

/// Appends the coding to the content type. Idempotency compares the result, so that equal bytes in different codings
/// count as different bodies. The separator is a line break, which no header value contains, so no content type can
/// imitate the combination.
pub fn described(content_type: &str, coding: Option<Coding>) -> Cow<'_, str> {
    match coding {
        None => Cow::Borrowed(content_type),
        Some(coding) => Cow::Owned(format!("{content_type}\n{}", coding.name())),
    }
}

/// Decodes a body to at most `limit` bytes. Returns it unchanged if it has no coding.
pub fn body(body: &Buffer, coding: Option<Coding>, limit: u64) -> Result<Cow<'_, Buffer>, Problem> {
    let Some(coding) = coding else {
        return Ok(Cow::Borrowed(body));
    };
    let mut decoded = Decoded::new(limit);
    match decode(coding, body, &mut decoded) {
        Ok(()) => Ok(Cow::Owned(decoded.bytes.into())),
        Err(DecodeError::TooLarge) => Err(Problem::new(
            Code::BodyTooLarge,
            format!(
                "the body decodes from {} to more than {limit} bytes, which is the limit for decoded bodies of this model \
                 here",
                coding.name()
            ),
        )),
        Err(DecodeError::Malformed(what)) => Err(Problem::new(
            Code::InvalidContentCoding,
            format!("the body is not {}: {what}", coding.name()),
        )),
    }
}

/// The decoded part of a body.
#[derive(Debug)]
pub struct Decoded {
    /// The decoded bytes, never more than the limit.
    pub bytes: Vec<u8>,
    /// The number of bytes that the decoders produced, including those beyond the limit.
    pub produced: u64,
    limit: u64,
}

impl Decoded {
    /// Creates an empty buffer for at most `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self {
            bytes: Vec::new(),
            produced: 0,
            limit,
        }
    }

    /// Appends decoded bytes to the buffer. Appends none of them if the total exceeds the limit.
    fn take(&mut self, more: &[u8]) -> Result<(), DecodeError> {
        self.admit(more.len())?;
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    /// Reserves space for decoded bytes. The space doubles up to the limit.
    fn admit(&mut self, more: usize) -> Result<(), DecodeError> {
        self.produced = self.produced.saturating_add(more as u64);
        if self.produced > self.limit {
            return Err(DecodeError::TooLarge);
        }
        let needed = self.bytes.len() + more;
        if needed > self.bytes.capacity() {
            let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
            let doubled = (self.bytes.capacity() * 2).max(STEP_BYTES).min(limit);
            let room = needed.max(doubled) - self.bytes.len();
            // The operator's limit may exceed the available memory, so the allocation can fail.
            self.bytes
                .try_reserve_exact(room)
                .map_err(|_| DecodeError::TooLarge)?;
        }
        Ok(())
    }
}

/// Decodes a whole body. An empty body decodes to no bytes in every coding.
pub fn decode(coding: Coding, body: &[u8], decoded: &mut Decoded) -> Result<(), DecodeError> {
    match coding {
        Coding::Gzip => inflate(GZIP_WINDOW_BITS, body, decoded),
        Coding::Deflate => inflate(ZLIB_WINDOW_BITS, body, decoded),
        Coding::Zstd => unzstd(body, decoded),
    }
}

/// Counts one more block. Errors above [`MAX_BLOCKS`].
fn next_block(blocks: &mut usize) -> Result<(), DecodeError> {
    *blocks += 1;
    if *blocks > MAX_BLOCKS {
        return Err(DecodeError::Malformed(format!(
            "it has more than {MAX_BLOCKS} blocks; compress it without flushing"
        )));
    }
    Ok(())
}

/// Counts one more part. Errors above `most`. Each part starts a new decoder.
fn next_part(parts: &mut usize, what: &str, most: usize) -> Result<(), DecodeError> {
    *parts += 1;
    if *parts > most {
        return Err(DecodeError::Malformed(match most {
            1 => "there are bytes after its end; send one stream of the zlib format".to_owned(),
            _ => format!("it has more than {most} {what}; compress it as one"),
        }));
    }
    Ok(())
}

/// Decodes gzip members, or one stream of the zlib format.
fn inflate(window_bits: u8, mut rest: &[u8], decoded: &mut Decoded) -> Result<(), DecodeError> {
    let whole = rest.len();
    let most = match window_bits {
        GZIP_WINDOW_BITS => MAX_PARTS,
        _ => 1,
    };
    let mut step = Vec::new();
    let (mut parts, mut blocks) = (0, 0);
    while !rest.is_empty() {
        next_part(&mut parts, "members", most)?;
        let at = whole - rest.len();
        step.resize(STEP_BYTES, 0);
        let mut member = Inflate::new(true, window_bits);
        let mut idle = 0;
        loop {
            let (taken, given) = (member.total_in(), member.total_out());
            // Stop at the end of each block, to count blocks. The decoder checks the trailer at the end of the
            // member.
            let status = member
                .decompress(rest, &mut step, InflateFlush::Block)
                .map_err(|e| {
                    let what = member.error_message().unwrap_or(e.as_str());
                    DecodeError::Malformed(match window_bits {
                        GZIP_WINDOW_BITS => format!("the member at byte {at} is broken ({what})"),
                        _ => format!(
                            "the stream is broken ({what}); `deflate` is the zlib format (RFC 1950)"
                        ),
                    })
                })?;
            let taken = (member.total_in() - taken) as usize;
            let given = (member.total_out() - given) as usize;
            rest = &rest[taken..];
            decoded.take(&step[..given])?;
            if status == Status::StreamEnd {
                break;
            }
            idle = if taken + given == 0 { idle + 1 } else { 0 };
            if idle > MAX_IDLE {
                return Err(DecodeError::Malformed(format!(
                    "it ends within the member at byte {at}"
                )));
            }
            if given < STEP_BYTES {
                next_block(&mut blocks)?;
            }
        }
    }
    Ok(())
}

fn unzstd(mut rest: &[u8], decoded: &mut Decoded) -> Result<(), DecodeError> {
    use FrameDecoderError as Error;
    let whole = rest.len();
    let mut decoder = FrameDecoder::new();
    decoder.set_content_checksum(ContentChecksum::Verify);
    decoder
        .set_max_window_size(MAX_WINDOW_BYTES)
        .map_err(|e| DecodeError::Malformed(e.to_string()))?;
    let (mut parts, mut blocks) = (0, 0);
    while !rest.is_empty() {
        next_part(&mut parts, "frames", MAX_PARTS)?;
        let at = whole - rest.len();
        let broken =
            |e: Error| DecodeError::Malformed(format!("the frame at byte {at} is broken ({e})"));
        match decoder.init(&mut rest) {
            Ok(()) => {}
            Err(Error::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length, ..
            })) => {
                rest = usize::try_from(length)
                    .ok()
                    .and_then(|length| rest.get(length..))
                    .ok_or_else(|| {
                        DecodeError::Malformed(format!(
                            "it ends within the skippable frame at byte {at}"
                        ))
                    })?;
                continue;
            }
            Err(Error::WindowSizeTooBig { requested, .. }) => {
                return Err(DecodeError::Malformed(format!(
                    "the frame at byte {at} needs a window of {requested} bytes; RFC 9659 allows {MAX_WINDOW_BYTES}"
                )));
            }
            Err(Error::DictNotProvided { .. }) => {
                return Err(DecodeError::Malformed(format!(
                    "the frame at byte {at} needs a dictionary; compress without one"
                )));
            }
            Err(e) => return Err(broken(e)),
        }
        // If the frame states a size over the limit, refuse it before decoding.
        if decoder.content_size() > decoded.limit.saturating_sub(decoded.produced) {
            return Err(DecodeError::TooLarge);
        }
        loop {
            next_block(&mut blocks)?;
            decoder
                .decode_blocks(&mut rest, BlockDecodingStrategy::UptoBlocks(1))
                .map_err(broken)?;
            decoded.admit(decoder.can_collect())?;
            decoder
                .collect_to_writer(&mut decoded.bytes)
                .map_err(|e| broken(Error::FailedToDrainDecodebuffer(e)))?;
            if decoder.is_finished() {
                break;
            }
        }
        decoder.verify_content_size().map_err(broken)?;
        decoder.verify_content_checksum().map_err(broken)?;
    }
    Ok(())
}
