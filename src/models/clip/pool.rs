//! SigLIP's head: one learnt query that looks at all patches of a picture.

use super::config::TowerConfig;
use super::image::repeated;
use crate::Result;
use crate::autograd::{AttentionOptions, Var};
use crate::kernels::elementwise::unary::Activation;
use crate::nn::{FeedForward, Init, LayerNorm, Linear, LinearInit, MultiHeadAttention, Parameter, Scope};

/// a = attention(query, patches), then a + network(norm(a)).
pub(super) struct AttentionPool {
    query: Parameter,
    attention: MultiHeadAttention,
    norm: LayerNorm,
    feed_forward: FeedForward,
}

impl AttentionPool {
    /// Declares `probe`, `attn`, `ln` and `mlp`.
    pub(super) fn new(s: &Scope<'_>, sizes: TowerConfig, activation: Activation, eps: f32) -> Result<Self> {
        let TowerConfig { width, heads, mlp, .. } = sizes;
        let init = LinearInit { weight: Init::Normal { std: 1.0 / (width as f32).sqrt() }, bias: Init::Constant(0.0) };
        let linear = |name: &str, inputs, outputs| Linear::new(&s.scope(name), inputs, outputs, init.clone());
        Ok(Self {
            query: s.declare("probe", [1, 1, width], init.weight.clone())?,
            attention: MultiHeadAttention::packed(&s.scope("attn"), width, heads, init.clone(), init.clone())?,
            norm: LayerNorm::new(&s.scope("ln"), width, eps)?,
            feed_forward: FeedForward {
                expand: linear("mlp.fc1", width, mlp)?,
                activation,
                contract: linear("mlp.fc2", mlp, width)?,
                dropout_hidden: 0.0,
                dropout_output: 0.0,
            },
        })
    }

    /// Patches (n, P, width) to (n, width).
    pub(super) fn forward(&self, patches: &Var) -> Result<Var> {
        let (images, width) = (patches.shape()[0], patches.value().width());
        let query = repeated(patches.tape(), &self.query, images)?;
        let attended = self.attention.forward(&query, patches, &AttentionOptions::default(), None)?;
        let pooled = self.feed_forward.forward(&self.norm.forward(&attended)?, &attended)?;
        pooled.reshape([images, width])
    }
}
