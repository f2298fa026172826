//! Decides how a run of several calls that failed is tried again, so that one bad call fails alone: by halves.
//! It costs at most two runs a call, the first one included.

use std::ops::Range;

/// The parts of a run that are still to be tried, the next on top.
#[derive(Debug)]
pub struct Isolate {
    parts: Vec<Range<usize>>,
}

impl Isolate {
    /// A run of so many calls.
    pub fn new(calls: usize) -> Self {
        let all = 0..calls;
        Self {
            parts: if all.is_empty() { vec![] } else { vec![all] },
        }
    }

    /// The calls to run together next; none when all have ended.
    pub fn next_part(&mut self) -> Option<Range<usize>> {
        self.parts.pop()
    }

    /// Notes that a part failed. True if it is tried again in two halves; false if it was one call, which has failed.
    pub fn failed(&mut self, part: Range<usize>) -> bool {
        if part.len() < 2 {
            return false;
        }
        let middle = part.start + part.len() / 2;
        self.parts.push(middle..part.end);
        self.parts.push(part.start..middle);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whichever_calls_are_bad_exactly_they_fail_within_two_runs_a_call() {
        for calls in 1..=10usize {
            for bad in 0..1u32 << calls {
                let mut isolate = Isolate::new(calls);
                let (mut ended, mut runs) = (vec![None; calls], 0);
                while let Some(part) = isolate.next_part() {
                    runs += 1;
                    let fails = part.clone().any(|call| bad >> call & 1 == 1);
                    if fails && isolate.failed(part.clone()) {
                        continue;
                    }
                    for call in part {
                        assert_eq!(ended[call].replace(!fails), None, "it ends once");
                    }
                }
                for (call, outcome) in ended.iter().enumerate() {
                    assert_eq!(*outcome, Some(bad >> call & 1 == 0));
                }
                assert!(runs < 2 * calls, "{runs} runs for {calls} calls");
            }
        }
        assert_eq!(Isolate::new(0).next_part(), None);
    }
}
