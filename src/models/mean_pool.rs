//! Mean pooling: the baseline without order. The same projections, normalisations and losses as BiC-Net, with means over
//! frames, regions and tokens in place of its transformers and poolings.

use serde::{Deserialize, Serialize};

use crate::autograd::{Tape, Var};
use crate::models::two_space::{Embeddings, Hinge, TwoSpaceInputs, TwoSpaceModel};
use crate::models::{Finish, Model, Stored};
use crate::nn::{Init, LayerNorm, Linear, Scope};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Sizes and options; the default is BiC-Net's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeanPoolConfig {
    /// Width of the embeddings.
    pub embedding_dim: usize,
    /// Width of frame features.
    pub global_dim: usize,
    /// Width of region features.
    pub region_dim: usize,
    /// Width of token features.
    pub text_dim: usize,
    /// Margin of the hinge losses.
    pub margin: f32,
    /// Hardest negatives instead of the sum over all.
    pub max_violation: bool,
    /// Standard deviation of the initial values.
    pub init_std: f32,
}

impl Default for MeanPoolConfig {
    fn default() -> Self {
        Self {
            embedding_dim: 1024,
            global_dim: 2560,
            region_dim: 2048,
            text_dim: 1536,
            margin: 0.2,
            max_violation: false,
            init_std: 0.01,
        }
    }
}

/// The network.
pub struct MeanPool {
    stored: Stored<MeanPoolConfig>,
    text: (Linear, LayerNorm),
    region: (Linear, LayerNorm),
    global: (Linear, LayerNorm),
}

/// norm(proj(x)), then the masked mean over the positions of x (B, S, in).
fn pooled((linear, norm): &(Linear, LayerNorm), x: &Var, mask: Option<&Tensor>) -> Result<Var> {
    norm.forward(&linear.forward(x)?)?.masked_mean(mask)
}

impl Model for MeanPool {
    type Config = MeanPoolConfig;

    fn declare(config: &MeanPoolConfig, s: &Scope<'_>) -> Result<Finish<Self>> {
        let (d, init) = (config.embedding_dim, Init::TruncatedNormal { std: config.init_std });
        let branch = |name: &str, inputs: usize| -> Result<(Linear, LayerNorm)> {
            let linear = Linear::new(&s.scope(format!("proj_{name}")), inputs, d, &init)?;
            Ok((linear, LayerNorm::unbiased(&s.scope(format!("norm_{name}")), d, 1e-6, &init)?))
        };
        let text = branch("text", config.text_dim)?;
        let region = branch("region", config.region_dim)?;
        let global = branch("global", config.global_dim)?;
        Ok(Box::new(move |stored| Self { stored, text, region, global }))
    }

    fn stored(&self) -> &Stored<MeanPoolConfig> {
        &self.stored
    }
}

impl TwoSpaceModel for MeanPool {
    fn width(&self) -> usize {
        self.config().embedding_dim
    }

    fn hinge(&self) -> Hinge {
        Hinge { margin: self.config().margin, max_violation: self.config().max_violation }
    }

    fn encode_text(&self, tape: &Tape, text: &Tensor, mask: &Tensor) -> Result<Var> {
        pooled(&self.text, &tape.constant(text.clone()), Some(mask))
    }

    fn forward(&self, tape: &Tape, inputs: &TwoSpaceInputs) -> Result<Embeddings> {
        let &[b, t, r, width] = inputs.region.shape() else {
            let (expected, got) = ("(batch, frames, regions, region_dim)".to_string(), inputs.region.shape().to_vec());
            return Err(Error::Shape { op: "MeanPool", argument: "region", expected, got });
        };
        let regions = tape.constant(inputs.region.reshape([b, t * r, width])?);
        Ok(Embeddings {
            text: self.encode_text(tape, &inputs.text, &inputs.text_mask)?,
            region: pooled(&self.region, &regions, None)?,
            global: pooled(&self.global, &tape.constant(inputs.global.clone()), inputs.frame_mask.as_ref())?,
        })
    }
}
