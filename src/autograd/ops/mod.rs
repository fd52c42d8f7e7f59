//! Differentiable ops: methods of [`Var`](crate::autograd::Var), each with its rule.

mod arithmetic;
mod attention;
mod gated;
mod linear;
mod loss;
mod pooling;
mod rows;
mod shape;

pub use attention::AttentionOptions;
pub use shape::concat;
