//! Handles, statuses and texts of OpenVINO's C API, with owners.

use std::ffi::{CStr, CString, c_char};
use std::sync::{Mutex, MutexGuard};

use openvino_sys as ov;
use openvino_sys::ov_status_e as Status;

use crate::error::NnError;

/// The library's handles, released when they are dropped.
macro_rules! owned {
    ($($name:ident($handle:ty), $free:path;)+) => {$(
        pub struct $name(pub *mut $handle);

        impl Drop for $name {
            fn drop(&mut self) {
                if !self.0.is_null() {
                    // SAFETY: the handle came from the library, is owned here alone and not used after.
                    unsafe { $free(self.0) };
                }
            }
        }
    )+};
}

owned! {
    Model(ov::ov_model_t), ov::ov_model_free;
    CompiledModel(ov::ov_compiled_model_t), ov::ov_compiled_model_free;
    Request(ov::ov_infer_request_t), ov::ov_infer_request_free;
    Tensor(ov::ov_tensor_t), ov::ov_tensor_free;
    ConstPort(ov::ov_output_const_port_t), ov::ov_output_const_port_free;
}

/// A text the library handed out, freed.
///
/// # Safety
///
/// `text` is null or came from the library and is not used after.
pub unsafe fn take_text(text: *mut c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by the contract above it is a live C string of the library's.
    unsafe {
        let owned = CStr::from_ptr(text).to_string_lossy().into_owned();
        ov::ov_free(text);
        owned
    }
}

pub fn text(text: &str) -> Result<CString, NnError> {
    CString::new(text).map_err(|_| NnError::invalid("a name holds a zero byte; rename it"))
}

pub fn check(status: Status) -> Result<(), Status> {
    match status {
        Status::OK => Ok(()),
        other => Err(other),
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
