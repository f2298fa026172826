//! Tables for the version that answers, and for the changes that an administrator may make.

use penstock_core::ModelVersion;
use penstock_policy::rollout::edit::{Change, EditError, Environment};
use penstock_policy::rollout::{
    Alias, Arm, Bounds, BoundsPatch, ByHeader, Chosen, Deprecated, NoVersion, Percent,
    RolloutQuery, Rollouts, Shadow, SplitArm, Target, Version, Why,
};
use std::collections::BTreeMap;

const NOW_MS: u64 = 1_795_262_400_000;

fn versions(numbers: &[u64]) -> Vec<ModelVersion> {
    let read = |n: &u64| ModelVersion::parse(&n.to_string()).unwrap();
    numbers.iter().map(read).collect()
}

fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

fn alias(text: &str) -> Alias {
    Alias::parse(text).unwrap()
}

fn target(text: &str) -> Target {
    Target::parse(text).unwrap()
}

fn percent(number: f64) -> Percent {
    Percent::new(number).unwrap()
}

/// A model `m` with versions 1, 2 and 3.
struct Model {
    rollouts: Rollouts,
    versions: Vec<ModelVersion>,
    ready: Vec<u64>,
    rolled_back: Option<String>,
    now_ms: u64,
}

impl Model {
    fn new() -> Self {
        Self {
            rollouts: Rollouts::new(),
            versions: versions(&[1, 2, 3]),
            ready: vec![1, 2, 3],
            rolled_back: None,
            now_ms: NOW_MS,
        }
    }

    fn try_change(&mut self, change: Change) -> Result<(), EditError> {
        let around = Environment {
            versions: &self.versions,
            rolled_back: self.rolled_back.as_deref(),
            now_ms: self.now_ms,
            random: 0x1234_5678_9abc_def0,
        };
        let changed = self.rollouts.change("m", change, &around);
        // Every document that is written can be read.
        let read = Rollouts::parse(&self.rollouts.text()).unwrap();
        assert_eq!(read, self.rollouts);
        changed
    }

    fn change(&mut self, change: Change) {
        self.try_change(change).unwrap();
    }

    fn set_alias(&mut self, name: &str, number: u64) {
        self.change(Change::SetAlias {
            alias: alias(name),
            version: version(number),
        });
    }

    fn set_default(&mut self, to: &str) {
        self.change(Change::SetDefault {
            to: Some(target(to)),
        });
    }

    fn start(&mut self, number: u64, percentage: f64) -> Result<(), EditError> {
        self.try_change(Change::StartCanary {
            version: version(number),
            percent: percent(percentage),
            rollback: Some(Bounds::default()),
        })
    }

    fn ask(
        &self,
        pinned: Option<&str>,
        caller: &str,
        header: Option<&str>,
    ) -> Result<Chosen, NoVersion> {
        self.rollouts.choose(
            "m",
            &RolloutQuery {
                pinned,
                caller,
                header: &|name| header.filter(|_| name == "x-plan"),
                versions: &self.versions,
                ready: &|version| self.ready.contains(&version.get()),
                rolled_back: &|_| self.rolled_back.is_some(),
                now_ms: self.now_ms,
                random: 7,
            },
        )
    }

    fn says(&self, pinned: Option<&str>) -> (u64, String) {
        let chosen = self.ask(pinned, "somebody", None).unwrap();
        (chosen.version.get(), chosen.why.as_str().into_owned())
    }
}

fn said(number: u64, why: &str) -> (u64, String) {
    (number, why.to_owned())
}

#[test]
fn a_model_of_which_nothing_was_said_answers_with_its_highest_ready_version() {
    let mut model = Model::new();
    assert_eq!(model.says(None), said(3, "latest"));
    model.ready = vec![1, 2];
    assert_eq!(model.says(None), said(2, "latest"));
    assert_eq!(model.says(Some("latest")), said(2, "alias:latest"));
    assert_eq!(model.says(Some("3")), said(3, "pinned"));
    model.ready.clear();
    assert_eq!(model.says(None), said(3, "latest"));
    for unknown in ["4", "0", "01", "stable", "Stable", "", "a b", "latest "] {
        let refused = model.ask(Some(unknown), "", None).unwrap_err();
        let available = ["1", "2", "3", "latest"].map(str::to_owned).to_vec();
        assert_eq!(refused, NoVersion::Unknown { available }, "{unknown:?}");
    }
    model.versions.clear();
    assert!(matches!(
        model.ask(None, "", None),
        Err(NoVersion::Unknown { .. })
    ));
}

