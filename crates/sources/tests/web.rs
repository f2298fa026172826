//! Pulls from a server that breaks off, lies, stalls, moves and hides.

use crate::common;

use common::{ModelFolder, Reply, Web, bytes, source};
use penstock_sources::plan::UpToDateReason;
use penstock_sources::{Digest, Source};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[test]
fn a_download_that_breaks_off_resumes_where_it_ended() {
    let body = bytes(300_000, 1);
    let served = body.clone();
    let web = Web::start(move |before, request| {
        let mut reply = Reply::file(request, &served, "\"a\"");
        if before < 3 {
            reply.cut = Some(50_000);
        }
        reply
    });
    let place = ModelFolder::new();
    let outcome = place.pull(&source(&web.url("model.onnx")));
    assert_eq!(place.read("m/1/model.onnx"), body);
    assert_eq!(outcome.sha256, Digest::of(&body));
    assert_eq!(outcome.fetched_bytes, 300_000, "no byte came twice");
    let asked: Vec<_> = web
        .requests()
        .iter()
        .map(|r| (r.from(), r.header("if-range").map(str::to_owned)))
        .collect();
    let tag = Some("\"a\"".to_owned());
    assert_eq!(
        asked,
        [
            (None, None),
            (Some(50_000), tag.clone()),
            (Some(100_000), tag.clone()),
            (Some(150_000), tag)
        ]
    );
    assert_eq!(place.unfinished(), Vec::<String>::new());
}

#[test]
fn a_file_that_changes_while_it_is_downloaded_is_never_put_together_from_two() {
    let (old, new) = (bytes(200_000, 1), bytes(200_000, 2));
    let expected = new.clone();
    let web = Web::start(move |before, request| match before {
        0 => Reply {
            cut: Some(90_000),
            ..Reply::file(request, &old, "\"old\"")
        },
        _ => Reply::file(request, &new, "\"new\""),
    });
    let place = ModelFolder::new();
    place.pull(&source(&web.url("model.onnx")));
    assert_eq!(place.read("m/1/model.onnx"), expected);
}

#[test]
fn a_server_without_validators_is_asked_for_the_whole_again() {
    let body = bytes(100_000, 1);
    let served = body.clone();
    let web = Web::start(move |before, _| Reply {
        cut: (before == 0).then_some(40_000),
        ..Reply::new(200, &served)
    });
    let place = ModelFolder::new();
    place.pull(&source(&web.url("model.onnx")));
    assert_eq!(place.read("m/1/model.onnx"), body);
    assert!(
        web.requests()
            .iter()
            .all(|request| request.from().is_none())
    );
}

#[test]
fn a_server_that_sends_another_range_than_was_asked_for_leaves_no_hole() {
    let body = bytes(100_000, 1);
    let served = body.clone();
    let web = Web::start(move |before, request| match before {
        0 => Reply {
            cut: Some(40_000),
            ..Reply::file(request, &served, "\"a\"")
        },
        // A cache that sends a range from elsewhere.
        1 => Reply::new(206, &served[50_000..])
            .with("Content-Range", "bytes 50000-99999/100000")
            .with("ETag", "\"a\""),
        _ => Reply::file(request, &served, "\"a\""),
    });
    let place = ModelFolder::new();
    place.pull(&source(&web.url("model.onnx")));
    assert_eq!(place.read("m/1/model.onnx"), body);
}

#[test]
fn a_download_without_the_pinned_sum_is_not_installed_and_not_kept() {
    let (good, bad) = (bytes(50_000, 1), bytes(50_000, 2));
    let pin = Digest::of(&good);
    let web = Web::start(move |_, request| Reply::file(request, &bad, "\"a\""));
    let place = ModelFolder::new();
    let pinned = Source {
        sha256: Some(pin),
        ..source(&web.url("model.onnx"))
    };
    let said = place.try_pull(&pinned).unwrap_err();
    assert!(
        said.contains(&pin.to_string()) && said.contains("nothing was installed"),
        "{said}"
    );
    assert_eq!(place.all(), Vec::<String>::new());
    assert_eq!(place.unfinished(), Vec::<String>::new());
    assert_eq!(web.requests().len(), 1, "a sum that is wrong stays wrong");
}

