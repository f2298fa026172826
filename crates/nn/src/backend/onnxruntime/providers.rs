//! Execution providers: the ones a contract asks for, their options, and messages for those that are missing.

use std::ffi::CStr;
use std::ptr;

use ort::ep::{ArbitrarilyConfigurableExecutionProvider, ExecutionProviderDispatch};
use ort::{ep, ortsys};
use penstock_tensor::contract::{Precision, Provider};

use super::value::check;
use crate::backend::message::presentable;
use crate::backend::names;
use crate::backend::options::{self, LoadOptions};
use crate::error::{NnError, listed, quoted};

/// A provider as a contract asks for it.
#[derive(Debug, PartialEq)]
pub struct AskedProvider {
    provider: Provider,
    /// ONNX Runtime's name for it.
    name: &'static str,
    /// Its options, in ONNX Runtime's words; the first says which device.
    options: Vec<(&'static str, String)>,
}

/// The providers that a contract asks for, in the order in which they take operators; an empty list means the
/// processor.
pub fn asked_providers(options: &LoadOptions) -> Result<Vec<AskedProvider>, NnError> {
    let number = || -> Result<String, NnError> {
        let device = options.device.as_deref().unwrap_or("0");
        // ONNX Runtime reads a C int.
        let number = device.parse::<u16>().map_err(|_| {
            NnError::invalid(format!(
                "device = {} is not a device of provider = {:?}; write its number, \"0\" for the first",
                quoted(device),
                options.provider.as_str()
            ))
        })?;
        Ok(number.to_string())
    };
    let exact = options.precision == Precision::Exact;
    let cuda = |device: String| AskedProvider {
        provider: Provider::Cuda,
        name: "CUDAExecutionProvider",
        options: vec![
            ("device_id", device),
            // The default doubles the held memory each time, and models share the device.
            ("arena_extend_strategy", "kSameAsRequested".into()),
            // Its default tries every algorithm for each new shape, and batches come in all sizes.
            ("cudnn_conv_algo_search", "HEURISTIC".into()),
            ("use_tf32", if exact { "0" } else { "1" }.into()),
        ],
    };
    Ok(match options.provider {
        Provider::Cpu => {
            options::only_the_processor(names::ONNXRUNTIME, options)?;
            vec![]
        }
        Provider::Cuda => vec![cuda(number()?)],
        Provider::Tensorrt => {
            let device = number()?;
            let tensorrt = AskedProvider {
                provider: Provider::Tensorrt,
                name: "TensorrtExecutionProvider",
                options: vec![("device_id", device.clone())],
            };
            vec![tensorrt, cuda(device)]
        }
        Provider::Openvino => {
            let device = options.device.as_deref().unwrap_or("CPU");
            let kind = device.split(['.', ':', ',']).next().unwrap_or_default();
            if device.contains([':', ',']) || ["AUTO", "HETERO", "MULTI", "BATCH"].contains(&kind) {
                return Err(NnError::invalid(format!(
                    "device = {} leaves the choice of a device to OpenVINO; name one, such as \"CPU\" or \"GPU.0\"",
                    quoted(device)
                )));
            }
            let mut asked = vec![
                ("device_type", device.to_owned()),
                (
                    "num_of_threads",
                    options.intra_op_threads.max(1).to_string(),
                ),
                // The option is one byte.
                ("num_streams", options.instance_count().min(255).to_string()),
            ];
            if exact {
                asked.push(("precision", "ACCURACY".into()));
            }
            vec![AskedProvider {
                provider: Provider::Openvino,
                name: "OpenVINOExecutionProvider",
                options: asked,
            }]
        }
    })
}

impl AskedProvider {
    pub fn dispatch(&self) -> ExecutionProviderDispatch {
        fn with<P: ArbitrarilyConfigurableExecutionProvider>(
            provider: P,
            options: &[(&'static str, String)],
        ) -> P {
            (options.iter()).fold(provider, |provider, (key, value)| {
                provider.with_arbitrary_config(*key, value)
            })
        }
        let dispatch = match self.provider {
            Provider::Cpu => ep::CPU::default().build(),
            Provider::Cuda => with(ep::CUDA::default(), &self.options).build(),
            Provider::Tensorrt => with(ep::TensorRT::default(), &self.options).build(),
            Provider::Openvino => with(ep::OpenVINO::default(), &self.options).build(),
        };
        // By default `ort` would go on without it.
        dispatch.error_on_failure()
    }

    /// The steps by which an operator gets the provider.
    fn remedy(&self) -> &'static str {
        match self.provider {
            Provider::Cpu => "",
            Provider::Cuda => {
                "give --onnxruntime a library built with CUDA (PyPI's onnxruntime-gpu holds one, with \
                 libonnxruntime_providers_cuda.so beside it) and install the NVIDIA driver, CUDA and cuDNN it names"
            }
            Provider::Tensorrt => {
                "give --onnxruntime a library built with TensorRT (PyPI's onnxruntime-gpu holds one, with \
                 libonnxruntime_providers_tensorrt.so beside it) and install the NVIDIA driver, CUDA, cuDNN and \
                 TensorRT it names"
            }
            Provider::Openvino => {
                "give --onnxruntime a library built with OpenVINO (PyPI's onnxruntime-openvino holds one), or load \
                 the model on OpenVINO itself with backend = \"openvino\""
            }
        }
    }

    /// Checks that the library was built with it. `available` are the names of the library's providers.
    pub fn is_among(&self, available: &[String]) -> Result<(), NnError> {
        if available.iter().any(|name| name == self.name) {
            return Ok(());
        }
        Err(NnError::unsupported(format!(
            "provider = {:?} is requested, but this ONNX Runtime library was built without it; it has {}. To get it, \
             {}; or remove the provider",
            self.provider.as_str(),
            listed(available.iter().map(String::as_str)),
            self.remedy()
        )))
    }

    pub fn does_not_start(&self, error: &str) -> NnError {
        let device = self.options.first().map_or("", |(_, device)| device);
        NnError::unsupported(format!(
            "provider = {:?} is requested on device = {device:?}, but does not start: {}. Name a device that exists; \
             to get the provider, {}; or remove it",
            self.provider.as_str(),
            presentable(error),
            self.remedy()
        ))
    }
}

/// The providers the library was built with, under ONNX Runtime's names.
pub fn available_providers() -> Result<Vec<String>, NnError> {
    let mut names = ptr::null_mut();
    let mut count = 0;
    // SAFETY: the call writes a list of `count` C strings, which is given back below.
    check(ortsys![unsafe GetAvailableProviders(&mut names, &mut count)])?;
    let listed = (0..usize::try_from(count).unwrap_or(0))
        // SAFETY: as above.
        .map(|index| unsafe { CStr::from_ptr(*names.add(index)) })
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    check(ortsys![unsafe ReleaseAvailableProviders(names, count)])?;
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(provider: Provider, device: Option<&str>) -> Result<Vec<AskedProvider>, NnError> {
        asked_providers(&LoadOptions {
            provider,
            device: device.map(str::to_owned),
            instances: Some(3),
            intra_op_threads: 2,
            ..LoadOptions::default()
        })
    }

    fn option<'a>(asked: &'a AskedProvider, key: &str) -> Option<&'a str> {
        let found = asked.options.iter().find(|(other, _)| *other == key);
        found.map(|(_, value)| value.as_str())
    }

