//! Counts requests, items, bytes and compute time for each tenant, API key, model and day (UTC), and reports the counts.
//!
//! Counters are only incremented, so they are exact however many machines count. A combination is entered in the day's
//! directory before its first count, so that reports show every count. Entries are deleted when they are older than
//! `retention_days`.

pub mod service;
pub mod words;

pub use words::{Amounts, Report, Row, UsageSubject};

use crate::sweep::{Index, Removal};
use penstock_core::{Caller, Kv, KvError};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};

/// The length of a day, in milliseconds.
pub const DAY_MS: u64 = 86_400_000;

/// Combinations that an instance remembers as entered in the directory. Beyond this number it reads the store again.
const MAX_REMEMBERED: usize = 1024;

/// Most rows of one report. The next page begins where it ends.
pub const MAX_ROWS: usize = 1_000;

/// Most places of directories that one page reads, those of other tenants included.
pub const MAX_PLACES: usize = 2_000;

/// Most days of one report.
pub const MAX_DAYS: u64 = 366;

/// Most alerts in the settings.
const MAX_ALERTS: usize = 64;

const INDEX_SHARDS: u32 = 1;

/// The section `[usage]` of a policy file: how long counts are kept, and the alerts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UsageSettings {
    /// Whether calls are counted.
    pub enabled: bool,
    /// Days for which a count can be read. It is deleted after twice as many days at the latest.
    pub retention_days: u64,
    /// Counts that are noted when they are reached.
    pub alerts: Vec<Alert>,
}

impl Default for UsageSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            retention_days: 400,
            alerts: Vec::new(),
        }
    }
}

/// A daily count that is noted when it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alert {
    /// The name of the alert.
    pub name: String,
    /// The unit that is counted.
    pub unit: Unit,
    /// The daily count of one tenant, API key and model at which it is noted.
    pub threshold: u64,
    /// The tenant; `None` for all.
    pub tenant: Option<String>,
    /// The model; `None` for all.
    pub model: Option<String>,
}

/// The unit of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Calls, each counted as 1.
    Requests,
    /// Items of batches that were run.
    Items,
    /// Bytes of request bodies, as received.
    Bytes,
    /// Milliseconds of compute time; counted in microseconds.
    ComputeMs,
}

impl Unit {
    const ALL: [Self; 4] = [Self::Requests, Self::Items, Self::Bytes, Self::ComputeMs];

    fn letter(self) -> char {
        match self {
            Self::Requests => 'r',
            Self::Items => 'i',
            Self::Bytes => 'b',
            Self::ComputeMs => 'c',
        }
    }
}

impl UsageSettings {
    /// All faults of the settings.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if !(1..=3_650).contains(&self.retention_days) {
            faults.push((
                "retention_days",
                format!("must be 1 to 3650, not {}", self.retention_days),
            ));
        }
        if self.alerts.len() > MAX_ALERTS {
            faults.push((
                "alerts",
                format!("must be at most {MAX_ALERTS}, not {}", self.alerts.len()),
            ));
        }
        for alert in &self.alerts {
            if alert.threshold == 0 {
                faults.push((
                    "threshold",
                    format!("of alert `{}` must be at least 1", alert.name),
                ));
            }
            if alert.name.is_empty() || alert.name.len() > 64 {
                faults.push((
                    "name",
                    "of an alert must have 1 to 64 characters".to_owned(),
                ));
            }
        }
        faults
    }
}

impl Amounts {
    fn of(&self, unit: Unit) -> u64 {
        match unit {
            Unit::Requests => self.requests,
            Unit::Items => self.items,
            Unit::Bytes => self.bytes,
            Unit::ComputeMs => self.compute_us,
        }
    }
}

impl UsageSubject {
    /// The combination of a caller and a model.
    pub fn new(caller: &Caller, model: &str) -> Self {
        Self {
            tenant: caller.tenant.clone(),
            api_key_id: caller.api_key_id.clone(),
            model: model.to_owned(),
        }
    }

    /// The name in entries: 128 bits of a hash, so that no caller chooses the names of entries.
    fn name(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("penstock usage 1");
        for part in [
            &self.tenant,
            self.api_key_id.as_deref().unwrap_or(""),
            &self.model,
        ] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize().to_hex().as_str()[..32].to_owned()
    }
}

