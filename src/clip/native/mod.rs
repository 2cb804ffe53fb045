//! Operators that tch does not bind: oneDNN's linear layers with packed weights, and attention for AVX-512. Also the
//! limits on what oneDNN and the allocator keep after passes of many shapes.
//!
//! Owns the C++ files beside it and all calls into them. It says what this CPU supports. The callers decide whether to
//! use an operator and what to do without it. Like tch, the functions panic when libtorch fails.

#![allow(unsafe_code)]

mod memory;
mod primitives;

pub(crate) use memory::{limit_arenas, return_free_memory};
pub(crate) use primitives::limit_primitives;

use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

/// Elements of a query, key or value that the attention kernel is made for. Nearly all CLIP models have this width.
const HEAD_WIDTH: i64 = 64;

/// Least number of queries for which packing the keys and values pays.
const FEWEST_QUERIES: i64 = 12;

/// A tensor of libtorch, `at::Tensor` in C++.
type At = c_void;

// Every function that computes returns null or an error message, which the caller frees with `maskclip_free_message`.
// Only without a message does it set `result`, to a tensor that the caller then owns.
unsafe extern "C" {
    fn maskclip_free_message(message: *mut c_char);
    fn maskclip_packs_linear(bfloat16: bool) -> bool;
    fn maskclip_pack_linear(weight: *const At, result: *mut *mut At) -> *mut c_char;
    fn maskclip_linear(
        x: *const At,
        weight: *const At,
        bias: *const At,
        activation: *const c_char,
        result: *mut *mut At,
    ) -> *mut c_char;
    fn maskclip_linear_added(
        x: *const At,
        other: *const At,
        weight: *const At,
        bias: *const At,
        result: *mut *mut At,
    ) -> *mut c_char;
    fn maskclip_has_attention(bfloat16: bool) -> bool;
    fn maskclip_attention(
        query: *const At,
        key: *const At,
        value: *const At,
        scale: f64,
        result: *mut *mut At,
    ) -> *mut c_char;
}

/// The function that follows a linear layer, element by element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pointwise {
    /// No function: `x`.
    Identity,
    /// The rectifier `max(x, 0)`.
    Relu,
    /// The sigmoid linear unit `x sigmoid(x)`.
    Silu,
    /// The exact GELU.
    Gelu,
}

impl Pointwise {
    /// Applies the function to `x` with libtorch's plain operators.
    pub(super) fn forward(self, x: Tensor) -> Tensor {
        match self {
            Self::Identity => x,
            Self::Relu => x.relu(),
            Self::Silu => x.silu(),
            Self::Gelu => x.gelu("none"),
        }
    }

    /// Returns oneDNN's name of the function, as libtorch spells it.
    fn name(self) -> &'static CStr {
        match self {
            Self::Identity => c"none",
            Self::Relu => c"relu",
            Self::Silu => c"swish",
            Self::Gelu => c"gelu",
        }
    }
}

/// A weight in the layout that oneDNN multiplies by. It is packed once instead of at every call.
#[derive(Debug)]
pub(super) struct PackedWeight(Tensor);

impl PackedWeight {
    /// Packs a weight `[outputs, inputs]`. Returns `None` where this CPU has no packed layers in the weight's element
    /// type.
    pub(super) fn new(weight: &Tensor) -> Option<Self> {
        let packs = weight.device() == Device::Cpu && packs_linear(weight.kind());
        // SAFETY: `weight` is a valid tensor during the call.
        packs.then(|| Self(unsafe { result(|packed| maskclip_pack_linear(at(weight), packed)) }))
    }

    /// Returns a second owner of the same weight; nothing is copied.
    pub(super) fn share(&self) -> Self {
        Self(self.0.shallow_clone())
    }

    /// Returns the element type of the weight.
    pub(super) fn kind(&self) -> Kind {
        self.0.kind()
    }

    /// Computes `then(x W^T + b)`: `[..., inputs]` to `[..., outputs]`.
    pub(super) fn linear(&self, x: &Tensor, bias: Option<&Tensor>, then: Pointwise) -> Tensor {
        let bias = bias.map_or(ptr::null(), at);
        // SAFETY: all pointers are valid tensors during the call, except the bias, which may be null. The name ends
        // with a zero.
        unsafe { result(|y| maskclip_linear(at(x), at(&self.0), bias, then.name().as_ptr(), y)) }
    }

