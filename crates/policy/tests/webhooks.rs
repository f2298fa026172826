//! The entries of announcements: stored with the operation, removed with a deletion, and removed with the sweep.

use crate::operations_common::{HOUR_MS, NOW_MS, end, submission};

use penstock_core::kv::run_ready;
use penstock_core::{Kv, OperationId};
use penstock_policy::operations::words::{Claim, OperationState, Submission};
use penstock_policy::operations::{Acceptance, Announced, Operations, OperationsSettings};
use penstock_policy::webhooks::delivery::{Delivery, DeliveryState, KEEP_MS, MAX_AGAIN, Outcome};
use penstock_policy::webhooks::entries::Names;
use penstock_policy::webhooks::target::Target;
use penstock_testkit::MemoryKv;

struct World {
    kv: MemoryKv,
    policy: Operations,
    random: u128,
}

impl World {
    fn new() -> Self {
        Self {
            kv: MemoryKv::default(),
            policy: Operations::new(OperationsSettings::default()),
            random: 0,
        }
    }

    fn accept(&mut self, with_webhook: bool, now_ms: u64) -> OperationId {
        self.random += 1;
        let target = Target {
            tenant: "t".to_owned(),
            url: Some("https://hooks.example/".to_owned()),
        };
        let call = Submission {
            webhook: with_webhook.then_some(target),
            ..submission("t", b"body")
        };
        match run_ready((self.policy).accept(&self.kv, call, now_ms, self.random)).unwrap() {
            Acceptance::Accepted(accepted) => accepted.operation.id,
            Acceptance::Full(message) => panic!("{message}"),
        }
    }

    fn end(&self, id: &OperationId) {
        let claim = run_ready(self.policy.claim(&self.kv, id, "w", 0, NOW_MS)).unwrap();
        let Claim::Granted(run) = claim else {
            panic!("{claim:?}")
        };
        let end = end(OperationState::Succeeded, b"result");
        let of = (run.epoch, run.attempt);
        assert!(run_ready(self.policy.complete(&self.kv, id, of, end, NOW_MS)).unwrap());
    }

    fn again(&self, id: &OperationId) -> Announced {
        run_ready(self.policy.announce_again(&self.kv, id, "t", NOW_MS))
            .unwrap()
            .unwrap()
    }

    fn set(&self, name: &str, value: &[u8]) {
        run_ready(self.kv.set(name, value)).unwrap();
    }

    /// A delivery that failed once, was asked for again, and is over; with a message that is left.
    fn delivered(&self, id: &OperationId) {
        let names = Names::of(id);
        let outcome = |status| Outcome::Answered {
            status,
            retry_after_ms: None,
        };
        let failed = Delivery::due(NOW_MS).after(outcome(500), (NOW_MS, 1), NOW_MS, 0);
        self.set(&names.record(), &failed.encode());
        assert!(matches!(self.again(id), Announced::Again(_)));
        let record = run_ready(self.kv.get(&names.record())).unwrap().unwrap();
        let record = Delivery::decode(&record).unwrap();
        assert_eq!((record.generation, record.next_attempt()), (1, 3));
        let record = record.after(outcome(200), (NOW_MS, 1), NOW_MS, 0);
        self.set(&names.record(), &record.encode());
        self.set(&names.payload(), b"{}");
        self.set(&names.over(1), b"1");
        for attempt in [1, 3] {
            run_ready(self.kv.increment(&names.claim(attempt), 1)).unwrap();
        }
    }

    fn left(&self) -> Vec<String> {
        let names = self.kv.names().into_iter();
        names.filter(|name| name.starts_with("w/")).collect()
    }
}

#[test]
fn a_call_without_a_webhook_stores_nothing_for_one() {
    let mut world = World::new();
    let id = world.accept(false, NOW_MS);
    world.end(&id);
    assert_eq!(world.left(), Vec::<String>::new());
    assert!(!world.kv.names().iter().any(|name| name.starts_with("wx")));
    assert!(matches!(world.again(&id), Announced::NotNow(_)));
}

#[test]
fn entries_of_deliveries_are_swept_once_nobody_can_need_them() {
    let mut world = World::new();
    let delivered = world.accept(true, NOW_MS);
    world.end(&delivered);
    world.delivered(&delivered);
    let untouched = world.accept(true, NOW_MS);
    let deleted = world.accept(true, NOW_MS);
    world.end(&deleted);
    world.delivered(&deleted);
    run_ready(world.policy.delete(&world.kv, &deleted, "t", NOW_MS)).unwrap();
    let before = world.left().len();
    let sweep = |world: &mut World, now_ms: u64| {
        // Instances that have just started use each shard.
        for _ in 0..64 {
            world.policy = Operations::new(OperationsSettings::default());
            world.accept(true, now_ms);
        }
        world.left()
    };
    let of =
        |names: Vec<String>, id: &OperationId| names.iter().any(|name| name.contains(id.short()));
    sweep(&mut world, NOW_MS + KEEP_MS);
    assert!(world.left().len() >= before, "they may still be needed");
    let left = sweep(&mut world, NOW_MS + KEEP_MS + 72 * HOUR_MS);
    for id in [&delivered, &untouched, &deleted] {
        assert!(!of(left.clone(), id), "{left:?}");
    }
}

#[test]
fn a_deletion_removes_the_target_and_the_message() {
    let mut world = World::new();
    let id = world.accept(true, NOW_MS);
    world.end(&id);
    world.delivered(&id);
    run_ready(world.policy.delete(&world.kv, &id, "t", NOW_MS)).unwrap();
    let names = Names::of(&id);
    for gone in [names.target(), names.payload()] {
        assert!(!world.left().contains(&gone), "{gone}");
    }
}

#[test]
fn a_message_is_sent_again_a_bounded_number_of_times() {
    let mut world = World::new();
    let id = world.accept(true, NOW_MS);
    assert!(matches!(world.again(&id), Announced::NotNow(why) if why.contains("not ended")));
    world.end(&id);
    for _ in 0..MAX_AGAIN {
        let Announced::Again(operation) = world.again(&id) else {
            panic!("it may be sent again")
        };
        let state = operation.webhook.unwrap().delivery.state;
        assert_eq!(state, DeliveryState::Pending);
    }
    assert!(matches!(world.again(&id), Announced::NotNow(why) if why.contains("as often")));
}
