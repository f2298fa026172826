//! The text formats for scrapes: Prometheus 0.0.4 and OpenMetrics 1.0, chosen by `Accept`.

use super::families::{self, Family, Kind};
use super::histogram::Distribution;
use crate::negotiate;
use std::fmt::Write;

/// The most bytes of one scrape. Series that do not fit are left out and counted in `penstock_metrics_dropped_series`.
pub const MAX_BYTES: usize = 2 << 20;
/// Bytes that are kept for the last family and the end.
const END_BYTES: usize = 1 << 10;

/// A format of a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The text format 0.0.4 of Prometheus.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The format for an `Accept` header: OpenMetrics if the header prefers it, otherwise the text format of Prometheus.
    pub fn of(accept: Option<&str>) -> Self {
        let open = negotiate::quality(accept, "application/openmetrics-text");
        let plain = negotiate::quality(accept, "text/plain");
        // A header that allows anything does not ask for OpenMetrics.
        match accept {
            Some(accept) if open > 0 && open >= plain && names_open_metrics(accept) => {
                Self::OpenMetrics
            }
            _ => Self::Prometheus,
        }
    }

    /// The value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Returns whether a header names OpenMetrics in a version that this module writes. Version 1 is compatible with 0.0.1.
fn names_open_metrics(accept: &str) -> bool {
    accept.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_named = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("application/openmetrics-text"));
        let version = parts.find_map(|part| part.strip_prefix("version="));
        is_named && version.is_none_or(|version| matches!(version, "0.0.1" | "1.0.0"))
    })
}

/// A number of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A whole number.
    Whole(u64),
    /// Any number.
    Float(f64),
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<usize> for Number {
    fn from(number: usize) -> Self {
        Self::Whole(number as u64)
    }
}

impl From<bool> for Number {
    fn from(holds: bool) -> Self {
        Self::Whole(u64::from(holds))
    }
}

impl From<f64> for Number {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

/// A scrape that is being written.
#[derive(Debug)]
pub struct Text {
    format: Format,
    out: String,
    dropped: u64,
}

/// The samples of one family.
#[derive(Debug)]
pub struct Rows<'t> {
    text: &'t mut Text,
    family: &'static Family,
}

impl Text {
    /// An empty scrape.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            out: String::new(),
            dropped: 0,
        }
    }

    /// Begins a family. All its samples must be written before the next family begins.
    pub fn family(&mut self, family: &'static Family) -> Rows<'_> {
        let name = family.shown(self.format);
        let kind = family.kind.shown(self.format);
        let head = format!("# HELP {name} {}\n# TYPE {name} {kind}\n", family.help);
        self.out.push_str(&head);
        if let (Format::OpenMetrics, Some(unit)) = (self.format, family.unit) {
            let _ = writeln!(self.out, "# UNIT {name} {unit}");
        }
        Rows { text: self, family }
    }

    /// Writes a family with one sample without labels.
    pub fn single(&mut self, family: &'static Family, value: impl Into<Number>) {
        self.family(family).value(&[], value);
    }

    /// Ends the scrape.
    pub fn finish(mut self) -> Vec<u8> {
        let dropped = self.dropped;
        let name = families::DROPPED_SERIES.name;
        self.family(&families::DROPPED_SERIES);
        let _ = writeln!(self.out, "{name} {dropped}");
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out.into_bytes()
    }

    fn number(&mut self, number: Number) {
        let _ = match number {
            Number::Whole(number) => write!(self.out, "{number}"),
            Number::Float(number) if number.is_nan() => write!(self.out, "NaN"),
            Number::Float(number) if number.is_infinite() => {
                write!(self.out, "{}Inf", if number > 0.0 { '+' } else { '-' })
            }
            Number::Float(number) => write!(self.out, "{number}"),
        };
    }

    /// Undoes the samples of a series that has made the scrape too long.
    fn bound(&mut self, before: usize) {
        if self.out.len() > MAX_BYTES - END_BYTES {
            self.out.truncate(before);
            self.dropped += 1;
        }
    }
}

