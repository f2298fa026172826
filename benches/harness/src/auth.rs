//! Measures the cost of authentication: no credential, an API key and a token, each beside an auth component that
//! checks nothing. The stand-in has the same border, so the cost of the border is in both. docs/PERFORMANCE.md has the
//! whole cost.

use crate::load::{Keys, Load};
use crate::{Cli, identity_body, row, server};
use anyhow::Context;
use std::time::Duration;

const POLICY: &str = r#"
[admin]
listen = "127.0.0.1:0"
[auth.anonymous]
scopes = ["*"]
[auth.tiers.free]
"#;

/// Warm-up of a row in seconds, as in [`crate::load`].
const WARM_UP_S: f64 = 1.0;

/// Rounds in which the rows take turns.
const ROUNDS: usize = 5;

/// The component that admits every caller, as `scripts/build --guests` builds it.
const STAND_IN: &str = "build/test/open-auth.wasm";

/// Measures, and prints the table.
pub async fn measure(cli: &Cli) -> anyhow::Result<()> {
    let manifest = std::fs::read_to_string("spin.toml")?;
    let open = manifest.replace("build/auth.wasm", STAND_IN);
    anyhow::ensure!(open != manifest, "spin.toml names no build/auth.wasm");
    let folder = tempfile::Builder::new()
        .prefix("penstock-bench-")
        .tempfile_in(".")?;
    std::fs::write(folder.path(), open)?;
    let without = server::Penstock::start_app(cli, "direct", POLICY, folder.path())
        .await
        .context("run scripts/build --components --guests")?;
    let with = server::Penstock::start(cli, "direct", POLICY).await?;
    with.administer(cli, &["tenants", "create", "bench"])?;
    let create = [
        "keys", "create", "--tenant", "bench", "--tier", "free", "--scope", "*", "--json",
    ];
    let made: serde_json::Value = serde_json::from_str(&with.administer(cli, &create)?)?;
    let api_key = made["api_key"]
        .as_str()
        .context("the command printed no key")?
        .to_owned();
    let body = identity_body();
    let load = |address, credential| Load {
        connections: cli.connections,
        path: "/v1/models/identity:predict".to_owned(),
        body: body.clone().into(),
        span: Duration::from_secs(cli.seconds),
        address,
        keys: Keys::None,
        header: credential,
    };
    let bearer = ("authorization", format!("Bearer {api_key}"));
    let rows = [
        (
            "an auth component that looks at nothing",
            &without,
            load(without.address, None),
        ),
        (
            "no credential, from this machine",
            &with,
            load(with.address, None),
        ),
        ("an API key", &with, load(with.address, Some(bearer))),
    ];
    // Computing time of the server for each request, in microseconds: other work on the machine changes it little.
    let mut costs: Vec<Vec<f64>> = rows.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for ((name, served, load), kept) in rows.iter().zip(&mut costs) {
            let before = served.computed_s();
            let one = load.run().await?;
            row(&format!("direct entry point, identity, {name}"), &one, None);
            // The warm-up computes as well. It is equally long for every row.
            let seconds = cli.seconds as f64;
            let requests = one.rps * (seconds + WARM_UP_S);
            kept.push((served.computed_s() - before) * 1e6 / requests);
        }
    }
    for kept in &mut costs {
        kept.sort_by(f64::total_cmp);
    }
    for (at, (name, _, _)) in rows.iter().enumerate() {
        let median = costs[at][ROUNDS / 2];
        println!(
            "    {name}: {median:.1} µs of computing a request ({:.1} to {:.1}), {:.3} of the first",
            costs[at][0],
            costs[at][ROUNDS - 1],
            median / costs[0][ROUNDS / 2]
        );
    }
    Ok(())
}
