//! The library before it is used: whether it can be, and its start.

use std::ffi::{CStr, c_int, c_void};
use std::path::Path;
use std::ptr;

use openvino_sys as ov;

use super::attempt::Attempt;
use super::handles::check;
use crate::error::NnError;

/// The release whose C API this crate calls; the first with compile properties that are not variadic.
const NEEDED: &str = "2026.4";

/// The functions called here. A library that lacks one is refused before `openvino-sys` would panic about it.
const FUNCTIONS: &[&str] = &[
    "ov_available_devices_free",
    "ov_compiled_model_create_infer_request",
    "ov_compiled_model_free",
    "ov_core_compile_model_props",
    "ov_core_create",
    "ov_core_get_available_devices",
    "ov_core_read_model",
    "ov_core_read_model_from_memory_buffer",
    "ov_core_set_properties",
    "ov_free",
    "ov_get_last_err_msg",
    "ov_get_openvino_version",
    "ov_infer_request_cancel",
    "ov_infer_request_free",
    "ov_infer_request_get_output_tensor_by_index",
    "ov_infer_request_set_input_tensor_by_index",
    "ov_infer_request_start_async",
    "ov_infer_request_wait",
    "ov_infer_request_wait_for",
    "ov_model_const_input_by_index",
    "ov_model_const_output_by_index",
    "ov_model_free",
    "ov_model_inputs_size",
    "ov_model_is_dynamic",
    "ov_model_outputs_size",
    "ov_output_const_port_free",
    "ov_partial_shape_free",
    "ov_port_get_any_name",
    "ov_port_get_element_type",
    "ov_port_get_partial_shape",
    "ov_shape_free",
    "ov_tensor_create_from_host_ptr",
    "ov_tensor_data",
    "ov_tensor_free",
    "ov_tensor_get_byte_size",
    "ov_tensor_get_element_type",
    "ov_tensor_get_shape",
    "ov_version_free",
];

/// Checks that a library can be used, and returns its version. Nothing else is called on it.
pub fn examine(path: &Path) -> Result<String, NnError> {
    let shown = path.display();
    let wrong = |what: String| {
        NnError::unsupported(format!(
            "OpenVINO's library {shown} cannot be used: {what}; give the libopenvino_c.so of OpenVINO {NEEDED} or \
             later, for this machine's processor, with the rest of OpenVINO beside it"
        ))
    };
    // SAFETY: runs the library's initialisers; that the operator names a library fit to run is the contract of
    // `OpenVino::load`.
    let library = unsafe { libloading::Library::new(path) }
        .map_err(|error| wrong(format!("it does not load ({error})")))?;
    let has = |name: &str| {
        // SAFETY: the symbol is looked up and not used.
        unsafe { library.get::<*const c_void>(name.as_bytes()) }.is_ok()
    };
    if !has("ov_get_openvino_version") {
        return Err(wrong(
            "it does not export ov_get_openvino_version, so it is not OpenVINO's C library".into(),
        ));
    }
    // SAFETY: the signatures are the ones OpenVINO has exported under these names since 2022.1.
    let version = unsafe {
        let get = library
            .get::<unsafe extern "C" fn(*mut ov::ov_version_t) -> c_int>(
                b"ov_get_openvino_version\0",
            )
            .map_err(|error| wrong(error.to_string()))?;
        let free = library
            .get::<unsafe extern "C" fn(*mut ov::ov_version_t)>(b"ov_version_free\0")
            .map_err(|error| wrong(error.to_string()))?;
        let mut version = ov::ov_version_t {
            buildNumber: ptr::null(),
            description: ptr::null(),
        };
        if get(&mut version) != 0 || version.buildNumber.is_null() {
            return Err(wrong("it does not report its version".into()));
        }
        let text = CStr::from_ptr(version.buildNumber)
            .to_string_lossy()
            .into_owned();
        free(&mut version);
        text
    };
    // "2026.4.1-22982-…": the release is the part before the build number.
    let release = version.split('-').next().unwrap_or_default().to_owned();
    if let Some(missing) = FUNCTIONS.iter().find(|name| !has(name)) {
        return Err(wrong(format!(
            "it is version {release:?} and has no {missing}"
        )));
    }
    // `openvino-sys` takes two numbers for granted in this string.
    let mut numbers = release.split('.').map(str::parse::<u32>);
    if !matches!((numbers.next(), numbers.next()), (Some(Ok(_)), Some(Ok(_)))) {
        return Err(wrong(format!("it reports version {version:?}")));
    }
    Ok(release)
}

/// Makes the one core of this process, and returns it with its devices.
pub fn start(path: &Path) -> Result<(*mut ov::ov_core_t, Vec<String>), String> {
    ov::library::load_from(path)?;
    let attempt = Attempt::begin();
    let failed = |status| attempt.reason(status);
    let mut core = ptr::null_mut();
    // SAFETY: writes one pointer; the library was just loaded with every function there is here.
    check(unsafe { ov::ov_core_create(&mut core) }).map_err(failed)?;
    // A weights file that is written over while the server runs must not become the model's weights, nor end the
    // process; read in whole, it cannot.
    let no_mapping = ov::ov_property_t {
        key: c"ENABLE_MMAP".as_ptr(),
        value: c"NO".as_ptr().cast(),
    };
    // SAFETY: one property, live for the call; a null device stands for the core itself.
    check(unsafe { ov::ov_core_set_properties(core, ptr::null(), 1, &no_mapping) })
        .map_err(failed)?;
    let mut found = ov::ov_available_devices_t {
        devices: ptr::null_mut(),
        size: 0,
    };
    // SAFETY: fills in a list that is freed below.
    check(unsafe { ov::ov_core_get_available_devices(core, &mut found) }).map_err(failed)?;
    let devices = (0..found.size)
        // SAFETY: the list has `size` C strings.
        .map(|index| unsafe { CStr::from_ptr(*found.devices.add(index)) })
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    // SAFETY: the list came from the library and is not used after.
    unsafe { ov::ov_available_devices_free(&mut found) };
    Ok((core, devices))
}
