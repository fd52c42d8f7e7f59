//! Differentiable ops: methods of [`Var`], each with its rule.

mod arithmetic;
mod attention;
mod gated;
mod linear;
mod loss;
mod pooling;
mod rows;
mod shape;

use crate::Result;
use crate::autograd::{Backward, Var};
use crate::tensor::Tensor;

pub use attention::AttentionOptions;
pub use shape::concat;

impl Var {
    /// Records an op of self alone; `rule` makes its gradient.
    fn derive(
        &self,
        op: &'static str,
        value: Tensor,
        saved: Vec<Tensor>,
        rule: impl FnOnce(&Backward<'_>) -> Result<Tensor> + Send + 'static,
    ) -> Result<Var> {
        self.tape().record(op, &[("self", self)], value, saved, |b| Ok(vec![Some(rule(b)?)]))
    }
}
