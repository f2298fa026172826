//! A strict reader of scrapes, in the text format 0.0.4 of Prometheus and in OpenMetrics 1.0. It refuses what the formats allow and
//! this project does not write.

#![allow(dead_code, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

/// A line with a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// A scrape that is sound.
#[derive(Debug, Default)]
pub struct Scrape {
    /// The type of each family.
    pub families: BTreeMap<String, String>,
    pub samples: Vec<Sample>,
}

impl Scrape {
    /// The value of a sample with exactly these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let is = |sample: &&Sample| {
            sample.name == name
                && sample.labels.len() == labels.len()
                && labels.iter().all(|(label, value)| {
                    sample
                        .labels
                        .get(*label)
                        .is_some_and(|found| found == value)
                })
        };
        self.samples.iter().find(is).map(|sample| sample.value)
    }

    /// The sum of all samples of a name that have these labels, and perhaps others.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let samples = self.samples.iter().filter(|sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| {
                    sample
                        .labels
                        .get(*label)
                        .is_some_and(|found| found == value)
                })
        });
        samples.map(|sample| sample.value).sum()
    }
}

struct Family {
    name: String,
    kind: String,
    samples: Vec<Sample>,
}

/// Reads a scrape.
///
/// # Errors
///
/// The first line that is not sound, and the reason.
pub fn parse(text: &str, is_open: bool) -> Result<Scrape, String> {
    let body = match (is_open, text.strip_suffix("# EOF\n")) {
        (true, Some(body)) => body,
        (true, None) => return Err("it does not end in # EOF".to_owned()),
        (false, _) => text,
    };
    if !body.ends_with('\n') {
        return Err("the last line does not end".to_owned());
    }
    let (mut scrape, mut seen) = (Scrape::default(), BTreeSet::new());
    let mut lines = body.lines().peekable();
    while let Some(line) = lines.next() {
        let wrong = |why: &str| format!("{why}: {line}");
        let help = line
            .strip_prefix("# HELP ")
            .ok_or_else(|| wrong("no # HELP"))?;
        let (name, _) = help.split_once(' ').ok_or_else(|| wrong("no text"))?;
        let kind = lines
            .next()
            .and_then(|line| line.strip_prefix(&format!("# TYPE {name} ")));
        let kind = kind.ok_or_else(|| wrong("no # TYPE after it"))?;
        let known: &[&str] = match is_open {
            true => &["counter", "gauge", "histogram", "info", "unknown"],
            false => &["counter", "gauge", "histogram"],
        };
        if !known.contains(&kind) {
            return Err(wrong(kind));
        }
        if let Some(unit) = lines.peek().and_then(|line| line.strip_prefix("# UNIT ")) {
            let (named, unit) = unit.split_once(' ').ok_or_else(|| wrong("no unit"))?;
            if !is_open || named != name || !name.ends_with(&format!("_{unit}")) {
                return Err(wrong("a wrong # UNIT"));
            }
            lines.next();
        }
        let mut family = Family {
            name: name.to_owned(),
            kind: kind.to_owned(),
            samples: Vec::new(),
        };
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let sample = sample(line).ok_or_else(|| format!("no sample: {line}"))?;
            if !seen.insert((sample.name.clone(), format!("{:?}", sample.labels))) {
                return Err(format!("twice: {line}"));
            }
            family.samples.push(sample);
        }
        check(&family, is_open)?;
        if scrape.families.insert(family.name, family.kind).is_some() {
            return Err(wrong("a family twice"));
        }
        scrape.samples.extend(family.samples);
    }
    Ok(scrape)
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Reads `name{label="value",…} number`.
fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"")?;
            let mut value = String::new();
            let mut characters = after.char_indices();
            let closed = loop {
                match characters.next()? {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match characters.next()?.1 {
                        'n' => '\n',
                        other @ ('\\' | '"') => other,
                        _ => return None,
                    }),
                    (_, other) => value.push(other),
                }
            };
            if !is_name(label) || labels.insert(label.to_owned(), value).is_some() {
                return None;
            }
            rest = &after[closed + 1..];
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            rest = rest.strip_prefix(',')?;
        }
    }
    let number = rest.strip_prefix(' ')?;
    let value = match number {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        digits
            if digits
                .bytes()
                .all(|b| b.is_ascii_digit() || b".-".contains(&b)) =>
        {
            digits.parse().ok()?
        }
        _ => return None,
    };
    is_name(name).then(|| Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

fn check(family: &Family, is_open: bool) -> Result<(), String> {
    let Family {
        name,
        kind,
        samples,
    } = family;
    let wrong = |why: &str| Err(format!("{name} ({kind}): {why}"));
    let end = match (kind.as_str(), is_open) {
        ("counter", true) => "_total",
        ("info", true) => "_info",
        _ => "",
    };
    if kind == "histogram" {
        return check_histogram(family, is_open);
    }
    for sample in samples {
        if sample.name != format!("{name}{end}") {
            return wrong(&sample.name);
        }
        let is_count = matches!(kind.as_str(), "counter" | "info");
        if is_count && !(sample.value >= 0.0 && sample.value.is_finite()) {
            return wrong("no count");
        }
    }
    Ok(())
}

/// The buckets of a histogram with the same labels, its sum and its count.
type Series = (Vec<(f64, f64)>, Option<f64>, Option<f64>);

fn check_histogram(family: &Family, is_open: bool) -> Result<(), String> {
    let name = &family.name;
    let mut series: BTreeMap<String, Series> = BTreeMap::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        let le = labels.remove("le");
        let (buckets, sum, count) = series.entry(format!("{labels:?}")).or_default();
        match (sample.name.strip_prefix(name.as_str()), le) {
            (Some("_bucket"), Some(le)) => {
                if is_open && le != "+Inf" && !le.contains('.') {
                    return Err(format!("{name}: the bound {le} is no float"));
                }
                let limit = if le == "+Inf" {
                    Ok(f64::INFINITY)
                } else {
                    le.parse()
                };
                buckets.push((limit.map_err(|_| format!("{name}: {le}"))?, sample.value));
            }
            (Some("_sum"), None) if sum.is_none() => *sum = Some(sample.value),
            (Some("_count"), None) if count.is_none() => *count = Some(sample.value),
            _ => return Err(format!("{name}: {sample:?}")),
        }
    }
    for (labels, (buckets, sum, count)) in series {
        let ascends = buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1);
        let last = buckets.last().copied();
        let ends = count.is_some_and(|count| last == Some((f64::INFINITY, count)));
        if !ascends || !ends || sum.is_none() {
            return Err(format!("{name}{labels}: {buckets:?} {sum:?} {count:?}"));
        }
    }
    Ok(())
}
