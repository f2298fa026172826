//! Files and batches over a store in memory: their states, files of results, lists, bounds and expiry.

use crate::batches_common::{Host, ids_in, line, lines, new_batch, new_file};
use crate::operations_common::{HOUR_MS, NOW_MS};
use penstock_core::{BatchId, FileId, Kv, kv::run_ready};
use penstock_policy::batches::service::BatchesService;
use penstock_policy::batches::words::{BatchState, Counts, Page, Purpose, RefusalKind, Work};
use penstock_policy::operations::service::OperationsService;
use penstock_policy::operations::words::{Abandoned, Claim};

fn ok(_: &str) -> u16 {
    200
}

fn page(most: u32) -> Page {
    Page {
        most,
        ..Page::default()
    }
}

#[test]
fn a_batch_runs_to_its_end_and_its_files_have_each_line_once_in_order() {
    let host = Host::new("");
    let ids: Vec<String> = (0..10).map(|n| format!("l{n}")).collect();
    let batch = host.create("t", &lines(&ids));
    assert_eq!(batch.state, BatchState::Validating);
    assert_eq!(batch.expires_ms, NOW_MS + 86_400_000);

    let validate = batch.next.clone().unwrap().operation;
    let first = host.step(&validate, 3, ok).unwrap();
    assert_eq!(host.read(&batch).state, BatchState::InProgress);
    host.now_ms.set(NOW_MS + 5_000);
    let status = |id: &str| if id == "l1" { 422 } else { 200 };
    host.step(&first, 3, status).unwrap();
    let counts = |completed, failed| Counts {
        total: 10,
        completed,
        failed,
    };
    assert_eq!(host.read(&batch).counts, counts(2, 1));

    let ended = host.run(&batch, 3, status);
    assert_eq!(
        (ended.state, ended.counts),
        (BatchState::Completed, counts(9, 1))
    );
    assert_eq!(ended.times.in_progress_ms, Some(NOW_MS));
    assert!(ended.times.finalizing_ms.is_some() && ended.times.ended_ms.is_some());
    assert_eq!(ended.metadata, batch.metadata);
    let output = host.content(ended.output_file.as_ref().unwrap());
    let expected: Vec<&String> = ids.iter().filter(|id| *id != "l1").collect();
    assert_eq!(ids_in(&output).iter().collect::<Vec<_>>(), expected);
    assert_eq!(
        ids_in(&host.content(ended.error_file.as_ref().unwrap())),
        ["l1"]
    );
    let file = host
        .batches
        .file(ended.output_file.as_ref().unwrap(), "t", NOW_MS);
    let file = file.unwrap().unwrap();
    assert_eq!(
        (file.purpose, file.bytes),
        (Purpose::BatchOutput, output.len() as u64)
    );
    assert_eq!(file.filename, format!("{}_output.jsonl", batch.id));
    // The steps have given their contents back, except the last one, which describes the batch.
    let stored = run_ready(host.kv.increment("ou/steps", 0)).unwrap();
    assert_eq!(stored.div_euclid(1 << 40), 1);
}

#[test]
fn a_batch_without_failures_has_no_error_file() {
    let host = Host::new("");
    let batch = host.create("t", &lines(["a"]));
    let ended = host.run(&batch, 9, ok);
    assert_eq!(
        (ended.error_file, ended.state),
        (None, BatchState::Completed)
    );
    let batch = host.create("t", &lines(["a"]));
    let ended = host.run(&batch, 9, |_| 500);
    assert_eq!((ended.output_file, ended.counts.failed), (None, 1));
}

#[test]
fn a_file_that_is_not_valid_fails_the_batch_with_the_lines_that_are_wrong() {
    let host = Host::new("");
    let text = format!("{}x\n{}", line("a"), line("a"));
    let batch = host.create("t", text.as_bytes());
    let failed = host.run(&batch, 9, ok);
    assert_eq!(failed.state, BatchState::Failed);
    let faults: Vec<_> = failed
        .faults
        .iter()
        .map(|f| (f.code.as_str(), f.line))
        .collect();
    assert_eq!(
        faults,
        [
            ("invalid_json_line", Some(2)),
            ("duplicate_custom_id", Some(3))
        ]
    );
    assert_eq!((failed.counts, failed.next), (Counts::default(), None));
}

