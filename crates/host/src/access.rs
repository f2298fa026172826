//! Warns an operator of a valid policy that may have an unintended effect: access for everyone, or access for no
//! caller.

use crate::settings::Settings;
use penstock_app::Finding;
use penstock_core::caller::ANONYMOUS;
use penstock_policy::auth::settings::From;
use std::net::SocketAddr;
use std::path::Path;

/// Returns warnings about callers without credentials. `listen` is the address of the server, if it is known.
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
                Some(listen) => format!("other machines can reach {listen}"),
                None => "on a public address this admits everyone".to_owned(),
            };
            warn(
                format!("callers without credentials may call from any address; {place}"),
                "remove [auth.anonymous], or set from = \"loopback\" in it",
            );
        }
        Some(anonymous) if anonymous.from == From::Loopback && listen.is_some_and(|_| public) => {
            warn(
                "callers without credentials are refused, because other machines can reach the server".to_owned(),
                "remove [auth.anonymous], or listen on 127.0.0.1",
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
            "no caller is accepted: API keys, issuers, certificates and callers without credentials are all off".to_owned(),
            "turn one of them on under [auth]",
        );
    }
    if !auth.certificates.is_empty() && settings.tls.client_ca.is_none() {
        warn(
            "[[auth.certificates]] has entries, but the server does not ask clients for certificates"
                .to_owned(),
            "set tls.client_ca to the file of the authority that signs them",
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
            (anywhere, Some(public), Some("from any address")),
            (anywhere, None, Some("from any address")),
            (loopback, Some(local), None),
            (loopback, None, None),
            (loopback, Some(public), Some("are refused")),
            (
                "[auth.api_keys]\nenabled = false\n",
                None,
                Some("no caller is accepted"),
            ),
            (certificate, None, Some("does not ask clients")),
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
