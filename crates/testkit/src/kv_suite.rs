//! One suite of tests for all stores.
//!
//! A test file creates its store in a function and names that in [`kv_suite!`](crate::kv_suite!), which makes a test of
//! each check. The macro has the only list of checks. A check that is not listed is dead code, which the lints refuse,
//! so no store can miss one.

use penstock_kv::Store;
use std::any::Any;
use std::sync::Arc;

/// An empty store to be checked.
pub struct Subject {
    /// The store, which must be empty.
    pub store: Arc<dyn Store>,
    /// Whether a listing names an entry exactly once, or at least once.
    pub lists_exactly_once: bool,
    /// Whether any value that `set` wrote is distinguished from a counter, or only one that is not a number.
    pub tags_counters: bool,
    /// Keeps the store's directory or server alive.
    pub guard: Box<dyn Any + Send + Sync>,
}

impl Subject {
    /// A store of this machine with all guarantees.
    pub fn strict(store: impl Store, guard: impl Any + Send + Sync) -> Self {
        Self {
            store: Arc::new(store),
            lists_exactly_once: true,
            tags_counters: true,
            guard: Box::new(guard),
        }
    }
}

/// Makes a test of each check of the suite. Takes the path of an `async fn() -> Subject`.
#[macro_export]
macro_rules! kv_suite {
    ($make:path) => { $crate::kv_suite! { @list tests $make } };
    (@list $what:ident $($make:path)?) => {
        $crate::kv_suite! { @$what $($make)?; [
            racers_of_an_increment_have_one_winner,
            racers_of_a_swap_have_one_winner,
            increments_are_never_lost,
            swaps_are_never_lost,
            threads_see_their_own_writes,
            values_round_trip_up_to_the_limit,
            values_over_the_limit_are_refused,
            names_of_all_kinds_are_kept_apart,
            names_over_the_limit_are_refused,
            deleted_entries_are_gone,
            many_keep_their_order,
            many_stop_at_an_error,
            nothing_is_a_valid_list_of_many,
            swaps_compare_exact_bytes,
            increment_of_zero_does_not_create,
            counters_go_both_ways_and_start_over,
            counters_do_not_leave_their_range,
            a_set_value_is_not_a_counter,
            listings_are_complete,
            listings_stand_writes_beside_them,
            foreign_cursors_are_refused,
            writes_become_durable,
        ] }
    };
    (@tests $make:path; [$($name:ident),* $(,)?]) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                $crate::kv_suite::run(stringify!($name), &$make().await).await;
            }
        )*
    };
    (@dispatch; [$($name:ident),* $(,)?]) => {
        /// Runs a check of the suite by its name.
        ///
        /// # Panics
        /// If the store does not pass, or there is no such check.
        pub async fn run(name: &str, subject: &Subject) {
            match name {
                $(stringify!($name) => checks::$name(subject).await,)*
                _ => panic!("no check is called {name}"),
            }
        }
    };
}

kv_suite! { @list dispatch }

mod checks {
    use super::Subject;
    use penstock_kv::{MAX_KV_KEY_BYTES, MAX_LIST_PAGE, MAX_VALUE_BYTES, Store, StoreError, Swap};
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::sync::Barrier;
    use tokio::task::JoinSet;

    const RACERS: usize = 64;

