//! CLIP: an image tower and a text tower with one joint space (Radford et al., "Learning Transferable Visual Models From
//! Natural Language Supervision", 2021), and its kin: open_clip's vision transformers, SigLIP, SigLIP 2 of fixed
//! resolution, and Chinese-CLIP. Parameters have OpenAI's names.

mod blocks;
mod config;
mod files;
mod hugging_face;
mod image;
pub(crate) mod names;
mod open_clip;
mod pool;
mod refusals;
mod text;

use crate::Result;
use crate::autograd::{Tape, Var};
use crate::models::{Finish, Model, Stored};
use crate::nn::{Init, Parameter, Scope};

pub(crate) use blocks::ResidualBlocks;
pub use config::{ClipActivation, ClipConfig, EndOfText, Family, TowerConfig};
pub use files::Pretrained;
pub use image::{ImageFeatures, ImageTower};
pub use open_clip::architectures;
pub use text::{TextFeatures, TextTower};

/// The largest logarithm of the factor of similarities that training may reach: ln 100.
pub const MAX_LOGIT_SCALE: f32 = 4.605_170_2;

/// Where SigLIP's training starts its bias, so that it takes few pairs for matches at first.
const SIGLIP_BIAS: f32 = -10.0;

/// The two towers, without a store of their own: a part of a larger model.
pub struct Towers {
    /// Pixels to the joint space.
    pub image: ImageTower,
    /// Token ids to the joint space.
    pub text: TextTower,
    /// The logarithm of the factor of similarities, a scalar.
    pub logit_scale: Parameter,
    /// What is added to similarities, with SigLIP; a scalar.
    pub logit_bias: Option<Parameter>,
}

impl Towers {
    /// Declares the parameters under OpenAI's names.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] for sizes that do not fit; [`crate::Error::DuplicateParameter`].
    pub fn new(s: &Scope<'_>, config: &ClipConfig) -> Result<Self> {
        config.check()?;
        let text = TextTower::new(s, config)?;
        let image = ImageTower::new(&s.scope("visual"), config)?;
        let logit_scale = s.declare("logit_scale", [], Init::Constant(config.logit_scale))?;
        let bias = || s.declare("logit_bias", [], Init::Constant(SIGLIP_BIAS));
        let logit_bias = (config.family == Family::Siglip).then(bias).transpose()?;
        Ok(Self { image, text, logit_scale, logit_bias })
    }

    /// Whether `name`, without a prefix, stays as it is when the first `layers` blocks of both towers are frozen: the rule
    /// of CLIP4Clip's `freeze_layer_num`. Embeddings, the patch projection and `ln_pre` are frozen with 0 layers, too.
    pub fn is_frozen(name: &str, layers: usize) -> bool {
        const TRAINED: [&str; 7] = [
            "ln_final.",
            "text_projection",
            "logit_scale",
            "logit_bias",
            "visual.ln_post.",
            "visual.proj",
            "visual.attn_pool.",
        ];
        let within = name.strip_prefix("visual.").unwrap_or(name);
        let block = within.strip_prefix("transformer.resblocks.").or_else(|| name.strip_prefix("bert.encoder.layer."));
        let layer = block.and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        !TRAINED.iter().any(|t| name.starts_with(t)) && layer.is_none_or(|layer| layer < layers)
    }
}

/// A CLIP model.
pub struct Clip {
    stored: Stored<ClipConfig>,
    towers: Towers,
}

/// The text tower starts as OpenAI draws it.
impl Model for Clip {
    type Config = ClipConfig;

    fn declare(config: &ClipConfig, s: &Scope<'_>) -> Result<Finish<Self>> {
        let towers = Towers::new(s, config)?;
        Ok(Box::new(move |stored| Self { stored, towers }))
    }

    fn stored(&self) -> &Stored<ClipConfig> {
        &self.stored
    }
}

impl Clip {
    /// The towers.
    pub fn towers(&self) -> &Towers {
        &self.towers
    }

    /// exp(logit_scale) · cosine of every text (B, D) with every image (N, D), and with SigLIP plus its bias: (B, N).
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`].
    pub fn logits_per_text(&self, texts: &Var, images: &Var) -> Result<Var> {
        let scaled = texts.cosine_matrix(images)?.mul(&self.logit_scale(texts.tape())?)?;
        match &self.towers.logit_bias {
            Some(bias) => scaled.add(&bias.on(texts.tape())),
            None => Ok(scaled),
        }
    }

    /// The factor of similarities, a scalar.
    pub fn logit_scale(&self, tape: &Tape) -> Result<Var> {
        self.towers.logit_scale.on(tape).exp()
    }
}