#[test]
fn aliases_name_versions_and_the_default_is_one_of_them() {
    let mut model = Model::new();
    model.set_alias("stable", 1);
    model.set_alias("beta", 2);
    model.set_default("stable");
    assert_eq!(model.says(None), said(1, "default:stable"));
    assert_eq!(model.says(Some("beta")), said(2, "alias:beta"));
    assert_eq!(model.says(Some("latest")), said(3, "alias:latest"));
    model.set_alias("stable", 2);
    assert_eq!(model.says(None), said(2, "default:stable"));
    model.set_default("1");
    assert_eq!(model.says(None), said(1, "default:1"));
    // The operator took the version away and left the name.
    model.set_default("beta");
    model.versions = versions(&[1, 3]);
    let missing = NoVersion::Missing {
        version: 2,
        alias: Some("beta".into()),
    };
    assert_eq!(model.ask(None, "", None), Err(missing.clone()));
    assert_eq!(model.ask(Some("beta"), "", None), Err(missing));
    let Err(NoVersion::Unknown { available }) = model.ask(Some("2"), "", None) else {
        panic!("refused")
    };
    assert_eq!(available, ["1", "3", "latest"]);
}

#[test]
fn a_version_or_alias_in_use_is_not_removed() {
    let mut model = Model::new();
    model.set_alias("stable", 1);
    model.set_default("stable");
    let conflict = |refused: Result<(), EditError>, word: &str| match refused {
        Err(EditError::Conflict(why)) => assert!(why.contains(word), "{why}"),
        other => panic!("{other:?}"),
    };
    let remove = |name: &str| Change::RemoveAlias { alias: alias(name) };
    conflict(model.try_change(remove("stable")), "the default");
    conflict(
        model.try_change(Change::SetAlias {
            alias: alias("latest"),
            version: version(1),
        }),
        "cannot be moved",
    );
    let sunset = |number| Change::Deprecate {
        version: version(number),
        deprecated: Deprecated {
            since_ms: NOW_MS,
            sunset_ms: Some(NOW_MS + 1),
            link: None,
            successor: None,
        },
    };
    conflict(model.try_change(sunset(1)), "the alias `stable`");
    model.change(sunset(2));
    conflict(
        model.try_change(Change::SetAlias {
            alias: alias("beta"),
            version: version(2),
        }),
        "has a sunset",
    );
    assert!(matches!(
        model.try_change(remove("beta")),
        Err(EditError::NotFound { available, .. }) if available == ["stable"]
    ));
    let unknown = model.try_change(Change::SetAlias {
        alias: alias("beta"),
        version: version(9),
    });
    assert!(matches!(unknown, Err(EditError::Invalid(v)) if v[0].pointer == "/version"));
    model.change(Change::SetDefault { to: None });
    model.change(remove("stable"));
    model.change(Change::Undeprecate {
        version: version(2),
    });
    assert!(model.rollouts.models.is_empty(), "nothing is left of it");
    for change in [
        Change::StopCanary,
        Change::Rollback,
        Change::Promote { alias: None },
        Change::SetSplit { split: None },
        Change::SetShadow { shadow: None },
        Change::Undeprecate {
            version: version(1),
        },
    ] {
        let refused = model.try_change(change.clone());
        assert!(
            matches!(refused, Err(EditError::NotFound { .. })),
            "{change:?}"
        );
    }
}

