//! Bytes that lie here, or in the host.

use crate::binary_common::Host;
use penstock_tensor::{Buffer, Datatype, Place, ValueRule};
use std::ops::Range;
use std::sync::Arc;

fn held(bytes: &[u8]) -> (Arc<Host>, Buffer) {
    let host = Host::new(bytes);
    (host.clone(), host.buffer())
}

fn copied(host: &Host) -> Vec<(usize, usize)> {
    let copied = host.copied.lock().unwrap();
    copied.iter().map(|part| (part.start, part.len())).collect()
}

#[test]
fn bytes_in_the_host_are_cut_placed_and_checked_without_a_copy() {
    let (host, buffer) = held(b"0123456789");
    let rest = buffer.slice(2..10).unwrap();
    let middle = rest.slice(1..5).unwrap();
    assert_eq!((buffer.len(), rest.len(), middle.len()), (10, 8, 4));
    let place = Place {
        item: 0,
        offset: 3,
        length: 4,
    };
    assert_eq!(middle.place(), Some(place));
    let digits = ValueRule {
        datatype: Datatype::Uint8,
        finite: true,
        minimum: Some(f64::from(b'3')),
        maximum: Some(f64::from(b'6')),
    };
    assert_eq!(middle.host_suits(&digits), Some(true));
    assert_eq!(rest.host_suits(&digits), Some(false));
    assert!(copied(&host).is_empty());
    assert_eq!(middle, b"3456");
    assert_eq!(middle, b"3456", "and not copied again");
    assert_eq!(copied(&host), [(3, 4)]);
    assert_eq!(middle.host_suits(&digits), None, "the bytes are here now");
}

#[test]
fn a_part_is_copied_alone_and_never_reaches_beyond_the_end() {
    let (host, buffer) = held(b"0123456789");
    assert_eq!(buffer.part(0..3).as_deref(), Some(&b"012"[..]));
    assert_eq!(copied(&host), [(0, 3)]);
    let here = Buffer::from(b"0123456789");
    for buffer in [&buffer, &here] {
        assert_eq!(buffer.part(8..10).as_deref(), Some(&b"89"[..]));
        for range in [8..11, 11..11, Range { start: 3, end: 2 }] {
            assert_eq!(buffer.part(range.clone()), None, "{range:?}");
            assert!(buffer.slice(range.clone()).is_none(), "{range:?}");
        }
    }
    let tail = buffer.slice(8..10).unwrap();
    assert!(tail.slice(1..3).is_none(), "not beyond its own end either");
}

#[test]
fn joined_buffers_are_one_and_come_apart_again_without_a_copy() {
    let (host, buffer) = held(b"0123456789");
    let parts = || {
        vec![
            b"head".into(),
            buffer.slice(2..5).unwrap(),
            Buffer::default(),
        ]
    };
    let joined = Buffer::joined(parts());
    assert_eq!((joined.len(), joined.place()), (7, None));
    let apart = joined.clone().into_parts();
    assert_eq!(apart[1].place(), buffer.slice(2..5).unwrap().place());
    assert!(copied(&host).is_empty());
    assert_eq!(joined.part(3..5).as_deref(), Some(&b"d2"[..]));
    assert_eq!(copied(&host), [(2, 1)], "no more than was asked for");
    assert_eq!(joined.slice(4..7).unwrap(), b"234");
    assert!(joined.slice(4..8).is_none() && joined.part(8..8).is_none());
    assert_eq!(joined, b"head234");
    assert_eq!(joined.part(3..5).as_deref(), Some(&b"d2"[..]));
    // A record of the answer was written, and its parts still go by their places.
    assert!(joined.into_parts()[1].place().is_some());
    let mut changed = Buffer::joined(parts());
    changed.to_mut().push(b'!');
    assert_eq!(changed, b"head234!");
    assert_eq!(Buffer::from(b"x").into_parts().len(), 1);
}

#[test]
fn a_change_leaves_the_bytes_of_the_host_alone() {
    let (host, buffer) = held(b"abc");
    let mut changed = buffer.clone();
    changed[0] = b'x';
    assert_eq!(changed, b"xbc");
    assert_eq!(changed.place(), None, "it is no longer what the host holds");
    assert_eq!(buffer, b"abc");
    assert_eq!(host.bytes, b"abc");
    assert_eq!(changed.into_vec(), b"xbc");
}