#[test]
fn parts_that_were_damaged_on_the_disk_are_downloaded_again() {
    let body = bytes(80_000, 1);
    let served = body.clone();
    let broken = Arc::new(AtomicUsize::new(0));
    let breaks = broken.clone();
    let web = Web::start(move |_, request| Reply {
        cut: (breaks.load(Ordering::SeqCst) == 0).then_some(10_000),
        ..Reply::file(request, &served, "\"a\"")
    });
    let mut place = ModelFolder::new();
    place.settings.timeout_ms = 1_000;
    let pinned = Source {
        sha256: Some(Digest::of(&body)),
        ..source(&web.url("model.onnx"))
    };
    assert!(place.try_pull(&pinned).is_err());
    let part = place
        .unfinished()
        .into_iter()
        .find(|path| path.ends_with(".part"))
        .unwrap();
    let part = place.folder.path().join(part);
    let length = std::fs::metadata(&part).unwrap().len() as usize;
    std::fs::write(&part, vec![7; length]).unwrap();
    broken.store(1, Ordering::SeqCst);
    place.settings.timeout_ms = 60_000;
    place.pull(&pinned);
    assert_eq!(place.read("m/1/model.onnx"), body);
    let said = place.heard.0.lock().unwrap().join("\n");
    assert!(said.contains("starting over"), "{said}");
}

#[test]
fn without_a_network_what_is_installed_or_cached_serves() {
    let body = bytes(400_000, 1);
    let (served, up) = (body.clone(), Arc::new(AtomicUsize::new(1)));
    let is_up = up.clone();
    let web = Web::start(move |_, request| match is_up.load(Ordering::SeqCst) {
        0 => Reply::new(503, b""),
        _ => Reply::file(request, &served, "\"a\""),
    });
    let mut place = ModelFolder::new();
    let from = source(&web.url("model.onnx"));
    let first = place.pull(&from);
    assert!(first.installed.is_some() && first.offline.is_none());
    up.store(0, Ordering::SeqCst);
    place.settings.timeout_ms = 2_000;
    let kept = place.pull(&from);
    assert_eq!(kept.kept, Some(UpToDateReason::Offline));
    assert!(kept.offline.unwrap().contains("503"));
    std::fs::remove_dir_all(place.path("m")).unwrap();
    let again = place.pull(&from);
    assert!(again.cached && again.offline.is_some());
    assert_eq!(place.read("m/1/model.onnx"), body);
    // A pinned model is installed again without a request.
    std::fs::remove_dir_all(place.path("m")).unwrap();
    let before = web.requests().len();
    let pinned = Source {
        sha256: Some(first.sha256),
        ..from.clone()
    };
    let again = place.pull(&pinned);
    assert!(again.cached && again.offline.is_none());
    assert_eq!(place.pull(&pinned).kept, Some(UpToDateReason::Pinned));
    assert_eq!(web.requests().len(), before);
    // A cache that was damaged serves nothing.
    std::fs::remove_dir_all(place.path("m")).unwrap();
    let blob = place.folder.path().join(format!(
        "cache/blobs/{}/{}",
        &first.sha256.to_string()[..2],
        first.sha256
    ));
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, vec![0; body.len()]).unwrap();
    assert!(place.try_pull(&pinned).is_err());
    assert_eq!(place.all(), Vec::<String>::new());
}

