//! CLIP's residual blocks: both towers have them, and the temporal transformer of CLIP4Clip.

use super::config::TowerConfig;
use crate::Result;
use crate::autograd::{AttentionOptions, Var};
use crate::kernels::elementwise::unary::Activation;
use crate::nn::{
    FeedForward, Init, LayerNorm, Linear, LinearInit, MultiHeadAttention, NormPlace, Scope, TransformerBlock,
};

/// Blocks one after another: x + attention(norm(x)), then x + network(norm(x)).
#[derive(Clone, Debug)]
pub(crate) struct ResidualBlocks {
    blocks: Vec<TransformerBlock>,
    /// Whether blocks run again on the way back instead of keeping what they computed.
    recompute: bool,
}

impl ResidualBlocks {
    /// Declares `{i}.{ln_1, attn, ln_2, mlp}`, drawn as OpenAI draws them.
    pub(crate) fn new(
        s: &Scope<'_>,
        config: TowerConfig,
        activation: Activation,
        eps: f32,
        recompute: bool,
    ) -> Result<Self> {
        let TowerConfig { width, heads, layers, mlp } = config;
        let normal = |std: f64| LinearInit { weight: Init::Normal { std: std as f32 }, bias: Init::Constant(0.0) };
        let root = (width as f64).sqrt();
        // Sums over the blocks keep their size when each adds less.
        let share = 1.0 / (2.0 * layers as f64).sqrt();
        let block = |i: usize| -> Result<TransformerBlock> {
            let s = s.scope(i);
            let (inputs, outputs) = (normal(1.0 / root), normal(share / root));
            Ok(TransformerBlock {
                place: NormPlace::Pre,
                attention: MultiHeadAttention::packed(&s.scope("attn"), width, heads, inputs, outputs.clone())?,
                norm_attention: LayerNorm::new(&s.scope("ln_1"), width, eps)?,
                feed_forward: FeedForward {
                    expand: Linear::new(&s.scope("mlp.c_fc"), width, mlp, normal((2.0f64).sqrt().recip() / root))?,
                    activation,
                    contract: Linear::new(&s.scope("mlp.c_proj"), mlp, width, outputs)?,
                    dropout_hidden: 0.0,
                    dropout_output: 0.0,
                },
                norm_feed_forward: LayerNorm::new(&s.scope("ln_2"), width, eps)?,
                dropout_between: 0.0,
            })
        };
        Ok(Self { blocks: (0..layers).map(block).collect::<Result<_>>()?, recompute })
    }

    /// x (B, T, width) to the same shape; `masks` says which keys are seen.
    pub(crate) fn forward(&self, x: &Var, masks: &AttentionOptions) -> Result<Var> {
        self.blocks.iter().try_fold(x.clone(), |x, block| {
            if !self.recompute {
                return block.forward(&x, masks);
            }
            let (block, masks) = (block.clone(), masks.clone());
            x.tape().checkpoint(&[&x], move |_, inputs| block.forward(&inputs[0], &masks))
        })
    }
}