    #[test]
    fn each_provider_is_asked_for_by_its_name_and_on_the_device_that_is_named() {
        assert_eq!(asked(Provider::Cpu, None), Ok(vec![]));
        let cuda = asked(Provider::Cuda, None).expect("sound");
        assert_eq!((cuda.len(), cuda[0].name), (1, "CUDAExecutionProvider"));
        assert_eq!(option(&cuda[0], "device_id"), Some("0"));
        assert_eq!(option(&cuda[0], "use_tf32"), Some("0"));
        let tensorrt = asked(Provider::Tensorrt, Some("1")).expect("sound");
        let names: Vec<&str> = tensorrt.iter().map(|asked| asked.name).collect();
        assert_eq!(
            names,
            ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
        );
        for asked in &tensorrt {
            assert_eq!(option(asked, "device_id"), Some("1"), "{asked:?}");
        }
        let openvino = asked(Provider::Openvino, Some("GPU.1")).expect("sound");
        assert_eq!(openvino[0].name, "OpenVINOExecutionProvider");
        assert_eq!(option(&openvino[0], "device_type"), Some("GPU.1"));
        assert_eq!(option(&openvino[0], "num_streams"), Some("3"));
        assert_eq!(option(&openvino[0], "num_of_threads"), Some("2"));
        let openvino = asked(Provider::Openvino, None).expect("sound");
        assert_eq!(option(&openvino[0], "device_type"), Some("CPU"));
    }

    #[test]
    fn a_device_that_is_none_of_the_providers_is_an_error() {
        for (provider, device) in [
            (Provider::Cpu, "0"),
            (Provider::Cuda, "GPU"),
            (Provider::Cuda, "-1"),
            (Provider::Tensorrt, "70000"),
            (Provider::Openvino, "AUTO"),
            (Provider::Openvino, "HETERO:GPU,CPU"),
        ] {
            let error = asked(provider, Some(device)).expect_err(device);
            assert!(error.message.contains(device), "{error}");
        }
    }
}