#[test]
fn an_unchanged_file_is_not_downloaded_twice_and_a_changed_one_replaces_it() {
    let state = Arc::new(AtomicUsize::new(1));
    let now = state.clone();
    let web = Web::start(move |_, request| {
        let state = now.load(Ordering::SeqCst);
        Reply::file(
            request,
            &bytes(10_000, state as u64),
            &format!("\"{state}\""),
        )
    });
    let place = ModelFolder::new();
    let from = source(&web.url("model.onnx"));
    place.pull(&from);
    let same = place.pull(&from);
    assert_eq!(
        (same.kept, same.fetched_bytes),
        (Some(UpToDateReason::Same), 0)
    );
    state.store(2, Ordering::SeqCst);
    let newer = place.pull(&from);
    assert!(newer.installed.unwrap().replaced);
    assert_eq!(place.read("m/1/model.onnx"), bytes(10_000, 2));
    assert_eq!(place.all(), ["m/1/.penstock.json", "m/1/model.onnx"]);
}

#[test]
fn a_busy_server_is_asked_again_when_it_says() {
    let body = bytes(1_000, 1);
    let served = body.clone();
    let web = Web::start(move |before, request| match before {
        0 => Reply::new(429, b"slow down").with("Retry-After", "1"),
        1 => Reply::new(503, b""),
        _ => Reply::file(request, &served, "\"a\""),
    });
    let place = ModelFolder::new();
    let started = Instant::now();
    place.pull(&source(&web.url("model.onnx")));
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(place.read("m/1/model.onnx"), body);
}

#[test]
fn a_server_that_stays_away_ends_the_pull() {
    let web = Web::start(|_, _| Reply::new(503, b"").with("Retry-After", "3600"));
    let place = ModelFolder::new();
    let started = Instant::now();
    let said = place.try_pull(&source(&web.url("model.onnx"))).unwrap_err();
    assert!(said.contains("503"), "{said}");
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "an hour is not waited for"
    );
    assert_eq!(web.requests().len(), 1);
}

#[test]
fn a_body_that_stalls_is_given_up_and_taken_up_again() {
    let body = bytes(60_000, 1);
    let served = body.clone();
    let web = Web::start(move |before, request| Reply {
        stall: (before == 0).then_some(20_000),
        ..Reply::file(request, &served, "\"a\"")
    });
    let place = ModelFolder::new();
    let started = Instant::now();
    place.pull(&source(&web.url("model.onnx")));
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(web.requests()[1].from(), Some(20_000));
    assert_eq!(place.read("m/1/model.onnx"), body);
}

#[test]
fn credentials_go_to_their_own_origin_and_not_where_it_redirects() {
    let body = bytes(2_000, 1);
    let served = body.clone();
    let elsewhere = Web::start(move |_, request| Reply::file(request, &served, "\"a\""));
    let to = elsewhere.url("cdn/model.onnx");
    let web = Web::start(move |_, request| match request.target.as_str() {
        "/model.onnx" => Reply::new(302, b"").with("Location", "/moved/model.onnx"),
        _ => Reply::new(307, b"").with("Location", &to),
    });
    let mut place = ModelFolder::new();
    place
        .environment
        .insert("TOKEN".to_owned(), "s3cret".to_owned());
    let from = Source {
        credentials_env: Some("TOKEN".to_owned()),
        ..source(&web.url("model.onnx"))
    };
    place.pull(&from);
    let shown: Vec<_> = web
        .requests()
        .iter()
        .map(|r| r.header("authorization").map(str::to_owned))
        .collect();
    let token = Some("Bearer s3cret".to_owned());
    assert_eq!(shown, [token.clone(), token]);
    assert_eq!(elsewhere.requests()[0].header("authorization"), None);
    let record = String::from_utf8(place.read("m/1/.penstock.json")).unwrap();
    assert!(!record.contains("s3cret"));
    let missing = Source {
        credentials_env: Some("NONE".to_owned()),
        ..from
    };
    assert!(place.try_pull(&missing).unwrap_err().contains("NONE"));
}

#[test]
fn redirects_end() {
    let web = Web::start(|_, request| {
        Reply::new(302, b"").with("Location", &format!("{}x", request.target))
    });
    let place = ModelFolder::new();
    let said = place.try_pull(&source(&web.url("model.onnx"))).unwrap_err();
    assert!(said.contains("redirects more than"), "{said}");
    assert_eq!(web.requests().len(), 9);
}

