//! The names by which `model.toml` knows the backends.

/// The name `model.toml` knows ONNX Runtime by, whether it is built in or not.
pub const ONNXRUNTIME: &str = "onnxruntime";

/// The name `model.toml` knows OpenVINO by, whether it is built in or not.
pub const OPENVINO: &str = "openvino";

/// The value in `model.toml` that leaves the choice to the server.
pub const AUTO: &str = "auto";
