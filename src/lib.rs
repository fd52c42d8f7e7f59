//! Text-video retrieval on any GPU: hand-written WGSL kernels with gradients, a small autograd tape, and published
//! models that train and run through [`wgpu`].
//!
//! | from the bottom up | |
//! |---|---|
//! | [`Gpu`] | an adapter, opened |
//! | [`Tensor`], [`Array`] | numbers on the GPU, and on the host |
//! | [`autograd`] | [`Tape`](autograd::Tape) and [`Var`](autograd::Var): ops and their gradients |
//! | [`nn`], [`optim`] | parameters, layers; optimisers, schedules |
//! | [`models`] | published models: [`Model::new`](models::Model::new), [`load`](models::Model::load), [`save`](models::Model::save) |
//! | [`retrieval`] | galleries, search, moments, metrics |
//! | [`train`], [`run`] | run folders and checkpoints; a whole run, from settings to results |
//!
//! Beside them: [`data`] reads and makes what models take, [`kernels`] are the ops without a tape, and [`shader`] compiles
//! WGSL of one's own.
//!
//! ```
//! use reelgrad::autograd::Tape;
//! use reelgrad::{Gpu, Tensor};
//!
//! # fn main() -> reelgrad::Result<()> {
//! let gpu = Gpu::new()?;
//! let tape = Tape::new(&gpu);
//! let x = tape.leaf(Tensor::from_slice(&gpu, [2, 2], &[1.0, 2.0, 3.0, 4.0])?);
//! let loss = x.square()?.sum_all()?;
//! let gradients = tape.backward(&loss)?;
//! assert_eq!(gradients.get(&x).unwrap().to_vec()?, [2.0, 4.0, 6.0, 8.0]);
//! # Ok(())
//! # }
//! ```
#![deny(missing_docs)]

// Unit tests share a file with the integration tests.
#[cfg(test)]
extern crate self as reelgrad;

mod error;
mod progress;
mod stop;

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
pub use stop::StopFlag;
pub use tensor::{Array, Tensor};

/// The README's programs, compiled with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
