//! Contains the bindings of `penstock:types`, and their conversions. Strings are moved. Tensor data is copied once
//! into the blocks in which it is passed, and once out of them.

use penstock_core::{Caller, Code, Violation};
use penstock_tensor::{Datatype, Place, Rejection, Tensor};

#[allow(missing_docs)]
mod bindings {
    wit_bindgen::generate!({
        world: "types",
        path: "../../wit/types",
        generate_all,
        generate_unused_types: true,
    });
}

pub use bindings::penstock::types::{callers, held, http, tensors};

/// Converts a caller to its WIT record.
pub fn caller_to_wit(caller: &Caller) -> callers::Caller {
    callers::Caller {
        tenant: caller.tenant.clone(),
        api_key_id: caller.api_key_id.clone(),
        subject: caller.subject.clone(),
        tier: caller.tier.clone(),
        scopes: caller.scopes.clone(),
        anonymous: caller.anonymous,
        address: caller.address.clone(),
    }
}

/// Converts a caller from its WIT record.
pub fn caller_from_wit(caller: callers::Caller) -> Caller {
    Caller {
        tenant: caller.tenant,
        api_key_id: caller.api_key_id,
        subject: caller.subject,
        tier: caller.tier,
        scopes: caller.scopes,
        anonymous: caller.anonymous,
        address: caller.address,
    }
}

macro_rules! datatypes {
    ($($variant:ident => $wit:ident),* $(,)?) => {
        /// Converts a contract's datatype to WIT.
        pub fn datatype_to_wit(datatype: Datatype) -> tensors::Datatype {
            match datatype { $(Datatype::$variant => tensors::Datatype::$wit,)* }
        }

        /// Converts a datatype from WIT.
        pub fn datatype_from_wit(datatype: tensors::Datatype) -> Datatype {
            match datatype { $(tensors::Datatype::$wit => Datatype::$variant,)* }
        }
    };
}

datatypes! {
    Bool => BoolValue, Uint8 => Uint8, Uint16 => Uint16, Uint32 => Uint32, Uint64 => Uint64,
    Int8 => Int8, Int16 => Int16, Int32 => Int32, Int64 => Int64,
    Fp16 => Fp16, Bf16 => Bf16, Fp32 => Fp32, Fp64 => Fp64, Bytes => Bytes,
    Int2 => Int2, Uint2 => Uint2, Int4 => Int4, Uint4 => Uint4,
    Fp8E4m3fn => Fp8E4m3fn, Fp8E4m3fnuz => Fp8E4m3fnuz, Fp8E5m2 => Fp8E5m2, Fp8E5m2fnuz => Fp8E5m2fnuz,
}

const BLOCK_BYTES: usize = size_of::<tensors::Block>();

/// Copies bytes into the blocks of a `bulk`.
pub fn bulk_to_wit(bytes: &[u8]) -> tensors::Bulk {
    let zero = tensors::Block {
        a: 0,
        b: 0,
        c: 0,
        d: 0,
        e: 0,
        f: 0,
        g: 0,
        h: 0,
    };
    let count = bytes.len().div_ceil(BLOCK_BYTES);
    let mut blocks: Vec<tensors::Block> = Vec::with_capacity(count);
    // SAFETY: a block is eight words, without padding, and any bytes make words; the vector has room
    // for `count` blocks, which are at least as long as the bytes. All but the last block are written
    // in full by the copy, and the last is zeroed before it.
    unsafe {
        if let Some(last) = count.checked_sub(1) {
            blocks.as_mut_ptr().add(last).write(zero);
        }
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), blocks.as_mut_ptr().cast(), bytes.len());
        blocks.set_len(count);
    }
    tensors::Bulk {
        blocks,
        byte_length: bytes.len() as u64,
        held: None,
    }
}

/// Converts the place of bytes that the host holds.
pub fn place_to_wit(place: Place) -> held::HeldBytes {
    held::HeldBytes {
        item: place.item,
        offset: place.offset,
        length: place.length,
    }
}

