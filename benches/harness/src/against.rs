//! This build beside another one, in turn and under the same load, so that a slower path is noticed before a release.

use crate::load::{Keys, Load, Measured};
use crate::{Cli, identity_body, median, row, server};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Rounds in which the two builds take turns. A slow second of a shared machine affects one round, and the median ignores it.
const ROUNDS: usize = 5;

/// Policies of the rows. Without an `[auth]`, the harness admits every caller on this machine.
const NO_LIMIT: &str = "[idempotency]\nenabled = false\n";

/// Measures both builds. `other` is a folder with `penstock`, `spin.toml`, `build/` and `models/`, as `scripts/bench --against`
/// makes it.
pub async fn measure(cli: &Cli, other: &Path) -> anyhow::Result<()> {
    let other = other
        .canonicalize()
        .with_context(|| format!("there is no build in {}", other.display()))?;
    let ours = Cli {
        models: absolute(&cli.models)?,
        penstock: absolute(&cli.penstock)?,
        scratch: absolute(&cli.scratch)?,
        onnxruntime: absolute(&cli.onnxruntime)?,
        ..cli.clone()
    };
    let theirs = Cli {
        models: other.join("models"),
        penstock: other.join("penstock"),
        scratch: ours.scratch.clone(),
        onnxruntime: ours.onnxruntime.clone(),
        ..cli.clone()
    };
    let new = server::Penstock::start(&ours, "direct", NO_LIMIT).await?;
    let manifest = other.join("spin.toml");
    let old = server::Penstock::start_app(&theirs, "direct", NO_LIMIT, &manifest)
        .await
        .context("the other build")?;
    let span = Duration::from_secs(cli.seconds);
    println!(
        "{} s a row, {ROUNDS} rounds; the other build is in {}\n",
        cli.seconds,
        other.display()
    );
    for connections in [1, cli.connections] {
        let load = |address| Load {
            connections,
            path: "/v1/models/identity:predict".to_owned(),
            body: identity_body().into(),
            span,
            address,
            keys: Keys::None,
            header: None,
        };
        let mut ratios = Vec::new();
        for round in 0..ROUNDS {
            // Each goes first in turn: the second may find the machine warmer.
            let (before, after) = match round % 2 {
                0 => {
                    let before = load(old.address).run().await?;
                    (before, load(new.address).run().await?)
                }
                _ => {
                    let after = load(new.address).run().await?;
                    (load(old.address).run().await?, after)
                }
            };
            print(connections, &before, &after);
            ratios.push(after.rps / before.rps);
        }
        println!(
            "    identity, connections {connections}, of the other build: {}\n",
            median(ratios)
        );
    }
    println!(
        "resident: {} MiB, the other build {} MiB (models in processes of their own not counted)",
        new.resident_mib(),
        old.resident_mib()
    );
    Ok(())
}

fn print(connections: usize, before: &Measured, after: &Measured) {
    let name = |build: &str| format!("{build}, identity, connections {connections}");
    row(&name("the other build"), before, None);
    row(&name("this build"), after, None);
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("no such place: {}", path.display()))
}