#[test]
fn plain_http_is_for_this_machine_unless_it_is_allowed() {
    let place = ModelFolder::new();
    for from in ["http://models.example/m.onnx", "http://192.0.2.1/m.onnx"] {
        let said = place.try_pull(&source(from)).unwrap_err();
        assert!(said.contains("allow_plain_http"), "{said}");
    }
    let web = Web::start(|_, _| Reply::new(302, b"").with("Location", "http://192.0.2.1/m.onnx"));
    let said = place.try_pull(&source(&web.url("m.onnx"))).unwrap_err();
    assert!(said.contains("allow_plain_http"), "{said}");
}

#[test]
fn a_download_that_is_no_model_is_refused_with_its_kind() {
    let mut place = ModelFolder::new();
    place.settings.max_bytes = 5_000;
    let web = Web::start(|_, request| match request.target.as_str() {
        "/page" => Reply::new(200, b"<html>").with("Content-Type", "text/html; charset=utf-8"),
        "/gone" => Reply::new(404, b"no such\nfile"),
        "/secret" => Reply::new(403, b""),
        _ => Reply::new(200, &bytes(6_000, 1)),
    });
    for (path, words) in [
        ("page", "a web page"),
        ("gone", "answered 404 (`no such file`)"),
        ("secret", "give credentials"),
        ("large", "more than 5000 bytes"),
    ] {
        let said = place.try_pull(&source(&web.url(path))).unwrap_err();
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(place.all(), Vec::<String>::new());
}

fn tar_gz(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::fast(),
    ));
    for (path, body) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        out.append_data(&mut header, path, *body).unwrap();
    }
    out.into_inner().unwrap().finish().unwrap()
}

fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (path, body) in files {
        out.start_file(*path, zip::write::SimpleFileOptions::default())
            .unwrap();
        out.write_all(body).unwrap();
    }
    out.finish().unwrap().into_inner()
}

#[test]
fn archives_become_models_and_an_edited_contract_is_kept() {
    let large = bytes(400_000, 3);
    let first = tar_gz(&[
        ("m/model.toml", b"one"),
        ("m/1/model.onnx", &large),
        ("m/1/w.bin", b"w"),
    ]);
    let second = zip(&[("model.toml", b"two"), ("1/model.onnx", &large)]);
    let web = Web::start(move |_, request| match request.target.as_str() {
        "/m.tar.gz" => Reply::file(request, &first, "\"1\""),
        _ => Reply::file(request, &second, "\"2\""),
    });
    let place = ModelFolder::new();
    place.pull(&source(&web.url("m.tar.gz")));
    assert_eq!(
        place.all(),
        [
            "m/1/.penstock.json",
            "m/1/model.onnx",
            "m/1/w.bin",
            "m/model.toml"
        ]
    );
    let same = place.pull(&source(&web.url("m.tar.gz")));
    assert_eq!(
        (same.kept, same.fetched_bytes),
        (Some(UpToDateReason::Same), 0),
        "although the archive itself is not kept"
    );
    // Another version shares the graph's bytes, and brings a newer contract.
    let two = Source {
        version: 2,
        ..source(&web.url("m.zip"))
    };
    assert_eq!(
        place.pull(&two).installed.unwrap().kept,
        Vec::<String>::new()
    );
    assert_eq!(place.read("m/model.toml"), b"two");
    assert_eq!(place.read("m/2/model.onnx"), place.read("m/1/model.onnx"));
    // Edited files stay.
    std::fs::write(place.path("m/model.toml"), "mine").unwrap();
    std::fs::remove_dir_all(place.path("m/2")).unwrap();
    assert_eq!(place.pull(&two).installed.unwrap().kept, ["model.toml"]);
    assert_eq!(place.read("m/model.toml"), b"mine");
    // A version that was not pulled is not overwritten.
    std::fs::create_dir_all(place.path("m/3")).unwrap();
    let said = place.try_pull(&Source { version: 3, ..two }).unwrap_err();
    assert!(said.contains("was not pulled"), "{said}");
}

