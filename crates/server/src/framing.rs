//! Decides where each HTTP/1 request on a connection begins, and whether its end is ambiguous.
//!
//! RFC 9112 §6.1: a request with both `Transfer-Encoding` and `Content-Length` may be an attempt to smuggle another one
//! past a proxy that uses the length. hyper uses the encoding, drops the length and closes the connection. The sender
//! of such a request should learn that it is refused. hyper's request no longer shows it, so this module reads the
//! bytes in parallel. It decides nothing about the meaning of a request, which is hyper's task. Where the two read
//! differently, the rest is [`Framing::Unknown`].

use std::collections::VecDeque;

/// The framing that a request's head declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// At most one of the two.
    Clear,
    /// Both a length and an encoding.
    Ambiguous,
    /// It is larger than the limit for heads, and was not read.
    TooLong,
    /// The head was not read, so nothing is known.
    Unknown,
}

/// The next part of the connection's bytes.
#[derive(Debug, PartialEq, Eq)]
enum At {
    /// A head, of which a part may have arrived.
    Head,
    /// A body of which so many bytes are still to come.
    Body(u64),
    /// A chunked body, in this state.
    Chunked(Chunk),
    /// The rest of the connection is not followed, because its framing is not certain.
    Lost,
}

/// The states of RFC 9112 §7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    SizeStart,
    Size(u64),
    /// After white space, where no digits may follow.
    SizeEnd(u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// The start of a trailer line, or the end.
    LineStart,
    Trailer,
    TrailerLf,
    EndLf,
}

/// Reads the bytes of one connection in parallel to hyper.
#[derive(Debug)]
pub struct Follower {
    at: At,
    /// A head that has arrived in part.
    partial: Vec<u8>,
    max_head_bytes: usize,
    /// The findings for requests that were not handed over yet. hyper's read buffer bounds their number.
    seen: VecDeque<Framing>,
}

impl Follower {
    /// Starts at the beginning of a connection. Heads beyond the bound are not read; they are refused for their size.
    pub fn new(max_head_bytes: usize) -> Self {
        Self {
            at: At::Head,
            partial: Vec::new(),
            max_head_bytes,
            seen: VecDeque::new(),
        }
    }

    /// Returns the finding for the next request that is handed over.
    pub fn next(&mut self) -> Framing {
        self.seen.pop_front().unwrap_or(Framing::Unknown)
    }

    /// Returns whether nothing of the next request has arrived.
    pub fn is_between_requests(&self) -> bool {
        self.at == At::Head && self.partial.is_empty()
    }

    /// Takes bytes that arrived.
    pub fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.at {
                At::Lost => return,
                At::Head => bytes = self.head(bytes),
                At::Body(left) => {
                    let taken = bytes
                        .len()
                        .min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= taken as u64;
                    bytes = &bytes[taken..];
                    if *left == 0 {
                        self.at = At::Head;
                    }
                }
                At::Chunked(Chunk::Data(left)) => {
                    let taken = bytes
                        .len()
                        .min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= taken as u64;
                    bytes = &bytes[taken..];
                    if *left == 0 {
                        self.at = At::Chunked(Chunk::DataCr);
                    }
                }
                At::Chunked(chunk) => {
                    self.at = after(*chunk, bytes[0]);
                    bytes = &bytes[1..];
                }
            }
        }
    }

    /// Takes the part that belongs to a head, and returns the rest.
    fn head<'b>(&mut self, mut bytes: &'b [u8]) -> &'b [u8] {
        if self.partial.is_empty() {
            // Empty lines before a request are skipped (RFC 9112 §2.2).
            let first = bytes.iter().position(|b| !matches!(b, b'\r' | b'\n'));
            bytes = &bytes[first.unwrap_or(bytes.len())..];
            if let Some(end) = head_end(bytes, 0) {
                self.ended(&bytes[..end]);
                return &bytes[end..];
            }
        }
        let had = self.partial.len();
        let room = self.max_head_bytes.saturating_sub(had);
        self.partial
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        // The end may have begun in the earlier part.
        match head_end(&self.partial, had.saturating_sub(3)) {
            Some(end) => {
                let head = std::mem::take(&mut self.partial);
                self.ended(&head[..end]);
                &bytes[end - had..]
            }
            None if bytes.len() >= room => {
                self.partial = Vec::new();
                self.seen.push_back(Framing::TooLong);
                self.at = At::Lost;
                &[]
            }
            None => &[],
        }
    }

    fn ended(&mut self, head: &[u8]) {
        let (seen, at) = framing(head);
        self.seen.push_back(seen);
        self.at = at;
    }
}

