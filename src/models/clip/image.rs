//! The image tower: a vision transformer.

use super::blocks::ResidualBlocks;
use super::config::{ClipConfig, NORM_EPS};
use crate::autograd::{AttentionOptions, Var, concat};
use crate::nn::{Init, LayerNorm, Parameter, Scope};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Pixels to the joint space.
pub struct ImageTower {
    size: usize,
    mlp: usize,
    patch_weight: Parameter,
    class: Parameter,
    positions: Parameter,
    norm_pre: LayerNorm,
    blocks: ResidualBlocks,
    norm_post: LayerNorm,
    projection: Parameter,
}

/// What the image tower gives for n images, before any normalisation to unit length.
#[derive(Clone, Debug)]
pub struct ImageFeatures {
    /// Of the class token (n, D).
    pub image: Var,
    /// Of the patches, row by row (n, P, D), where they were asked for. Every patch goes through the last normalisation
    /// and the projection, as the class token does.
    pub patches: Option<Var>,
}

impl ImageTower {
    pub(super) fn new(s: &Scope<'_>, config: &ClipConfig) -> Result<Self> {
        let (width, patch, joint) = (config.vision.width, config.patch_size, config.joint);
        let scale = Init::Normal { std: 1.0 / (width as f32).sqrt() };
        let fan_in = (3 * patch * patch) as f32;
        let class = s.declare("class_embedding", [width], scale.clone())?;
        let positions = s.declare("positional_embedding", [config.patches() + 1, width], scale.clone())?;
        let projection = s.declare("proj", [width, joint], scale)?;
        let patch_init = Init::Normal { std: 1.0 / fan_in.sqrt() };
        let patch_weight = s.declare("conv1.weight", [width, 3, patch, patch], patch_init)?;
        let norm_pre = LayerNorm::new(&s.scope("ln_pre"), width, NORM_EPS)?;
        let (blocks, activation) = (s.scope("transformer.resblocks"), config.activation.into());
        let blocks = ResidualBlocks::new(&blocks, config.vision, activation, NORM_EPS, config.recompute)?;
        let norm_post = LayerNorm::new(&s.scope("ln_post"), width, NORM_EPS)?;
        let (size, mlp) = (config.image_size, config.vision.mlp);
        Ok(Self { size, mlp, patch_weight, class, positions, norm_pre, blocks, norm_post, projection })
    }

    /// Height and width of images, in pixels.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Normalised pixels (n, 3, H, W) to the last block's tokens (n, P + 1, width), the class token first.
    ///
    /// # Errors
    /// [`Error::Shape`] for images of another size.
    pub fn tokens(&self, pixels: &Var) -> Result<Var> {
        let &[images, 3, height, width] = pixels.shape() else { return Err(self.misshaped(pixels)) };
        if [height, width] != [self.size; 2] {
            return Err(self.misshaped(pixels));
        }
        let tape = pixels.tape();
        let patches = pixels.patch_embed(&self.patch_weight.on(tape))?;
        let width = patches.value().width();
        let zeros = tape.constant(Tensor::zeros(tape.gpu(), "class tokens", [images, 1, width])?);
        let class = zeros.add(&self.class.on(tape))?;
        let x = concat(&[&class, &patches], 1)?.add(&self.positions.on(tape))?;
        self.blocks.forward(&self.norm_pre.forward(&x)?, &AttentionOptions::default())
    }

    /// Tokens (.., width) to the joint space (.., D).
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    pub fn project(&self, tokens: &Var) -> Result<Var> {
        self.norm_post.forward(tokens)?.matmul(&self.projection.on(tokens.tape()))
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
        if !patches {
            return Ok(ImageFeatures { image: self.project(&class(&tokens)?)?, patches: None });
        }
        let all = self.project(&tokens)?;
        Ok(ImageFeatures { image: class(&all)?, patches: Some(all.slice(1, 1..count)?) })
    }

    fn misshaped(&self, pixels: &Var) -> Error {
        let expected = format!("(n, 3, {0}, {0})", self.size);
        Error::Shape { op: "image tower", argument: "pixels", expected, got: pixels.shape().to_vec() }
    }
}
