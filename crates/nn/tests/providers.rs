//! Devices that a contract asks for and this machine lacks: always an error of the load that lists the existing ones,
//! never another device in its place. The machines of these tests have no such devices.

use crate::support;

use penstock_nn::backend::tract::Tract;
use penstock_nn::{Backend, ErrorCode, LoadOptions, NnError};
use penstock_tensor::contract::Provider;
use support::*;

fn refused(backend: &dyn Backend, provider: Provider, device: Option<&str>) -> NnError {
    let options = LoadOptions {
        provider,
        device: device.map(str::to_owned),
        ..LoadOptions::default()
    };
    let graph = identity(onnx_type::FLOAT, &[D::S("N")]);
    let error = backend.load(&graph, &options).err();
    error.unwrap_or_else(|| panic!("{} took {provider:?} {device:?}", backend.name()))
}

#[test]
fn a_provider_the_library_was_built_without_is_an_error_that_says_what_it_has_and_what_to_install()
{
    let runtime = onnxruntime();
    for (provider, package) in [
        (Provider::Cuda, "onnxruntime-gpu"),
        (Provider::Tensorrt, "onnxruntime-gpu"),
        (Provider::Openvino, "onnxruntime-openvino"),
    ] {
        let error = refused(&*runtime, provider, None);
        assert_eq!(error.code, ErrorCode::UnsupportedOperation, "{error}");
        let word = format!("provider = {:?}", provider.as_str());
        for part in [&*word, "it has", "\"CPUExecutionProvider\"", package] {
            assert!(error.message.contains(part), "{part} is not in: {error}");
        }
    }
    let plain = identity(onnx_type::FLOAT, &[D::S("N")]);
    let session = runtime.load(&plain, &LoadOptions::default());
    assert!(session.is_ok(), "the processor is still there");
}

#[test]
fn a_device_that_no_backend_would_use_is_an_error_and_not_ignored() {
    let error = refused(&*onnxruntime(), Provider::Cpu, Some("0"));
    assert!(
        error.message.contains("device = \"0\" is requested"),
        "{error}"
    );
    let error = refused(&*onnxruntime(), Provider::Cuda, Some("first"));
    assert!(error.message.contains("write its number"), "{error}");
    let error = refused(&Tract, Provider::Cpu, Some("GPU"));
    assert!(
        error.message.contains("device = \"GPU\" is requested"),
        "{error}"
    );
    let error = refused(&Tract, Provider::Cuda, None);
    assert!(
        error.message.contains("provider = \"cuda\" is requested"),
        "{error}"
    );
}

#[test]
fn openvino_takes_a_device_that_is_there_and_no_name_that_leaves_it_the_choice() {
    let Some(runtime) = openvino() else { return };
    for device in [
        "NPU.7",
        "AUTO",
        "AUTO:GPU,CPU",
        "HETERO:GPU,CPU",
        "MULTI:CPU",
        "BATCH:CPU",
        "cpu",
        "",
        ".",
    ] {
        let error = refused(&*runtime, Provider::Cpu, Some(device));
        assert_eq!(
            error.code,
            ErrorCode::UnsupportedOperation,
            "{device}: {error}"
        );
        for part in [&*format!("no device {device:?}"), "it has", "\"CPU\""] {
            assert!(error.message.contains(part), "{part} is not in: {error}");
        }
    }
    let error = refused(&*runtime, Provider::Cuda, None);
    assert!(error.message.contains("is ONNX Runtime's"), "{error}");
    let named = LoadOptions {
        device: Some("CPU".into()),
        ..LoadOptions::default()
    };
    let graph = identity(onnx_type::FLOAT, &[D::S("N")]);
    assert!(
        runtime.load(&graph, &named).is_ok(),
        "the one that is there"
    );
}