#[test]
fn a_canary_gets_its_callers_until_it_is_promoted_or_rolled_back() {
    let mut model = Model::new();
    assert!(
        matches!(model.start(3, 10.0), Err(EditError::Conflict(why)) if why.contains("set the default")),
        "everybody gets it already"
    );
    model.set_alias("stable", 1);
    model.set_default("stable");
    model.start(2, 25.0).unwrap();
    let id = model.rollouts.of("m").unwrap().canary.as_ref().unwrap().id;
    assert!(id > 0 && id.is_multiple_of(4) && id < 1 << 53);
    let mut arms = [0; 2];
    for n in 0..1_000 {
        let caller = format!("tenant\0k{n}");
        let chosen = model.ask(None, &caller, None).unwrap();
        match chosen.canary {
            Some((run, Arm::Canary)) => {
                assert_eq!(
                    (run, chosen.version.get(), chosen.why),
                    (id, 2, Why::Canary(id))
                );
                arms[1] += 1;
            }
            Some((run, Arm::Stable)) => {
                assert_eq!((run, chosen.version.get()), (id, 1));
                assert_eq!(chosen.why, Why::Default("stable".into()));
                arms[0] += 1;
            }
            None => panic!("it belongs to the run"),
        }
        // A caller that names a version gets it, and is not counted.
        let pinned = model.ask(Some("stable"), &caller, None).unwrap();
        assert_eq!((pinned.version.get(), pinned.canary), (1, None));
    }
    assert!((180..320).contains(&arms[1]), "{arms:?}");
    model.rolled_back = Some("it failed".into());
    for n in 0..100 {
        let chosen = model.ask(None, &format!("{n}"), None).unwrap();
        assert_eq!((chosen.version.get(), chosen.canary), (1, None));
    }
    for change in [
        Change::Promote { alias: None },
        Change::SetCanary {
            percent: Some(percent(50.0)),
            rollback: None,
        },
    ] {
        let refused = model.try_change(change);
        assert!(matches!(refused, Err(EditError::Conflict(why)) if why.contains("it failed")));
    }
    model.change(Change::StopCanary);
    let ended = model.rollouts.of("m").unwrap().ended.clone().unwrap();
    assert_eq!(ended.how, "rolled back automatically: it failed");
    assert_eq!(model.rollouts.retired.len(), 1);
    model.rolled_back = None;
    model.start(2, 1.0).unwrap();
    model.change(Change::SetCanary {
        percent: Some(percent(100.0)),
        rollback: Some(None),
    });
    assert_eq!(model.rollouts.judged("m"), None);
    assert_eq!(model.says(None).0, 2);
    model.change(Change::Promote { alias: None });
    assert_eq!(model.says(None), said(2, "default:stable"));
    assert_eq!(model.says(Some("stable")), said(2, "alias:stable"));
    // If the default is a number, promotion changes that number.
    model.set_default("1");
    model.start(3, 100.0).unwrap();
    model.change(Change::Promote { alias: None });
    assert_eq!(model.says(None), said(3, "default:3"));
    assert_eq!(model.says(Some("stable")), said(2, "alias:stable"));
}

