//! Logs the events and the statistics of the models.

use penstock_nn::Repository;
use penstock_nn::repository::{Event, EventKind};

/// Returns one line of statistics for each model version that was called.
pub(crate) fn statistics(repository: &Repository) -> Vec<String> {
    let ms = |ns: u64| {
        if ns == u64::MAX {
            "more than 60000".to_owned()
        } else {
            format!("{:.2}", ns as f64 / 1e6)
        }
    };
    let models = repository.list().into_iter().flat_map(|model| {
        (model.versions.into_iter()).filter_map(move |(version, state)| match state {
            penstock_nn::State::Ready(loaded) => {
                Some((model.name.clone(), version, loaded.stats()))
            }
            _ => None,
        })
    });
    models
        .filter(|(_, _, stats)| stats.total.count > 0)
        .map(|(model, version, stats)| {
            format!(
                "model {model} version {version}: {} calls answered in {} runs of {:.1} items, {} failed, {} refused, {} \
                 left; waited {} ms at p50 and {} at p99, ran {} and {} ms",
                stats.success,
                stats.execution_count,
                stats.inference_count as f64 / stats.execution_count.max(1) as f64,
                stats.failures,
                stats.refusals.refused() + stats.refusals.invalid,
                stats.refusals.cancelled,
                ms(stats.queue.quantile_ns(0.5)),
                ms(stats.queue.quantile_ns(0.99)),
                ms(stats.compute.quantile_ns(0.5)),
                ms(stats.compute.quantile_ns(0.99)),
            )
        })
        .collect()
}

/// Logs the events of the models.
pub(crate) async fn note_all(mut events: tokio::sync::mpsc::UnboundedReceiver<Event>) {
    while let Some(event) = events.recv().await {
        note(&event);
    }
}

fn note(event: &Event) {
    let Event {
        model,
        version,
        kind,
        text,
    } = event;
    match kind {
        EventKind::Ready | EventKind::Evicted | EventKind::Unloaded | EventKind::Removed => {
            tracing::info!("model {model} version {version}: {text}");
        }
        EventKind::Slow | EventKind::Noted | EventKind::Differs => {
            tracing::warn!("model {model} version {version}: {text}");
        }
        EventKind::Failed => tracing::error!("model {model}: not served: {text}"),
        EventKind::Skipped => tracing::warn!("model {model}: {text}"),
        EventKind::Kept if *version == 0 => {
            tracing::error!("model {model}: the previous state keeps serving: {text}");
        }
        EventKind::Kept => {
            tracing::error!(
                "model {model} version {version}: the previous state keeps serving: {text}"
            );
        }
        EventKind::Unseen => tracing::error!("{text}"),
    }
}
