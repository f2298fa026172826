//! The socket between server and child: short messages with descriptors. Tensors do not go over it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Most descriptors in one message: the segments of an instance.
pub const MAX_FDS: usize = 8;

/// The kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Load a graph. With the mailbox of the load's options, and with the graph unless it is a file.
    Open = 1,
    /// The graph was loaded or was not; the mailbox says it.
    Opened = 2,
    /// Make an instance. With its segments.
    Instance = 3,
    /// Interrupt an instance's run.
    Interrupt = 4,
    /// An instance is not needed any more.
    Drop = 5,
}

/// A message without its descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// The message's kind.
    pub kind: Kind,
    /// The number of the instance, or the bytes in the mailbox.
    pub number: u32,
    /// The number of the run.
    pub run: u32,
}

const NOTE_BYTES: usize = 12;

impl Note {
    fn to_bytes(self) -> [u8; NOTE_BYTES] {
        let mut bytes = [0; NOTE_BYTES];
        bytes[..4].copy_from_slice(&(self.kind as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..].copy_from_slice(&self.run.to_le_bytes());
        bytes
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, []) = bytes.as_chunks::<4>() else {
            return None;
        };
        let [kind, number, run] = words else {
            return None;
        };
        let kind = u32::from_le_bytes(*kind);
        let kinds = [
            Kind::Open,
            Kind::Opened,
            Kind::Instance,
            Kind::Interrupt,
            Kind::Drop,
        ];
        Some(Self {
            kind: *kinds.iter().find(|known| **known as u32 == kind)?,
            number: u32::from_le_bytes(*number),
            run: u32::from_le_bytes(*run),
        })
    }
}

/// One end of the socket.
pub struct Control(OwnedFd);

impl Control {
    /// Makes both ends.
    pub fn pair() -> io::Result<(Self, Self)> {
        let mut ends: [RawFd; 2] = [-1; 2];
        // Packets: a message comes whole, with its descriptors, or not at all.
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: the array has room for two descriptors.
        if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both were just made, and only this code owns them.
        let [ours, theirs] = ends.map(|end| Self(unsafe { OwnedFd::from_raw_fd(end) }));
        Ok((ours, theirs))
    }

    /// The end behind a descriptor.
    pub fn of(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// The longest wait of [`Control::receive`]; without a bound for `None`.
    pub fn patience(&self, at_most: Option<Duration>) -> io::Result<()> {
        let at_most = at_most.unwrap_or_default();
        let time = libc::timeval {
            tv_sec: libc::time_t::try_from(at_most.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_usec: at_most.subsec_micros().into(),
        };
        // SAFETY: the option's value is a `timeval` that lives through the call.
        let set = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const time).cast(),
                size_of::<libc::timeval>() as libc::socklen_t,
            )
        };
        match set {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sends a message. Never waits: a child that does not read gets no more.
    pub fn send(&self, note: Note, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut bytes = note.to_bytes();
        let mut part = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let mut space = [0u64; 16];
        let fds: Vec<RawFd> = fds.iter().take(MAX_FDS).map(AsRawFd::as_raw_fd).collect();
        let fds_bytes = size_of_val(&fds[..]) as u32;
        // SAFETY: zeroes are a valid, empty message.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        if !fds.is_empty() {
            message.msg_control = space.as_mut_ptr().cast();
            // SAFETY: arithmetic; the space is large enough for `MAX_FDS`.
            message.msg_controllen = unsafe { libc::CMSG_SPACE(fds_bytes) } as _;
            // SAFETY: the control buffer has room for one header and the descriptors.
            unsafe {
                let head = libc::CMSG_FIRSTHDR(&message);
                (*head).cmsg_level = libc::SOL_SOCKET;
                (*head).cmsg_type = libc::SCM_RIGHTS;
                (*head).cmsg_len = libc::CMSG_LEN(fds_bytes) as _;
                std::ptr::copy_nonoverlapping(
                    fds.as_ptr().cast::<u8>(),
                    libc::CMSG_DATA(head),
                    fds_bytes as usize,
                );
            }
        }
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the message's parts live through the call.
        let sent = unsafe { libc::sendmsg(self.0.as_raw_fd(), &message, flags) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Waits for a message; `None` if the other end is closed, or sent something that is not a message.
    pub fn receive(&self) -> io::Result<Option<(Note, Vec<OwnedFd>)>> {
        let mut bytes = [0u8; NOTE_BYTES];
        let mut part = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let mut space = [0u64; 16];
        // SAFETY: zeroes are a valid, empty message.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        message.msg_control = space.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&space) as _;
        let got = loop {
            // SAFETY: the message's parts live through the call.
            let got =
                unsafe { libc::recvmsg(self.0.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) };
            if got >= 0 {
                break usize::try_from(got).unwrap_or(0);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        };
        let mut fds = Vec::new();
        // SAFETY: the headers are in `space`, as the system wrote them; each descriptor is ours from now on.
        unsafe {
            let mut head = libc::CMSG_FIRSTHDR(&message);
            while !head.is_null() {
                if (*head).cmsg_level == libc::SOL_SOCKET && (*head).cmsg_type == libc::SCM_RIGHTS {
                    let len = (*head).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                    let data = libc::CMSG_DATA(head).cast::<RawFd>();
                    for index in 0..len / size_of::<RawFd>() {
                        fds.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                    }
                }
                head = libc::CMSG_NXTHDR(&message, head);
            }
        }
        Ok(Note::of_bytes(&bytes[..got]).map(|note| (note, fds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_message_comes_whole_with_its_descriptors_and_the_end_is_seen() {
        let (ours, theirs) = Control::pair().unwrap();
        let note = Note {
            kind: Kind::Instance,
            number: 3,
            run: u32::MAX,
        };
        let (a, b) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        ours.send(note, &[a.0.as_fd(), b.1.as_fd()]).unwrap();
        let (got, fds) = theirs.receive().unwrap().unwrap();
        assert_eq!((got, fds.len()), (note, 2));
        theirs.patience(Some(Duration::from_millis(20))).unwrap();
        assert!(theirs.receive().is_err(), "nothing came");
        drop(ours);
        assert!(theirs.receive().unwrap().is_none());
    }

    #[test]
    fn a_child_that_does_not_read_blocks_no_sender() {
        let (ours, _theirs) = Control::pair().unwrap();
        let note = Note {
            kind: Kind::Interrupt,
            number: 0,
            run: 1,
        };
        assert!((0..1_000_000).any(|_| ours.send(note, &[]).is_err()));
    }
}
