//! Multi-head attention with projections.

use crate::Result;
use crate::autograd::{AttentionOptions, Var};
use crate::kernels::attention::Layout;
use crate::nn::{Init, Linear, ParameterStore};

/// softmax(QKᵀ / √d + masks) V over heads, between four projections.
#[derive(Clone, Debug)]
pub struct MultiHeadAttention {
    /// (.., width) to (.., width), as are the others.
    pub query: Linear,
    /// Keys.
    pub key: Linear,
    /// Values.
    pub value: Linear,
    /// After the heads are joined.
    pub output: Linear,
    /// Heads; they split the width into contiguous blocks.
    pub heads: usize,
    /// Share of the probabilities that is dropped in training.
    pub dropout: f32,
}

impl MultiHeadAttention {
    /// Declares four biased projections under `{prefix}.{name}` for the names of query, key, value and output.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] unless `heads` divides `width`; [`crate::Error::DuplicateParameter`].
    pub fn new(
        store: &mut ParameterStore,
        prefix: &str,
        names: [&str; 4],
        width: usize,
        heads: usize,
        dropout: f32,
        init: &Init,
    ) -> Result<Self> {
        if heads == 0 || !width.is_multiple_of(heads) {
            let why = format!("of {heads} does not divide the width {width}");
            return Err(crate::Error::Argument { op: "MultiHeadAttention", argument: "heads", why });
        }
        let mut linear = |name: &str| Linear::new(store, &format!("{prefix}.{name}"), width, width, init);
        let [query, key, value, output] = [linear(names[0])?, linear(names[1])?, linear(names[2])?, linear(names[3])?];
        Ok(Self { query, key, value, output, heads, dropout })
    }

    /// Attends from x (B, Tq, width) to memory (B, Tk, width), and adds `residual` (B, Tq, width) to the result.
    /// `masks` says which keys are seen; its layout, scale and dropout are set here.
    ///
    /// # Errors
    /// [`crate::Error::Shape`], [`crate::Error::ShapeMismatch`].
    pub fn forward(&self, x: &Var, memory: &Var, masks: &AttentionOptions, residual: Option<&Var>) -> Result<Var> {
        let head_width = x.value().width() / self.heads;
        let options = AttentionOptions {
            layout: Layout::TokensFirst { heads: self.heads },
            scale: 1.0 / (head_width as f32).sqrt(),
            dropout: self.dropout,
            ..masks.clone()
        };
        let (q, k, v) = (self.query.forward(x)?, self.key.forward(memory)?, self.value.forward(memory)?);
        self.output.fused(&q.attention(&k, &v, &options)?, None, residual)
    }
}
