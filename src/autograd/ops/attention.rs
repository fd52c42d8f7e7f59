//! Scaled dot-product attention.

use crate::autograd::Var;
use crate::kernels::attention::{self, Keys, Layout, Options};
use crate::kernels::elementwise::dropout::Dropout;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// How to attend. Masked positions are left out by predicate; a row that sees no key gives zeros.
#[derive(Clone, Debug)]
pub struct AttentionOptions {
    /// How the heads lie.
    pub layout: Layout,
    /// Factor of the scores, usually 1/√d.
    pub scale: f32,
    /// Whether a query sees only keys up to its own position.
    pub causal: bool,
    /// u32 (B): only the first keys are seen. Not together with `key_mask`.
    pub key_lengths: Option<Tensor>,
    /// f32 (B, Tk): keys where it is 1 are seen.
    pub key_mask: Option<Tensor>,
    /// Added to the scaled scores: (B or 1, H or 1, Tq or 1, Tk).
    pub bias: Option<Var>,
    /// Share of the probabilities that is dropped in training.
    pub dropout: f32,
}

impl Default for AttentionOptions {
    fn default() -> Self {
        Self {
            layout: Layout::HeadsFirst,
            scale: 1.0,
            causal: false,
            key_lengths: None,
            key_mask: None,
            bias: None,
            dropout: 0.0,
        }
    }
}

impl AttentionOptions {
    /// As the kernels take them.
    fn of_kernel<'a>(&'a self, bias: Option<&'a Tensor>, dropout: Option<Dropout>) -> Result<Options<'a>> {
        let keys = match (&self.key_lengths, &self.key_mask) {
            (None, None) => Keys::All,
            (Some(lengths), None) => Keys::Lengths(lengths),
            (None, Some(mask)) => Keys::Mask(mask),
            (Some(_), Some(_)) => {
                let why = "and key_mask exclude each other".to_string();
                return Err(Error::Argument { op: "attention", argument: "key_lengths", why });
            }
        };
        Ok(Options { layout: self.layout, scale: self.scale, causal: self.causal, keys, bias, dropout })
    }
}

impl Var {
    /// softmax(scale · self keysᵀ + bias) values; self holds the queries. The result has self's shape.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::ShapeMismatch`]; [`Error::Argument`] for both kinds of key mask at once.
    pub fn attention(&self, keys: &Var, values: &Var, options: &AttentionOptions) -> Result<Var> {
        let bias = options.bias.as_ref();
        let dropout = self.tape().next_dropout(options.dropout);
        let (q, k, v) = (self.value(), keys.value(), values.value());
        let output = attention::forward(q, k, v, &options.of_kernel(bias.map(Var::value), dropout)?)?;
        let mut saved = vec![q.clone(), k.clone(), v.clone(), output.y.clone(), output.lse];
        saved.extend(bias.map(|b| b.value().clone()));
        let mut inputs = vec![("self", self), ("keys", keys), ("values", values)];
        inputs.extend(bias.map(|b| ("bias", b)));
        // A variable would keep its tape, which keeps the rule.
        let options = AttentionOptions { bias: None, ..options.clone() };
        self.tape().record("attention", &inputs, output.y, saved, move |b| {
            let [q, k, v, y, lse, bias @ ..] = b.saved else { unreachable!("forward saved these") };
            let needs_bias = b.needs.get(3) == Some(&true);
            let output = attention::Output { y: y.clone(), lse: lse.clone() };
            let options = options.of_kernel(bias.first(), dropout)?;
            let g = attention::backward(q, k, v, &output, b.grad, needs_bias, &options)?;
            Ok(vec![Some(g.q), Some(g.k), Some(g.v), g.bias])
        })
    }
}