#[test]
fn a_line_longer_than_a_part_of_the_file_is_one_line() {
    let host = Host::new("");
    let long = line("b").replace("\"a\"", &format!("\"{}\"", "x".repeat(2 << 20)));
    let text = [line("a"), long, line("c")].concat();
    let batch = host.create("t", text.as_bytes());
    let ended = host.run(&batch, 1, ok);
    let output = host.content(ended.output_file.as_ref().unwrap());
    assert_eq!(ids_in(&output), ["a", "b", "c"]);
}

#[test]
fn a_batch_that_is_cancelled_keeps_its_results_and_answers_the_other_lines() {
    let host = Host::new("");
    let batch = host.create("t", &lines(["a", "b", "c"]));
    let validate = batch.next.clone().unwrap().operation;
    let first = host.step(&validate, 1, ok).unwrap();
    host.step(&first, 1, ok).unwrap();
    host.now_ms.set(NOW_MS + 1_000);
    let cancelled = host
        .batches
        .cancel(&batch.id, "t", NOW_MS + 1_000)
        .unwrap()
        .unwrap();
    assert_eq!(cancelled.state, BatchState::Cancelling);
    assert_eq!(cancelled.times.cancelling_ms, Some(NOW_MS + 1_000));
    let again = host
        .batches
        .cancel(&batch.id, "t", NOW_MS + 2_000)
        .unwrap()
        .unwrap();
    assert_eq!(again.times.cancelling_ms, Some(NOW_MS + 1_000));
    let ended = host.run(&batch, 1, ok);
    assert_eq!(ended.state, BatchState::Cancelled);
    assert_eq!((ended.counts.completed, ended.counts.failed), (1, 2));
    assert_eq!(
        ids_in(&host.content(ended.output_file.as_ref().unwrap())),
        ["a"]
    );
    let errors = host.content(ended.error_file.as_ref().unwrap());
    assert_eq!(ids_in(&errors), ["b", "c"]);
    assert!(
        String::from_utf8(errors)
            .unwrap()
            .contains("batch_cancelled")
    );
    let late = host
        .batches
        .cancel(&batch.id, "t", NOW_MS + 3_000)
        .unwrap()
        .unwrap();
    assert_eq!(
        late,
        host.read(&batch),
        "a batch that is over stays as it is"
    );
}

#[test]
fn a_batch_that_is_cancelled_before_its_check_has_no_files() {
    let host = Host::new("");
    let batch = host.create("t", &lines(["a"]));
    host.batches.cancel(&batch.id, "t", NOW_MS).unwrap();
    let ended = host.run(&batch, 1, ok);
    assert_eq!(
        (ended.state, ended.output_file, ended.error_file),
        (BatchState::Cancelled, None, None)
    );
}

#[test]
fn a_batch_whose_window_is_over_answers_the_other_lines_as_expired() {
    let host = Host::new("[batches]\nwindow_s = 60\n");
    let batch = host.create("t", &lines(["a", "b"]));
    let validate = batch.next.clone().unwrap().operation;
    let first = host.step(&validate, 1, ok).unwrap();
    host.step(&first, 1, ok).unwrap();
    host.now_ms.set(NOW_MS + 60_000);
    let ended = host.run(&batch, 1, ok);
    assert_eq!(ended.state, BatchState::Expired);
    let errors = host.content(ended.error_file.as_ref().unwrap());
    assert!(String::from_utf8(errors).unwrap().contains("batch_expired"));
    assert_eq!((ended.counts.completed, ended.counts.failed), (1, 1));
}

