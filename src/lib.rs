//! Text-video retrieval on any GPU: hand-written WGSL kernels with gradients, a small autograd tape, and published
//! models that train and run through [`wgpu`].
#![deny(missing_docs)]

// Unit tests share a file with the integration tests.
#[cfg(test)]
extern crate self as reelgrad;

mod error;
mod progress;

pub mod autograd;
pub mod data;
pub mod gpu;
pub mod kernels;
pub mod models;
pub mod nn;
pub mod optim;
#[cfg(any(test, feature = "parity"))]
pub mod parity;
pub mod random;
pub mod retrieval;
pub mod run;
pub mod shader;
pub mod tensor;
pub mod train;

pub use error::{Error, Result};
pub use gpu::Gpu;
pub use progress::{Progress, Silent};
pub use tensor::{Array, Tensor};

/// The README's programs, compiled with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
