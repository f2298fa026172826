//! Writes the counters of models. The engine counts; this module bounds how many versions have their own series, and adds up the
//! others.

use super::families::{self as f, Family};
use super::histogram::Distribution;
use super::requests::OTHER;
use super::text::Text;

/// The versions that have series of their own, unless a setting says otherwise. With the longest names they take half of a scrape.
pub const DEFAULT_MODEL_VERSIONS: usize = 50;

/// The counters of one loaded version.
#[derive(Clone, Debug)]
pub struct ModelCounts {
    /// The name of the model.
    pub model: String,
    /// The number of the version, as text.
    pub version: String,
    /// Bytes that it holds.
    pub memory_bytes: u64,
    /// Calls that wait.
    pub waiting: u64,
    /// Runs in progress.
    pub running: u64,
    /// Runs that do not end.
    pub overdue: u64,
    /// The time that calls waited.
    pub queue: Distribution,
    /// The time of calls' runs in the backend.
    pub compute: Distribution,
    /// The items of runs that succeeded.
    pub batches: Distribution,
    /// Calls that succeeded.
    pub success: u64,
    /// Calls that failed when they ran.
    pub failures: u64,
    /// Calls that did not run, by the reason, in the order of [`REASONS`].
    pub refused: [u64; REASONS.len()],
    /// Runs that failed.
    pub failed_runs: u64,
    /// Shadow runs, in the order of [`SHADOW_RESULTS`].
    pub shadow: [u64; SHADOW_RESULTS.len()],
    /// The process of the model, if it has its own.
    pub process: Option<ProcessCounts>,
    /// The sums that only the names of Triton have.
    pub triton: TritonCounts,
}

/// The reasons why a call did not run.
pub const REASONS: [&str; 7] = [
    "invalid",
    "queue_full",
    "displaced",
    "shed",
    "deadline",
    "cancelled",
    "not_ready",
];

/// The results of shadow runs.
pub const SHADOW_RESULTS: [&str; 4] = ["agreed", "differed", "failed", "shed"];

/// The counters of a model's process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessCounts {
    /// The number of times that it was started again.
    pub restarts: u64,
    /// Its private memory.
    pub resident_bytes: u64,
}

/// Sums in the units of Triton's metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct TritonCounts {
    /// Items of runs that succeeded.
    pub items: u64,
    /// Runs that succeeded.
    pub runs: u64,
    /// The time from arrival to end, over all calls that ran.
    pub total_ns: u64,
    /// The time of calls with their inputs.
    pub input_ns: u64,
    /// The time of calls with their outputs.
    pub output_ns: u64,
}

impl ModelCounts {
    /// Adds the counts of another version to those of the versions without series of their own.
    fn add(&mut self, other: &Self) {
        self.memory_bytes += other.memory_bytes;
        self.waiting += other.waiting;
        self.running += other.running;
        self.overdue += other.overdue;
        self.queue.add(&other.queue);
        self.compute.add(&other.compute);
        self.batches.add(&other.batches);
        self.success += other.success;
        self.failures += other.failures;
        for (count, more) in self.refused.iter_mut().zip(other.refused) {
            *count += more;
        }
        self.failed_runs += other.failed_runs;
        for (count, more) in self.shadow.iter_mut().zip(other.shadow) {
            *count += more;
        }
        if let Some(more) = other.process {
            let process = self.process.get_or_insert_default();
            process.restarts += more.restarts;
            process.resident_bytes += more.resident_bytes;
        }
        let (triton, more) = (&mut self.triton, &other.triton);
        triton.items += more.items;
        triton.runs += more.runs;
        triton.total_ns += more.total_ns;
        triton.input_ns += more.input_ns;
        triton.output_ns += more.output_ns;
    }

    fn labels(&self) -> [&str; 2] {
        [&self.model, &self.version]
    }
}

/// Keeps the first `most` versions, in the order of their names, and adds up the others as [`OTHER`].
pub fn bounded(mut models: Vec<ModelCounts>, most: usize) -> Vec<ModelCounts> {
    let number = |version: &str| version.parse::<u64>().unwrap_or(u64::MAX);
    models.sort_by(|a, b| (&a.model, number(&a.version)).cmp(&(&b.model, number(&b.version))));
    let mut others = models.split_off(most.min(models.len())).into_iter();
    if let Some(mut sum) = others.next() {
        others.for_each(|other| sum.add(&other));
        sum.model = OTHER.to_owned();
        sum.version = String::new();
        models.push(sum);
    }
    models
}