#[test]
fn an_archive_that_reaches_out_installs_nothing() {
    let web = Web::start(|_, request| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder
            .append_link(&mut header, "model.onnx", "/etc/passwd")
            .unwrap();
        Reply::file(request, &builder.into_inner().unwrap(), "\"a\"")
    });
    let place = ModelFolder::new();
    let said = place.try_pull(&source(&web.url("m.tar"))).unwrap_err();
    assert!(said.contains("a link"), "{said}");
    assert_eq!(place.all(), Vec::<String>::new());
}

const KEY: &str = "RWSmo7NtOOVXAeS8HxlLHib3U9oaP6E/bj2ml4BkI59CMr1NxLH7bTyQ";
const OTHER_KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
const SIGNATURE: &str = "untrusted comment: signature from minisign secret key\n\
RUSmo7NtOOVXAa8pVh28wqsn4AG9+qibFw1ESe9p/0PzphKqCKAeTIb0+ykd3eT3IgBqFshkx7QBybwLQHS1ltNHVqzcjERjWww=\n\
trusted comment: timestamp:1795950228\tfile:model.onnx\thashed\n\
1KnaKLFUW3lFndbaBij62rs87zjXPRfqkGaVeDtparXsZWzUz0eOvn83u9Eng87WvBszpQPQb7R+9YnVwq7yAw==\n";
const LEGACY: &str = "untrusted comment: signature from minisign secret key\n\
RWSmo7NtOOVXAT86HWDNAnwzTpnutt6zMw6O54Czp4OXouKyF/gRLH8ahnniTZS1jgUSf4l82CuopmbQE7POH3lpslOQKvDPvgY=\n\
trusted comment: timestamp:1795950228\tfile:model.onnx\n\
AKK+wiVlTZAmkiPouUMiMaBTj29YPxuk/1y8nd6uPPCR1G/KHAb1UV0BkTLR3RJxe0UKsgdzAz50d2+TP+FWBA==\n";
const SUMS: &str = "5b5833c070788352b404971d1ed723b2f739e7a5d48bc21e7f7b4474e554f3fb  model.onnx\n\
44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a  config.json\n";
const SUMS_SIGNATURE: &str = "untrusted comment: signature from minisign secret key\n\
RUSmo7NtOOVXASgFh66qrs8Yy7H7uUB5kWi2hrwSDDWy8XSlhRZn/NjqzkXtvljZRAq4ZTQPDRpEIpyD2vQ1M3Fk1ruqf1hnOAM=\n\
trusted comment: timestamp:1795950228\tfile:SHA256SUMS\thashed\n\
5rXfvtgabtCjK4Lbbbj+fJ95OavlCSu3+JtdS0zwuUFkrcHlGTgrZZ8tfJtOlW0dxYDIGm54jGzAJ7r9wu84AQ==\n";

#[test]
fn a_file_is_installed_only_with_a_good_signature_where_a_key_is_given() {
    let web = Web::start(|_, request| match request.target.as_str() {
        "/model.onnx" | "/legacy" | "/unsigned" => Reply::file(request, b"a signed graph", "\"a\""),
        "/tampered" => Reply::file(request, b"a Signed graph", "\"a\""),
        "/model.onnx.minisig" | "/tampered.minisig" => Reply::new(200, SIGNATURE.as_bytes()),
        "/legacy.minisig" => Reply::new(200, LEGACY.as_bytes()),
        _ => Reply::new(404, b""),
    });
    let place = ModelFolder::new();
    let signed = |path: &str, key: &str| Source {
        signature_key: Some(key.to_owned()),
        ..source(&web.url(path))
    };
    for (path, key, words) in [
        ("tampered", KEY, "signature is not valid"),
        ("model.onnx", OTHER_KEY, "signature is not valid"),
        ("legacy", KEY, "minisign -H"),
        ("unsigned", KEY, "its signature answered 404"),
        (
            "model.onnx",
            "no-such-file",
            "neither a minisign public key nor a file",
        ),
    ] {
        let said = place.try_pull(&signed(path, key)).unwrap_err();
        assert!(said.contains(words), "{path}: {said}");
        assert_eq!(place.all(), Vec::<String>::new());
    }
    // Without a key it is installed; then the key is asked for.
    assert!(!place.pull(&source(&web.url("model.onnx"))).signed);
    assert!(place.pull(&signed("model.onnx", KEY)).signed);
    let key_file = place.folder.path().join("k.pub");
    std::fs::write(
        &key_file,
        format!("untrusted comment: minisign public key\n{KEY}\n"),
    )
    .unwrap();
    assert!(place.pull(&signed("model.onnx", "k.pub")).signed);
    // A file that one key signed is not taken for a file that another signed.
    assert!(place.try_pull(&signed("model.onnx", OTHER_KEY)).is_err());
}

