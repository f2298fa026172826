//! Writes the metrics of a server.

use super::metered::ENDS;
use super::state::Server;
use penstock_core::metrics::Text;
use penstock_core::metrics::families as f;
use std::sync::atomic::{AtomicU64, Ordering};

impl Server {
    /// Writes the families of requests, connections, instances and operations. It takes no lock.
    pub fn write_metrics(&self, text: &mut Text) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let metrics = &self.metrics;
        text.single(&f::CONNECTIONS, load(&self.open));
        text.single(&f::CONNECTIONS_OPENED, load(&metrics.opened));
        text.single(&f::CONNECTIONS_REFUSED, load(&metrics.refused));
        text.single(&f::GRPC_STREAMS, load(&self.open_streams));
        let counts = self.entry_point.counts();
        let (in_use, most) = self.entry_point.use_of();
        text.single(&f::INSTANCES, counts.live());
        text.single(&f::INSTANCES_IN_USE, in_use);
        text.single(&f::INSTANCES_MAX, most);
        text.single(&f::INSTANCE_STARTS, counts.created());
        text.single(&f::INSTANCE_TRAPS, counts.trapped());
        if let Some(work) = &self.work {
            let (queued, running) = work.sizes();
            text.single(&f::OPERATIONS_QUEUED, queued);
            text.single(&f::OPERATIONS_RUNNING, running);
            let mut rows = text.family(&f::OPERATIONS_ENDED);
            for (end, counter) in ENDS.iter().zip(&metrics.ended) {
                let word = end.as_str();
                // The word of the event without its subject.
                let word = word.rsplit('.').next().unwrap_or(word);
                rows.value(&[word], load(counter));
            }
        }
        metrics.requests.write(text);
    }
}