#[test]
fn a_line_that_crashes_its_component_fails_alone() {
    let host = Host::new("[operations]\nmax_attempts = 1\n");
    let batch = host.create("t", &lines(["a", "poison", "c"]));
    let mut next = Some(batch.next.clone().unwrap().operation);
    while let Some(operation) = next.clone() {
        let now_ms = host.now_ms.get();
        let claim = host.operations.claim(&operation, "w", 0, now_ms).unwrap();
        // The step after a crash is due later.
        if let Claim::Later(at_ms) = claim {
            host.now_ms.set(at_ms);
            continue;
        }
        if let Claim::Granted(run) = claim {
            let end = match host.batches.begin(&run.submission.body, host.at()).unwrap() {
                Work::Done(end) => Some(end),
                Work::Run(lines) => {
                    let mut slice = penstock_policy::batches::slice::Slice::new(&lines, 1 << 20);
                    for line in &lines.lines {
                        slice.answer(line, 200, "req_1", b"{}");
                    }
                    let crashes = lines.lines.iter().any(|line| line.custom_id == "poison");
                    (!crashes).then(|| slice.end())
                }
            };
            match end {
                Some(end) => {
                    let of = (run.epoch, run.attempt);
                    assert!(
                        host.operations
                            .complete(&operation, of, end, now_ms)
                            .unwrap()
                    );
                }
                None => {
                    let at = (now_ms, 1);
                    let again = host
                        .operations
                        .abandon(&operation, "w", Abandoned::Crashed, at);
                    assert_eq!(again.unwrap(), None);
                }
            }
        }
        next = host
            .batches
            .advance(&operation, host.at())
            .unwrap()
            .map(|next| next.operation);
    }
    let ended = host.read(&batch);
    assert_eq!(ended.state, BatchState::Completed);
    assert_eq!(
        ids_in(&host.content(ended.output_file.as_ref().unwrap())),
        ["a", "c"]
    );
    assert_eq!(
        ids_in(&host.content(ended.error_file.as_ref().unwrap())),
        ["poison"]
    );
}

#[test]
fn a_tenant_sees_its_own_files_and_batches_only_and_no_steps() {
    let host = Host::new("");
    let batch = host.create("t", &lines(["a"]));
    let file = &batch.input_file;
    assert_eq!(host.batches.batch(&batch.id, "other", NOW_MS), Ok(None));
    assert_eq!(host.batches.cancel(&batch.id, "other", NOW_MS), Ok(None));
    assert_eq!(host.batches.file(file, "other", NOW_MS), Ok(None));
    assert_eq!(host.batches.content(file, "other", NOW_MS), Ok(None));
    assert_eq!(host.batches.delete_file(file, "other", NOW_MS), Ok(None));
    let refused = host
        .batches
        .create(new_batch("other", file), host.at())
        .unwrap_err();
    assert_eq!(refused.kind, RefusalKind::NoSuchFile);
    let listed = host.batches.batches("other", &page(9), NOW_MS).unwrap();
    assert_eq!(listed.data, []);
    let step = batch.next.unwrap().operation;
    assert_eq!(
        host.operations.get(&step, Some("t"), false, NOW_MS),
        Ok(None)
    );
    assert_eq!(host.operations.delete(&step, "t", NOW_MS), Ok(None));
    let operations = host.operations.list("t", None, 9, NOW_MS).unwrap();
    assert_eq!(operations.operations, []);
}

#[test]
fn a_file_that_a_batch_reads_is_deleted_only_after_its_end() {
    let host = Host::new("");
    let batch = host.create("t", &lines(["a"]));
    let refused = host
        .batches
        .delete_file(&batch.input_file, "t", NOW_MS)
        .unwrap_err();
    assert_eq!(refused.kind, RefusalKind::NotNow);
    assert!(refused.message.contains(batch.id.as_str()));
    assert!(
        host.batches
            .file(&batch.input_file, "t", NOW_MS)
            .unwrap()
            .is_some()
    );
    host.run(&batch, 1, ok);
    assert!(
        host.batches
            .delete_file(&batch.input_file, "t", NOW_MS)
            .unwrap()
            .is_some()
    );
    assert_eq!(
        host.batches.delete_file(&batch.input_file, "t", NOW_MS),
        Ok(None)
    );
    let refused = host
        .batches
        .create(new_batch("t", &batch.input_file), host.at())
        .unwrap_err();
    assert_eq!(refused.kind, RefusalKind::NoSuchFile);
}

