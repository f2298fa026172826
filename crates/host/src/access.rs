//! Decides what to warn an operator of in a policy that is sound and may not be what was meant: doors that stand open, and
//! doors that nobody can open.

use crate::settings::Settings;
use penstock_app::Finding;
use penstock_core::caller::ANONYMOUS;
use penstock_policy::auth::settings::From;
use std::net::SocketAddr;
use std::path::Path;

/// What is to be warned of. `listen` is where the server listens, where that is known.
pub fn warnings(settings: &Settings, policy: &Path, listen: Option<SocketAddr>) -> Vec<Finding> {
    let auth = &settings.auth;
    let mut warnings = Vec::new();
    let mut warn = |message: String, remedy: &'static str| {
        warnings.push(Finding::warning(policy, None, message, remedy));
    };
    let public = listen.is_none_or(|listen| !listen.ip().is_loopback());
    match &auth.anonymous {
        Some(anonymous) if anonymous.from == From::Anywhere && public => {
            let place = match listen {
                Some(listen) => format!("{listen} is not this machine's own address"),
                None => "served on a public address, that is everybody".to_owned(),
            };
            warn(
                format!("callers without credentials may call from anywhere; {place}"),
                "take [auth.anonymous] out, or write from = \"loopback\" in it",
            );
        }
        Some(anonymous) if anonymous.from == From::Loopback && listen.is_some_and(|_| public) => {
            warn(
                "callers without credentials are refused, because others than this machine reach the server".to_owned(),
                "take [auth.anonymous] out, or listen on 127.0.0.1",
            );
        }
        _ => {}
    }
    let closed = auth
        .anonymous
        .as_ref()
        .is_none_or(|anonymous| anonymous.scopes.is_empty());
    if closed && !auth.api_keys.enabled && auth.issuers.is_empty() && auth.certificates.is_empty() {
        warn(
            "no caller is accepted: there are no API keys, issuers, certificates or callers without credentials".to_owned(),
            "turn one of them on under [auth]",
        );
    }
    if !auth.certificates.is_empty() && settings.tls.client_ca.is_none() {
        warn(
            "[[auth.certificates]] stand for callers, and no client is asked for a certificate"
                .to_owned(),
            "name the authority that signs them in tls.client_ca",
        );
    }
    for limit in &settings.limits {
        let unknown = limit
            .tiers
            .iter()
            .find(|tier| *tier != ANONYMOUS && !auth.tiers.contains_key(*tier));
        if let Some(tier) = unknown {
            warn(
                format!(
                    "limit {} is for the tier `{tier}`, which no caller can have",
                    limit.name
                ),
                "define the tier under [auth.tiers], or correct its name",
            );
        }
    }
    for (at, entry) in settings.disclosure.iter().enumerate() {
        let unknown =
            (entry.tiers.iter()).find(|tier| *tier != ANONYMOUS && !auth.tiers.contains_key(*tier));
        if let Some(tier) = unknown {
            warn(
                format!(
                    "disclosure[{at}] is for the tier `{tier}`, which no caller can have: scores are sent unchanged"
                ),
                "define the tier under [auth.tiers], or correct its name",
            );
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_doors_and_doors_nobody_can_open_are_warned_of() {
        let local: SocketAddr = "127.0.0.1:3000".parse().unwrap();
        let public: SocketAddr = "0.0.0.0:3000".parse().unwrap();
        let anywhere = "[auth.anonymous]\nscopes = [\"*\"]\nfrom = \"anywhere\"\n";
        let loopback = "[auth.anonymous]\nscopes = [\"*\"]\n";
        let certificate = "[auth.tiers.free]\n[[auth.certificates]]\nname = \"dns:a\"\ntenant = \"t\"\ntier = \"free\"\nscopes = []\n";
        let limit = "[[limits]]\nname = \"a\"\nlimit = 1\nwindow_s = 1\ntiers = [\"gold\"]\n";
        for (text, listen, words) in [
            ("", Some(public), None),
            (anywhere, Some(local), None),
            (anywhere, Some(public), Some("from anywhere")),
            (anywhere, None, Some("from anywhere")),
            (loopback, Some(local), None),
            (loopback, None, None),
            (loopback, Some(public), Some("are refused")),
            (
                "[auth.api_keys]\nenabled = false\n",
                None,
                Some("no caller is accepted"),
            ),
            (certificate, None, Some("no client is asked")),
            (limit, None, Some("`gold`")),
            (
                "[[disclosure]]\ntiers = [\"gold\"]\ntop = 1\n",
                None,
                Some("`gold`"),
            ),
        ] {
            let settings: Settings = toml::from_str(text).unwrap();
            let found = warnings(&settings, Path::new("penstock.toml"), listen);
            assert_eq!(
                found.len(),
                usize::from(words.is_some()),
                "{text} {found:?}"
            );
            if let Some(words) = words {
                assert!(found[0].message.contains(words), "{found:?}");
            }
        }
    }
}
