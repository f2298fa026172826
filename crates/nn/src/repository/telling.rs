//! Decides on the reports about versions, so that nothing is reported twice.

use super::event::{Event, EventKind};
use super::perform::{Inner, OVER_BUDGET, fault};
use super::plan::Phase;
use super::publish::Listed;
use super::said::{LastReport, Said};
use crate::agreement::Agreement;
use crate::layout::{self, version_number};
use std::collections::BTreeMap;

impl Inner {
    /// The catalogue as guests are to see it.
    pub(super) fn listing(&self) -> Vec<Listed> {
        // One whose name is no model's is an empty folder there, so that `/ready` can say that it is skipped. Longer
        // names than this were not read as they are, and may not be written as they are.
        const MAX_SKIPPED_NAME_BYTES: usize = 200;
        let listed = self.book.models.iter();
        let listed = listed.filter(|(name, _)| name.len() <= MAX_SKIPPED_NAME_BYTES);
        let listed = listed.map(|(name, model)| {
            if !layout::is_model_name(name) {
                return Listed {
                    name: name.clone(),
                    contract: model.in_force.stamp,
                    text: None,
                    files: Vec::new(),
                    versions: Vec::new(),
                };
            }
            let readings = self.readings.get(name).into_iter().flatten();
            let reading = readings
                .clone()
                .find(|reading| reading.stamp == model.in_force.stamp);
            // A version that came later and has not answered yet concerns only the operator: guests see the version
            // that was there and works.
            let versions = (model.versions.iter())
                .filter(|(_, version)| !(version.newcomer && model.answers()))
                .map(|(number, version)| (*number, version.phase.answers()));
            let files = reading
                .into_iter()
                .flat_map(|reading| reading.files.clone());
            Listed {
                name: name.clone(),
                contract: model.in_force.stamp,
                text: reading.and_then(|reading| reading.text.clone()),
                files: files
                    .filter(|(file, _)| version_number(file).is_none())
                    .collect(),
                versions: versions.collect(),
            }
        });
        listed.collect()
    }

    pub(super) fn say(&self, model: &str, version: u64, kind: EventKind, text: String) {
        if let Some(events) = &self.events {
            let event = Event {
                model: model.to_owned(),
                version,
                kind,
                text,
            };
            // The listener is gone, and nothing depends on it.
            let _ = events.send(event);
        }
    }

    /// Reports the phase of a version.
    fn say_phase(&self, key: &(String, u64), phase: &Said) {
        let (name, number) = (&key.0, key.1);
        match phase {
            Said::Ready(id) => {
                let ms = self.took.get(key).copied().unwrap_or_default().as_millis();
                let model = self.loads.get(id).map(|loaded| &loaded.model);
                let agreement = model.and_then(|model| model.agreement());
                let text = match model {
                    Some(model) => {
                        let (on, shared_runs) = (model.backend(), model.shared_runs());
                        match agreement.filter(|a| !matches!(a, Agreement::Differs { .. })) {
                            Some(agreement) => {
                                format!("ready on {on} in {ms} ms; {shared_runs}; {agreement}")
                            }
                            None => format!("ready on {on} in {ms} ms; {shared_runs}"),
                        }
                    }
                    None => format!("ready in {ms} ms"),
                };
                self.say(name, number, EventKind::Ready, text);
                if let Some(found @ Agreement::Differs { .. }) = agreement {
                    self.say(name, number, EventKind::Differs, found.to_string());
                }
            }
            Said::Evicted => self.say(name, number, EventKind::Evicted, OVER_BUDGET.to_owned()),
            Said::Unloaded => self.say(name, number, EventKind::Unloaded, "unloaded".to_owned()),
            Said::Failed(reason) => self.say(name, number, EventKind::Failed, reason.to_string()),
            Said::Waiting => {}
        }
    }

    /// Reports the result of each version, once.
    pub(super) fn tell(&mut self) -> bool {
        let mut told = BTreeMap::new();
        let mut refused = BTreeMap::new();
        let mut changed = false;
        for (name, folders) in &self.no_versions {
            if self.told_no_versions.get(name) == Some(folders) {
                continue;
            }
            let folders: Vec<&str> = folders.iter().map(String::as_str).collect();
            let text = format!(
                "the folders {} are skipped; a version is named 1 to 18446744073709551615, without leading zeros",
                folders.join(", ")
            );
            self.say(name, 0, EventKind::Skipped, text);
        }
        self.told_no_versions = self.no_versions.clone();
        for (name, model) in &self.book.models {
            if let Some(reason) = fault(model) {
                let now = LastReport {
                    phase: Said::Failed(reason.clone()),
                    kept: None,
                };
                if self.told.get(&(name.clone(), 0)) != Some(&now) {
                    changed = true;
                    self.say(name, 0, EventKind::Failed, reason.to_string());
                }
                told.insert((name.clone(), 0), now);
                continue;
            }
            if let Some(reason) = &model.refused {
                if self.told_refused.get(name) != Some(reason) {
                    changed = true;
                    self.say(
                        name,
                        0,
                        EventKind::Kept,
                        format!("the new contract is not used: {reason}"),
                    );
                }
                refused.insert(name.clone(), reason.clone());
            }
            for (number, version) in &model.versions {
                let key = (name.clone(), *number);
                let now = LastReport {
                    phase: match &version.phase {
                        Phase::Waiting => Said::Waiting,
                        Phase::Ready(load) => Said::Ready(load.id),
                        Phase::Evicted { .. } => Said::Evicted,
                        Phase::Unloaded => Said::Unloaded,
                        Phase::Failed(reason) => Said::Failed(reason.clone()),
                    },
                    kept: version.kept_because().cloned(),
                };
                let before = self.told.get(&key);
                if before.map(|told| &told.phase) != Some(&now.phase) {
                    changed = true;
                    self.say_phase(&key, &now.phase);
                }
                if let Some(reason) = &now.kept
                    && before.and_then(|told| told.kept.as_ref()) != Some(reason)
                {
                    changed = true;
                    self.say(name, *number, EventKind::Kept, reason.to_string());
                }
                told.insert(key, now);
            }
        }
        for (name, number) in self.told.keys() {
            let model = self.book.models.get(name);
            let there = model.is_some_and(|model| model.versions.contains_key(number));
            if !there && *number > 0 {
                changed = true;
                self.say(name, *number, EventKind::Removed, "removed".to_owned());
            }
        }
        self.took.retain(|key, _| told.contains_key(key));
        self.told = told;
        self.told_refused = refused;
        changed
    }
}
