//! Counts the costs of a request: calls of other components and of the host, operations on stores, and allocations. No clock
//! is needed. The table is in docs/PERFORMANCE.md, and `UPDATE_DOCS=1` writes it anew.
//!
//! The native gate stands for the component: the same code makes the same calls and allocations. What the host does for a call
//! is not in the figures.

#![allow(missing_docs)]

use penstock_gate::{Gate, Request};
use penstock_testkit::counting::Calls;
use penstock_testkit::keys::{add_key, add_tenant};
use penstock_testkit::models::{ECHO, echo};
use penstock_testkit::{HostBody, InMemory, LIMITS};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Write;
use std::path::PathBuf;

thread_local! {
    static ALLOCATED: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// The system's allocator, with the allocations of each thread counted.
struct CountingAllocator;

fn note(bytes: usize) {
    // A thread that ends has no counter any more.
    let _ = ALLOCATED.try_with(|counted| {
        let (times, total) = counted.get();
        counted.set((times + 1, total + bytes as u64));
    });
}

// SAFETY: every call is passed on unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// The cost of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    calls: Calls,
    store: u64,
    allocations: u64,
    allocated_bytes: u64,
}

/// Calls and operations on stores are exact. Allocations may differ by this part, because a map's seed and the allocator's
/// growth steps depend on the library: fewer are welcome and go into the table.
const TOLERANCE: f64 = 0.03;

const ROWS: usize = 160;
/// Rows of a large body: 600 KB.
const MANY_ROWS: usize = 75_000;
const JSON: (&str, &str) = ("content-type", "application/json");

fn json_body() -> Vec<u8> {
    let row = "[1.5,2.5]";
    format!("{{\"inputs\":{{\"a\":[{}]}}}}", [row; ROWS].join(",")).into_bytes()
}

fn binary_body(rows: usize) -> (String, Vec<u8>) {
    let bytes = rows * 2 * 4;
    let head = format!(
        "{{\"inputs\":[{{\"name\":\"a\",\"datatype\":\"FP32\",\"shape\":[{rows},2],\"parameters\":{{\"binary_data_size\":{bytes}}}}}],\
         \"parameters\":{{\"binary_data_output\":true}}}}"
    );
    let length = head.len().to_string();
    let numbers = (0..rows * 2).flat_map(|at| (at as f32).to_le_bytes());
    let mut body = head.into_bytes();
    body.extend(numbers);
    (length, body)
}

/// A request from another machine.
fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Request {
    let headers = [headers, &[("spin-client-addr", "192.0.2.7:4711")]].concat();
    penstock_testkit::request(method, target, &headers, body)
}

/// Operations on the stores so far.
fn operations(ports: &InMemory) -> u64 {
    ports.kv.operations() + ports.rollout_kv.operations()
}

/// The cost of the last of these requests to one instance. Those before it open and read what an instance keeps.
fn cost(ports: InMemory, requests: &[Request]) -> Cost {
    let mut gate = Gate::new(ports.clone());
    let mut last = None;
    for request in requests {
        ports.calls.take();
        let store = operations(&ports);
        let before = ALLOCATED.get();
        let response = gate.handle(request);
        let after = ALLOCATED.get();
        assert!(
            matches!(response.status, 200 | 202),
            "{}",
            String::from_utf8_lossy(&response.body)
        );
        last = Some(Cost {
            calls: ports.calls.take(),
            store: operations(&ports) - store,
            allocations: after.0 - before.0,
            allocated_bytes: after.1 - before.1,
        });
    }
    last.expect("at least one request")
}

