//! Derives the life of an HTTP/2 connection from the client's frames: whether it has begun, whether it pings, and
//! whether a head is incomplete. Everything else is h2's task. It reads the same bytes, and ends the connection if they
//! are no frames.

/// Bytes before the first frame (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;
/// Bytes before a frame's payload (RFC 9113 §4.1).
const HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
/// The flag of a ping that answers one of ours.
const ACK: u8 = 1;
/// The flag of the last frame of a head.
const END_HEADERS: u8 = 4;

/// Reads the client's half of one connection, in parallel to its reader.
#[derive(Debug)]
pub struct Frames {
    /// Bytes of the preface or of a payload that are still to come.
    rest: usize,
    /// The head of a frame that has arrived in part.
    head: [u8; HEAD_BYTES],
    have: usize,
    /// Whether the current payload is the last of a head.
    last_of_head: bool,
    /// Whether a head is incomplete.
    in_head: bool,
    begun: bool,
    pings: u64,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            rest: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            have: 0,
            last_of_head: false,
            in_head: false,
            begun: false,
            pings: 0,
        }
    }
}

impl Frames {
    /// Takes bytes that arrived.
    pub fn read(&mut self, mut bytes: &[u8]) {
        loop {
            if self.rest > 0 {
                let taken = self.rest.min(bytes.len());
                self.rest -= taken;
                bytes = &bytes[taken..];
                if self.rest > 0 {
                    return;
                }
            }
            if self.last_of_head {
                (self.last_of_head, self.in_head) = (false, false);
            }
            let taken = (HEAD_BYTES - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have < HEAD_BYTES {
                return;
            }
            self.have = 0;
            let [a, b, c, kind, flags, ..] = self.head;
            self.rest = u32::from_be_bytes([0, a, b, c]) as usize;
            match kind {
                SETTINGS => self.begun = true,
                PING if flags & ACK == 0 => self.pings += 1,
                HEADERS | CONTINUATION => {
                    self.in_head = true;
                    self.last_of_head = flags & END_HEADERS != 0;
                }
                _ => {}
            }
        }
    }

    /// Returns whether the client has sent its settings, which come first.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Pings that the client sent by itself, without a ping of ours.
    pub fn pings(&self) -> u64 {
        self.pings
    }

    /// Returns whether a head, or the head of a frame, has arrived in part.
    pub fn is_in_head(&self) -> bool {
        self.in_head || self.have > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn the_seen_frames_do_not_depend_on_the_pieces_that_bytes_come_in() {
        let mut all = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        all.extend(frame(SETTINGS, 0, &[0; 12]));
        all.extend(frame(PING, 0, &[7; 8]));
        all.extend(frame(HEADERS, END_HEADERS, b"abc"));
        // A payload that looks like frames, and an answer to our ping.
        all.extend(frame(0, 0, &frame(PING, 0, &[7; 8])));
        all.extend(frame(PING, ACK, &[7; 8]));
        all.extend(frame(PING, 0, &[8; 8]));
        for size in [1, 2, 8, 9, 10, 24, 25, 1_000] {
            let mut frames = Frames::default();
            assert!(!frames.has_begun());
            all.chunks(size).for_each(|piece| frames.read(piece));
            assert!(frames.has_begun());
            assert_eq!((frames.pings(), frames.is_in_head()), (2, false), "{size}");
        }
    }

    #[test]
    fn a_head_is_on_its_way_until_the_frame_that_ends_it_is_whole() {
        let mut frames = Frames::default();
        frames.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        assert!(!frames.is_in_head());
        frames.read(&frame(HEADERS, 0, b"ab"));
        assert!(frames.is_in_head());
        let last = frame(CONTINUATION, END_HEADERS, b"cd");
        let (front, end) = last.split_at(last.len() - 1);
        frames.read(front);
        assert!(frames.is_in_head());
        frames.read(end);
        assert!(!frames.is_in_head());
        frames.read(&[0, 0]);
        assert!(frames.is_in_head());
    }
}