#[test]
fn a_folder_is_signed_by_its_list_of_sums() {
    let place = ModelFolder::new();
    let folder = place.folder.path().join("from");
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write("model.onnx", "a signed graph");
    write("config.json", "{}");
    let signed = Source {
        signature_key: Some(KEY.to_owned()),
        ..source(folder.to_str().unwrap())
    };
    let refused = |words: &str| {
        let said = place.try_pull(&signed).unwrap_err();
        assert!(said.contains(words), "{said}");
    };
    refused("it has no SHA256SUMS.minisig");
    write("SHA256SUMS", SUMS);
    write("SHA256SUMS.minisig", SUMS_SIGNATURE);
    assert!(place.pull(&signed).signed);
    write("config.json", "[]");
    refused("config.json does not match SHA256SUMS");
    write("config.json", "{}");
    write("more.json", "{}");
    refused("more.json is not in SHA256SUMS");
    std::fs::remove_file(folder.join("more.json")).unwrap();
    write("SHA256SUMS", &format!("{SUMS}\n"));
    refused("signature is not valid");
}

#[test]
fn a_folder_of_mlflow_or_of_a_hubs_cache_is_pulled() {
    let place = ModelFolder::new();
    let mlflow = place.folder.path().join("mlflow");
    std::fs::create_dir_all(&mlflow).unwrap();
    let about = "flavors:\n  onnx:\n    data: model.onnx\n  python_function:\n    loader_module: mlflow.onnx\n";
    std::fs::write(mlflow.join("MLmodel"), about).unwrap();
    std::fs::write(mlflow.join("model.onnx"), "graph").unwrap();
    std::fs::write(mlflow.join("conda.yaml"), "").unwrap();
    place.pull(&source(mlflow.to_str().unwrap()));
    assert_eq!(place.all(), ["m/1/.penstock.json", "m/1/model.onnx"]);

    let hub = place.folder.path().join("models--o--n");
    let snapshot = hub.join("snapshots/abc123");
    for folder in ["blobs", "refs", "snapshots/abc123/onnx"] {
        std::fs::create_dir_all(hub.join(folder)).unwrap();
    }
    std::fs::write(hub.join("refs/main"), "abc123").unwrap();
    std::fs::write(hub.join("blobs/g"), "linked graph").unwrap();
    std::os::unix::fs::symlink("../../../blobs/g", snapshot.join("onnx/model.onnx")).unwrap();
    std::fs::write(snapshot.join("config.json"), "{}").unwrap();
    let two = Source {
        version: 2,
        ..source(hub.to_str().unwrap())
    };
    place.pull(&two);
    assert_eq!(place.read("m/2/model.onnx"), b"linked graph");
    assert_eq!(place.read("m/2/config.json"), b"{}");
}

