//! Pooling a sequence to one vector by learnt weights.

use crate::autograd::Var;
use crate::kernels::elementwise::unary::Activation;
use crate::nn::{Init, Parameter, Scope};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Attention pooling with a weight for every position and channel (COOT's and BiC-Net's `AtnPool`).
///
/// For each head h, logits = GELU(x W1ₕ + b1ₕ) W2ₕ + b2ₕ; the heads' logits side by side are one softmax over the
/// positions for each channel, and the result is the weighted sum of x.
#[derive(Clone, Debug)]
pub struct ChannelAttentionPool {
    w1: Parameter,
    b1: Parameter,
    w2: Parameter,
    b2: Parameter,
    dropout: f32,
}

impl ChannelAttentionPool {
    /// Declares `genpool_{w1_head,b1_head,w2_head,b2_head,one}` for inputs of `width` and a hidden width of
    /// `hidden` over all heads.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `heads` divides both widths; [`Error::DuplicateParameter`].
    pub fn new(s: &Scope<'_>, width: usize, hidden: usize, heads: usize, dropout: f32, init: &Init) -> Result<Self> {
        if heads == 0 || !width.is_multiple_of(heads) || !hidden.is_multiple_of(heads) {
            let why = format!("of {heads} does not divide the widths {width} and {hidden}");
            return Err(Error::Argument { op: "ChannelAttentionPool", argument: "heads", why });
        }
        let declare =
            |name: &str, shape: &[usize], init: &Init| s.declare(&format!("genpool_{name}"), shape, init.clone());
        let pool = Self {
            w1: declare("w1_head", &[heads, width, hidden / heads], init)?,
            b1: declare("b1_head", &[heads, hidden / heads], init)?,
            w2: declare("w2_head", &[heads, hidden / heads, width / heads], init)?,
            b2: declare("b2_head", &[heads, width / heads], init)?,
            dropout,
        };
        // The official module has it and never uses it; checkpoints hold it.
        declare("one", &[1], &Init::Constant(1.0))?;
        Ok(pool)
    }

    /// x (B, S, width) with `mask` (B, S), 1 for valid positions, to (B, width).
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::ShapeMismatch`].
    pub fn forward(&self, x: &Var, mask: Option<&Tensor>) -> Result<Var> {
        let &[batch, positions, width] = x.shape() else {
            let expected = "(batch, positions, width)".to_string();
            return Err(Error::Shape { op: "ChannelAttentionPool", argument: "x", expected, got: x.shape().to_vec() });
        };
        let tape = x.tape();
        let (heads, hidden) = (self.w1.shape()[0], self.w1.shape()[2]);
        let rows = x.reshape([batch * positions, width])?;
        let a = rows.matmul(&self.w1.on(tape))?.add(&self.b1.on(tape).reshape([heads, 1, hidden])?)?;
        let a = a.dropout_activation(self.dropout, Activation::Gelu)?;
        let a = a.matmul(&self.w2.on(tape))?.add(&self.b2.on(tape).reshape([heads, 1, width / heads])?)?;
        // (heads, rows, width / heads): the heads' channels side by side.
        let logits = a.permute(&[1, 0, 2])?.reshape([batch, positions, width])?.dropout(self.dropout)?;
        x.attention_pool(&logits, mask, self.dropout)
    }
}
