//! Mean pooling: the baseline without order. The same projections, normalisations and losses as BiC-Net, with means over
//! frames, regions and tokens in place of its transformers and poolings.

use crate::autograd::{Tape, Var};
use crate::gpu::Gpu;
use crate::models::bicnet::{BicnetConfig, BicnetInputs};
use crate::models::two_space::{Embeddings, TwoSpaceModel};
use crate::nn::{Init, LayerNorm, Linear, ParameterStore};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The network; sizes, margin and initialisation are those of a [`BicnetConfig`].
pub struct MeanPool {
    config: BicnetConfig,
    store: ParameterStore,
    text: (Linear, LayerNorm),
    region: (Linear, LayerNorm),
    global: (Linear, LayerNorm),
}

impl MeanPool {
    /// Makes the network with initial values drawn from `seed`.
    ///
    /// # Errors
    /// Device errors.
    pub fn new(gpu: &Gpu, config: BicnetConfig, seed: u64) -> Result<Self> {
        let mut store = ParameterStore::new(gpu);
        let (d, init) = (config.embedding_dim, Init::TruncatedNormal { std: config.init_std });
        let mut branch = |name: &str, inputs: usize| -> Result<(Linear, LayerNorm)> {
            let linear = Linear::new(&mut store, &format!("proj_{name}"), inputs, d, &init)?;
            Ok((linear, LayerNorm::unbiased(&mut store, &format!("norm_{name}"), d, 1e-6, &init)?))
        };
        let text = branch("text", config.text_dim)?;
        let region = branch("region", config.region_dim)?;
        let global = branch("global", config.global_dim)?;
        store.allocate(seed)?;
        Ok(Self { config, store, text, region, global })
    }
}

/// norm(proj(x)), then the masked mean over the positions of x (B, S, in).
fn pooled((linear, norm): &(Linear, LayerNorm), x: &Var, mask: Option<&Tensor>) -> Result<Var> {
    norm.forward(&linear.forward(x)?)?.masked_mean(mask)
}

impl TwoSpaceModel for MeanPool {
    fn config(&self) -> &BicnetConfig {
        &self.config
    }

    fn store(&self) -> &ParameterStore {
        &self.store
    }

    fn encode_text(&self, tape: &Tape, text: &Tensor, mask: &Tensor) -> Result<Var> {
        pooled(&self.text, &tape.constant(text.clone()), Some(mask))
    }

    fn forward(&self, tape: &Tape, inputs: &BicnetInputs) -> Result<Embeddings> {
        let &[b, t, r, width] = inputs.region.shape() else {
            return Err(Error::Shape {
                op: "MeanPool",
                argument: "region",
                expected: "(batch, frames, regions, region_dim)".into(),
                got: inputs.region.shape().to_vec(),
            });
        };
        let regions = tape.constant(inputs.region.reshape([b, t * r, width])?);
        Ok(Embeddings {
            text: self.encode_text(tape, &inputs.text, &inputs.text_mask)?,
            region: pooled(&self.region, &regions, None)?,
            global: pooled(&self.global, &tape.constant(inputs.global.clone()), inputs.frame_mask.as_ref())?,
        })
    }
}