#[test]
fn a_change_of_one_bound_leaves_the_others_and_never_has_a_canary_end_that_must_not() {
    let mut model = Model::new();
    model.set_default("1");
    let patch = |text: &str| Change::SetCanary {
        percent: None,
        rollback: Some(Some(serde_json::from_str::<BoundsPatch>(text).unwrap())),
    };
    let bounds = |model: &Model| model.rollouts.judged("m").map(|(_, bounds)| bounds.clone());
    let started = Bounds {
        max_error_rate_increase: Some(0.1),
        max_latency_ratio: None,
        quantile: 0.9,
        min_calls: 70,
        window_s: 60,
    };
    model.change(Change::StartCanary {
        version: version(2),
        percent: percent(5.0),
        rollback: Some(started.clone()),
    });
    model.change(Change::SetCanary {
        percent: Some(percent(10.0)),
        rollback: None,
    });
    model.change(patch("{}"));
    assert_eq!(bounds(&model), Some(started.clone()));
    model.change(patch(r#"{"min_calls":7}"#));
    let mut expected = Bounds {
        min_calls: 7,
        ..started
    };
    assert_eq!(bounds(&model), Some(expected.clone()));
    model.change(patch(
        r#"{"max_error_rate_increase":null,"max_latency_ratio":3.5}"#,
    ));
    (expected.max_error_rate_increase, expected.max_latency_ratio) = (None, Some(3.5));
    assert_eq!(bounds(&model), Some(expected.clone()));
    let refused = model.try_change(patch(r#"{"quantile":2}"#));
    assert!(matches!(refused, Err(EditError::Invalid(v)) if v[0].pointer == "/rollback/quantile"));
    assert_eq!(bounds(&model), Some(expected));
    for text in [
        r#"{"quantile":null}"#,
        r#"{"min_calls":null}"#,
        r#"{"window_s":null}"#,
        r#"{"percent":1}"#,
    ] {
        assert!(serde_json::from_str::<BoundsPatch>(text).is_err(), "{text}");
    }
    model.change(Change::SetCanary {
        percent: None,
        rollback: Some(None),
    });
    model.change(Change::SetCanary {
        percent: Some(percent(20.0)),
        rollback: None,
    });
    for text in [
        "{}",
        r#"{"min_calls":100}"#,
        r#"{"window_s":60,"quantile":0.9}"#,
        r#"{"max_latency_ratio":null}"#,
    ] {
        let refused = model.try_change(patch(text));
        assert!(
            matches!(&refused, Err(EditError::Conflict(why)) if why.contains("automatic rollback is off")),
            "{text}: {refused:?}"
        );
        assert_eq!(bounds(&model), None, "{text}");
    }
    model.change(patch(r#"{"max_latency_ratio":4,"window_s":60}"#));
    let alone = Bounds {
        max_error_rate_increase: None,
        max_latency_ratio: Some(4.0),
        window_s: 60,
        ..Bounds::default()
    };
    assert_eq!(bounds(&model), Some(alone));
}

#[test]
fn of_a_model_that_is_gone_everything_can_be_taken_back_and_nothing_is_left() {
    let mut model = Model::new();
    model.set_alias("stable", 1);
    model.set_default("stable");
    model.start(2, 5.0).unwrap();
    model.change(Change::SetShadow {
        shadow: Some(Shadow {
            version: version(3),
            percent: percent(1.0),
        }),
    });
    model.change(Change::SetSplit {
        split: Some((
            Vec::new(),
            Some(ByHeader {
                name: "x-plan".into(),
                values: BTreeMap::from([("gold".to_owned(), target("3"))]),
            }),
        )),
    });
    model.change(Change::Deprecate {
        version: version(2),
        deprecated: Deprecated {
            since_ms: NOW_MS,
            sunset_ms: None,
            link: None,
            successor: None,
        },
    });
    model.versions.clear();
    for change in [
        Change::Promote { alias: None },
        Change::SetDefault {
            to: Some(target("1")),
        },
    ] {
        let refused = model.try_change(change);
        assert!(
            matches!(&refused, Err(EditError::Invalid(v)) if v[0].expected.contains("has none")),
            "{refused:?}"
        );
    }
    for change in [
        Change::Rollback,
        Change::SetShadow { shadow: None },
        Change::SetSplit { split: None },
        Change::Undeprecate {
            version: version(2),
        },
        Change::SetDefault { to: None },
        Change::RemoveAlias {
            alias: alias("stable"),
        },
    ] {
        model.change(change);
    }
    assert_eq!(model.rollouts.of("m"), None);
    assert_eq!(
        model.rollouts.retired.len(),
        1,
        "its counters are deleted later"
    );
}

#[test]
fn a_split_is_by_header_first_and_then_by_caller() {
    let mut model = Model::new();
    model.set_alias("beta", 2);
    model.set_default("1");
    let arms = |weights: &[(&str, u32)]| -> Vec<SplitArm> {
        let arm = |(to, weight): &(&str, u32)| SplitArm {
            to: target(to),
            weight: *weight,
        };
        weights.iter().map(arm).collect()
    };
    let header = ByHeader {
        name: "x-plan".into(),
        values: BTreeMap::from([("gold".to_owned(), target("3"))]),
    };
    let split = |arms, header| Change::SetSplit {
        split: Some((arms, header)),
    };
    model.change(split(arms(&[("1", 1), ("beta", 3)]), Some(header.clone())));
    let mut counts = BTreeMap::new();
    for n in 0..4_000 {
        let chosen = model.ask(None, &format!("{n}"), None).unwrap();
        *counts.entry(chosen.why.as_str().into_owned()).or_insert(0) += 1;
        let gold = model.ask(None, &format!("{n}"), Some("gold")).unwrap();
        assert_eq!(
            (gold.version.get(), gold.why),
            (3, Why::Header("x-plan".into()))
        );
        let other = model.ask(None, &format!("{n}"), Some("silver")).unwrap();
        assert_eq!(other, chosen);
    }
    assert!((900..1_100).contains(&counts["split:1"]), "{counts:?}");
    assert_eq!(counts["split:1"] + counts["split:beta"], 4_000);
    assert!(matches!(model.start(2, 1.0), Err(EditError::Conflict(_))));
    // By header alone there may be a canary beside it.
    model.change(split(Vec::new(), Some(header)));
    assert_eq!(model.says(None), said(1, "default:1"));
    model.start(2, 100.0).unwrap();
    assert_eq!(model.says(None).0, 2);
    let refused = model.try_change(split(arms(&[("1", 1), ("2", 1)]), None));
    assert!(
        matches!(refused, Err(EditError::Conflict(_))),
        "there is a canary"
    );
    model.change(Change::StopCanary);
    for wrong in [
        split(arms(&[("1", 1)]), None),
        split(Vec::new(), None),
        split(
            Vec::new(),
            Some(ByHeader {
                name: "X-Plan".into(),
                values: BTreeMap::from([("a".to_owned(), target("1"))]),
            }),
        ),
    ] {
        let refused = model.try_change(wrong);
        assert!(matches!(refused, Err(EditError::Invalid(_))), "{refused:?}");
    }
}

#[test]
fn a_shadow_runs_beside_what_answers_and_never_beside_itself() {
    let mut model = Model::new();
    model.set_default("1");
    let shadow = |number, percentage| Change::SetShadow {
        shadow: Some(Shadow {
            version: version(number),
            percent: percent(percentage),
        }),
    };
    let shadowed = |model: &Model, pinned| {
        model
            .ask(pinned, "c", None)
            .unwrap()
            .shadow
            .map(ModelVersion::get)
    };
    model.change(shadow(2, 100.0));
    assert_eq!(shadowed(&model, None), Some(2));
    assert_eq!(shadowed(&model, Some("1")), None);
    model.change(shadow(1, 100.0));
    assert_eq!(shadowed(&model, None), None);
    model.change(shadow(2, 0.0));
    assert_eq!(shadowed(&model, None), None);
}

#[test]
fn a_deprecated_version_says_so_and_after_its_sunset_names_its_successor() {
    let mut model = Model::new();
    model.set_alias("stable", 2);
    model.change(Change::Deprecate {
        version: version(3),
        deprecated: Deprecated {
            since_ms: NOW_MS - 1,
            sunset_ms: Some(NOW_MS + 10),
            link: Some("https://example.com/why".into()),
            successor: Some(target("stable")),
        },
    });
    let notice = model.ask(Some("3"), "", None).unwrap().notice.unwrap();
    assert_eq!(
        (notice.since_ms, notice.sunset_ms),
        (NOW_MS - 1, Some(NOW_MS + 10))
    );
    assert_eq!(notice.successor.as_deref(), Some("stable"));
    assert_eq!(model.says(None), said(3, "latest"));
    model.now_ms = NOW_MS + 10;
    assert_eq!(
        model.ask(Some("3"), "", None),
        Err(NoVersion::Gone {
            version: versions(&[3])[0],
            successor: Some("stable".into()),
            since_ms: NOW_MS + 10,
        })
    );
    // Callers that name no version still get answers.
    assert_eq!(model.says(None), said(2, "latest"));
    assert_eq!(model.ask(None, "", None).unwrap().notice, None);
    let Err(NoVersion::Unknown { available }) = model.ask(Some("9"), "", None) else {
        panic!("refused")
    };
    assert_eq!(available, ["1", "2", "stable", "latest"]);
    let own = |number: u64, successor: &str| Change::Deprecate {
        version: version(number),
        deprecated: Deprecated {
            since_ms: 0,
            sunset_ms: None,
            link: None,
            successor: Some(target(successor)),
        },
    };
    assert!(matches!(
        model.try_change(own(2, "stable")),
        Err(EditError::Invalid(_))
    ));
    let backwards = Change::Deprecate {
        version: version(1),
        deprecated: Deprecated {
            since_ms: NOW_MS,
            sunset_ms: Some(NOW_MS - 1),
            link: Some("<x>".into()),
            successor: None,
        },
    };
    assert!(matches!(model.try_change(backwards), Err(EditError::Invalid(v)) if v.len() == 2));
}

#[test]
fn text_that_is_no_document_is_refused() {
    assert!(Rollouts::parse(r#"{"v":1,"generation":0}"#).is_ok());
    for (text, word) in [
        ("", "cannot be read"),
        ("{}", "cannot be read"),
        (r#"{"v":2,"generation":0}"#, "format 2"),
        (
            r#"{"v":1,"generation":0,"models":{"../x":{}}}"#,
            "not a model name",
        ),
        (
            r#"{"v":1,"generation":0,"models":{"m":{"aliases":{"1":1}}}}"#,
            "alias",
        ),
        (
            r#"{"v":1,"generation":0,"models":{"m":{"default":"A"}}}"#,
            "alias",
        ),
        (
            r#"{"v":1,"generation":0,"models":{"m":{"default":0}}}"#,
            "alias",
        ),
        (
            r#"{"v":1,"generation":0,"models":{"m":{"canary":{"id":4,"version":1,"percent":100.001,"started_ms":0}}}}"#,
            "percentage",
        ),
        (
            r#"{"v":1,"generation":0,"models":{"m":{"canary":{"id":5,"version":1,"percent":1,"started_ms":0}}}}"#,
            "/canary/id",
        ),
        (
            r#"{"v":1,"generation":0,"models":{"m":{"canary":{"id":4,"version":1,"percent":1,"started_ms":0,"rollback":{"quantile":2}}}}}"#,
            "quantile",
        ),
        (
            r#"{"v":1,"generation":0,"models":{"m":{"shadows":1}}}"#,
            "shadows",
        ),
    ] {
        let refused = Rollouts::parse(text).unwrap_err();
        assert!(refused.contains(word), "{text}: {refused}");
    }
    let long = format!("{{\"v\":1,{}\"generation\":0}}", " ".repeat(300_000));
    assert!(Rollouts::parse(&long).unwrap_err().contains("bytes"));
}