impl Rows<'_> {
    /// Writes one sample. `labels` are the values of the family's labels, in their order.
    pub fn value(&mut self, labels: &[&str], value: impl Into<Number>) {
        let before = self.text.out.len();
        let suffix = self.family.kind.suffix();
        self.sample(suffix, labels, None, value.into());
        self.text.bound(before);
    }

    /// Writes the samples of a histogram.
    pub fn histogram(&mut self, labels: &[&str], values: &Distribution) {
        let before = self.text.out.len();
        let mut below = 0;
        let limits = values.bounds.limits.iter();
        for (count, limit) in values.counts.iter().zip(limits) {
            below += count;
            let limit = *limit as f64 / values.bounds.scale;
            self.sample("_bucket", labels, Some(limit), below.into());
        }
        let count = Number::Whole(values.count());
        self.sample("_bucket", labels, Some(f64::INFINITY), count);
        let sum = match values.bounds.scale {
            1.0 => Number::Whole(values.sum),
            scale => Number::Float(values.sum as f64 / scale),
        };
        self.sample("_sum", labels, None, sum);
        self.sample("_count", labels, None, count);
        self.text.bound(before);
    }

    fn sample(&mut self, suffix: &str, labels: &[&str], limit: Option<f64>, value: Number) {
        let text = &mut *self.text;
        text.out.push_str(self.family.name);
        text.out.push_str(suffix);
        let names = self.family.labels.iter();
        let mut before = '{';
        for (name, value) in names.zip(labels) {
            text.out.push(before);
            before = ',';
            let _ = write!(text.out, "{name}=\"");
            escape(value, &mut text.out);
            text.out.push('"');
        }
        if let Some(limit) = limit {
            text.out.push(before);
            before = ',';
            text.out.push_str("le=\"");
            text.number(Number::Float(limit));
            // OpenMetrics wants the bounds as floating-point numbers.
            if text.format == Format::OpenMetrics && limit.fract() == 0.0 {
                text.out.push_str(".0");
            }
            text.out.push('"');
        }
        text.out.push_str(if before == '{' { " " } else { "} " });
        text.number(value);
        text.out.push('\n');
    }
}