/// Typical requests, each with its name.
fn typical() -> Vec<(&'static str, Cost)> {
    const PREDICT: &str = "/v1/models/m:predict";
    let ports = |policy: &str| {
        let ports = InMemory::new(&[("m", ECHO, &["1"])], echo);
        // The clock starts at midnight. Near it, a look for an idempotency key reads one day more, and in the first moment of
        // a window nothing of it has passed yet. Neither is typical.
        ports.clock.advance_ms(12 * 3_600_000 + 1_000);
        ports.set_policy(policy);
        ports
    };
    let body = json_body();
    let predict = |headers: &[(&str, &str)]| {
        let headers: Vec<_> = [JSON].iter().chain(headers).copied().collect();
        request("POST", PREDICT, &headers, &body)
    };
    let plain = predict(&[]);
    let keyed = |key: &str| predict(&[("idempotency-key", key)]);
    let infer = |(head_bytes, body): &(String, Vec<u8>)| {
        let headers = [
            ("content-type", "application/octet-stream"),
            ("inference-header-content-length", head_bytes.as_str()),
        ];
        request("POST", "/v2/models/m/infer", &headers, body)
    };
    let binary = infer(&binary_body(ROWS));
    let with_key = {
        let ports = ports("[auth.tiers.free]\n");
        add_tenant(&ports, "acme");
        let key = add_key(&ports, "acme", &["*"], "free");
        let call = predict(&[("x-api-key", &key)]);
        cost(ports, &[call.clone(), call])
    };
    let deferred = [("prefer", "respond-async")];
    let poll = {
        let ports = ports("");
        let accepted = Gate::new(ports.clone()).handle(&predict(&deferred));
        let path = accepted
            .header("location")
            .expect("the path of the operation");
        let poll = request("GET", path, &[], &[]);
        cost(ports, &[poll.clone(), poll])
    };
    let in_host = {
        let many = format!("{ECHO}[limits]\nmax_items = {MANY_ROWS}\n");
        let ports = InMemory::new(&[("m", &many, &["1"])], echo);
        let (head_bytes, body) = binary_body(MANY_ROWS);
        let host = HostBody::new(body.clone());
        let mut call = infer(&(head_bytes, Vec::new()));
        call.body = host.buffer();
        let mut cost = cost(ports, &[call.clone(), call]);
        let asked = host.take();
        // Only the JSON before the tensors comes to the gate, and the host checks them where they are.
        assert!(asked.copied.iter().all(|part| part.end < 300), "{asked:?}");
        cost.calls.host += (asked.copied.len() + asked.checked.len()) as u64 / 2;
        cost
    };
    let twice = [plain.clone(), plain.clone()];
    vec![
        ("predict, no policy", cost(ports(""), &twice)),
        ("predict, an API key", with_key),
        ("predict, three limits", cost(ports(LIMITS), &twice)),
        (
            "predict, counted (`[usage]`)",
            cost(ports("[usage]\nenabled = true\n"), &twice),
        ),
        (
            "predict, a new idempotency key",
            cost(ports(""), &[keyed("k0"), keyed("k1"), keyed("k2")]),
        ),
        (
            "the same, with places in the index for 16 calls",
            cost(ports(""), &[keyed("k0"), keyed("k1")]),
        ),
        (
            "the replay of one",
            cost(ports(""), &[keyed("k0"), keyed("k0")]),
        ),
        (
            "predict, accepted as an operation",
            cost(ports(""), &[(); 3].map(|()| predict(&deferred))),
        ),
        ("a poll of an operation", poll),
        (
            "predict, a cache hit",
            cost(ports("[[cache]]\nmodel = \"m\"\n"), &twice),
        ),
        (
            "infer, binary tensors",
            cost(ports(""), &[binary.clone(), binary]),
        ),
        ("infer, 600 KB of binary tensors in the host", in_host),
        (
            "a model's description",
            cost(
                ports(""),
                &[(); 2].map(|()| request("GET", "/v2/models/m", &[], &[])),
            ),
        ),
        (
            "a probe",
            cost(
                ports(""),
                &[(); 2].map(|()| request("GET", "/healthz", &[], &[])),
            ),
        ),
    ]
}

const HEADING: &str = "| request | calls of components | calls of the host | store operations | allocations | bytes allocated |";

fn row(name: &str, cost: &Cost) -> String {
    let Cost {
        calls,
        store,
        allocations,
        allocated_bytes,
    } = cost;
    let (component, host) = (calls.component, calls.host);
    format!("| {name} | {component} | {host} | {store} | {allocations} | {allocated_bytes} |")
}

fn read(line: &str) -> Option<(String, Cost)> {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let numbers: Vec<u64> = cells[1..]
        .iter()
        .filter_map(|cell| cell.parse().ok())
        .collect();
    let &[component, host, store, allocations, allocated_bytes] = numbers.as_slice() else {
        return None;
    };
    let calls = Calls { component, host };
    let cost = Cost {
        calls,
        store,
        allocations,
        allocated_bytes,
    };
    Some((cells[0].to_owned(), cost))
}

#[test]
fn typical_requests_cost_what_docs_performance_says() {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/PERFORMANCE.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (before, table) = text.split_once(HEADING).expect("the page has the table");
    let (table, after) = table
        .split_once("\n\n")
        .expect("a blank line ends the table");
    let measured = typical();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let mut anew = format!("{before}{HEADING}\n|---|---|---|---|---|---|\n");
        for (name, cost) in &measured {
            writeln!(anew, "{}", row(name, cost)).unwrap();
        }
        std::fs::write(&page, format!("{anew}\n{after}")).unwrap();
        return;
    }
    let documented: Vec<(String, Cost)> = table.lines().filter_map(read).collect();
    let names = |rows: &[(String, Cost)]| {
        rows.iter()
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>()
    };
    let measured: Vec<(String, Cost)> = measured
        .into_iter()
        .map(|(name, cost)| (name.to_owned(), cost))
        .collect();
    assert_eq!(names(&documented), names(&measured));
    let mut wrong = String::new();
    for ((name, said), (_, is)) in documented.iter().zip(&measured) {
        let same = same(said, is);
        if !same {
            writeln!(
                wrong,
                "documented {}\nmeasured   {}",
                row(name, said),
                row(name, is)
            )
            .unwrap();
        }
    }
    assert!(
        wrong.is_empty(),
        "the cost of a request changed. If it should, set UPDATE_DOCS=1, run this test again and say why in the changelog:\n{wrong}"
    );
}

/// Whether a measured cost is the documented one.
fn same(said: &Cost, is: &Cost) -> bool {
    let near = |a: u64, b: u64| (a as f64 - b as f64).abs() <= (b as f64 * TOLERANCE).max(2.0);
    said.calls == is.calls
        && said.store == is.store
        && near(is.allocations, said.allocations)
        && near(is.allocated_bytes, said.allocated_bytes)
}

#[test]
fn one_more_call_or_a_tenth_more_allocations_is_another_cost() {
    for (name, cost) in typical() {
        assert!(same(&cost, &cost), "{name}");
        let mut others = [cost; 4];
        others[0].calls.component += 1;
        others[1].calls.host += 1;
        others[2].store += 1;
        // Three more are the least that is noticed.
        others[3].allocations += (cost.allocations / 10).max(3);
        for other in others {
            assert!(!same(&cost, &other), "{name}: {other:?}");
        }
    }
}
