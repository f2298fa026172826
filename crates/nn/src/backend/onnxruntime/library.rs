//! The library before it is used: whether it can be, and the few facts that are asked of it once.

use std::ffi::CStr;
use std::path::Path;
use std::ptr;

use ort::ortsys;
use ort::sys;

use super::value::check;
use crate::error::NnError;

/// The version of ONNX Runtime's C API this crate calls; the `ort` feature `api-24` is the other half.
const API_VERSION: u32 = 24;

/// The description of the processor's memory that ONNX Runtime wants with each tensor. It is never released.
#[derive(Clone, Copy)]
pub struct CpuMemory(pub *const sys::OrtMemoryInfo);
// SAFETY: an OrtMemoryInfo is never written after it was made, and this one is never released.
unsafe impl Send for CpuMemory {}
// SAFETY: as above.
unsafe impl Sync for CpuMemory {}

/// Makes a description of the processor's memory. It is never released.
pub fn cpu_memory(kind: sys::OrtAllocatorType) -> Result<*const sys::OrtMemoryInfo, String> {
    let mut info = ptr::null_mut();
    // SAFETY: the call writes one pointer to the given place.
    let status = ortsys![unsafe CreateCpuMemoryInfo(
        kind,
        sys::OrtMemType::OrtMemTypeDefault,
        &mut info,
    )];
    check(status).map_err(|error| error.message)?;
    Ok(info)
}

/// Checks that a library can be used, and returns its version. Nothing else is called on it.
pub fn examine(path: &Path) -> Result<String, NnError> {
    let shown = path.display();
    let wrong = |what: String| {
        NnError::unsupported(format!(
            "ONNX Runtime's library {shown} cannot be used: {what}; give the libonnxruntime.so of ONNX Runtime \
             1.{API_VERSION} or later, for this machine's processor"
        ))
    };
    // SAFETY: runs the library's initialisers; that the operator names a library fit to run is the contract of
    // `OnnxRuntime::load`.
    let library = unsafe { libloading::Library::new(path) }
        .map_err(|error| wrong(format!("it does not load ({error})")))?;
    // SAFETY: the signature is the one ONNX Runtime has exported under this name since 1.0.
    let base = unsafe {
        library.get::<unsafe extern "C" fn() -> *const sys::OrtApiBase>(b"OrtGetApiBase\0")
    }
    .map_err(|_| wrong("it does not export OrtGetApiBase, so it is not ONNX Runtime".into()))?;
    // SAFETY: takes nothing, returns a pointer to a static or null.
    let base =
        unsafe { base().as_ref() }.ok_or_else(|| wrong("OrtGetApiBase returns null".into()))?;
    // SAFETY: both functions take a version number or nothing and return pointers to statics or null.
    let (version, api) = unsafe { ((base.GetVersionString)(), (base.GetApi)(API_VERSION)) };
    let version = if version.is_null() {
        "unknown".into()
    } else {
        // SAFETY: a non-null version string is a static C string.
        unsafe { CStr::from_ptr(version) }
            .to_string_lossy()
            .into_owned()
    };
    if api.is_null() {
        return Err(wrong(format!(
            "it is version {version}, which does not have API {API_VERSION}"
        )));
    }
    // `ort` compares the minor number of this string and nothing else; agree with it beforehand.
    let minor = version
        .split('.')
        .nth(1)
        .and_then(|minor| minor.parse::<u32>().ok());
    if minor.is_none_or(|minor| minor < API_VERSION) {
        return Err(wrong(format!("it reports version {version:?}")));
    }
    Ok(version)
}

/// The remedy for a graph that needs a locale that the machine lacks; empty for other messages. `StringNormalizer`
/// needs `en_US.UTF-8` if the graph names none, and small container images have no locale but `C`.
pub fn missing_locale(message: &str) -> String {
    const BEFORE: &str = "Failed to construct locale with name:";
    let Some((_, rest)) = message.split_once(BEFORE) else {
        return String::new();
    };
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_.-@".contains(c);
    let name: String = rest.chars().take_while(|c| is_part(*c)).collect();
    format!(
        "; an operator such as StringNormalizer needs the locale {name}, which this machine does not have. Install the \
         locale, or set the operator's attribute `locale` to \"C.UTF-8\" in the graph"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locale_that_the_machine_lacks_is_named_with_a_remedy() {
        let said = "…: Failed to construct locale with name:en_US.UTF-8:locale::facet::_S_create_c_locale name not valid";
        let remedy = missing_locale(said);
        assert!(
            remedy.contains("the locale en_US.UTF-8, which") && remedy.contains("C.UTF-8"),
            "{remedy}"
        );
        assert_eq!(missing_locale("no such node"), "");
    }
}
