//! The library's error messages. A caller gets one only if it must belong to the caller's own attempt.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use openvino_sys as ov;
use openvino_sys::ov_status_e as Status;

use super::handles::take_text;
use crate::backend::message::presentable;

/// Calls begun so far, and those under way: by these an attempt knows whether the library's one last message can be
/// another's.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// A load or a run, from its first call of the library to its last.
pub struct Attempt {
    number: u64,
    began_alone: bool,
}

impl Attempt {
    pub fn begin() -> Self {
        let others = UNDER_WAY.fetch_add(1, Ordering::SeqCst);
        Self {
            number: BEGUN.fetch_add(1, Ordering::SeqCst) + 1,
            began_alone: others == 0,
        }
    }

    /// The reason of a failure, in words fit for a caller.
    pub fn reason(&self, status: Status) -> String {
        // SAFETY: the library returns a copy or null.
        let message = unsafe { take_text(ov::ov_get_last_err_msg().cast_mut()) };
        // In this order: a call that began after the message was read did not write it.
        let alone = self.began_alone && BEGUN.load(Ordering::SeqCst) == self.number;
        let told = if alone {
            plain(&message)
        } else {
            String::new()
        };
        if told.is_empty() {
            general(status).into()
        } else {
            told
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A message of the library without the places in its source and the headings of its layers.
fn plain(message: &str) -> String {
    let lines: Vec<&str> = (message.lines())
        .map(|line| match line.find(" failed at src/") {
            Some(_) if line.starts_with("Check '") => {
                line.split_once(": ").map_or("", |(_, rest)| rest)
            }
            _ => line,
        })
        .filter(|line| {
            !["Exception from src/", "FrontEnd API failed with"]
                .iter()
                .any(|heading| line.starts_with(heading))
        })
        .collect();
    presentable(&lines.join(" "))
}

/// Returns a status of OpenVINO in words, for messages.
fn general(status: Status) -> &'static str {
    match status {
        Status::NOT_IMPLEMENTED => "it lacks something the graph needs",
        Status::PARAMETER_MISMATCH | Status::OUT_OF_BOUNDS => "the inputs do not fit the graph",
        Status::INFER_CANCELLED => "the run was cancelled",
        _ => {
            "it failed while other calls were running, so its message may belong to them; try it alone"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_loses_its_source_lines_and_paths_and_keeps_what_it_says() {
        let text = plain(
            "Exception from src/inference/src/cpp/core.cpp:84:\nCheck 'util::file_exists(path)' failed at \
             src/frontends/common/src/frontend.cpp:117:\nFrontEnd API failed with GeneralFailure:\nonnx: Could not \
             open the file: \"/srv/models/m/1/model.onnx\"\n\n",
        );
        assert_eq!(text, "onnx: Could not open the file:");
    }
}