/// Passes bytes that the host holds by their place.
pub fn placed(place: held::HeldBytes) -> tensors::Bulk {
    tensors::Bulk {
        blocks: Vec::new(),
        byte_length: place.length,
        held: Some(place),
    }
}

/// Converts a tensor for inference. Bytes that the host holds are passed by their place; no other component can use that.
pub fn tensor_to_inference(tensor: Tensor) -> tensors::Tensor {
    match tensor.data.place() {
        None => tensor_to_wit(tensor),
        Some(place) => tensors::Tensor {
            name: tensor.name,
            datatype: datatype_to_wit(tensor.datatype),
            shape: tensor.shape,
            data: placed(place_to_wit(place)),
        },
    }
}

/// Returns the bytes of the blocks. A length beyond the blocks is reduced to theirs. Missing bytes are detected where
/// the bytes are used.
pub fn bulk_bytes(bulk: &tensors::Bulk) -> &[u8] {
    let held = std::mem::size_of_val(bulk.blocks.as_slice());
    let length = usize::try_from(bulk.byte_length)
        .unwrap_or(usize::MAX)
        .min(held);
    // SAFETY: the blocks are `held` initialised bytes without padding, and `length` is at most that.
    unsafe { std::slice::from_raw_parts(bulk.blocks.as_ptr().cast(), length) }
}

/// Converts a tensor to its WIT record.
pub fn tensor_to_wit(tensor: Tensor) -> tensors::Tensor {
    tensors::Tensor {
        name: tensor.name,
        datatype: datatype_to_wit(tensor.datatype),
        shape: tensor.shape,
        data: bulk_to_wit(&tensor.data),
    }
}

/// Converts a tensor from its WIT record.
pub fn tensor_from_wit(tensor: tensors::Tensor) -> Tensor {
    Tensor {
        name: tensor.name,
        datatype: datatype_from_wit(tensor.datatype),
        shape: tensor.shape,
        data: bulk_bytes(&tensor.data).into(),
    }
}

/// Converts tensors to their WIT records.
pub fn tensors_to_wit(list: Vec<Tensor>) -> Vec<tensors::Tensor> {
    list.into_iter().map(tensor_to_wit).collect()
}

/// Converts tensors from their WIT records.
pub fn tensors_from_wit(list: Vec<tensors::Tensor>) -> Vec<Tensor> {
    list.into_iter().map(tensor_from_wit).collect()
}

/// Converts a rejection to its WIT record.
pub fn rejection_to_wit(rejection: Rejection) -> tensors::Rejection {
    tensors::Rejection {
        kind: match rejection.code {
            Code::MalformedJson => tensors::RejectionKind::MalformedJson,
            Code::InvalidBody => tensors::RejectionKind::InvalidBody,
            Code::NotSupported => tensors::RejectionKind::NotSupported,
            _ => tensors::RejectionKind::InvalidInputs,
        },
        message: rejection.message,
        violations: rejection
            .violations
            .into_iter()
            .map(|v| tensors::Violation {
                pointer: v.pointer,
                rule: v.rule,
                expected: v.expected,
                message: v.message,
            })
            .collect(),
        omitted: rejection.omitted,
    }
}

/// Converts a rejection from its WIT record.
pub fn rejection_from_wit(rejection: tensors::Rejection) -> Rejection {
    Rejection {
        code: match rejection.kind {
            tensors::RejectionKind::MalformedJson => Code::MalformedJson,
            tensors::RejectionKind::InvalidBody => Code::InvalidBody,
            tensors::RejectionKind::NotSupported => Code::NotSupported,
            tensors::RejectionKind::InvalidInputs => Code::InvalidInputs,
        },
        message: rejection.message,
        violations: rejection
            .violations
            .into_iter()
            .map(|v| Violation::new(v.pointer, v.rule, v.expected, v.message))
            .collect(),
        omitted: rejection.omitted,
    }
}