/// Returns the position after the empty line that ends a head, searched from `from`. Lines may end without a carriage
/// return, as hyper accepts them.
fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let newlines = (from..bytes.len()).filter(|at| bytes[*at] == b'\n');
    for at in newlines {
        match bytes[at + 1..] {
            [b'\n', ..] => return Some(at + 2),
            [b'\r', b'\n', ..] => return Some(at + 3),
            _ => {}
        }
    }
    None
}

/// Returns the finding for a whole head, and the part that follows it.
fn framing(head: &[u8]) -> (Framing, At) {
    let (mut length, mut encoded) = (None, false);
    for line in head.split(|b| *b == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            encoded = true;
        } else if name.eq_ignore_ascii_case(b"content-length") && length.is_none() {
            length = Some(value);
        }
    }
    match (length, encoded) {
        // The connection ends with the refusal.
        (Some(_), true) => (Framing::Ambiguous, At::Lost),
        (None, true) => (Framing::Clear, At::Chunked(Chunk::SizeStart)),
        (None, false) => (Framing::Clear, At::Head),
        (Some(digits), false) => {
            let digits = std::str::from_utf8(digits).ok();
            let bytes = digits.filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
            match bytes.and_then(|digits| digits.parse::<u64>().ok()) {
                Some(0) => (Framing::Clear, At::Head),
                Some(bytes) => (Framing::Clear, At::Body(bytes)),
                // hyper refuses it.
                None => (Framing::Clear, At::Lost),
            }
        }
    }
}

/// Returns the state after a byte of a chunked body. Bytes that hyper refuses are lost.
fn after(chunk: Chunk, byte: u8) -> At {
    let next = match (chunk, byte) {
        (Chunk::SizeStart, byte) => match hex(byte) {
            Some(digit) => Chunk::Size(digit),
            None => return At::Lost,
        },
        (Chunk::Size(size), b' ' | b'\t') | (Chunk::SizeEnd(size), b' ' | b'\t') => {
            Chunk::SizeEnd(size)
        }
        (Chunk::Size(size) | Chunk::SizeEnd(size), b';') => Chunk::Extension(size),
        (Chunk::Size(size) | Chunk::SizeEnd(size) | Chunk::Extension(size), b'\r') => {
            Chunk::SizeLf(size)
        }
        (Chunk::Size(size), byte) => {
            let grown = size.checked_mul(16).zip(hex(byte));
            match grown.and_then(|(size, digit)| size.checked_add(digit)) {
                Some(size) => Chunk::Size(size),
                None => return At::Lost,
            }
        }
        (Chunk::Extension(_), b'\n') => return At::Lost,
        (Chunk::Extension(size), _) => Chunk::Extension(size),
        (Chunk::SizeLf(0), b'\n') => Chunk::LineStart,
        (Chunk::SizeLf(size), b'\n') => Chunk::Data(size),
        (Chunk::DataCr, b'\r') => Chunk::DataLf,
        (Chunk::DataLf, b'\n') => Chunk::SizeStart,
        (Chunk::LineStart, b'\r') => Chunk::EndLf,
        (Chunk::LineStart, _) => Chunk::Trailer,
        (Chunk::Trailer, b'\r') => Chunk::TrailerLf,
        (Chunk::Trailer, _) => Chunk::Trailer,
        (Chunk::TrailerLf, b'\n') => Chunk::LineStart,
        (Chunk::EndLf, b'\n') => return At::Head,
        _ => return At::Lost,
    };
    At::Chunked(next)
}

