//! Feed-forward networks and transformer blocks.

use crate::Result;
use crate::autograd::{AttentionOptions, Var};
use crate::kernels::elementwise::unary::Activation;
use crate::nn::{LayerNorm, Linear, MultiHeadAttention};

/// Two affine maps with an activation between them.
#[derive(Clone, Debug)]
pub struct FeedForward {
    /// (.., width) to (.., hidden).
    pub expand: Linear,
    /// Between the two.
    pub activation: Activation,
    /// (.., hidden) to (.., width).
    pub contract: Linear,
    /// Share dropped before the activation, as BiC-Net does.
    pub dropout_hidden: f32,
    /// Share dropped from the result, before the residual is added.
    pub dropout_output: f32,
}

impl FeedForward {
    /// x (.., width) to (.., width), plus `residual`.
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`].
    pub fn forward(&self, x: &Var, residual: &Var) -> Result<Var> {
        // Without dropout the activation and the residual are parts of the matmuls' own kernels.
        let hidden = match x.tape().next_dropout(self.dropout_hidden) {
            None => self.expand.fused(x, Some(self.activation), None)?,
            Some(dropout) => self.expand.forward(x)?.dropout_activation_with(dropout, self.activation)?,
        };
        match x.tape().next_dropout(self.dropout_output) {
            None => self.contract.fused(&hidden, None, Some(residual)),
            Some(dropout) => self.contract.forward(&hidden)?.dropout_with(dropout)?.add(residual),
        }
    }
}

/// Where a block normalises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// After each residual sum: y = N(f(x) + x), as in the original transformer, BERT and BiC-Net.
    Post,
    /// Before each sub-layer: y = f(N(x)) + x, as in CLIP.
    Pre,
}

/// Self-attention and a feed-forward network, each with a residual and a normalisation.
#[derive(Clone, Debug)]
pub struct TransformerBlock {
    /// Where it normalises.
    pub place: NormPlace,
    /// Self-attention.
    pub attention: MultiHeadAttention,
    /// Of the attention sub-layer.
    pub norm_attention: LayerNorm,
    /// The second sub-layer.
    pub feed_forward: FeedForward,
    /// Of the feed-forward sub-layer.
    pub norm_feed_forward: LayerNorm,
    /// Share dropped between the two sub-layers, as BiC-Net does.
    pub dropout_between: f32,
}

impl TransformerBlock {
    /// x (B, T, width) to (B, T, width); `masks` says which keys are seen.
    ///
    /// # Errors
    /// [`crate::Error::Shape`], [`crate::Error::ShapeMismatch`].
    pub fn forward(&self, x: &Var, masks: &AttentionOptions) -> Result<Var> {
        match self.place {
            NormPlace::Post => {
                let attended = self.attention.forward(x, x, masks, Some(x))?;
                let h = self.norm_attention.forward(&attended)?.dropout(self.dropout_between)?;
                self.norm_feed_forward.forward(&self.feed_forward.forward(&h, &h)?)
            }
            NormPlace::Pre => {
                let normed = self.norm_attention.forward(x)?;
                let h = self.attention.forward(&normed, &normed, masks, Some(x))?.dropout(self.dropout_between)?;
                self.feed_forward.forward(&self.norm_feed_forward.forward(&h)?, &h)
            }
        }
    }
}

/// Self-attention with a residual and a normalisation after it, and nothing else: BERT's attention sub-layer.
#[derive(Clone, Debug)]
pub struct AttentionBlock {
    /// Self-attention.
    pub attention: MultiHeadAttention,
    /// Of the residual sum.
    pub norm: LayerNorm,
    /// Share dropped from the attention's result, before the residual is added.
    pub dropout: f32,
}

impl AttentionBlock {
    /// x (B, T, width) to (B, T, width); `masks` says which keys are seen.
    ///
    /// # Errors
    /// [`crate::Error::Shape`], [`crate::Error::ShapeMismatch`].
    pub fn forward(&self, x: &Var, masks: &AttentionOptions) -> Result<Var> {
        // Without dropout the residual is added in the matmul's own kernel.
        match x.tape().next_dropout(self.dropout) {
            None => self.norm.forward(&self.attention.forward(x, x, masks, Some(x))?),
            Some(dropout) => self.norm.of_sum(&self.attention.forward(x, x, masks, None)?.dropout_with(dropout)?, x),
        }
    }
}