#[test]
fn a_file_of_results_is_no_input() {
    let host = Host::new("");
    let batch = host.create("t", &lines(["a"]));
    let output = host.run(&batch, 1, ok).output_file.unwrap();
    let refused = host
        .batches
        .create(new_batch("t", &output), host.at())
        .unwrap_err();
    assert!(
        refused.message.contains("purpose batch_output"),
        "{}",
        refused.message
    );
}

#[test]
fn files_bytes_and_live_batches_are_bounded_and_what_is_over_makes_room() {
    let host = Host::new(
        "[batches]\nmax_files_per_tenant = 3\nmax_bytes_per_tenant = 4096\nmax_file_bytes = 2048\nmax_live_per_tenant = 1\n",
    );
    let refused = |content: &[u8]| {
        host.batches
            .upload(new_file("t", content), host.at())
            .unwrap_err()
    };
    assert_eq!(refused(&[b'x'; 2_049]).kind, RefusalKind::TooLarge);
    let first = host.upload("t", &[b'x'; 2_048]);
    host.upload("t", &[b'x'; 2_000]);
    assert!(refused(&[b'x'; 100]).message.contains("4096 bytes"));
    host.upload("t", &[b'x'; 40]);
    assert!(refused(b"x").message.contains("3 files"));
    host.batches.delete_file(&first.id, "t", NOW_MS).unwrap();
    let input = host.upload("t", &lines(["a"]));
    let batch = host
        .batches
        .create(new_batch("t", &input.id), host.at())
        .unwrap();
    let second = host
        .batches
        .create(new_batch("t", &input.id), host.at())
        .unwrap_err();
    assert_eq!(second.kind, RefusalKind::Full);
    // Results are stored although the tenant has as many files as it may.
    let ended = host.run(&batch, 1, ok);
    let output = ended.output_file.unwrap();
    // But they leave no room for those of another batch.
    let create = || host.batches.create(new_batch("t", &input.id), host.at());
    assert!(create().unwrap_err().message.contains("3 files"));
    host.batches.delete_file(&output, "t", NOW_MS).unwrap();
    assert!(create().is_ok());
}

#[test]
fn a_request_that_is_refused_and_a_file_that_is_deleted_leave_nothing_in_the_lists() {
    let host = Host::new("[batches]\nmax_files_per_tenant = 1\n");
    let names = || {
        let lists = host.kv.names().into_iter();
        lists.filter(|name| name.starts_with("bfl/")).count()
    };
    let first = host.upload("t", b"x");
    let before = names();
    for _ in 0..5 {
        let refused = host.batches.upload(new_file("t", b"x"), host.at());
        assert_eq!(refused.unwrap_err().kind, RefusalKind::Full);
    }
    assert_eq!(names(), before);
    host.batches.delete_file(&first.id, "t", NOW_MS).unwrap();
    assert_eq!(names(), before - 1);
    // A page that begins after a file that was deleted since is still found.
    let page = Page {
        after: Some(first.id.as_str().to_owned()),
        most: 2,
        oldest_first: true,
    };
    let listed = host.batches.files("t", &page, None, NOW_MS).unwrap();
    assert!(listed.data.is_empty());
}

#[test]
fn a_line_that_is_a_long_text_is_told_without_its_text() {
    let host = Host::new("");
    let content = format!(
        "\u{feff}{}\"{}\"\n[\"id\"]\n",
        line("first"),
        "x".repeat(100_000)
    );
    let batch = host.create("t", content.as_bytes());
    let ended = host.run(&batch, 10, ok);
    let faults: Vec<(&str, Option<u64>)> = (ended.faults.iter())
        .map(|fault| (fault.code.as_str(), fault.line))
        .collect();
    assert_eq!(
        faults,
        [
            ("invalid_json_line", Some(2)),
            ("invalid_json_line", Some(3))
        ]
    );
    assert!(ended.faults.iter().all(|fault| fault.message.len() < 200));
}

