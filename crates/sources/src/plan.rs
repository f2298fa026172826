//! The next step for one source: a pure function of the settings, the files on this machine and the source's answer.
//!
//! Decisions:
//!
//! - **A pin needs no network.** A file with the pinned checksum, installed or in the cache, is the wanted one.
//! - **Without a pin the source is asked every time**, and earlier files serve only while it cannot be reached.
//! - **Nothing is installed without the pinned checksum and the required signature.** Only one step installs, and it
//!   follows that comparison.

use crate::digest::Digest;

/// The operator's wishes for a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The sum that it must have.
    pub pin: Option<Digest>,
    /// Whether it must be signed.
    pub signed: bool,
}

/// Files on this machine, installed or in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedVersion {
    /// The checksum for pinning: of the single file, or over all files.
    pub pin: Digest,
    /// Whether its signature was good, by the key that is wanted now.
    pub signed: bool,
    /// Whether all its files are there.
    pub whole: bool,
}

/// The answer of the source, if it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    /// The source was not asked.
    NotAsked,
    /// The source could not be reached, with the reason.
    Unreachable(String),
    /// The source refused, with the reason.
    Refused(String),
    /// The list of its files.
    Listed {
        /// Its checksum, if the source states one.
        pin: Option<Digest>,
        /// The files that are not in the cache, by their place in the listing.
        missing: Vec<usize>,
    },
}

/// The files made of the downloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The checksum for pinning: of the single file, or over all files.
    pub pin: Digest,
    /// Whether its signature is good.
    pub signed: bool,
}

/// The reason that there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpToDateReason {
    /// It has the pinned sum.
    Pinned,
    /// The source has the same.
    Same,
    /// The source cannot be reached.
    Offline,
}

/// The next step of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Keep the installed files.
    Keep(UpToDateReason),
    /// Install the files in the cache.
    InstallCached,
    /// Ask the source for its files.
    Ask,
    /// Download these files, by their place in the listing.
    Fetch(Vec<usize>),
    /// Unpack the downloads, and check signature and sum.
    Make,
    /// Install the files that were made.
    Install,
    /// Give up, with the reason.
    GiveUp(String),
}

/// Decides the next step of a pull.
pub fn next(
    wanted: &Wanted,
    installed: Option<&CachedVersion>,
    cached: Option<&CachedVersion>,
    remote: &Remote,
    made: Option<&Made>,
) -> Step {
    let good = |pin: Digest, signed: bool| {
        wanted.pin.is_none_or(|wanted| wanted == pin) && (signed || !wanted.signed)
    };
    let installed = installed.filter(|held| held.whole && good(held.pin, held.signed));
    let cached = cached.filter(|held| held.whole && good(held.pin, held.signed));
    if let Some(made) = made {
        return match wanted.pin {
            Some(pin) if pin != made.pin => Step::GiveUp(not_pinned(pin, made.pin)),
            _ if wanted.signed && !made.signed => Step::GiveUp("it is not signed".to_owned()),
            _ if installed.is_some_and(|held| held.pin == made.pin) => {
                Step::Keep(UpToDateReason::Same)
            }
            _ => Step::Install,
        };
    }
    if wanted.pin.is_some() {
        if installed.is_some() {
            return Step::Keep(UpToDateReason::Pinned);
        }
        if cached.is_some() {
            return Step::InstallCached;
        }
    }
    match remote {
        Remote::NotAsked => Step::Ask,
        Remote::Unreachable(_) if installed.is_some() => Step::Keep(UpToDateReason::Offline),
        Remote::Unreachable(_) if cached.is_some() => Step::InstallCached,
        Remote::Unreachable(why) | Remote::Refused(why) => Step::GiveUp(why.clone()),
        Remote::Listed { pin: stated, .. } if matches!((wanted.pin, stated), (Some(pin), Some(stated)) if pin != *stated) =>
        {
            let (pin, stated) = (wanted.pin.unwrap_or(Digest::of(b"")), stated);
            Step::GiveUp(not_pinned(pin, stated.unwrap_or(pin)))
        }
        Remote::Listed { missing, .. } if !missing.is_empty() => Step::Fetch(missing.clone()),
        Remote::Listed { .. } => Step::Make,
    }
}