#[test]
fn a_hub_is_asked_for_a_commit_and_its_token_stays_with_it() {
    let graph = bytes(30_000, 1);
    let sum = Digest::of(&graph);
    let served = graph.clone();
    let cdn = Web::start(move |_, request| Reply::file(request, &served, "\"a\""));
    let to = cdn.url("blob");
    let hub = Web::start(move |_, request| {
        match request.target.as_str() {
        "/api/models/o/n/revision/main?blobs=true" => Reply::new(
            200,
            format!(
                r#"{{"sha":"abc123","siblings":[{{"rfilename":"config.json","size":2}},{{"rfilename":"model.safetensors","size":9}},
                {{"rfilename":"onnx/model.onnx","size":130,"lfs":{{"sha256":"{sum}","size":30000}}}}]}}"#
            )
            .as_bytes(),
        ),
        "/o/n/resolve/abc123/config.json" => Reply::new(200, b"{}"),
        "/o/n/resolve/abc123/onnx/model.onnx" => Reply::new(302, b"").with("Location", &to),
        _ => Reply::new(404, b""),
    }
    });
    let mut place = ModelFolder::new();
    place.environment.insert(
        "HF_ENDPOINT".to_owned(),
        format!("http://127.0.0.1:{}/", hub.port),
    );
    place
        .environment
        .insert("HF_TOKEN".to_owned(), "hf_secret".to_owned());
    let outcome = place.pull(&source("hf://o/n"));
    assert_eq!(outcome.identity.as_deref(), Some("abc123"));
    assert_eq!(place.read("m/1/model.onnx"), graph);
    assert_eq!(place.read("m/1/config.json"), b"{}");
    assert!(
        hub.requests()
            .iter()
            .all(|r| r.header("authorization") == Some("Bearer hf_secret"))
    );
    assert_eq!(cdn.requests()[0].header("authorization"), None);
    let before = hub.requests().len();
    assert_eq!(
        place.pull(&source("hf://o/n")).kept,
        Some(UpToDateReason::Same)
    );
    assert_eq!(
        hub.requests().len(),
        before + 1,
        "only the list is asked for"
    );
}

#[test]
fn a_registry_gets_the_token_of_its_realm_and_its_blobs_come_from_elsewhere_without_it() {
    let graph = bytes(30_000, 1);
    let sum = Digest::of(&graph);
    let served = graph.clone();
    let storage = Web::start(move |_, request| Reply::file(request, &served, "\"a\""));
    let realm = Web::start(|_, request| match request.header("authorization") {
        // user:password
        Some("Basic dXNlcjpwYXNzd29yZA==") => Reply::new(200, br#"{"token":"t0ken"}"#),
        _ => Reply::new(401, b""),
    });
    let (to, at) = (storage.url("blob"), realm.url("token"));
    let manifest = format!(
        r#"{{"schemaVersion":2,"layers":[{{"mediaType":"application/octet-stream","digest":"sha256:{sum}","size":30000,
        "annotations":{{"org.opencontainers.image.title":"model.onnx"}}}}]}}"#
    );
    let registry = Web::start(move |_, request| {
        if request.header("authorization") != Some("Bearer t0ken") {
            let challenge =
                format!("Bearer realm=\"{at}\",service=\"r\",scope=\"repository:o/n:pull\"");
            return Reply::new(401, b"").with("WWW-Authenticate", &challenge);
        }
        match request.target.as_str() {
            "/v2/o/n/manifests/v1" => Reply::new(200, manifest.as_bytes()),
            _ => Reply::new(307, b"").with("Location", &to),
        }
    });
    let mut place = ModelFolder::new();
    let from = source(&format!("oci://127.0.0.1:{}/o/n:v1", registry.port));
    let said = place.try_pull(&from).unwrap_err();
    assert!(said.contains("401"), "{said}");
    place
        .environment
        .insert("LOGIN".to_owned(), "user:password".to_owned());
    place.pull(&Source {
        credentials_env: Some("LOGIN".to_owned()),
        ..from
    });
    assert_eq!(place.read("m/1/model.onnx"), graph);
    assert!(
        realm.requests()[0]
            .target
            .contains("scope=repository%3Ao%2Fn%3Apull")
    );
    assert_eq!(storage.requests()[0].header("authorization"), None);
}