/// The counters, with the memory of one instance.
#[derive(Debug)]
pub struct Usage {
    settings: UsageSettings,
    index: Index,
    remembered: HashSet<(u64, String)>,
    /// Places taken in a day's directory for entries that could not be written yet.
    taken: HashMap<(u64, String), u64>,
}

fn counter_name(day: u64, subject: &str, unit: Unit) -> String {
    format!("u/{day}/{subject}/{}", unit.letter())
}

fn mark_name(day: u64, subject: &str) -> String {
    format!("u/{day}/{subject}/m")
}

fn alert_name(day: u64, subject: &str, alert: &str) -> String {
    format!("u/{day}/{subject}/a/{alert}")
}

fn directory_count_name(day: u64) -> String {
    format!("u/{day}/n")
}

fn directory_name(day: u64, place: u64) -> String {
    format!("u/{day}/d/{place}")
}

impl Usage {
    /// Counters under these settings.
    pub fn new(settings: UsageSettings) -> Self {
        let keep_ms = settings.retention_days * DAY_MS;
        Self {
            settings,
            index: Index::keeping("u", DAY_MS, keep_ms, INDEX_SHARDS),
            remembered: HashSet::new(),
            taken: HashMap::new(),
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> &UsageSettings {
        &self.settings
    }

    /// Counts a call in the store. After an error, part of it may not be counted.
    pub async fn record<K: Kv>(
        &mut self,
        kv: &K,
        subject: &UsageSubject,
        amounts: &Amounts,
        unix_ms: u64,
        random: u64,
    ) -> Result<(), KvError> {
        let day = unix_ms / DAY_MS;
        let name = subject.name();
        self.enter(kv, day, subject, &name, unix_ms, random).await?;
        // One increment for each unit: no operation of a store adds to several counters, and a call that was answered must be
        // counted even if this instance ends now.
        for unit in Unit::ALL {
            let amount = amounts.of(unit);
            let Ok(delta @ 1..) = i64::try_from(amount) else {
                continue;
            };
            let sum = kv.increment(&counter_name(day, &name, unit), delta).await?;
            self.note_alerts(kv, day, subject, &name, unit, (sum, delta), unix_ms)
                .await?;
        }
        Ok(())
    }

    /// Makes sure that the directory of the day has an entry. Two concurrent calls may make two; a report reads one of
    /// them.
    async fn enter<K: Kv>(
        &mut self,
        kv: &K,
        day: u64,
        subject: &UsageSubject,
        name: &str,
        unix_ms: u64,
        random: u64,
    ) -> Result<(), KvError> {
        let remembered = (day, name.to_owned());
        if self.remembered.contains(&remembered) {
            return Ok(());
        }
        let mark = mark_name(day, name);
        if !kv.exists(&mark).await? {
            let index_bucket = self.index.bucket(unix_ms);
            let index_entry = self
                .index
                .place(
                    kv,
                    index_bucket,
                    unix_ms,
                    random,
                    &mut DeleteCounts(&self.settings.alerts),
                )
                .await?;
            // Use a place again whose entry was not written. Otherwise a full store would make the directory grow with
            // every call.
            let place = match self.taken.get(&remembered) {
                Some(place) => *place,
                None => {
                    let place = kv.increment(&directory_count_name(day), 1).await?;
                    let place = u64::try_from(place).unwrap_or(0).saturating_sub(1);
                    if self.taken.len() >= MAX_REMEMBERED {
                        self.taken.clear();
                    }
                    self.taken.insert(remembered.clone(), place);
                    place
                }
            };
            let entry = serde_json::to_vec(subject).expect("strings are JSON");
            kv.set_many(&[
                (index_entry, format!("{day} {place} {name}").into_bytes()),
                (directory_name(day, place), entry),
                // If concurrent calls made several entries, the mark names the one that counts.
                (mark, place.to_string().into_bytes()),
            ])
            .await?;
            self.taken.remove(&remembered);
        }
        if self.remembered.len() >= MAX_REMEMBERED {
            self.remembered.clear();
        }
        self.remembered.insert(remembered);
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    async fn note_alerts<K: Kv>(
        &self,
        kv: &K,
        day: u64,
        subject: &UsageSubject,
        name: &str,
        unit: Unit,
        (sum, delta): (i64, i64),
        unix_ms: u64,
    ) -> Result<(), KvError> {
        for alert in self.settings.alerts.iter().filter(|alert| {
            alert.unit == unit
                && alert.tenant.as_ref().is_none_or(|t| *t == subject.tenant)
                && alert.model.as_ref().is_none_or(|m| *m == subject.model)
        }) {
            let threshold = match unit {
                Unit::ComputeMs => alert.threshold.saturating_mul(1_000),
                _ => alert.threshold,
            };
            let threshold = i64::try_from(threshold).unwrap_or(i64::MAX);
            // Exactly one increment crosses the threshold.
            if sum - delta < threshold && threshold <= sum {
                kv.set(
                    &alert_name(day, name, &alert.name),
                    unix_ms.to_string().as_bytes(),
                )
                .await?;
            }
        }
        Ok(())
    }

    /// Reads a page of the counts of `days`, both included, from `from` on, of `tenant` or of all tenants.
    pub async fn report<K: Kv>(
        &self,
        kv: &K,
        days: (u64, u64),
        tenant: Option<&str>,
        from: Option<(u64, u64)>,
    ) -> Result<Report, KvError> {
        let (first, last) = (days.0, days.1.min(days.0.saturating_add(MAX_DAYS - 1)));
        let (mut day, mut place) = from.filter(|(day, _)| *day >= first).unwrap_or((first, 0));
        let mut report = Report::default();
        let mut looked = 0;
        while day <= last {
            let count_name = directory_count_name(day);
            let count = if kv.exists(&count_name).await? {
                u64::try_from(kv.increment(&count_name, 0).await?).unwrap_or(0)
            } else {
                0
            };
            while place < count {
                if report.rows.len() >= MAX_ROWS || looked >= MAX_PLACES {
                    report.next = Some((day, place));
                    return Ok(report);
                }
                let entry = kv.get(&directory_name(day, place)).await?;
                let this = place;
                place += 1;
                looked += 1;
                let subject = entry.and_then(|e| serde_json::from_slice::<UsageSubject>(&e).ok());
                let Some(subject) = subject.filter(|w| tenant.is_none_or(|t| t == w.tenant)) else {
                    continue;
                };
                let mark = kv.get(&mark_name(day, &subject.name())).await?;
                if mark.is_some_and(|mark| mark == this.to_string().as_bytes()) {
                    report.rows.push(self.row(kv, day, subject).await?);
                }
            }
            day += 1;
            place = 0;
        }
        Ok(report)
    }

    async fn row<K: Kv>(&self, kv: &K, day: u64, subject: UsageSubject) -> Result<Row, KvError> {
        let name = subject.name();
        let mut counts = [0; 4];
        for (unit, count) in Unit::ALL.into_iter().zip(&mut counts) {
            let counter = counter_name(day, &name, unit);
            if kv.exists(&counter).await? {
                *count = u64::try_from(kv.increment(&counter, 0).await?).unwrap_or(0);
            }
        }
        let mut alerts = Vec::new();
        for alert in &self.settings.alerts {
            let noted = kv.get(&alert_name(day, &name, &alert.name)).await?;
            let at = noted.and_then(|v| std::str::from_utf8(&v).ok()?.parse().ok());
            alerts.extend(at.map(|at| (alert.name.clone(), at)));
        }
        let [requests, items, bytes, compute_us] = counts;
        Ok(Row {
            day,
            subject,
            requests,
            items,
            bytes,
            compute_us,
            alerts,
        })
    }
}

/// Deletes the entries that belong to an index entry `<day> <place> <name>`. Alerts are deleted by their names in the
/// current settings.
struct DeleteCounts<'a>(&'a [Alert]);

impl<K: Kv> Removal<K> for DeleteCounts<'_> {
    async fn remove(&mut self, kv: &K, _bucket: u64, value: &[u8]) -> Result<(), KvError> {
        let text = String::from_utf8_lossy(value);
        let mut parts = text.splitn(3, ' ');
        let (Some(Ok(day)), Some(Ok(place)), Some(subject)) = (
            parts.next().map(str::parse::<u64>),
            parts.next().map(str::parse::<u64>),
            parts.next(),
        ) else {
            return Ok(());
        };
        for unit in Unit::ALL {
            kv.delete(&counter_name(day, subject, unit)).await?;
        }
        for alert in self.0 {
            kv.delete(&alert_name(day, subject, &alert.name)).await?;
        }
        kv.delete(&mark_name(day, subject)).await?;
        kv.delete(&directory_name(day, place)).await?;
        kv.delete(&directory_count_name(day)).await
    }
}
