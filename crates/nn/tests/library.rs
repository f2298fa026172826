//! The runtimes' shared libraries: every fault of one is an error that names its path, never a panic. Each runtime has
//! one test, and this file its own process, because a process loads one library of each.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use penstock_nn::NnError;
use penstock_nn::backend::Backend;
use penstock_nn::backend::onnxruntime::OnnxRuntime;
use penstock_nn::backend::openvino::OpenVino;

fn openvino_error(path: &Path) -> NnError {
    let error = OpenVino::load(path)
        .err()
        .unwrap_or_else(|| panic!("{} loaded", path.display()));
    assert!(error.message.contains(&*path.to_string_lossy()), "{error}");
    assert!(error.message.contains("beside it"), "no remedy in: {error}");
    error
}

fn error(path: &Path) -> NnError {
    let error = OnnxRuntime::load(path)
        .err()
        .unwrap_or_else(|| panic!("{} loaded", path.display()));
    assert!(error.message.contains(&*path.to_string_lossy()), "{error}");
    error
}

/// Builds a shared library that says it is some ONNX Runtime.
fn impostor(dir: &Path, name: &str, version: &str) -> PathBuf {
    let text = format!(
        r#"
        #[repr(C)] pub struct Base {{ api: extern "C" fn(u32) -> *const u8, version: extern "C" fn() -> *const u8 }}
        extern "C" fn api(_: u32) -> *const u8 {{ std::ptr::null() }}
        extern "C" fn version() -> *const u8 {{ b"{version}\0".as_ptr() }}
        static BASE: Base = Base {{ api, version }};
        #[unsafe(no_mangle)] pub extern "C" fn OrtGetApiBase() -> *const Base {{ &BASE }}
        "#
    );
    built(dir, name, &text)
}

/// Builds a shared library that says it is some OpenVINO, and has nothing else of one.
fn openvino_impostor(dir: &Path, name: &str, version: &str) -> PathBuf {
    let text = format!(
        r#"
        #[repr(C)] pub struct Version {{ number: *const u8, description: *const u8 }}
        #[unsafe(no_mangle)] pub extern "C" fn ov_get_openvino_version(to: *mut Version) -> i32 {{
            unsafe {{ (*to).number = b"{version}\0".as_ptr() }};
            0
        }}
        #[unsafe(no_mangle)] pub extern "C" fn ov_version_free(_: *mut Version) {{}}
        "#
    );
    built(dir, name, &text)
}

fn built(dir: &Path, name: &str, text: &str) -> PathBuf {
    let source = dir.join(format!("{name}.rs"));
    let library = dir.join(format!("lib{name}.so"));
    std::fs::write(&source, text).unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let status = Command::new(rustc)
        .args([
            "--edition=2024",
            "--crate-type=cdylib",
            "--crate-name",
            name,
            "-o",
        ])
        .args([&library, &source])
        .status()
        .expect("rustc runs");
    assert!(status.success());
    library
}

/// Some shared library that every process has.
fn any_library() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.split_whitespace()
        .find(|word| word.contains("/libc.so"))
        .expect("there is a C library")
        .into()
}

#[test]
#[cfg(target_os = "linux")]
fn a_library_that_cannot_be_used_is_an_error_that_names_it_and_a_good_one_still_loads_after() {
    let dir = std::env::temp_dir().join(format!("penstock-nn-library-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();

    assert!(
        error(&dir.join("missing.so"))
            .message
            .contains("cannot be opened")
    );
    assert!(error(&dir).message.contains("does not load"));
    let text = dir.join("text.so");
    std::fs::write(&text, "not a library").unwrap();
    assert!(error(&text).message.contains("does not load"));
    assert!(
        error(&any_library())
            .message
            .contains("does not export OrtGetApiBase")
    );
    let old = error(&impostor(&dir, "old", "1.20.1"));
    assert!(
        old.message
            .contains("version 1.20.1, which does not have API 24"),
        "{old}"
    );
    assert!(
        error(&impostor(&dir, "odd", "banana"))
            .message
            .contains("version banana")
    );

    let path = support::onnxruntime_path();
    let runtime = OnnxRuntime::load(&path).expect("the real one loads");
    assert!(runtime.version().starts_with("1."), "{}", runtime.version());
    OnnxRuntime::load(&path).expect("again from the same path is the same library");
    let again = error(&text);
    assert!(again.message.contains("already loaded from"), "{again}");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn an_openvino_that_cannot_be_used_is_an_error_that_names_it_and_a_good_one_still_loads_after() {
    let Some(path) = support::openvino_path() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let missing = openvino_error(&dir.path().join("missing.so"));
    assert!(missing.message.contains("cannot be opened"), "{missing}");
    let text = dir.path().join("text.so");
    std::fs::write(&text, "not a library").unwrap();
    assert!(openvino_error(&text).message.contains("does not load"));
    assert!(
        openvino_error(&any_library())
            .message
            .contains("so it is not OpenVINO's C library")
    );
    let old = openvino_error(&openvino_impostor(
        dir.path(),
        "ov_old",
        "2025.2.0-1-releases",
    ));
    assert!(
        old.message.contains("version \"2025.2.0\" and has no ov_"),
        "{old}"
    );
    assert!(
        openvino_error(&openvino_impostor(dir.path(), "ov_odd", "banana"))
            .message
            .contains("banana")
    );
    // Alone, without the rest of OpenVINO beside it.
    let alone = dir.path().join("libopenvino_c.so");
    std::fs::copy(path.canonicalize().unwrap(), &alone).unwrap();
    assert!(openvino_error(&alone).message.contains("does not load"));

    let runtime = OpenVino::load(&path).expect("the real one loads");
    assert!(runtime.devices().iter().any(|device| device == "CPU"));
    OpenVino::load(&path).expect("again from the same path is the same library");
    let again = OpenVino::load(&text).err().expect("another");
    assert!(again.message.contains("already loaded from"), "{again}");
}