fn hex(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(pieces: &[&[u8]]) -> Vec<Framing> {
        let mut follower = Follower::new(4096);
        for piece in pieces {
            follower.read(piece);
        }
        follower.seen.into()
    }

    const BOTH: &[&[u8]] = &[
        b"POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding:chunked\r\nx: y\r\nContent-Length:0\r\n\r\n",
        b"POST / HTTP/1.1\nTRANSFER-ENCODING: gzip, chunked\nCONTENT-LENGTH: x\n\n",
        b"\r\n\nGET / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
    ];

    const CLEAR: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\r\nGET / HTTP/1.1\nhost: x\n\n",
        b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 43\r\n\r\nGET / HTTP/1.1\r\ntransfer-encoding: x\r\n\r\n123",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0A \r\n0123456789\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\ncontent-length: 5\r\nx: y\r\n\r\n",
        b"POST / HTTP/1.1\r\nx-content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n28\r\n\r\nPOST / HTTP/1.1\r\ncontent-length: 3\r\n\r\n\r\n0\r\n\r\n",
    ];

    #[test]
    fn a_request_that_says_both_is_seen_in_whichever_order_it_says_it() {
        for request in BOTH {
            let text = String::from_utf8_lossy(request);
            assert_eq!(seen(&[request]), [Framing::Ambiguous], "{text}");
        }
    }

    #[test]
    fn bytes_after_a_body_are_a_request_and_bytes_in_a_body_are_not() {
        for request in CLEAR {
            let text = String::from_utf8_lossy(request);
            assert_eq!(seen(&[request]), [Framing::Clear], "{text}");
            assert_eq!(
                seen(&[request, BOTH[1]]),
                [Framing::Clear, Framing::Ambiguous],
                "{text}"
            );
        }
    }

    #[test]
    fn the_framing_of_refused_and_too_long_requests_is_not_guessed() {
        for broken in [
            &b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n"[..],
            b"POST / HTTP/1.1\r\ncontent-length: 1, 1\r\n\r\n",
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n11111111111111111\r\n",
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab",
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;\nab",
        ] {
            let mut follower = Follower::new(4096);
            follower.read(broken);
            follower.read(CLEAR[0]);
            follower.next();
            assert_eq!(follower.next(), Framing::Unknown);
        }
        let mut follower = Follower::new(100);
        follower.read(&[b'a'; 99]);
        follower.read(&[b'a'; 99]);
        follower.read(b"\r\n\r\n");
        follower.read(CLEAR[0]);
        assert_eq!(follower.next(), Framing::TooLong);
        assert_eq!(follower.next(), Framing::Unknown);
        assert_eq!(follower.partial.capacity(), 0, "nothing is kept of it");
    }

    proptest! {
        #[test]
        fn it_does_not_matter_in_which_pieces_requests_arrive(
            requests in proptest::collection::vec(0..CLEAR.len(), 0..8),
            last in 0..BOTH.len(),
            cuts in proptest::collection::vec(1usize..40, 1..200),
        ) {
            let mut bytes: Vec<u8> = Vec::new();
            for request in &requests {
                bytes.extend_from_slice(CLEAR[*request]);
            }
            bytes.extend_from_slice(BOTH[last]);
            let mut follower = Follower::new(4096);
            let (mut rest, mut cuts) = (bytes.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                follower.read(piece);
                rest = later;
            }
            let mut expected = vec![Framing::Clear; requests.len()];
            expected.push(Framing::Ambiguous);
            prop_assert_eq!(Vec::from(follower.seen), expected);
        }

        #[test]
        fn no_bytes_make_it_fail_or_keep_more_than_its_bound(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20)
        ) {
            let mut follower = Follower::new(256);
            for piece in &pieces {
                follower.read(piece);
                prop_assert!(follower.partial.len() <= 256);
            }
        }
    }
}