    /// Computes `x W^T + b + other` from `x`, `[..., inputs]`, and `other`, `[..., outputs]`. The result has the shape
    /// of `other`.
    pub(super) fn linear_added(&self, x: &Tensor, bias: Option<&Tensor>, other: &Tensor) -> Tensor {
        let bias = bias.map_or(ptr::null(), at);
        // SAFETY: all pointers are valid tensors during the call, except the bias, which may be null.
        unsafe { result(|y| maskclip_linear_added(at(x), at(other), at(&self.0), bias, y)) }
    }
}

/// Whether this CPU supports an operator in float32 and in bfloat16. Each question is asked once.
struct Support(OnceLock<[bool; 2]>);

impl Support {
    const fn unknown() -> Self {
        Self(OnceLock::new())
    }

    /// Returns whether the operator supports `kind`. `in_bfloat16` answers for bfloat16 if its argument is true,
    /// otherwise for float32.
    fn has(&self, kind: Kind, in_bfloat16: impl Fn(bool) -> bool) -> bool {
        let [float32, bfloat16] = *self.0.get_or_init(|| [false, true].map(in_bfloat16));
        match kind {
            Kind::Float => float32,
            Kind::BFloat16 => bfloat16,
            _ => false,
        }
    }
}

/// Returns whether this CPU has packed linear layers in the element type `kind`.
pub(super) fn packs_linear(kind: Kind) -> bool {
    static SUPPORT: Support = Support::unknown();
    // SAFETY: the call takes and returns plain values.
    SUPPORT.has(kind, |bfloat16| unsafe { maskclip_packs_linear(bfloat16) })
}

fn has_attention(kind: Kind) -> bool {
    static SUPPORT: Support = Support::unknown();
    // SAFETY: the call takes and returns plain values.
    SUPPORT.has(kind, |bfloat16| unsafe { maskclip_has_attention(bfloat16) })
}

/// Computes `softmax(scale query key^T) value`. Queries are `[batch, heads, asking, 64]`, keys and values
/// `[batch, heads, tokens, 64]`; the result has the shape of the queries. The attention matrix is never held as a
/// whole. Sums and the softmax are computed in float32. The heads of the result lie side by side in memory, so joining
/// them copies nothing.
///
/// Returns `None` where this CPU has no kernel for the element type and width, and where the queries are too few for
/// the kernel to pay.
pub(super) fn attention(query: &Tensor, key: &Tensor, value: &Tensor, scale: f64) -> Option<Tensor> {
    let fits = |part: &Tensor| {
        let is_dense = part.stride().last() == Some(&1) && part.size().last() == Some(&HEAD_WIDTH);
        is_dense && part.device() == Device::Cpu && part.kind() == query.kind()
    };
    if !has_attention(query.kind()) || ![query, key, value].into_iter().all(fits) || query.size()[2] < FEWEST_QUERIES {
        return None;
    }
    // SAFETY: all pointers are valid tensors during the call, and the call checks their shapes.
    Some(unsafe { result(|mixed| maskclip_attention(at(query), at(key), at(value), scale, mixed)) })
}

/// Returns the address of a libtorch tensor, which is valid for the time of a call.
fn at(tensor: &Tensor) -> *const At {
    tensor.as_ptr().cast()
}

/// Returns the tensor that a call makes.
///
/// # Panics
/// Panics with libtorch's message when the call fails.
///
/// # Safety
/// The call must either set its argument to an `at::Tensor` made by `new`, or return a message.
unsafe fn result(call: impl FnOnce(*mut *mut At) -> *mut c_char) -> Tensor {
    let mut made = ptr::null_mut();
    let message = call(&raw mut made);
    if message.is_null() {
        // SAFETY: the call returned no message, so it made a tensor and passed its ownership to us.
        return unsafe { Tensor::from_ptr(made.cast()) };
    }
    // SAFETY: a message ends with a zero and belongs to us until it is freed.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    // SAFETY: the message belongs to us, and nothing refers to it any more.
    unsafe { maskclip_free_message(message) };
    panic!("libtorch: {text}");
}

#[cfg(test)]
mod tests;
