//! Keys and tenants on a store in memory: tables first, and then a simulation of several administrators over a store
//! that loses and delays, where they die in the middle of things.

#![cfg(feature = "auth")]
use penstock_core::Kv;
use penstock_core::kv::run_ready;
use penstock_policy::auth::api_key::{self, Pepper, hex};
use penstock_policy::auth::record::{
    KeyRecord, TenantRecord, decode, key_name, revoked_name, tenant_name, used_name,
};
use penstock_policy::auth::registry::*;
use penstock_policy::auth::scopes::Scope;
use penstock_testkit::sim::Entry;
use penstock_testkit::{Faults, MemoryKv, Random, Sim, SimKv};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A time in the middle of a day.
const NOON_MS: u64 = 1_795_262_400_000;
const DAY_MS: u64 = 86_400_000;

fn pepper() -> Pepper {
    Pepper::new(b"0123456789abcdef").unwrap()
}

fn scope(text: &str) -> Scope {
    Scope::try_from(text.to_owned()).unwrap()
}

fn new_key_of(tenant: &str) -> NewKey {
    NewKey {
        tenant: tenant.into(),
        tier: "free".into(),
        scopes: vec![scope("predict:magika")],
        name: "laptop".into(),
        expires_ms: None,
        signs: false,
    }
}

fn new_tenant(tenant: &str) -> NewTenant {
    NewTenant {
        tenant: tenant.into(),
        description: String::new(),
    }
}

/// Random bytes that follow from a seed.
fn random(seed: u64) -> impl FnMut(&mut [u8]) {
    let mut random = Random::new(seed);
    move |bytes| {
        for byte in bytes {
            *byte = random.bits() as u8;
        }
    }
}

/// A store with the tenant `acme`.
fn with_acme() -> MemoryKv {
    let kv = MemoryKv::default();
    run_ready(create_tenant(&kv, &new_tenant("acme"), NOON_MS)).unwrap();
    kv
}

fn create(
    kv: &MemoryKv,
    new: &NewKey,
    now_ms: u64,
    seed: u64,
) -> Result<CreatedKey, RegistryError> {
    run_ready(create_key(kv, &pepper(), new, now_ms, random(seed)))
}

fn rotate(
    kv: &MemoryKv,
    id: &str,
    overlap_ms: u64,
    now_ms: u64,
    seed: u64,
) -> Result<(CreatedKey, ListedKey), RegistryError> {
    let pepper = pepper();
    let rotated = rotate_key(kv, &pepper, id, overlap_ms, now_ms, random(seed));
    run_ready(rotated)
}

fn all_keys(kv: &MemoryKv, tenant: Option<&str>) -> Vec<ListedKey> {
    let (mut from, mut keys) = (None, Vec::new());
    loop {
        let page = run_ready(list_keys(kv, tenant, from)).unwrap();
        keys.extend(page.entries);
        match page.next {
            Some(next) => from = Some(PageToken::parse(&next.to_string()).unwrap()),
            None => return keys,
        }
    }
}

#[test]
fn a_created_key_is_told_once_and_kept_as_its_digest() {
    let kv = with_acme();
    let new = NewKey {
        expires_ms: Some(NOON_MS + DAY_MS),
        signs: true,
        ..new_key_of("acme")
    };
    let made = create(&kv, &new, NOON_MS, 1).unwrap();
    let parsed = api_key::parse(&made.api_key).unwrap();
    assert_eq!(parsed.id, made.record.id);
    assert_eq!(
        made.signing_secret,
        Some(pepper().signing_secret(parsed.id))
    );
    let kept = run_ready(kv.get(&key_name(parsed.id))).unwrap().unwrap();
    let record: KeyRecord = decode(&kept).unwrap();
    assert_eq!(record, made.record);
    assert_eq!(record.digest, hex(&pepper().digest(&made.api_key)));
    for name in kv.names() {
        assert!(!name.contains(&made.api_key[18..]), "{name}");
    }
    assert!(
        !String::from_utf8(kept)
            .unwrap()
            .contains(&made.api_key[18..])
    );
    assert!(!format!("{made:?}").contains(&made.api_key[18..]));
    let shown = run_ready(show_key(&kv, parsed.id)).unwrap();
    assert_eq!((&shown.record, shown.revoked_ms), (&record, None));
    assert_eq!(shown.state(NOON_MS + DAY_MS - 1), KeyState::Active);
    assert_eq!(shown.state(NOON_MS + DAY_MS), KeyState::Expired);
    run_ready(kv.set(&used_name(parsed.id), b"1795262400007")).unwrap();
    let shown = run_ready(show_key(&kv, parsed.id)).unwrap();
    assert_eq!(shown.last_used_ms, Some(1_795_262_400_007));
}