fn not_pinned(pin: Digest, got: Digest) -> String {
    format!(
        "its SHA-256 is {got}, and {pin} is pinned; nothing was installed. Correct the pin if the model was meant to change"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(of: u8) -> Digest {
        Digest::of(&[of])
    }

    fn held(of: u8) -> CachedVersion {
        let (pin, signed, whole) = (sum(of), false, true);
        CachedVersion { pin, signed, whole }
    }

    fn listed(missing: &[usize]) -> Remote {
        let missing = missing.to_vec();
        Remote::Listed { pin: None, missing }
    }

    fn pinned(of: u8) -> Wanted {
        Wanted {
            pin: Some(sum(of)),
            signed: false,
        }
    }

    fn signed() -> Wanted {
        Wanted {
            pin: None,
            signed: true,
        }
    }

    /// A version of which a file is missing.
    fn half() -> CachedVersion {
        CachedVersion {
            whole: false,
            ..held(1)
        }
    }

    fn made(of: u8, signed: bool) -> Made {
        let pin = sum(of);
        Made { pin, signed }
    }

    fn up(reason: &str) -> Step {
        Step::GiveUp(reason.to_owned())
    }

    #[test]
    fn a_version_on_this_machine_is_used_before_the_source_is_asked() {
        let no = Remote::NotAsked;
        let (any, pinned) = (Wanted::default(), pinned(1));
        let (one, two, half) = (held(1), held(2), half());
        let kept = Step::Keep(UpToDateReason::Pinned);
        for (at, (wanted, installed, cached, expected)) in [
            (&any, None, None, Step::Ask),
            (&any, Some(&one), Some(&one), Step::Ask),
            (&pinned, Some(&one), None, kept),
            (&pinned, Some(&two), None, Step::Ask),
            (&pinned, Some(&half), None, Step::Ask),
            (&pinned, None, Some(&one), Step::InstallCached),
            (&pinned, None, Some(&half), Step::Ask),
        ]
        .into_iter()
        .enumerate()
        {
            let step = next(wanted, installed, cached, &no, None);
            assert_eq!(step, expected, "row {at}");
        }
    }

    #[test]
    fn a_source_that_is_away_or_refuses_leaves_the_installed_version() {
        let away = Remote::Unreachable("no route".to_owned());
        let gone = Remote::Refused("404".to_owned());
        let (any, signed, pinned) = (Wanted::default(), signed(), pinned(1));
        let (one, two, half) = (held(1), held(2), half());
        let kept = Step::Keep(UpToDateReason::Offline);
        for (at, (wanted, installed, cached, remote, expected)) in [
            (&signed, Some(&one), Some(&one), &away, up("no route")),
            (&any, Some(&one), None, &away, kept),
            (&any, None, Some(&one), &away, Step::InstallCached),
            (&any, None, Some(&half), &away, up("no route")),
            (&pinned, None, Some(&two), &away, up("no route")),
            (&any, Some(&one), Some(&one), &gone, up("404")),
        ]
        .into_iter()
        .enumerate()
        {
            let step = next(wanted, installed, cached, remote, None);
            assert_eq!(step, expected, "row {at}");
        }
    }

    #[test]
    fn a_listed_version_is_fetched_made_checked_and_installed() {
        let (none, all) = (listed(&[0, 2]), listed(&[]));
        let (any, signed, pinned) = (Wanted::default(), signed(), pinned(1));
        let (one, half) = (held(1), half());
        let same = Step::Keep(UpToDateReason::Same);
        let other = not_pinned(sum(1), sum(2));
        let first = || Some(made(1, false));
        let second = || Some(made(2, false));
        for (at, (wanted, installed, remote, made, expected)) in [
            (&any, None, &none, None, Step::Fetch(vec![0, 2])),
            (&any, None, &all, None, Step::Make),
            (&any, None, &all, first(), Step::Install),
            (&any, Some(&one), &all, first(), same),
            (&any, Some(&half), &all, first(), Step::Install),
            (&pinned, None, &all, second(), up(&other)),
            (&signed, None, &all, second(), up("it is not signed")),
            (&signed, None, &all, Some(made(2, true)), Step::Install),
        ]
        .into_iter()
        .enumerate()
        {
            let step = next(wanted, installed, None, remote, made.as_ref());
            assert_eq!(step, expected, "row {at}");
        }
        let stated = Remote::Listed {
            pin: Some(sum(2)),
            missing: vec![0],
        };
        let step = next(&pinned, None, None, &stated, None);
        assert_eq!(step, up(&other), "before anything is downloaded");
    }

    fn helds() -> impl Strategy<Value = Option<CachedVersion>> {
        let one = (0u8..3, any::<bool>(), any::<bool>());
        proptest::option::of(one.prop_map(|(of, signed, whole)| CachedVersion {
            pin: sum(of),
            signed,
            whole,
        }))
    }

    proptest! {
        /// Performs the plan against a source that holds `offered`, or is away, and checks the result.
        #[test]
        fn a_plan_ends_and_never_installs_what_is_not_wanted(
            pin in proptest::option::of(0u8..3), signed in any::<bool>(), installed in helds(), cached in helds(),
            offered in 0u8..3, offered_signed in any::<bool>(), reachable in any::<bool>(), states in any::<bool>(),
            files in 0usize..4,
        ) {
            let wanted = Wanted { pin: pin.map(sum), signed };
            let mut remote = Remote::NotAsked;
            let mut made = None;
            let good = |pin: Digest, is_signed: bool| {
                wanted.pin.is_none_or(|p| p == pin) && (is_signed || !signed)
            };
            let mut ended = false;
            for _ in 0..6 {
                match next(&wanted, installed.as_ref(), cached.as_ref(), &remote, made.as_ref()) {
                    Step::Ask => remote = if reachable {
                        let pin = states.then(|| sum(offered));
                        Remote::Listed { pin, missing: (0..files).collect() }
                    } else {
                        Remote::Unreachable("away".to_owned())
                    },
                    Step::Fetch(list) => {
                        prop_assert!(!list.is_empty());
                        let pin = states.then(|| sum(offered));
                        remote = Remote::Listed { pin, missing: Vec::new() };
                    }
                    Step::Make => made = Some(Made { pin: sum(offered), signed: offered_signed }),
                    Step::Install => {
                        let made = made.as_ref().unwrap();
                        prop_assert!(good(made.pin, made.signed));
                        ended = true;
                    }
                    Step::InstallCached => {
                        let held = cached.as_ref().unwrap();
                        prop_assert!(held.whole && good(held.pin, held.signed));
                        ended = true;
                    }
                    Step::Keep(_) => {
                        let held = installed.as_ref().unwrap();
                        prop_assert!(held.whole && good(held.pin, held.signed));
                        ended = true;
                    }
                    Step::GiveUp(why) => {
                        prop_assert!(!why.is_empty());
                        ended = true;
                    }
                }
                if ended { break }
            }
            prop_assert!(ended);
        }
    }
}
