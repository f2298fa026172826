//! Reads of several entries through a host's `get-many`, on hosts where it works, fails, or gives a wrong answer.

use penstock_core::kv::{BatchedReads, Many, run_ready};
use penstock_core::{Kv, KvError};
use penstock_testkit::MemoryKv;
use std::cell::Cell;

type Found = Vec<(String, Option<Vec<u8>>)>;

/// The answers of `get-many` on one host, made from the right one; `None` if it fails.
type Host = fn(Found) -> Option<Found>;

const HOSTS: [(&str, bool, Host); 4] = [
    ("works", true, Some),
    ("fails", false, |_| None),
    ("answers in another order", false, |mut found| {
        found.reverse();
        Some(found)
    }),
    ("leaves absent entries out", false, |mut found| {
        found.retain(|(_, value)| value.is_some());
        Some(found)
    }),
];

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn store() -> MemoryKv {
    let kv = MemoryKv::default();
    run_ready(kv.set("value", b"1")).unwrap();
    run_ready(kv.increment("counter", 7)).unwrap();
    kv
}

/// The entries of a host under these names. The bytes of a counter have their own form.
fn found(kv: &MemoryKv, asked: &[String]) -> Found {
    let value = |name: &String| match name.as_str() {
        "counter" => Some(b"seven".to_vec()),
        _ => run_ready(kv.get(name)).unwrap(),
    };
    asked
        .iter()
        .map(|name| (name.clone(), value(name)))
        .collect()
}

#[test]
fn every_host_gives_the_same_answer_and_one_that_cannot_is_asked_once() {
    let all = names(&["value", "no value", "counter", "none"]);
    for (what, works, host) in HOSTS {
        let kv = store();
        let reads = BatchedReads::new();
        let asked = Cell::new(0);
        for _ in 0..3 {
            let get_many = |names: &[String]| {
                asked.set(asked.get() + 1);
                host(found(&kv, names))
            };
            let many = run_ready(reads.read(&kv, &all, 2, get_many));
            let expected = Many {
                values: vec![Some(b"1".to_vec()), None],
                counters: vec![true, false],
            };
            assert_eq!(many, Ok(expected), "a host that {what}");
        }
        assert_eq!(asked.get(), if works { 3 } else { 1 }, "a host that {what}");
    }
}

#[test]
fn a_store_that_does_not_answer_is_an_error_and_does_not_end_batched_reads() {
    let kv = store();
    let reads = BatchedReads::new();
    let both = names(&["value", "absent"]);
    kv.set_failing(true);
    let failed: Result<Many, KvError> = run_ready(reads.read(&kv, &both, 2, |_| None));
    assert!(failed.is_err());
    kv.set_failing(false);
    let operations = kv.operations();
    let many = run_ready(reads.read(&kv, &both, 2, |asked| {
        let value = [Some(b"1".to_vec()), None];
        Some(asked.iter().cloned().zip(value).collect())
    }));
    let values = many.map(|many| many.values);
    assert_eq!(values, Ok(vec![Some(b"1".to_vec()), None]));
    assert_eq!(kv.operations(), operations, "nothing is read one by one");
}

#[test]
fn one_entry_is_read_alone() {
    let kv = store();
    let operations = kv.operations();
    let reads = BatchedReads::new();
    let many = run_ready(reads.read(&kv, &names(&["value"]), 1, |_| {
        panic!("no batch is asked for")
    }));
    assert_eq!(many.map(|many| many.values), Ok(vec![Some(b"1".to_vec())]));
    assert_eq!(kv.operations(), operations + 1);
}
