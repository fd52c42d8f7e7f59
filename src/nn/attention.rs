//! Multi-head attention with projections.

use crate::Result;
use crate::autograd::{AttentionOptions, Var};
use crate::kernels::attention::Layout;
use crate::nn::{Linear, LinearInit, Scope};

/// softmax(QKᵀ / √d + masks) V over heads, between projections.
#[derive(Clone, Debug)]
pub struct MultiHeadAttention {
    /// (.., width) to (.., width), as are the others.
    pub query: Linear,
    /// Keys.
    pub key: Linear,
    /// Values.
    pub value: Linear,
    /// After the heads are joined; `None` leaves them as they are.
    pub output: Option<Linear>,
    /// Heads; they split the width into contiguous blocks.
    pub heads: usize,
    /// Share of the probabilities that is dropped in training.
    pub dropout: f32,
}

impl MultiHeadAttention {
    /// Declares four biased projections: scopes with the names of query, key, value and output.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] unless `heads` divides `width`; [`crate::Error::DuplicateParameter`].
    pub fn new(
        s: &Scope<'_>,
        names: [&str; 4],
        width: usize,
        heads: usize,
        dropout: f32,
        init: impl Into<LinearInit>,
    ) -> Result<Self> {
        let ([inputs @ .., output], init) = (names, init.into());
        let attention = Self::without_output(s, inputs, width, heads, dropout, init.clone())?;
        let output = Some(Linear::new(&s.scope(output), width, width, init)?);
        Ok(Self { output, ..attention })
    }

    /// As [`MultiHeadAttention::new`], with no projection after the heads.
    ///
    /// # Errors
    /// As [`MultiHeadAttention::new`].
    pub fn without_output(
        s: &Scope<'_>,
        [query, key, value]: [&str; 3],
        width: usize,
        heads: usize,
        dropout: f32,
        init: impl Into<LinearInit>,
    ) -> Result<Self> {
        expect_divisor(heads, width)?;
        let init = init.into();
        let linear = |name: &str| Linear::new(&s.scope(name), width, width, init.clone());
        let (query, key, value) = (linear(query)?, linear(key)?, linear(value)?);
        Ok(Self { query, key, value, output: None, heads, dropout })
    }

    /// As [`MultiHeadAttention::new`], in PyTorch's packed form: `in_proj_weight` (3 width, width) and `in_proj_bias`
    /// hold queries, keys and values one after another, and `out_proj` the output.
    ///
    /// # Errors
    /// As [`MultiHeadAttention::new`].
    pub fn packed(
        s: &Scope<'_>,
        width: usize,
        heads: usize,
        init: impl Into<LinearInit>,
        output_init: impl Into<LinearInit>,
    ) -> Result<Self> {
        expect_divisor(heads, width)?;
        let init = init.into();
        let weight = s.declare_matrix("in_proj_weight", [3 * width, width], init.weight)?;
        let bias = s.declare("in_proj_bias", [3 * width], init.bias)?;
        let part = |i: usize| {
            let rows = Some(i * width..(i + 1) * width);
            Linear { weight: weight.clone(), bias: Some(bias.clone()), rows }
        };
        let output = Some(Linear::new(&s.scope("out_proj"), width, width, output_init)?);
        Ok(Self { query: part(0), key: part(1), value: part(2), output, heads, dropout: 0.0 })
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
        let heads = q.attention(&k, &v, &options)?;
        match (&self.output, residual) {
            (Some(output), _) => output.fused(&heads, None, residual),
            (None, Some(residual)) => heads.add(residual),
            (None, None) => Ok(heads),
        }
    }
}

/// That `heads` divides `width`.
fn expect_divisor(heads: usize, width: usize) -> Result<()> {
    if heads == 0 || !width.is_multiple_of(heads) {
        let why = format!("of {heads} does not divide the width {width}");
        return Err(crate::Error::Argument { op: "MultiHeadAttention", argument: "heads", why });
    }
    Ok(())
}