#[test]
fn everything_wrong_with_a_new_key_is_named_at_once_and_nothing_is_kept() {
    let kv = with_acme();
    let before = kv.names();
    let new = NewKey {
        tenant: "a:b".into(),
        tier: "anonymous".into(),
        scopes: Vec::new(),
        name: "two\nlines".into(),
        expires_ms: Some(NOON_MS),
        signs: false,
    };
    let Err(RegistryError::Invalid(faults)) = create(&kv, &new, NOON_MS, 1) else {
        panic!("refused")
    };
    let places: Vec<&str> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
    assert_eq!(
        places,
        ["/tenant", "/tier", "/name", "/scopes", "/expires_ms"]
    );
    for wrong in [
        NewKey {
            scopes: vec![scope("*"); 65],
            ..new_key_of("acme")
        },
        NewKey {
            name: "n".repeat(129),
            ..new_key_of("acme")
        },
        NewKey {
            expires_ms: Some(u64::MAX),
            ..new_key_of("acme")
        },
        new_key_of("anonymous"),
        new_key_of(&"a".repeat(65)),
    ] {
        let refused = create(&kv, &wrong, NOON_MS, 1);
        assert!(
            matches!(&refused, Err(RegistryError::Invalid(f)) if f.len() == 1),
            "{refused:?}"
        );
    }
    assert_eq!(
        create(&kv, &new_key_of("nobody"), NOON_MS, 1),
        Err(RegistryError::NoSuchTenant("nobody".into()))
    );
    assert_eq!(kv.names(), before);
}