/// Writes the families of models; `triton` says whether those with the names of Triton are written, too.
pub fn write(models: &[ModelCounts], triton: bool, text: &mut Text) {
    let mut each = |family: &'static Family, value: fn(&ModelCounts) -> Option<u64>| {
        let mut rows = text.family(family);
        for model in models {
            if let Some(value) = value(model) {
                rows.value(&model.labels(), value);
            }
        }
    };
    each(&f::MODEL_MEMORY, |model| Some(model.memory_bytes));
    each(&f::MODEL_QUEUE_DEPTH, |model| Some(model.waiting));
    each(&f::MODEL_RUNNING, |model| Some(model.running));
    each(&f::MODEL_OVERDUE, |model| Some(model.overdue));
    each(&f::MODEL_FAILED_RUNS, |model| Some(model.failed_runs));
    each(&f::MODEL_RESTARTS, |model| Some(model.process?.restarts));
    each(&f::MODEL_PROCESS_MEMORY, |model| {
        Some(model.process?.resident_bytes)
    });
    if triton {
        each(&f::TRITON_SUCCESS, |model| Some(model.success));
        each(&f::TRITON_FAILURE, |model| {
            Some(model.failures + model.refused.iter().sum::<u64>())
        });
        each(&f::TRITON_COUNT, |model| Some(model.triton.items));
        each(&f::TRITON_EXEC, |model| Some(model.triton.runs));
        each(&f::TRITON_DURATION, |model| {
            Some(model.triton.total_ns / 1_000)
        });
        each(&f::TRITON_QUEUE, |model| Some(model.queue.sum / 1_000));
        each(&f::TRITON_INPUT, |model| {
            Some(model.triton.input_ns / 1_000)
        });
        each(&f::TRITON_INFER, |model| Some(model.compute.sum / 1_000));
        each(&f::TRITON_OUTPUT, |model| {
            Some(model.triton.output_ns / 1_000)
        });
        each(&f::TRITON_PENDING, |model| Some(model.waiting));
    }
    type Counts = fn(&ModelCounts) -> Vec<(&'static str, u64)>;
    let by_word: [(&'static Family, Counts); 3] = [
        (&f::MODEL_CALLS, |model| {
            vec![("success", model.success), ("failure", model.failures)]
        }),
        (&f::MODEL_REFUSED, |model| {
            REASONS.into_iter().zip(model.refused).collect()
        }),
        (&f::MODEL_SHADOW, |model| {
            SHADOW_RESULTS.into_iter().zip(model.shadow).collect()
        }),
    ];
    for (family, counts) in by_word {
        let mut rows = text.family(family);
        for model in models {
            let [name, version] = model.labels();
            // Most versions have no shadow runs and few reasons. A series begins with its first count, as in other clients.
            for (word, count) in counts(model).into_iter().filter(|(_, count)| *count > 0) {
                rows.value(&[name, version, word], count);
            }
        }
    }
    type Values = fn(&ModelCounts) -> &Distribution;
    let histograms: [(&'static Family, Values); 3] = [
        (&f::MODEL_QUEUE, |model| &model.queue),
        (&f::MODEL_COMPUTE, |model| &model.compute),
        (&f::MODEL_BATCH, |model| &model.batches),
    ];
    for (family, values) in histograms {
        let mut rows = text.family(family);
        for model in models {
            rows.histogram(&model.labels(), values(model));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::histogram::{BATCH_SIZE, REQUEST_DURATION};
    use crate::metrics::text::{Format, MAX_BYTES};

    fn model(name: &str, version: u64, calls: u64) -> ModelCounts {
        let mut queue = Distribution::empty(&REQUEST_DURATION);
        queue.add_many(2_000_000, calls);
        let mut batches = Distribution::empty(&BATCH_SIZE);
        batches.add_many(4, calls / 4);
        ModelCounts {
            model: name.to_owned(),
            version: version.to_string(),
            memory_bytes: 1 << 20,
            waiting: 3,
            running: 1,
            overdue: 0,
            compute: queue.clone(),
            queue,
            batches,
            success: calls,
            failures: 1,
            refused: [0, 2, 0, 0, 0, 0, 0],
            failed_runs: 1,
            shadow: [0; 4],
            process: None,
            triton: TritonCounts {
                items: calls,
                runs: calls / 4,
                total_ns: calls * 5_000_000,
                input_ns: 1_500,
                output_ns: 2_999,
            },
        }
    }

    fn written(models: &[ModelCounts], triton: bool) -> String {
        let mut text = Text::new(Format::Prometheus);
        write(models, triton, &mut text);
        String::from_utf8(text.finish()).unwrap()
    }

    #[test]
    fn the_counts_of_a_version_are_written_with_its_name() {
        let text = written(&[model("digits", 2, 8)], false);
        for line in [
            "penstock_model_queue_depth{model=\"digits\",version=\"2\"} 3",
            "penstock_model_calls_total{model=\"digits\",version=\"2\",result=\"success\"} 8",
            "penstock_model_calls_refused_total{model=\"digits\",version=\"2\",reason=\"queue_full\"} 2",
            "penstock_model_queue_duration_seconds_bucket{model=\"digits\",version=\"2\",le=\"0.0025\"} 8",
            "penstock_model_queue_duration_seconds_sum{model=\"digits\",version=\"2\"} 0.016",
            "penstock_model_batch_size_sum{model=\"digits\",version=\"2\"} 8",
            "penstock_model_batch_size_count{model=\"digits\",version=\"2\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("nv_inference"));
        assert!(!text.contains("process_restarts_total{"));
    }

    #[test]
    fn with_the_names_of_triton_its_counters_are_in_microseconds() {
        let text = written(&[model("digits", 2, 8)], true);
        for (name, value) in [
            ("nv_inference_request_success", 8),
            ("nv_inference_request_failure", 3),
            ("nv_inference_count", 8),
            ("nv_inference_exec_count", 2),
            ("nv_inference_request_duration_us", 40_000),
            ("nv_inference_queue_duration_us", 16_000),
            ("nv_inference_compute_input_duration_us", 1),
            ("nv_inference_compute_infer_duration_us", 16_000),
            ("nv_inference_compute_output_duration_us", 2),
            ("nv_inference_pending_request_count", 3),
        ] {
            let line = format!("{name}{{model=\"digits\",version=\"2\"}} {value}");
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn versions_beyond_the_bound_are_added_up_and_nothing_is_lost() {
        let models: Vec<ModelCounts> = [("b", 10), ("b", 9), ("a", 1), ("c", 1), ("d", 1)]
            .map(|(name, version)| model(name, version, 8))
            .into();
        let kept = bounded(models, 3);
        let names: Vec<[&str; 2]> = kept.iter().map(ModelCounts::labels).collect();
        assert_eq!(names, [["a", "1"], ["b", "9"], ["b", "10"], [OTHER, ""]]);
        let sum = &kept[3];
        assert_eq!(
            (sum.success, sum.refused[1], sum.queue.count()),
            (16, 4, 16)
        );
        assert_eq!(sum.triton.total_ns, 80_000_000);
        assert_eq!(bounded(kept, 10).len(), 4);
    }

    #[test]
    fn the_default_number_of_versions_fits_into_a_scrape_with_the_longest_names() {
        let name = |n| format!("{n:0>128}");
        let models = (0..5_000_u64).map(|n| {
            let mut counts = model(&name(n), u64::MAX, 8);
            counts.refused = [u64::MAX / 8_192; 7];
            counts.shadow = [u64::MAX / 8_192; 4];
            counts.process = Some(ProcessCounts::default());
            counts
        });
        let kept = bounded(models.collect(), DEFAULT_MODEL_VERSIONS);
        assert_eq!(kept.len(), DEFAULT_MODEL_VERSIONS + 1);
        let text = written(&kept, false);
        println!("{} bytes", text.len());
        assert!(text.len() < MAX_BYTES / 2, "{}", text.len());
    }
}