#[test]
fn an_output_file_that_is_full_takes_no_further_answers_and_no_line_is_lost() {
    let host = Host::new("[batches]\nmax_file_bytes = 1024\n");
    let ids: Vec<String> = (0..12).map(|n| n.to_string()).collect();
    let batch = host.create("t", &lines(&ids));
    let ended = host.run(&batch, 2, ok);
    let output = host.content(ended.output_file.as_ref().unwrap());
    let errors = host.content(ended.error_file.as_ref().unwrap());
    assert!(output.len() <= 1_024);
    assert!(
        String::from_utf8(errors.clone())
            .unwrap()
            .contains("output_file_full")
    );
    let mut all = ids_in(&output);
    all.extend(ids_in(&errors));
    assert_eq!(all, ids);
}

#[test]
fn lists_have_pages_in_both_orders() {
    let host = Host::new("");
    let mut ids = Vec::new();
    for n in 0..5 {
        host.now_ms.set(NOW_MS + n * HOUR_MS / 2);
        ids.push(host.upload("t", b"x").id);
    }
    let now_ms = host.now_ms.get();
    for oldest_first in [true, false] {
        let mut found: Vec<FileId> = Vec::new();
        loop {
            let page = Page {
                after: found.last().map(|id| id.as_str().to_owned()),
                most: 2,
                oldest_first,
            };
            let listed = host
                .batches
                .files("t", &page, Some(Purpose::Batch), now_ms)
                .unwrap();
            found.extend(listed.data.into_iter().map(|file| file.id));
            if !listed.has_more {
                break;
            }
        }
        if !oldest_first {
            found.reverse();
        }
        assert_eq!(found, ids);
    }
    let none = host
        .batches
        .files("t", &page(9), Some(Purpose::BatchOutput), now_ms);
    assert_eq!(none.unwrap().data, []);
    let unknown = Page {
        after: Some("file-1".to_owned()),
        ..page(9)
    };
    assert!(host.batches.files("t", &unknown, None, now_ms).is_err());
    let batches: Vec<BatchId> = (0..3).map(|_| host.create("t", &lines(["a"])).id).collect();
    let listed = host.batches.batches("t", &page(2), now_ms).unwrap();
    let listed_ids: Vec<_> = listed.data.iter().map(|batch| batch.id.clone()).collect();
    assert_eq!(
        (listed_ids, listed.has_more),
        (vec![batches[2].clone(), batches[1].clone()], true)
    );
}

#[test]
fn what_has_expired_is_gone_and_its_entries_are_swept() {
    let host = Host::new("[batches]\nresult_ttl_s = 3600\nwindow_s = 60\n");
    let batch = host.create("t", &lines(["a", "b"]));
    let ended = host.run(&batch, 1, ok);
    let later = NOW_MS + HOUR_MS;
    assert_eq!(host.batches.batch(&batch.id, "t", later), Ok(None));
    for file in [&batch.input_file, ended.output_file.as_ref().unwrap()] {
        assert_eq!(host.batches.file(file, "t", later), Ok(None));
    }
    host.now_ms.set(NOW_MS + 4 * 86_400_000);
    for n in 0..200 {
        for shard in 0..16 {
            // Instances that have just started use each shard.
            let host = Host::over(host.kv.clone(), SWEEPING);
            host.now_ms.set(NOW_MS + 4 * 86_400_000);
            let at = (host.now_ms.get(), (n << 64) + shard);
            let file = host.batches.upload(new_file("other", b"x"), at).unwrap();
            let _ = host.batches.create(new_batch("other", &file.id), at);
        }
        if !host.kv.names().iter().any(|name| is_of(name, &batch.id)) {
            break;
        }
    }
    let hour = NOW_MS / HOUR_MS;
    for name in host.kv.names() {
        let old = name.contains(&format!("/{hour}/"));
        assert!(!old, "{name} was not swept");
    }
}

/// The other tenant stores as much as it takes to sweep.
const SWEEPING: &str = "[batches]\nresult_ttl_s = 3600\nwindow_s = 60\nmax_live_per_tenant = 1000\nmax_files_per_tenant = 65536\n";

fn is_of(name: &str, batch: &BatchId) -> bool {
    name.contains(batch.short()) || name.contains(&format!("/{}/", NOW_MS / HOUR_MS))
}
