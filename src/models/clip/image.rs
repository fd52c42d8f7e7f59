//! The image tower: a vision transformer.

use super::blocks::ResidualBlocks;
use super::config::{ClipConfig, Family};
use super::pool::AttentionPool;
use crate::autograd::{AttentionOptions, Tape, Var, concat};
use crate::nn::{Init, LayerNorm, Parameter, Scope};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Pixels to the joint space.
pub struct ImageTower {
    size: usize,
    patch: usize,
    mlp: usize,
    patch_weight: Parameter,
    patch_bias: Option<Parameter>,
    positions: Parameter,
    blocks: ResidualBlocks,
    norm_post: LayerNorm,
    head: Head,
}

/// How tokens become features.
enum Head {
    /// A class token goes through the network with the patches, and all are projected.
    Class { class: Parameter, norm_pre: LayerNorm, projection: Parameter },
    /// A head looks at the patches, which are in the joint space as they are.
    Pool(Box<AttentionPool>),
}

/// What the image tower gives for n images, before any normalisation to unit length.
#[derive(Clone, Debug)]
pub struct ImageFeatures {
    /// Of the class token, or of the head over all patches (n, D).
    pub image: Var,
    /// Of the patches, row by row (n, P, D), where they were asked for. Every patch goes through the last normalisation
    /// and, where there is one, the projection, as the class token does.
    pub patches: Option<Var>,
}

impl ImageTower {
    pub(super) fn new(s: &Scope<'_>, config: &ClipConfig) -> Result<Self> {
        let (width, patch, joint) = (config.vision.width, config.patch_size, config.joint);
        let (eps, activation) = (config.family.norm_eps(), config.activation.into());
        let scale = Init::Normal { std: 1.0 / (width as f32).sqrt() };
        let patch_init = Init::Normal { std: 1.0 / ((3 * patch * patch) as f32).sqrt() };
        let pooled = config.family == Family::Siglip;
        let class = (!pooled).then(|| s.declare("class_embedding", [width], scale.clone())).transpose()?;
        let tokens = config.patches() + usize::from(!pooled);
        let positions = s.declare("positional_embedding", [tokens, width], scale.clone())?;
        let projection = (!pooled).then(|| s.declare("proj", [width, joint], scale)).transpose()?;
        let patch_weight = s.declare("conv1.weight", [width, 3, patch, patch], patch_init)?;
        let (patch_bias, head) = match (class, projection) {
            (Some(class), Some(projection)) => {
                let norm_pre = LayerNorm::new(&s.scope("ln_pre"), width, eps)?;
                (None, Head::Class { class, norm_pre, projection })
            }
            _ => {
                let pool = AttentionPool::new(&s.scope("attn_pool"), config.vision, activation, eps)?;
                (Some(s.declare("conv1.bias", [width], Init::Constant(0.0))?), Head::Pool(Box::new(pool)))
            }
        };
        let blocks = s.scope("transformer.resblocks");
        let blocks = ResidualBlocks::new(&blocks, config.vision, activation, eps, config.recompute)?;
        let norm_post = LayerNorm::new(&s.scope("ln_post"), width, eps)?;
        let (size, mlp) = (config.image_size, config.vision.mlp);
        Ok(Self { size, patch, mlp, patch_weight, patch_bias, positions, blocks, norm_post, head })
    }

    /// Height and width of images, in pixels.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Normalised pixels (n, 3, H, W) to the last block's tokens (n, T, width): the patches, row by row, and with CLIP the
    /// class token before them.
    ///
    /// # Errors
    /// [`Error::Shape`] for images of another size.
    pub fn tokens(&self, pixels: &Var) -> Result<Var> {
        let &[images, 3, height, width] = pixels.shape() else { return Err(self.misshaped(pixels)) };
        if [height, width] != [self.size; 2] {
            return Err(self.misshaped(pixels));
        }
        let tape = pixels.tape();
        let mut patches = self.whole_patches(pixels)?.patch_embed(&self.patch_weight.on(tape))?;
        if let Some(bias) = &self.patch_bias {
            patches = patches.add(&bias.on(tape))?;
        }
        let x = match &self.head {
            Head::Class { class, .. } => concat(&[&repeated(tape, class, images)?, &patches], 1)?,
            Head::Pool(_) => patches,
        };
        let x = x.add(&self.positions.on(tape))?;
        let x = if let Head::Class { norm_pre, .. } = &self.head { norm_pre.forward(&x)? } else { x };
        self.blocks.forward(&x, &AttentionOptions::default())
    }