    /// Runs this many tasks at once, which start together, and returns their results.
    async fn race<T, F>(
        subject: &Subject,
        racers: usize,
        run: impl Fn(Arc<dyn Store>, usize) -> F,
    ) -> Vec<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let start = Arc::new(Barrier::new(racers));
        let mut tasks = JoinSet::new();
        for racer in 0..racers {
            let start = Arc::clone(&start);
            let running = run(Arc::clone(&subject.store), racer);
            tasks.spawn(async move {
                start.wait().await;
                running.await
            });
        }
        tasks.join_all().await
    }

    /// Lists all names, page by page, with the number of times that each appeared.
    async fn list_all(store: &dyn Store) -> BTreeMap<String, usize> {
        let mut met = BTreeMap::new();
        let mut cursor: Option<String> = None;
        for _ in 0..10_000 {
            let page = store.list(cursor.as_deref()).await.unwrap();
            assert!(page.names.len() <= MAX_LIST_PAGE, "a page is bounded");
            for name in page.names {
                *met.entry(name).or_insert(0) += 1;
            }
            cursor = page.cursor;
            if cursor.is_none() {
                return met;
            }
        }
        panic!("the listing does not end");
    }

    pub(super) async fn racers_of_an_increment_have_one_winner(subject: &Subject) {
        for round in 0..20 {
            let sums = race(subject, RACERS, |store, _| async move {
                let name = format!("claim/{round}");
                store.increment(&name, 1).await.unwrap()
            });
            let mut sums = sums.await;
            sums.sort_unstable();
            let all: Vec<i64> = (1..=RACERS as i64).collect();
            assert_eq!(sums, all, "each sees a sum of its own");
        }
    }

    pub(super) async fn racers_of_a_swap_have_one_winner(subject: &Subject) {
        assert!(subject.store.sound_compare_and_swap());
        for round in 0..20 {
            let outcomes = race(subject, RACERS, |store, racer| async move {
                let (name, mine) = (format!("claim/{round}"), format!("racer {racer}"));
                let outcome = store.compare_and_swap(&name, None, mine.as_bytes()).await;
                (mine.into_bytes(), outcome.unwrap())
            });
            let outcomes = outcomes.await;
            let won = |(_, outcome): &&(Vec<u8>, Swap)| *outcome == Swap::Swapped;
            let winners: Vec<_> = outcomes.iter().filter(won).collect();
            assert_eq!(winners.len(), 1, "one creates it");
            let winner = winners[0].0.clone();
            for (_, outcome) in &outcomes {
                let lost = Swap::Differs(Some(winner.clone()));
                assert!(*outcome == Swap::Swapped || *outcome == lost);
            }
            let name = format!("claim/{round}");
            assert_eq!(subject.store.get(&name).await.unwrap(), Some(winner));
        }
    }

    pub(super) async fn increments_are_never_lost(subject: &Subject) {
        const TASKS: usize = 16;
        const EACH: i64 = 1000;
        race(subject, TASKS, |store, task| async move {
            let mut last = 0;
            for step in 0..EACH {
                let own = format!("own/{task}");
                let sum = store.increment("shared", 1).await.unwrap();
                assert!(sum > last, "a counter that only grows grows for everybody");
                last = sum;
                assert_eq!(store.increment(&own, 2).await.unwrap(), 2 * (step + 1));
            }
        })
        .await;
        let sum = subject.store.increment("shared", 0).await.unwrap();
        assert_eq!(sum, TASKS as i64 * EACH);
    }

    pub(super) async fn swaps_are_never_lost(subject: &Subject) {
        const TASKS: usize = 8;
        const EACH: usize = 50;
        race(subject, TASKS, |store, _| async move {
            let mut seen: Option<Vec<u8>> = None;
            let mut done = 0;
            while done < EACH {
                let number = |bytes: &Vec<u8>| std::str::from_utf8(bytes).unwrap().parse();
                let count: usize = seen.as_ref().map_or(Ok(0), number).unwrap();
                let next = (count + 1).to_string();
                let swap = store.compare_and_swap("count", seen.as_deref(), next.as_bytes());
                seen = match swap.await.unwrap() {
                    Swap::Swapped => {
                        done += 1;
                        Some(next.into_bytes())
                    }
                    Swap::Differs(found) => found,
                };
            }
        })
        .await;
        let count = (TASKS * EACH).to_string().into_bytes();
        assert_eq!(subject.store.get("count").await.unwrap(), Some(count));
    }

    pub(super) async fn threads_see_their_own_writes(subject: &Subject) {
        race(subject, 8, |store, task| async move {
            let name = format!("mine/{task}");
            for step in 0..200_u32 {
                let value = step.to_be_bytes();
                store.set(&name, &value).await.unwrap();
                assert_eq!(store.get(&name).await.unwrap().as_deref(), Some(&value[..]));
                if step % 3 == 0 {
                    store.delete(&name).await.unwrap();
                    assert_eq!(store.get(&name).await.unwrap(), None);
                }
            }
        })
        .await;
    }

    pub(super) async fn values_round_trip_up_to_the_limit(subject: &Subject) {
        for bytes in [0, 1, 7, 8, 9, 255, 4096, 70_000, MAX_VALUE_BYTES] {
            let value: Vec<u8> = (0..bytes).map(|i| (i * 7 % 256) as u8).collect();
            subject.store.set("value", &value).await.unwrap();
            let found = subject.store.get("value").await.unwrap();
            assert!(found.as_ref() == Some(&value), "{bytes} bytes come back");
            assert!(subject.store.exists("value").await.unwrap());
        }
    }

    pub(super) async fn values_over_the_limit_are_refused(subject: &Subject) {
        let store = &subject.store;
        let value = vec![0; MAX_VALUE_BYTES + 1];
        let too_large = StoreError::TooLarge {
            what: "a value",
            bytes: value.len(),
            limit: MAX_VALUE_BYTES,
        };
        store.set("value", b"before").await.unwrap();
        let swap = store.compare_and_swap("value", Some(b"before"), &value);
        assert_eq!(swap.await, Err(too_large.clone()));
        assert_eq!(store.set("value", &value).await, Err(too_large.clone()));
        let many = [("value".to_owned(), value)];
        assert_eq!(store.set_many(&many).await, Err(too_large));
        let found = store.get("value").await.unwrap();
        assert_eq!(found.as_deref(), Some(&b"before"[..]));
    }

    pub(super) async fn names_of_all_kinds_are_kept_apart(subject: &Subject) {
        let longest = "n".repeat(MAX_KV_KEY_BYTES);
        let longest_unicode = "ü".repeat(MAX_KV_KEY_BYTES / 2);
        let names = [
            "",
            " ",
            "a",
            "A",
            "a ",
            "*",
            "?",
            "[a]",
            "\\",
            "{a}",
            "a:b",
            "a/b",
            "line\nbreak",
            "nul\0inside",
            "ключ",
            "鍵/🔑",
            "u\u{308}",
            "ü",
            &longest,
            &longest[1..],
            &longest_unicode,
        ];
        for name in names {
            let value = format!("of {name}");
            subject.store.set(name, value.as_bytes()).await.unwrap();
        }
        for name in names {
            let found = subject.store.get(name).await.unwrap();
            assert_eq!(
                found,
                Some(format!("of {name}").into_bytes()),
                "of {name:?}"
            );
        }
        let listed: BTreeSet<String> = list_all(&*subject.store).await.into_keys().collect();
        assert_eq!(listed, names.map(str::to_owned).into_iter().collect());
    }

    pub(super) async fn names_over_the_limit_are_refused(subject: &Subject) {
        let store = &subject.store;
        let name = "n".repeat(MAX_KV_KEY_BYTES + 1);
        let refused = StoreError::TooLarge {
            what: "a name",
            bytes: name.len(),
            limit: MAX_KV_KEY_BYTES,
        };
        let names = [name.clone()];
        let entries = [(name.clone(), Vec::new())];
        assert_eq!(store.get(&name).await, Err(refused.clone()));
        assert_eq!(store.get_many(&names).await, Err(refused.clone()));
        assert_eq!(store.exists(&name).await, Err(refused.clone()));
        assert_eq!(store.set(&name, b"").await, Err(refused.clone()));
        assert_eq!(store.set_many(&entries).await, Err(refused.clone()));
        assert_eq!(store.delete(&name).await, Err(refused.clone()));
        assert_eq!(store.delete_many(&names).await, Err(refused.clone()));
        assert_eq!(store.increment(&name, 0).await, Err(refused.clone()));
        assert_eq!(store.increment(&name, 1).await, Err(refused.clone()));
        let swap = store.compare_and_swap(&name, None, b"").await;
        assert_eq!(swap, Err(refused));
    }

    pub(super) async fn deleted_entries_are_gone(subject: &Subject) {
        let store = &subject.store;
        store.delete("absent").await.unwrap();
        assert!(!store.exists("entry").await.unwrap());
        store.set("entry", b"value").await.unwrap();
        assert!(store.exists("entry").await.unwrap());
        store.delete("entry").await.unwrap();
        assert!(!store.exists("entry").await.unwrap());
        assert_eq!(store.get("entry").await.unwrap(), None);
        assert!(list_all(&**store).await.is_empty());
        // Like a new one.
        let swap = store.compare_and_swap("entry", None, b"again").await;
        assert_eq!(swap.unwrap(), Swap::Swapped);
    }

    pub(super) async fn many_keep_their_order(subject: &Subject) {
        let store = &subject.store;
        let entry = |i: usize| (format!("many/{i}"), i.to_string().into_bytes());
        let entries: Vec<_> = (0..700).map(entry).collect();
        store.set_many(&entries).await.unwrap();
        // Backwards, every third absent, one twice.
        let mut asked: Vec<String> = (0..1000).rev().map(|i| entry(i).0).collect();
        asked.push(entry(0).0);
        let found = store.get_many(&asked).await.unwrap();
        assert_eq!(found.len(), asked.len());
        for (i, value) in (0..1000).rev().chain([0]).zip(found) {
            assert_eq!(value, (i < 700).then(|| entry(i).1));
        }
        // The last one of a name stays.
        let twice = ["first", "second"].map(|v| ("twice".to_owned(), v.into()));
        store.set_many(&twice).await.unwrap();
        let found = store.get("twice").await.unwrap();
        assert_eq!(found.as_deref(), Some(&b"second"[..]));

        store.delete_many(&asked).await.unwrap();
        assert!(
            store
                .get_many(&asked)
                .await
                .unwrap()
                .iter()
                .all(Option::is_none)
        );
        assert!(store.exists("twice").await.unwrap());
    }

    pub(super) async fn many_stop_at_an_error(subject: &Subject) {
        let store = &subject.store;
        let entries = [
            ("before".to_owned(), b"value".to_vec()),
            ("wrong".to_owned(), vec![0; MAX_VALUE_BYTES + 1]),
            ("after".to_owned(), b"value".to_vec()),
        ];
        assert!(store.set_many(&entries).await.is_err());
        assert!(store.exists("before").await.unwrap());
        assert!(!store.exists("wrong").await.unwrap());
        assert!(!store.exists("after").await.unwrap());
    }

    pub(super) async fn nothing_is_a_valid_list_of_many(subject: &Subject) {
        let store = &subject.store;
        assert_eq!(store.get_many(&[]).await.unwrap(), []);
        store.set_many(&[]).await.unwrap();
        store.delete_many(&[]).await.unwrap();
        assert!(list_all(&**store).await.is_empty());
    }

    pub(super) async fn swaps_compare_exact_bytes(subject: &Subject) {
        let store = &subject.store;
        let swap = |expected: Option<&'static [u8]>, value: &'static [u8]| async move {
            let swap = store.compare_and_swap("entry", expected, value).await;
            swap.unwrap()
        };
        assert_eq!(swap(Some(b""), b"new").await, Swap::Differs(None));
        assert!(!store.exists("entry").await.unwrap());
        assert_eq!(swap(None, b"").await, Swap::Swapped);
        // It exists and is empty, which differs from absent.
        assert_eq!(swap(None, b"new").await, Swap::Differs(Some(vec![])));
        assert_eq!(swap(Some(b""), b"a\0\xff1").await, Swap::Swapped);
        let now = Some(b"a\0\xff1".to_vec());
        for other in [&b"a"[..], b"a\0\xff", b"a\0\xff1 ", b"A\0\xff1", b""] {
            let swapped = store.compare_and_swap("entry", Some(other), b"new").await;
            assert_eq!(swapped.unwrap(), Swap::Differs(now.clone()));
        }
        // Numbers are bytes as well.
        assert_eq!(swap(Some(b"a\0\xff1"), b"10").await, Swap::Swapped);
        let ten = Swap::Differs(Some(b"10".to_vec()));
        assert_eq!(swap(Some(b"10.0"), b"x").await, ten);
        assert_eq!(swap(Some(b"010"), b"x").await, ten);
        assert_eq!(swap(Some(b"10"), b"x").await, Swap::Swapped);
    }

    pub(super) async fn increment_of_zero_does_not_create(subject: &Subject) {
        let store = &subject.store;
        assert_eq!(store.increment("counter", 0).await.unwrap(), 0);
        assert!(!store.exists("counter").await.unwrap());
        assert_eq!(store.get("counter").await.unwrap(), None);
        store.increment("counter", 5).await.unwrap();
        assert_eq!(store.increment("counter", 0).await.unwrap(), 5);
    }

    pub(super) async fn counters_go_both_ways_and_start_over(subject: &Subject) {
        let store = &subject.store;
        assert_eq!(store.increment("counter", -3).await.unwrap(), -3);
        assert_eq!(store.increment("counter", 3).await.unwrap(), 0);
        // Zero is a count too: the entry exists.
        assert!(store.exists("counter").await.unwrap());
        assert!(store.get("counter").await.unwrap().is_some());
        assert_eq!(store.increment("counter", 7).await.unwrap(), 7);
        store.delete("counter").await.unwrap();
        assert_eq!(store.increment("counter", 0).await.unwrap(), 0);
        assert_eq!(store.increment("counter", 1).await.unwrap(), 1);
        assert!(list_all(&**store).await.contains_key("counter"));
    }

    pub(super) async fn counters_do_not_leave_their_range(subject: &Subject) {
        let store = &subject.store;
        assert_eq!(store.increment("high", i64::MAX).await.unwrap(), i64::MAX);
        assert_eq!(store.increment("high", 1).await, Err(StoreError::Overflow));
        assert_eq!(store.increment("high", 0).await.unwrap(), i64::MAX);
        assert_eq!(store.increment("high", -1).await.unwrap(), i64::MAX - 1);
        assert_eq!(store.increment("low", i64::MIN).await.unwrap(), i64::MIN);
        assert_eq!(store.increment("low", -1).await, Err(StoreError::Overflow));
        assert_eq!(store.increment("low", 0).await.unwrap(), i64::MIN);
        assert_eq!(store.increment("low", i64::MAX).await.unwrap(), -1);
    }

    pub(super) async fn a_set_value_is_not_a_counter(subject: &Subject) {
        let store = &subject.store;
        let mut values = vec![&b"not a number"[..], b"", b"1.5", b" 1", b"\xff"];
        if subject.tags_counters {
            values.extend([&b"12345678"[..], b"1", b"\0\0\0\0\0\0\0\0"]);
        }
        for value in values {
            store.set("entry", value).await.unwrap();
            for delta in [0, 1, -1] {
                let sum = store.increment("entry", delta).await;
                assert_eq!(sum, Err(StoreError::NotACounter), "{value:?} + {delta}");
            }
            assert_eq!(store.get("entry").await.unwrap().as_deref(), Some(value));
        }
    }

    pub(super) async fn listings_are_complete(subject: &Subject) {
        assert!(list_all(&*subject.store).await.is_empty());
        let entry = |i: usize| (format!("list/{i}"), vec![]);
        let entries: Vec<_> = (0..2 * MAX_LIST_PAGE + 345).map(entry).collect();
        subject.store.set_many(&entries).await.unwrap();
        let position = subject.store.position();
        for settled in [false, true] {
            if settled {
                subject.store.durable(position).await.unwrap();
            }
            let met = list_all(&*subject.store).await;
            assert_eq!(met.len(), entries.len());
            assert!(entries.iter().all(|(name, _)| met.contains_key(name)));
            if subject.lists_exactly_once {
                assert!(met.values().all(|&times| times == 1));
            }
        }
    }

    pub(super) async fn listings_stand_writes_beside_them(subject: &Subject) {
        let entry = |i: usize| (format!("stays/{i}"), vec![0]);
        let stays: Vec<_> = (0..1500).map(entry).collect();
        subject.store.set_many(&stays).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (store, done) = (Arc::clone(&subject.store), Arc::clone(&stop));
        let writer = tokio::spawn(async move {
            let mut turn = 0_usize;
            while !done.load(Ordering::Relaxed) {
                // An entry is created and removed, and the others get new values.
                let passing = format!("passes/{}", turn % 400);
                store.set(&passing, b"x").await.unwrap();
                let staying = entry(turn * 7 % 1500).0;
                store.set(&staying, &turn.to_le_bytes()).await.unwrap();
                let gone = format!("passes/{}", turn.wrapping_mul(31) % 400);
                store.delete(&gone).await.unwrap();
                turn += 1;
                if turn.is_multiple_of(16) {
                    tokio::task::yield_now().await;
                }
            }
        });
        for _ in 0..10 {
            let met = list_all(&*subject.store).await;
            for (name, _) in &stays {
                let times = met.get(name).copied().unwrap_or(0);
                assert!(times >= 1, "{name} was there throughout and was not listed");
                if subject.lists_exactly_once {
                    assert_eq!(times, 1, "{name} was listed more than once");
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        writer.await.unwrap();
    }

    pub(super) async fn foreign_cursors_are_refused(subject: &Subject) {
        for cursor in ["", "0", "elsewhere:1", "\u{1F511}"] {
            let page = subject.store.list(Some(cursor)).await;
            assert_eq!(page, Err(StoreError::BadCursor), "{cursor:?}");
        }
    }

    pub(super) async fn writes_become_durable(subject: &Subject) {
        let store = &subject.store;
        store.durable(store.position()).await.unwrap();
        race(subject, RACERS, |store, racer| async move {
            for step in 0..5 {
                store.increment("all", 1).await.unwrap();
                let name = format!("{racer}/{step}");
                store.set(&name, b"value").await.unwrap();
                store.durable(store.position()).await.unwrap();
            }
        })
        .await;
        store.durable(store.position()).await.unwrap();
        let sum = store.increment("all", 0).await.unwrap();
        assert_eq!(sum, 5 * RACERS as i64);
        store.delete("all").await.unwrap();
        store.durable(store.position()).await.unwrap();
        assert!(!store.exists("all").await.unwrap());
    }
}
