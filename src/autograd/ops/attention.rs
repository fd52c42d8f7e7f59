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

/// The options that the kernels need, apart from tensors.
#[derive(Clone, Copy)]
struct Plan {
    layout: Layout,
    scale: f32,
    causal: bool,
    dropout: Option<Dropout>,
    keys: KeysKind,
    has_bias: bool,
}

#[derive(Clone, Copy)]
enum KeysKind {
    All,
    Lengths,
    Mask,
}

impl Plan {
    /// `masks` holds the tensor of keys, then the bias, as far as there are any.
    fn options<'a>(&self, masks: &'a [Tensor]) -> Options<'a> {
        let (keys, rest) = match self.keys {
            KeysKind::All => (Keys::All, masks),
            KeysKind::Lengths => (Keys::Lengths(&masks[0]), &masks[1..]),
            KeysKind::Mask => (Keys::Mask(&masks[0]), &masks[1..]),
        };
        Options {
            layout: self.layout,
            scale: self.scale,
            causal: self.causal,
            keys,
            bias: if self.has_bias { rest.first() } else { None },
            dropout: self.dropout,
        }
    }
}

impl Var {
    /// softmax(scale · self keysᵀ + bias) values; self holds the queries. The result has self's shape.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::ShapeMismatch`]; [`Error::Argument`] for both kinds of key mask at once.
    pub fn attention(&self, keys: &Var, values: &Var, options: &AttentionOptions) -> Result<Var> {
        let (kind, mask) = match (&options.key_lengths, &options.key_mask) {
            (None, None) => (KeysKind::All, None),
            (Some(lengths), None) => (KeysKind::Lengths, Some(lengths.clone())),
            (None, Some(mask)) => (KeysKind::Mask, Some(mask.clone())),
            (Some(_), Some(_)) => {
                let why = "and key_mask exclude each other".to_string();
                return Err(Error::Argument { op: "attention", argument: "key_lengths", why });
            }
        };
        let plan = Plan {
            layout: options.layout,
            scale: options.scale,
            causal: options.causal,
            dropout: self.tape().next_dropout(options.dropout),
            keys: kind,
            has_bias: options.bias.is_some(),
        };
        let masks: Vec<Tensor> = mask.into_iter().chain(options.bias.as_ref().map(|b| b.value().clone())).collect();
        let (q, k, v) = (self.value(), keys.value(), values.value());
        let output = attention::forward(q, k, v, &plan.options(&masks))?;
        let mut saved = vec![q.clone(), k.clone(), v.clone(), output.y.clone(), output.lse];
        saved.extend(masks);
        let mut inputs = vec![("self", self), ("keys", keys), ("values", values)];
        inputs.extend(options.bias.iter().map(|b| ("bias", b)));
        self.tape().record("attention", &inputs, output.y, saved, move |b| {
            let [q, k, v, y, lse, masks @ ..] = b.saved else { unreachable!("forward saved these") };
            let needs_bias = plan.has_bias && b.needs[3];
            let output = attention::Output { y: y.clone(), lse: lse.clone() };
            let g = attention::backward(q, k, v, &output, b.grad, needs_bias, &plan.options(masks))?;
            let mut grads = vec![Some(g.q), Some(g.k), Some(g.v)];
            if plan.has_bias {
                grads.push(g.bias);
            }
            Ok(grads)
        })
    }
}