#[test]
fn lists_have_every_key_and_tenant_once_in_pages_of_bounded_work() {
    let kv = with_acme();
    let mut expected = BTreeMap::new();
    for n in 0..230 {
        let tenant = format!("t{n}");
        run_ready(create_tenant(&kv, &new_tenant(&tenant), NOON_MS)).unwrap();
    }
    for n in 0..300 {
        let tenant = if n < 250 { "acme" } else { "t150" };
        let made = create(&kv, &new_key_of(tenant), NOON_MS, n).unwrap();
        expected.insert(made.record.id.clone(), made.record);
    }
    for (tenant, count) in [(Some("acme"), 250), (Some("t150"), 50), (Some("t1"), 0)] {
        assert_eq!(all_keys(&kv, tenant).len(), count, "{tenant:?}");
    }
    let listed = all_keys(&kv, None);
    assert_eq!(listed.len(), 300);
    let listed: BTreeMap<_, _> = listed
        .into_iter()
        .map(|k| (k.record.id.clone(), k.record))
        .collect();
    assert_eq!(listed, expected);
    let (mut from, mut tenants) = (None, Vec::new());
    loop {
        let before = kv.operations();
        let page = run_ready(list_tenants(&kv, from)).unwrap();
        assert!(kv.operations() - before <= 2 * PAGE_STEPS + 2);
        tenants.extend(page.entries.into_iter().map(|t| t.tenant));
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(tenants.len(), 231);
    assert_eq!(
        (tenants[0].as_str(), tenants[230].as_str()),
        ("acme", "t229")
    );
    let before = kv.operations();
    run_ready(list_keys(&kv, None, None)).unwrap();
    assert!(kv.operations() - before <= 5 * PAGE_STEPS);
    assert!(matches!(
        run_ready(list_keys(&kv, Some("nobody"), None)),
        Err(RegistryError::NoSuchTenant(_))
    ));
}

#[test]
fn a_page_token_is_read_as_it_was_written_and_nothing_else_is() {
    let kv = with_acme();
    for text in [
        "", ".", "1", "1.", ".1", "0.1", "1.0", "+1.1", "1.1.1", "a.1",
    ] {
        assert_eq!(PageToken::parse(text), None, "{text}");
    }
    assert_eq!(PageToken::parse(&format!("1.{}", u64::MAX)), None);
    // Beyond the end there is nothing, and no work.
    let far = PageToken::parse("999999999.999999999").unwrap();
    assert_eq!(far.to_string(), "999999999.999999999");
    let before = kv.operations();
    let keys = run_ready(list_keys(&kv, None, Some(far))).unwrap();
    let tenants = run_ready(list_tenants(&kv, Some(far))).unwrap();
    let own = run_ready(list_keys(&kv, Some("acme"), Some(far))).unwrap();
    assert_eq!((keys.entries.len(), keys.next), (0, None));
    assert_eq!((tenants.entries.len(), tenants.next), (0, None));
    assert_eq!((own.entries.len(), own.next), (0, None));
    assert!(kv.operations() - before < 10);
}

#[test]
fn revoking_is_for_good_and_can_be_repeated() {
    let kv = with_acme();
    let made = create(&kv, &new_key_of("acme"), NOON_MS, 1).unwrap();
    let id = made.record.id.as_str();
    let revoked = run_ready(revoke_key(&kv, id, NOON_MS + 5)).unwrap();
    assert_eq!(revoked.revoked_ms, Some(NOON_MS + 5));
    let again = run_ready(revoke_key(&kv, id, NOON_MS + 9)).unwrap();
    assert_eq!(again.revoked_ms, Some(NOON_MS + 5));
    assert_eq!(again.state(NOON_MS + 9), KeyState::Revoked);
    let entry = run_ready(kv.get(&revoked_name(id))).unwrap().unwrap();
    assert_eq!(entry, (NOON_MS + 5).to_string().into_bytes());
    assert_eq!(
        run_ready(revoke_key(&kv, "7Kx0aQ2mBv9Z", NOON_MS)),
        Err(RegistryError::NoSuchKey("7Kx0aQ2mBv9Z".into()))
    );
    // A text that is not an id is not looked up.
    let before = kv.operations();
    assert!(run_ready(show_key(&kv, "../x")).is_err());
    assert_eq!(kv.operations(), before);
}

#[test]
fn a_rotated_key_ends_with_the_overlap_and_its_successor_is_like_it() {
    let kv = with_acme();
    let new = NewKey {
        expires_ms: Some(NOON_MS + 90 * DAY_MS),
        signs: true,
        ..new_key_of("acme")
    };
    let first = create(&kv, &new, NOON_MS, 1).unwrap();
    let later = NOON_MS + 80 * DAY_MS;
    let (second, old) = rotate(&kv, &first.record.id, DAY_MS, later, 2).unwrap();
    assert_eq!(old.record.expires_ms, Some(later + DAY_MS));
    assert_eq!(old.record.rotated_to, Some(second.record.id.clone()));
    assert_eq!(
        second.record,
        KeyRecord {
            id: second.record.id.clone(),
            digest: hex(&pepper().digest(&second.api_key)),
            created_ms: later,
            expires_ms: Some(later + 90 * DAY_MS),
            rotated_from: Some(first.record.id.clone()),
            ..first.record.clone()
        }
    );
    assert!(second.signing_secret.is_some() && second.signing_secret != first.signing_secret);
    assert_eq!(run_ready(show_key(&kv, &first.record.id)).unwrap(), old);
    assert_eq!(all_keys(&kv, Some("acme")).len(), 2);
    // An overlap lengthens no life.
    let soon = second.record.expires_ms.unwrap() - 1;
    let (third, old) = rotate(&kv, &second.record.id, 30 * DAY_MS, soon, 3).unwrap();
    assert_eq!(old.record.expires_ms, second.record.expires_ms);
    // None ends the old key now.
    let (_, old) = rotate(&kv, &third.record.id, 0, soon + 1, 4).unwrap();
    assert_eq!(old.state(soon + 1), KeyState::Expired);
    assert!(
        kv.names()
            .iter()
            .all(|name| !name.starts_with("auth:claim:"))
    );
}

#[test]
fn a_key_that_ended_or_has_a_successor_is_not_rotated() {
    let kv = with_acme();
    let id = |made: &CreatedKey| made.record.id.clone();
    let revoked = id(&create(&kv, &new_key_of("acme"), NOON_MS, 1).unwrap());
    run_ready(revoke_key(&kv, &revoked, NOON_MS)).unwrap();
    let expiring = NewKey {
        expires_ms: Some(NOON_MS + 1),
        ..new_key_of("acme")
    };
    let expired = id(&create(&kv, &expiring, NOON_MS, 2).unwrap());
    let rotated = id(&create(&kv, &new_key_of("acme"), NOON_MS, 3).unwrap());
    let (next, _) = rotate(&kv, &rotated, DAY_MS, NOON_MS, 4).unwrap();
    let names = kv.names();
    for (id, word) in [
        (&revoked, "was revoked"),
        (&expired, "has expired"),
        (&rotated, id(&next).as_str()),
    ] {
        match rotate(&kv, id, 0, NOON_MS + 1, 5) {
            Err(RegistryError::Ended(why)) => assert!(why.contains(word), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    let too_long = rotate(&kv, &id(&next), MAX_OVERLAP_MS + 1, NOON_MS, 6);
    assert!(
        matches!(too_long, Err(RegistryError::Invalid(_))),
        "{too_long:?}"
    );
    assert!(matches!(
        rotate(&kv, "7Kx0aQ2mBv9Z", 0, NOON_MS, 7),
        Err(RegistryError::NoSuchKey(_))
    ));
    assert_eq!(kv.names(), names);
}

#[test]
fn a_tenant_is_made_once_and_closed_and_opened_as_often_as_one_likes() {
    let kv = with_acme();
    let again = run_ready(create_tenant(&kv, &new_tenant("acme"), NOON_MS));
    assert_eq!(again, Err(RegistryError::TenantExists("acme".into())));
    let closed = run_ready(set_tenant(&kv, "acme", false, NOON_MS + 1)).unwrap();
    assert_eq!(closed.disabled_ms, Some(NOON_MS + 1));
    let closed = run_ready(set_tenant(&kv, "acme", false, NOON_MS + 2)).unwrap();
    assert_eq!(closed.disabled_ms, Some(NOON_MS + 1));
    let open = run_ready(set_tenant(&kv, "acme", true, NOON_MS + 3)).unwrap();
    assert_eq!(open.disabled_ms, None);
    assert_eq!(run_ready(show_tenant(&kv, "acme")), Ok(open));
    for missing in ["nobody", "a:b", ""] {
        let shown = run_ready(show_tenant(&kv, missing));
        assert_eq!(shown, Err(RegistryError::NoSuchTenant(missing.into())));
    }
    for wrong in ["", "a b", "anonymous", "-a"] {
        let made = run_ready(create_tenant(&kv, &new_tenant(wrong), NOON_MS));
        assert!(matches!(made, Err(RegistryError::Invalid(_))), "{wrong}");
    }
    let long = NewTenant {
        tenant: "t".into(),
        description: "d".repeat(129),
    };
    let made = run_ready(create_tenant(&kv, &long, NOON_MS));
    assert!(matches!(made, Err(RegistryError::Invalid(_))));
}

#[test]
fn a_full_tenant_gets_the_slots_of_keys_that_ended_long_ago_and_no_others() {
    let kv = with_acme();
    let mut ids = Vec::new();
    for n in 0..MAX_KEYS_PER_TENANT {
        let made = create(&kv, &new_key_of("acme"), NOON_MS, n).unwrap();
        ids.push(made.record.id);
    }
    let full = |now_ms, seed| {
        let refused = create(&kv, &new_key_of("acme"), now_ms, seed);
        assert!(
            matches!(refused, Err(RegistryError::Full(_))),
            "{refused:?}"
        );
    };
    full(NOON_MS, 5_000);
    let entries = kv.names().len();
    // Others are not concerned.
    run_ready(create_tenant(&kv, &new_tenant("other"), NOON_MS)).unwrap();
    create(&kv, &new_key_of("other"), NOON_MS, 5_001).unwrap();
    run_ready(revoke_key(&kv, &ids[7], NOON_MS)).unwrap();
    run_ready(kv.set(&used_name(&ids[7]), b"1")).unwrap();
    full(NOON_MS + RETENTION_MS - 1, 5_002);
    assert!(run_ready(show_key(&kv, &ids[7])).is_ok());
    let later = NOON_MS + RETENTION_MS;
    let made = create(&kv, &new_key_of("acme"), later, 5_003).unwrap();
    assert_eq!(
        run_ready(show_key(&kv, &ids[7])),
        Err(RegistryError::NoSuchKey(ids[7].clone()))
    );
    full(later, 5_004);
    // A reader that read the record just before its deletion still finds the revocation.
    let is_revoked = |id: &str| run_ready(kv.exists(&revoked_name(id))).unwrap();
    assert!(is_revoked(&ids[7]));
    // The same slot, a second time.
    run_ready(revoke_key(&kv, &made.record.id, later)).unwrap();
    let made = create(&kv, &new_key_of("acme"), later + RETENTION_MS, 5_005).unwrap();
    assert!(!is_revoked(&ids[7]));
    let listed = all_keys(&kv, Some("acme"));
    assert_eq!(listed.len() as u64, MAX_KEYS_PER_TENANT);
    assert!(listed.iter().any(|key| key.record.id == made.record.id));
    // Of the other tenant a handful, and the counter of the slot that was used again.
    assert!(kv.names().len() < entries + 10);
}

#[test]
fn a_store_that_fails_or_is_full_is_told() {
    for failing in [false, true] {
        let kv = with_acme();
        kv.set_failing(failing);
        kv.set_full(!failing);
        let made = create(&kv, &new_key_of("acme"), NOON_MS, 1);
        assert!(matches!(made, Err(RegistryError::Store(_))), "{made:?}");
        let tenant = run_ready(create_tenant(&kv, &new_tenant("b"), NOON_MS));
        assert!(matches!(tenant, Err(RegistryError::Store(_))), "{tenant:?}");
    }
}

/// The results that the administrators of a simulation got.
#[derive(Default)]
struct AdminResults {
    made: Vec<KeyRecord>,
    revoked: BTreeSet<String>,
    /// The end of each rotated key.
    rotated: BTreeMap<String, u64>,
    tenants: Vec<String>,
    done: u64,
}

fn values(sim: &Sim, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let entries = sim.entries().into_iter();
    entries
        .filter_map(|(name, entry)| match entry {
            Entry::Value(value) if name.starts_with(prefix) => Some((name, value)),
            _ => None,
        })
        .collect()
}

/// Checks the invariants that hold at any time.
fn check(sim: &Sim, told: &AdminResults) {
    let slots: Vec<Slot> = values(sim, "auth:index:keys:")
        .iter()
        .map(|(_, value)| decode(value).unwrap())
        .collect();
    let listed: BTreeSet<&str> = slots.iter().map(|slot| slot.id.as_str()).collect();
    assert_eq!(listed.len(), slots.len(), "a key is listed twice");
    let records: BTreeMap<String, KeyRecord> = values(sim, "auth:key:")
        .iter()
        .map(|(_, value)| decode::<KeyRecord>(value).unwrap())
        .map(|record| (record.id.clone(), record))
        .collect();
    for id in records.keys() {
        assert!(listed.contains(id.as_str()), "{id} is in no list");
    }
    let revoked: BTreeSet<String> = values(sim, "auth:revoked:")
        .into_iter()
        .map(|(name, _)| name["auth:revoked:".len()..].to_owned())
        .collect();
    for id in &told.revoked {
        assert!(revoked.contains(id), "{id} came back");
    }
    for made in &told.made {
        let record = records
            .get(&made.id)
            .expect("a key that was told of is kept");
        assert_eq!(record.digest, made.digest);
    }
    for (id, end_ms) in &told.rotated {
        let until = records[id].expires_ms;
        assert!(until.is_some_and(|until| until <= *end_ms), "{id} lives on");
    }
    let mut places = BTreeSet::new();
    for (name, value) in values(sim, "auth:index:tenants:") {
        assert!(places.insert(value), "{name} is listed twice");
    }
    for (name, value) in values(sim, "auth:tenant:") {
        let record: TenantRecord = decode(&value).unwrap();
        assert!(
            places.contains(record.tenant.as_bytes()),
            "{name} is in no list"
        );
    }
    let once: BTreeSet<&String> = told.tenants.iter().collect();
    assert_eq!(once.len(), told.tenants.len(), "a tenant was made twice");
}

async fn administrate(sim: Sim, kv: SimKv, told: Rc<RefCell<AdminResults>>) {
    let pepper = pepper();
    for _ in 0..6 {
        sim.sleep(sim.below(40)).await;
        let now_ms = sim.now_ms();
        let tenant = ["a", "b"][sim.below(2) as usize];
        let bytes = random(sim.below(u64::MAX));
        let known = {
            let told = told.borrow();
            let count = told.made.len() as u64;
            (count > 0).then(|| told.made[sim.below(count) as usize].id.clone())
        };
        match (sim.below(6), known) {
            (0, _) => {
                if let Ok(made) = create_tenant(&kv, &new_tenant(tenant), now_ms).await {
                    told.borrow_mut().tenants.push(made.tenant);
                }
            }
            (1, Some(id)) => {
                if revoke_key(&kv, &id, now_ms).await.is_ok() {
                    told.borrow_mut().revoked.insert(id);
                }
            }
            (2 | 3, Some(id)) => {
                let overlap_ms = sim.below(2) * 1_000;
                let rotated = rotate_key(&kv, &pepper, &id, overlap_ms, now_ms, bytes).await;
                if let Ok((made, _)) = rotated {
                    let mut told = told.borrow_mut();
                    told.made.push(made.record);
                    told.rotated.insert(id, now_ms + overlap_ms);
                }
            }
            (4, _) => {
                let _ = list_keys(&kv, None, None).await;
            }
            _ => {
                let made = create_key(&kv, &pepper, &new_key_of(tenant), now_ms, bytes).await;
                if let Ok(made) = made {
                    told.borrow_mut().made.push(made.record);
                }
            }
        }
    }
    told.borrow_mut().done += 1;
}

fn schedule(seed: u64) -> (usize, usize, usize) {
    let faults = Faults {
        lost_request: 30 * (seed % 2),
        lost_reply: 30 * (seed / 2 % 2),
        long_delay: 50,
        long_ms: 800,
        crash: 20 * (seed / 4 % 2),
    };
    let sim = Sim::new(seed, NOON_MS, faults);
    let told = Rc::new(RefCell::new(AdminResults::default()));
    for _ in 0..4 {
        sim.spawn(NOON_MS, administrate(sim.clone(), sim.kv(), told.clone()));
    }
    sim.run(|sim| check(sim, &told.borrow()));
    // All operations work later, even if callers died in the middle of them.
    sim.set_faults(Faults::NONE);
    let done = Rc::new(RefCell::new(false));
    sim.spawn(sim.now_ms() + 180_000, {
        let (sim, kv, told, done) = (sim.clone(), sim.kv(), told.clone(), done.clone());
        async move {
            for tenant in ["a", "b"] {
                let made = create_tenant(&kv, &new_tenant(tenant), sim.now_ms()).await;
                assert!(
                    matches!(made, Ok(_) | Err(RegistryError::TenantExists(_))),
                    "{made:?}"
                );
                let bytes = random(sim.below(u64::MAX));
                let made = create_key(&kv, &pepper(), &new_key_of(tenant), sim.now_ms(), bytes)
                    .await
                    .unwrap();
                told.borrow_mut().made.push(made.record);
            }
            let mut listed = BTreeSet::new();
            for key in list_keys(&kv, None, None).await.unwrap().entries {
                let id = key.record.id.clone();
                if key.state(sim.now_ms()) == KeyState::Active && key.record.rotated_to.is_none() {
                    let bytes = random(sim.below(u64::MAX));
                    let (made, _) = rotate_key(&kv, &pepper(), &id, 0, sim.now_ms(), bytes)
                        .await
                        .unwrap();
                    let mut told = told.borrow_mut();
                    told.made.push(made.record);
                    told.rotated.insert(id.clone(), sim.now_ms());
                }
                assert!(listed.insert(id), "a key is shown twice");
            }
            *done.borrow_mut() = true;
        }
    });
    sim.run(|sim| check(sim, &told.borrow()));
    assert!(*done.borrow(), "the end was reached");
    let told = told.borrow();
    (told.made.len(), told.revoked.len(), told.rotated.len())
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// 1,500 schedules by default. `PENSTOCK_SEED=n` replays one, `PENSTOCK_SCHEDULES=n` runs more.
#[test]
fn if_administrators_die_no_key_is_usable_and_unlisted_and_no_revoked_key_comes_back() {
    let (first, count) = match number("PENSTOCK_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("PENSTOCK_SCHEDULES").unwrap_or(1_500)),
    };
    let mut all = (0, 0, 0);
    for seed in first..first + count {
        let ran = std::panic::catch_unwind(|| schedule(seed));
        match ran {
            Ok((made, revoked, rotated)) => {
                all = (all.0 + made, all.1 + revoked, all.2 + rotated);
            }
            Err(panic) => {
                eprintln!("failed with PENSTOCK_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{count} schedules: keys made, revoked and rotated: {all:?}");
    if count > 100 {
        assert!(all.0 > 0 && all.1 > 0 && all.2 > 0, "each of them happened");
    }
}

#[test]
fn of_two_who_do_the_same_at_once_one_wins() {
    let mut wins = 0;
    for seed in 0..500 {
        let sim = Sim::new(seed, NOON_MS, Faults::NONE);
        let told = Rc::new(RefCell::new((0, 0)));
        let id = Rc::new(RefCell::new(String::new()));
        sim.spawn(NOON_MS, {
            let (kv, id) = (sim.kv(), id.clone());
            async move {
                create_tenant(&kv, &new_tenant("a"), NOON_MS).await.unwrap();
                let (pepper, new) = (pepper(), new_key_of("a"));
                let made = create_key(&kv, &pepper, &new, NOON_MS, random(seed));
                *id.borrow_mut() = made.await.unwrap().record.id;
            }
        });
        sim.run(|_| {});
        for n in 0..8 {
            let (sim_, kv, told, id) = (sim.clone(), sim.kv(), told.clone(), id.borrow().clone());
            sim.spawn(sim.now_ms(), async move {
                let now_ms = sim_.now_ms();
                match create_tenant(&kv, &new_tenant("b"), now_ms).await {
                    Ok(_) => told.borrow_mut().0 += 1,
                    Err(RegistryError::Busy { .. } | RegistryError::TenantExists(_)) => {}
                    Err(other) => panic!("{other:?}"),
                }
                let bytes = random(seed * 8 + n);
                match rotate_key(&kv, &pepper(), &id, 0, now_ms, bytes).await {
                    Ok(_) => told.borrow_mut().1 += 1,
                    Err(RegistryError::Busy { .. } | RegistryError::Ended(_)) => {}
                    Err(other) => panic!("{other:?}"),
                }
            });
        }
        sim.run(|_| {});
        assert_eq!(*told.borrow(), (1, 1), "seed {seed}");
        assert_eq!(values(&sim, &tenant_name("b")).len(), 1);
        assert_eq!(values(&sim, "auth:key:").len(), 2);
        wins += 1;
    }
    assert_eq!(wins, 500);
}
