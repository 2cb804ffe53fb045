//! Operators that tch does not bind: oneDNN's linear layers with weights packed beforehand, and attention for AVX-512.
//!
//! Owns the C++ beside it and the only calls into it. Says what exists on this CPU; whether to use it, and what to do where it
//! does not exist, is the callers' business. Like tch, it panics where libtorch fails.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

/// Elements of a query, key or value that the attention is made for: those of nearly all CLIP models.
const HEAD_WIDTH: i64 = 64;

/// Fewer queries than these do not pay for packing the keys and values.
const FEWEST_QUERIES: i64 = 12;

/// A tensor of libtorch's, `at::Tensor` in C++.
type At = c_void;

// Every function that computes returns null, or a message for `maskclip_free_message`; only without one is `result` set, to
// a tensor that is the caller's.
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

/// What follows a linear layer, element by element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pointwise {
    /// Nothing.
    Identity,
    /// `max(x, 0)`
    Relu,
    /// `x sigmoid(x)`
    Silu,
    /// The exact GELU.
    Gelu,
}

impl Pointwise {
    /// On the values themselves.
    pub(super) fn forward(self, x: Tensor) -> Tensor {
        match self {
            Self::Identity => x,
            Self::Relu => x.relu(),
            Self::Silu => x.silu(),
            Self::Gelu => x.gelu("none"),
        }
    }

    /// oneDNN's name for it, as libtorch has it.
    fn name(self) -> &'static CStr {
        match self {
            Self::Identity => c"none",
            Self::Relu => c"relu",
            Self::Silu => c"swish",
            Self::Gelu => c"gelu",
        }
    }
}

/// A weight in the layout that oneDNN multiplies by: packed once instead of at every call.
#[derive(Debug)]
pub(super) struct PackedWeight(Tensor);

impl PackedWeight {
    /// Of `[outputs, inputs]`; `None` where this CPU has no such layers in the weight's type.
    pub(super) fn new(weight: &Tensor) -> Option<Self> {
        let packs = weight.device() == Device::Cpu && packs_linear(weight.kind());
        // SAFETY: `weight` is a tensor for the time of the call.
        packs.then(|| Self(unsafe { result(|packed| maskclip_pack_linear(at(weight), packed)) }))
    }

    /// The same weight under another owner; nothing is copied.
    pub(super) fn share(&self) -> Self {
        Self(self.0.shallow_clone())
    }

    /// Element type.
    pub(super) fn kind(&self) -> Kind {
        self.0.kind()
    }

    /// `then(x W^T + b)`, `[..., inputs]` to `[..., outputs]`.
    pub(super) fn linear(&self, x: &Tensor, bias: Option<&Tensor>, then: Pointwise) -> Tensor {
        let bias = bias.map_or(ptr::null(), at);
        // SAFETY: all are tensors, the bias perhaps absent, and the name ends with a zero, for the time of the call.
        unsafe { result(|y| maskclip_linear(at(x), at(&self.0), bias, then.name().as_ptr(), y)) }
    }

    /// `x W^T + b + other`, `[..., inputs]` and `[..., outputs]` to the latter.
    pub(super) fn linear_added(&self, x: &Tensor, bias: Option<&Tensor>, other: &Tensor) -> Tensor {
        let bias = bias.map_or(ptr::null(), at);
        // SAFETY: all are tensors, the bias perhaps absent, for the time of the call.
        unsafe { result(|y| maskclip_linear_added(at(x), at(other), at(&self.0), bias, y)) }
    }
}

/// Whether this CPU has what a type needs, asked once of each.
struct Support(OnceLock<[bool; 2]>);

impl Support {
    const fn unknown() -> Self {
        Self(OnceLock::new())
    }

    /// `in_bfloat16` says whether in bfloat16, or else in float32.
    fn has(&self, kind: Kind, in_bfloat16: impl Fn(bool) -> bool) -> bool {
        let [float32, bfloat16] = *self.0.get_or_init(|| [false, true].map(in_bfloat16));
        match kind {
            Kind::Float => float32,
            Kind::BFloat16 => bfloat16,
            _ => false,
        }
    }
}

/// Whether linear layers of a type can be packed on this CPU.
pub(super) fn packs_linear(kind: Kind) -> bool {
    static SUPPORT: Support = Support::unknown();
    // SAFETY: takes and gives plain values.
    SUPPORT.has(kind, |bfloat16| unsafe { maskclip_packs_linear(bfloat16) })
}

fn has_attention(kind: Kind) -> bool {
    static SUPPORT: Support = Support::unknown();
    // SAFETY: takes and gives plain values.
    SUPPORT.has(kind, |bfloat16| unsafe { maskclip_has_attention(bfloat16) })
}

/// `sm(scale query key^T) value`: queries `[batch, heads, asking, 64]`, keys and values `[batch, heads, tokens, 64]`, to the
/// shape of the queries. The matrix never exists; sums and softmax are taken in 32 bits. The heads of the result lie side by side, so
/// that joining them copies nothing. `None` where this CPU has no such kernel for the parts' type and width, or they are
/// too few for it to pay.
pub(super) fn attention(query: &Tensor, key: &Tensor, value: &Tensor, scale: f64) -> Option<Tensor> {
    let fits = |part: &Tensor| {
        let is_dense = part.stride().last() == Some(&1) && part.size().last() == Some(&HEAD_WIDTH);
        is_dense && part.device() == Device::Cpu && part.kind() == query.kind()
    };
    if !has_attention(query.kind()) || ![query, key, value].into_iter().all(fits) || query.size()[2] < FEWEST_QUERIES {
        return None;
    }
    // SAFETY: all are tensors for the time of the call, which checks their shapes.
    Some(unsafe { result(|mixed| maskclip_attention(at(query), at(key), at(value), scale, mixed)) })
}

/// The address of a tensor of libtorch's, for the time of a call.
fn at(tensor: &Tensor) -> *const At {
    tensor.as_ptr().cast()
}

/// The tensor that a call makes.
///
/// # Safety
/// The call sets its argument to an `at::Tensor` made by `new`, or returns a message.
unsafe fn result(call: impl FnOnce(*mut *mut At) -> *mut c_char) -> Tensor {
    let mut made = ptr::null_mut();
    let message = call(&raw mut made);
    if message.is_null() {
        // SAFETY: without a message the call has made a tensor and left it to us.
        return unsafe { Tensor::from_ptr(made.cast()) };
    }
    // SAFETY: a message ends with a zero and is ours until it is freed.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    // SAFETY: as above; nothing refers to it any more.
    unsafe { maskclip_free_message(message) };
    panic!("libtorch: {text}");
}

#[cfg(test)]
mod tests;