fn escape(value: &str, out: &mut String) {
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

impl Family {
    /// The name in the lines about the family.
    fn shown(&self, format: Format) -> String {
        match (format, self.kind) {
            // Prometheus has no name but that of the sample.
            (Format::Prometheus, Kind::Counter | Kind::Info) => {
                format!("{}{}", self.name, self.kind.suffix())
            }
            _ => self.name.to_owned(),
        }
    }
}

impl Kind {
    /// The end of a sample's name.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Info => "_info",
            Self::Gauge | Self::Histogram | Self::TritonCounter => "",
        }
    }

    const fn shown(self, format: Format) -> &'static str {
        match (self, format) {
            (Self::Counter, _) | (Self::TritonCounter, Format::Prometheus) => "counter",
            (Self::Gauge, _) | (Self::Info, Format::Prometheus) => "gauge",
            (Self::Histogram, _) => "histogram",
            (Self::Info, Format::OpenMetrics) => "info",
            // OpenMetrics has no counters without the suffix `_total`.
            (Self::TritonCounter, Format::OpenMetrics) => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::histogram::{BATCH_SIZE, REQUEST_DURATION};

    static COUNTER: Family = Family {
        name: "t_events",
        kind: Kind::Counter,
        unit: None,
        labels: &["kind", "name"],
        help: "Events.",
    };
    static HISTOGRAM: Family = Family {
        name: "t_seconds",
        kind: Kind::Histogram,
        unit: Some("seconds"),
        labels: &[],
        help: "Times.",
    };
    static TRITON: Family = Family {
        name: "t_old",
        kind: Kind::TritonCounter,
        unit: None,
        labels: &[],
        help: "Old.",
    };
    static INFO: Family = Family {
        name: "t_build",
        kind: Kind::Info,
        unit: None,
        labels: &["version"],
        help: "Build.",
    };

    fn written(format: Format, write: impl FnOnce(&mut Text)) -> String {
        let mut text = Text::new(format);
        write(&mut text);
        String::from_utf8(text.finish()).unwrap()
    }

    #[test]
    fn a_counter_is_named_as_each_format_wants_it_and_its_labels_are_escaped() {
        let write = |text: &mut Text| {
            let mut rows = text.family(&COUNTER);
            rows.value(&["a", "x\"y\\z\n"], 7_u64);
            text.single(&TRITON, 1.5);
            text.family(&INFO).value(&["1.2"], 1_u64);
        };
        let prometheus = written(Format::Prometheus, write);
        let expected = "# HELP t_events_total Events.\n# TYPE t_events_total counter\n\
             t_events_total{kind=\"a\",name=\"x\\\"y\\\\z\\n\"} 7\n\
             # HELP t_old Old.\n# TYPE t_old counter\nt_old 1.5\n\
             # HELP t_build_info Build.\n# TYPE t_build_info gauge\nt_build_info{version=\"1.2\"} 1\n";
        assert!(prometheus.starts_with(expected), "{prometheus}");
        assert!(!prometheus.contains("# EOF"));
        let open = written(Format::OpenMetrics, write);
        let expected = "# HELP t_events Events.\n# TYPE t_events counter\n\
             t_events_total{kind=\"a\",name=\"x\\\"y\\\\z\\n\"} 7\n\
             # HELP t_old Old.\n# TYPE t_old unknown\nt_old 1.5\n\
             # HELP t_build Build.\n# TYPE t_build info\nt_build_info{version=\"1.2\"} 1\n";
        assert!(open.starts_with(expected), "{open}");
        assert!(open.ends_with("\n# EOF\n"));
    }

    #[test]
    fn the_buckets_of_a_histogram_are_cumulative_and_end_in_its_count() {
        let mut values = Distribution::empty(&REQUEST_DURATION);
        values.add_many(400_000, 2);
        values.add_many(1_000_000_000, 1);
        values.add_many(60_000_000_000, 1);
        let open = written(Format::OpenMetrics, |text| {
            text.family(&HISTOGRAM).histogram(&[], &values);
        });
        for line in [
            "# UNIT t_seconds seconds",
            "t_seconds_bucket{le=\"0.0005\"} 2",
            "t_seconds_bucket{le=\"0.75\"} 2",
            "t_seconds_bucket{le=\"1.0\"} 3",
            "t_seconds_bucket{le=\"10.0\"} 3",
            "t_seconds_bucket{le=\"+Inf\"} 4",
            "t_seconds_sum 61.0008",
            "t_seconds_count 4",
        ] {
            assert!(open.lines().any(|found| found == line), "{line}\n{open}");
        }
        let plain = written(Format::Prometheus, |text| {
            text.family(&HISTOGRAM)
                .histogram(&[], &Distribution::empty(&BATCH_SIZE));
        });
        assert!(plain.contains("t_seconds_bucket{le=\"1\"} 0\n"), "{plain}");
        assert!(plain.contains("t_seconds_sum 0\n"), "{plain}");
        assert!(!plain.contains("# UNIT"));
    }

    #[test]
    fn numbers_are_written_as_the_formats_read_them() {
        for (number, expected) in [
            (Number::Float(f64::NAN), "NaN"),
            (Number::Float(f64::INFINITY), "+Inf"),
            (Number::Float(f64::NEG_INFINITY), "-Inf"),
            (Number::Float(0.00002), "0.00002"),
            (Number::Whole(u64::MAX), "18446744073709551615"),
        ] {
            let mut text = Text::new(Format::Prometheus);
            text.number(number);
            assert_eq!(text.out, expected);
        }
    }

    #[test]
    fn the_format_is_the_one_that_the_scraper_prefers() {
        let open = Format::OpenMetrics;
        let plain = Format::Prometheus;
        for (accept, format) in [
            (None, plain),
            (Some(""), plain),
            (Some("*/*"), plain),
            (Some("application/*"), plain),
            (Some("text/plain"), plain),
            (Some("text/html,application/xhtml+xml,*/*;q=0.8"), plain),
            (Some("application/openmetrics-text"), open),
            (
                Some("application/openmetrics-text; version=1.0.0; charset=utf-8"),
                open,
            ),
            (
                Some("application/openmetrics-text;version=2.0.0,text/plain;q=0.5"),
                plain,
            ),
            (Some("application/openmetrics-text;q=0"), plain),
            (
                Some("application/openmetrics-text;q=0.2,text/plain;q=0.9"),
                plain,
            ),
            // Prometheus 2.53 and 3.5.
            (
                Some(
                    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                     text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                ),
                open,
            ),
            (
                Some(
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                     text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,*/*;q=0.1",
                ),
                open,
            ),
        ] {
            assert_eq!(Format::of(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn a_scrape_that_would_be_too_long_says_how_much_is_missing() {
        let name = "x".repeat(1_000);
        let text = written(Format::OpenMetrics, |text| {
            let mut rows = text.family(&COUNTER);
            for _ in 0..3_000 {
                rows.value(&["a", &name], 1_u64);
            }
        });
        assert!(text.len() <= MAX_BYTES, "{}", text.len());
        let line = text
            .lines()
            .find(|line| line.starts_with("penstock_metrics_dropped_series "));
        let dropped: usize = line
            .and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap();
        let kept = text
            .lines()
            .filter(|line| line.starts_with("t_events_total{"))
            .count();
        assert_eq!(kept + dropped, 3_000);
        assert!(text.ends_with("# EOF\n"));
    }
}
