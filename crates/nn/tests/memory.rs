//! Unloading gives memory back, as the operating system counts it. The test is alone in its process, so that nothing
//! else is counted.

mod support;

use penstock_nn::{Backends, NnTensor, Repository, Settings, TensorType, Unavailable};
use support::as_fp32;

const MIB: usize = 1 << 20;

/// Bytes of the graph: large against everything else in the process.
const SIZE: usize = 128 * MIB;

/// Memory that may stay: the runtimes themselves, and their allocators' reserves.
const SLACK: usize = 48 * MIB;

const CONTRACT: &str = r#"description = "Picks numbers out of a large table"

[[inputs]]
name = "x"
datatype = "INT64"
shape = ["N"]
minimum = 0
maximum = 100

[[outputs]]
name = "y"
datatype = "FP32"
shape = ["N"]

[engine]
lanes = 1
"#;

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unloading_gives_memory_back_on_every_backend_although_handles_remain() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("table");
    std::fs::create_dir_all(dir.join("1")).unwrap();
    std::fs::write(dir.join("model.toml"), CONTRACT).unwrap();
    std::fs::write(dir.join("1/model.onnx"), support::table((SIZE / 4) as u32)).unwrap();
    for backends in [
        Backends::with_onnxruntime(&support::onnxruntime_path()).unwrap(),
        Backends::builtin(),
    ] {
        let backend = backends.list()[0].0;
        let repository = Repository::open(root.path(), backends, Settings::default()).unwrap();
        let before = resident();
        repository.load_all(|_| {}).await;
        let handle = repository.handle("table", None).expect("it is loaded");
        for round in 1..=3 {
            let x = NnTensor::new(TensorType::I64, vec![1], 7i64.to_le_bytes().to_vec()).unwrap();
            let model = handle.model().await.expect("it is loaded");
            let outputs = model.infer(vec![("x".into(), x)]).await.unwrap();
            assert_eq!(as_fp32(&outputs[0].1), [7.0]);
            drop(model);
            let with = resident();
            repository.unload("table").await.unwrap();
            assert!(matches!(
                handle.model().await,
                Err(Unavailable::Unloaded(_))
            ));
            // The threads of its instances free the last of it, which takes a moment on a busy machine.
            let mut after = resident();
            for _ in 0..500 {
                if after < before + SLACK {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                after = resident();
            }
            println!(
                "{backend}, round {round}: {} MiB before, {} with a graph of {}, {} after it was unloaded",
                before / MIB,
                with / MIB,
                SIZE / MIB,
                after / MIB
            );
            assert!(with > before + SIZE / 2, "{backend}: {before} {with}");
            assert!(after < before + SLACK, "{backend}: {before} {after}");
            repository.load("table").await.unwrap();
        }
        repository.unload("table").await.unwrap();
    }
}
