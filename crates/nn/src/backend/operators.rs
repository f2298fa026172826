//! Groups of ONNX operators that several analyses of a graph treat alike.

/// Operators that hand the values of their first input on as they are.
pub(crate) const SAME_VALUES: [&str; 7] = [
    "Cast",
    "CastLike",
    "Identity",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Reshape",
];

/// Operators that keep the lengths of their first input. A quantised table goes through them before it is looked into.
pub(crate) const SAME_LENGTHS: [&str; 4] =
    ["Cast", "DequantizeLinear", "Identity", "QuantizeLinear"];
