//! CLIP: an image tower and a text tower with one joint space (Radford et al., "Learning Transferable Visual Models From
//! Natural Language Supervision", 2021). Parameters have OpenAI's names.

mod blocks;
mod config;
mod files;
mod image;
pub(crate) mod names;
mod text;

use crate::Result;
use crate::autograd::{Tape, Var};
use crate::gpu::Gpu;
use crate::nn::{Init, Parameter, ParameterStore};

pub(crate) use blocks::ResidualBlocks;
pub use config::{ClipActivation, ClipConfig, EndOfText, TowerConfig};
pub use files::{ClipLayout, read_clip};
pub use image::{ImageFeatures, ImageTower};
pub use text::{TextFeatures, TextTower};

/// The largest logarithm of the factor of similarities that training may reach: ln 100.
pub const MAX_LOGIT_SCALE: f32 = 4.605_170_2;

/// The two towers, without a store of their own: a part of a larger model.
pub struct Towers {
    /// Pixels to the joint space.
    pub image: ImageTower,
    /// Token ids to the joint space.
    pub text: TextTower,
    /// The logarithm of the factor of similarities, a scalar.
    pub logit_scale: Parameter,
}

impl Towers {
    /// Declares the parameters under OpenAI's names, with `prefix` before them.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] for sizes that do not fit; [`crate::Error::DuplicateParameter`].
    pub fn new(store: &mut ParameterStore, prefix: &str, config: &ClipConfig) -> Result<Self> {
        config.check()?;
        let text = TextTower::new(store, prefix, config)?;
        let image = ImageTower::new(store, &format!("{prefix}visual."), config)?;
        let init = Init::Constant(config.logit_scale);
        Ok(Self { image, text, logit_scale: store.declare(format!("{prefix}logit_scale"), [], init)? })
    }

    /// Whether `name`, without a prefix, stays as it is when the first `layers` blocks of both towers are frozen: the rule
    /// of CLIP4Clip's `freeze_layer_num`. Embeddings, the patch projection and `ln_pre` are frozen with 0 layers, too.
    pub fn is_frozen(name: &str, layers: usize) -> bool {
        const TRAINED: [&str; 5] = ["ln_final.", "text_projection", "logit_scale", "visual.ln_post.", "visual.proj"];
        let block = name.strip_prefix("visual.").unwrap_or(name).strip_prefix("transformer.resblocks.");
        let layer = block.and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        !TRAINED.iter().any(|t| name.starts_with(t)) && layer.is_none_or(|layer| layer < layers)
    }

    /// Runs each residual block again on the way back instead of keeping what it computed: memory for time.
    pub fn recompute(&mut self, recompute: bool) {
        self.image.blocks.recompute = recompute;
        self.text.blocks.recompute = recompute;
    }
}

/// A CLIP model.
pub struct Clip {
    config: ClipConfig,
    store: ParameterStore,
    towers: Towers,
}

impl Clip {
    /// A model with random values, as OpenAI draws them for the text tower.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] for sizes that do not fit; device errors.
    pub fn new(gpu: &Gpu, config: ClipConfig, seed: u64) -> Result<Self> {
        Self::frozen(gpu, config, seed, |_| false)
    }

    /// As [`Clip::new`]; what `frozen` names is not trained. With everything frozen it takes half of the memory.
    ///
    /// # Errors
    /// As [`Clip::new`].
    pub fn frozen(gpu: &Gpu, config: ClipConfig, seed: u64, frozen: impl Fn(&str) -> bool) -> Result<Self> {
        let mut clip = Self::declare(gpu, config)?;
        clip.store.freeze(frozen)?;
        clip.store.allocate(seed)?;
        Ok(clip)
    }

    /// Declares the model without memory for its parameters: their names, shapes and count are known, and nothing can be
    /// computed.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] for sizes that do not fit.
    pub fn declare(gpu: &Gpu, config: ClipConfig) -> Result<Self> {
        let mut store = ParameterStore::new(gpu);
        let towers = Towers::new(&mut store, "", &config)?;
        Ok(Self { config, store, towers })
    }

    /// The configuration.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// The parameters.
    pub fn store(&self) -> &ParameterStore {
        &self.store
    }

    /// The towers.
    pub fn towers(&self) -> &Towers {
        &self.towers
    }

    /// The towers, to change how they run.
    pub fn towers_mut(&mut self) -> &mut Towers {
        &mut self.towers
    }

    /// exp(logit_scale) · cosine of every text (B, D) with every image (N, D): (B, N).
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`].
    pub fn logits_per_text(&self, texts: &Var, images: &Var) -> Result<Var> {
        texts.cosine_matrix(images)?.mul(&self.logit_scale(texts.tape())?)
    }

    /// The factor of similarities, a scalar.
    ///
    /// # Errors
    /// Device errors.
    pub fn logit_scale(&self, tape: &Tape) -> Result<Var> {
        self.towers.logit_scale.on(tape)?.exp()
    }
}