    /// The pixels without those at the right and at the bottom that are less than a patch.
    fn whole_patches(&self, pixels: &Var) -> Result<Var> {
        let kept = self.size / self.patch * self.patch;
        if kept == self.size { Ok(pixels.clone()) } else { pixels.slice(2, 0..kept)?.slice(3, 0..kept) }
    }

    /// Tokens (.., width) to the joint space (.., D).
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    pub fn project(&self, tokens: &Var) -> Result<Var> {
        let normed = self.norm_post.forward(tokens)?;
        match &self.head {
            Head::Class { projection, .. } => normed.matmul(&projection.on(tokens.tape())),
            Head::Pool(_) => Ok(normed),
        }
    }

    /// Normalised pixels (n, 3, H, W) to the joint space; `patches` says whether those are wanted, too.
    ///
    /// # Errors
    /// [`Error::Shape`] for images of another size.
    pub fn encode(&self, pixels: &Var, patches: bool) -> Result<ImageFeatures> {
        // No tensor on the way may be larger than a binding.
        let limit = pixels.value().gpu().report().limits.max_storage_buffer_binding_size;
        let each = (self.positions.shape()[0] * self.mlp).max(3 * self.size * self.size);
        let parts = pixels.parts((limit / 4) as usize / each.max(1))?;
        let parts: Vec<ImageFeatures> = parts.iter().map(|p| self.encode_part(p, patches)).collect::<Result<_>>()?;
        if let [whole] = parts.as_slice() {
            return Ok(whole.clone());
        }
        let images: Vec<&Var> = parts.iter().map(|p| &p.image).collect();
        let all: Vec<&Var> = parts.iter().filter_map(|p| p.patches.as_ref()).collect();
        let patches = patches.then(|| concat(&all, 0)).transpose()?;
        Ok(ImageFeatures { image: concat(&images, 0)?, patches })
    }

    fn encode_part(&self, pixels: &Var, patches: bool) -> Result<ImageFeatures> {
        let tokens = self.tokens(pixels)?;
        let [images, count] = [tokens.shape()[0], tokens.shape()[1]];
        let class = |x: &Var| x.slice(1, 0..1)?.reshape([images, x.value().width()]);
        match &self.head {
            Head::Pool(pool) => {
                let all = self.project(&tokens)?;
                Ok(ImageFeatures { image: pool.forward(&all)?, patches: patches.then_some(all) })
            }
            Head::Class { .. } if patches => {
                let all = self.project(&tokens)?;
                Ok(ImageFeatures { image: class(&all)?, patches: Some(all.slice(1, 1..count)?) })
            }
            Head::Class { .. } => Ok(ImageFeatures { image: self.project(&class(&tokens)?)?, patches: None }),
        }
    }

    fn misshaped(&self, pixels: &Var) -> Error {
        let expected = format!("(n, 3, {0}, {0})", self.size);
        Error::Shape { op: "image tower", argument: "pixels", expected, got: pixels.shape().to_vec() }
    }
}

/// A parameter (width) once for each of n images: (n, 1, width).
pub(super) fn repeated(tape: &Tape, parameter: &Parameter, images: usize) -> Result<Var> {
    let width = parameter.len();
    let zeros = Tensor::zeros(tape.gpu(), "repeated", [images, 1, width])?;
    tape.constant(zeros).add(&parameter.on(tape).reshape([width])?)
}
