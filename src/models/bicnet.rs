//! BiC-Net: local spatio-temporal residual transformer, global temporal transformer and text branch, two embedding
//! spaces (Han et al., "BiC-Net: Learning Efficient Spatio-Temporal Relation for Text-Video Retrieval", 2021/2023).
//!
//! The default is the official code's behaviour; [`BicnetConfig`] holds the options that follow the paper's words where
//! the two differ.

use serde::{Deserialize, Serialize};

use crate::autograd::{AttentionOptions, Tape, Var};
use crate::kernels::elementwise::unary::Activation;
use crate::models::two_space::{Embeddings, Hinge, TwoSpaceInputs, TwoSpaceModel};
use crate::models::{Finish, Model, Stored};
use crate::nn::{
    ChannelAttentionPool, FeedForward, Init, LayerNorm, Linear, MultiHeadAttention, NormPlace, Parameter, Scope,
    TransformerBlock,
};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// What the second encoder of each region layer attends over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemporalMode {
    /// The regions of one frame, again: what the official code does, although it names the encoder temporal.
    #[default]
    Official,
    /// One region's frames: (B·R, T, D).
    PerRegionOverTime,
    /// All regions of all frames: (B, T·R, D), the intent that a comment in the official code states.
    Joint,
}

/// Sizes and options; the default is the official configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BicnetConfig {
    /// Width of the embeddings and of every layer.
    pub embedding_dim: usize,
    /// Width of frame features.
    pub global_dim: usize,
    /// Width of region features.
    pub region_dim: usize,
    /// Width of token features.
    pub text_dim: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Regions a frame.
    pub region_num: usize,
    /// Layers of both transformers.
    pub layer_num: usize,
    /// Hidden width of feed-forward networks, as a multiple of the width.
    pub mlp_ratio: f64,
    /// Dropout of position codes and poolings.
    pub dropout: f32,
    /// Dropout inside the transformers.
    pub attn_drop: f32,
    /// Heads of the attention poolings.
    pub pool_heads: usize,
    /// Rows of the positional tables.
    pub max_positions: usize,
    /// Margin of the hinge losses.
    pub margin: f32,
    /// Hardest negatives instead of the sum over all.
    pub max_violation: bool,
    /// What the second encoder of a region layer attends over.
    pub temporal_mode: TemporalMode,
    /// Whether the second encoder sees a code of the frame's position; for the modes that attend over time.
    pub temporal_positions: bool,
    /// Standard deviation of the initial values.
    pub init_std: f32,
}

impl Default for BicnetConfig {
    fn default() -> Self {
        Self {
            embedding_dim: 1024,
            global_dim: 2560,
            region_dim: 2048,
            text_dim: 1536,
            num_heads: 16,
            region_num: 36,
            layer_num: 4,
            mlp_ratio: 2.0,
            dropout: 0.1,
            attn_drop: 0.1,
            pool_heads: 2,
            max_positions: 1000,
            margin: 0.2,
            max_violation: false,
            temporal_mode: TemporalMode::Official,
            temporal_positions: false,
            init_std: 0.01,
        }
    }
}

impl BicnetConfig {
    fn init(&self) -> Init {
        Init::TruncatedNormal { std: self.init_std }
    }
}

/// The network.
pub struct Bicnet {
    stored: Stored<BicnetConfig>,
    text: Ends,
    region: Ends,
    positions_region: Parameter,
    region_layers: Vec<[TransformerBlock; 2]>,
    norm_residual: LayerNorm,
    global: Ends,
    positions_global: Parameter,
    global_layers: Vec<TransformerBlock>,
}

/// Added to the deviation by every normalisation.
const NORM_EPS: f32 = 1e-6;

/// What every branch begins and ends with: a projection, and a pooling over the positions; both are normalised.
struct Ends {
    project: Linear,
    norm: LayerNorm,
    pool: ChannelAttentionPool,
    norm_out: LayerNorm,
}

impl Ends {
    fn new(s: &Scope<'_>, c: &BicnetConfig, inputs: usize, names: [&str; 4]) -> Result<Self> {
        let (d, init) = (c.embedding_dim, c.init());
        let [project, norm, pool, norm_out] = names.map(|name| s.scope(name));
        Ok(Self {
            project: Linear::new(&project, inputs, d, &init)?,
            norm: LayerNorm::unbiased(&norm, d, NORM_EPS, &init)?,
            pool: ChannelAttentionPool::new(&pool, d, 2 * d, c.pool_heads, c.dropout, &init)?,
            norm_out: LayerNorm::unbiased(&norm_out, d, NORM_EPS, &init)?,
        })
    }

    /// (.., inputs) to (.., D).
    fn begin(&self, x: &Var) -> Result<Var> {
        self.norm.forward(&self.project.forward(x)?)
    }

    /// (B, S, D) to (B, D).
    fn end(&self, x: &Var, mask: Option<&Tensor>) -> Result<Var> {
        self.norm_out.forward(&self.pool.forward(x, mask)?)
    }
}

/// Features that do not fit are [`Error::Shape`] or [`Error::ShapeMismatch`].
impl Bicnet {
    /// Token features (B, L, text_dim) with their mask (B, L) to (B, D).
    pub fn encode_tokens(&self, text: &Var, mask: &Tensor) -> Result<Var> {
        self.text.end(&self.text.begin(text)?, Some(mask))
    }

    /// Frame features (B, T, global_dim) to (B, D).
    pub fn encode_global(&self, frames: &Var, mask: Option<&Tensor>) -> Result<Var> {
        self.global.end(&self.encode_frames(frames, mask)?, mask)
    }

    /// The global branch before its pooling: (B, T, D).
    pub fn encode_frames(&self, frames: &Var, mask: Option<&Tensor>) -> Result<Var> {
        let &[_, t, _] = frames.shape() else {
            return Err(shape_error("global", "(batch, frames, global_dim)", frames));
        };
        let mut x = self.global.begin(frames)?;
        x = x.add(&self.positions(&self.positions_global, t, x.tape())?)?.dropout(self.config().dropout)?;
        let masks = AttentionOptions { key_mask: mask.cloned(), ..Default::default() };
        for layer in &self.global_layers {
            x = layer.forward(&x, &masks)?;
        }
        Ok(x)
    }

    /// Region features (B, T, R, region_dim), R as configured, to (B, D).
    pub fn encode_region(&self, regions: &Var, mask: Option<&Tensor>) -> Result<Var> {
        self.region.end(&self.encode_region_frames(regions, mask)?, mask)
    }

    /// The region branch before its pooling over time: (B, T, D).
    pub fn encode_region_frames(&self, regions: &Var, mask: Option<&Tensor>) -> Result<Var> {
        let (d, r) = (self.config().embedding_dim, self.config().region_num);
        let &[b, t, regions_given, _] = regions.shape() else {
            return Err(shape_error("region", "(batch, frames, regions, region_dim)", regions));
        };
        if regions_given != r {
            return Err(shape_error("region", &format!("(batch, frames, {r}, region_dim)"), regions));
        }
        let x = self.region.begin(regions)?.reshape([b * t, r, d])?;
        // The position is the region's number; the official branch has no code of time.
        let mut x = x.add(&self.positions(&self.positions_region, r, x.tape())?)?.dropout(self.config().dropout)?;
        let unmasked = AttentionOptions::default();
        for [spatial, temporal] in &self.region_layers {
            let s = self.norm_residual.of_sum(&spatial.forward(&x, &unmasked)?, &x)?;
            let u = self.temporal(temporal, &s, [b, t], mask)?;
            let u = self.norm_residual.of_sum(&u, &s)?;
            x = self.norm_residual.of_sum(&u, &x)?;
        }
        x.mean(1)?.reshape([b, t, d])
    }

    /// The second encoder of a region layer, on x (B·T, R, D).
    fn temporal(&self, block: &TransformerBlock, x: &Var, [b, t]: [usize; 2], mask: Option<&Tensor>) -> Result<Var> {
        let (r, d) = (self.config().region_num, self.config().embedding_dim);
        if self.config().temporal_mode == TemporalMode::Official {
            return block.forward(x, &AttentionOptions::default());
        }
        let mut x = x.reshape([b, t, r, d])?;
        if self.config().temporal_positions {
            x = x.add(&self.positions(&self.positions_global, t, x.tape())?.reshape([t, 1, d])?)?;
        }
        // A padded frame's regions are no keys; each sequence needs the mask of its own video.
        let repeat = |per_video: usize, per_frame: usize| -> Result<AttentionOptions> {
            let Some(mask) = mask else { return Ok(AttentionOptions::default()) };
            let values = mask.to_vec()?;
            let mut keys = Vec::with_capacity(values.len() * per_video * per_frame);
            for video in values.chunks_exact(t) {
                for _ in 0..per_video {
                    video.iter().for_each(|&m| keys.extend(std::iter::repeat_n(m, per_frame)));
                }
            }
            let key_mask = Tensor::from_slice(mask.gpu(), [b * per_video, t * per_frame], &keys)?;
            Ok(AttentionOptions { key_mask: Some(key_mask), ..Default::default() })
        };
        match self.config().temporal_mode {
            TemporalMode::PerRegionOverTime => {
                let x = x.permute(&[0, 2, 1, 3])?.reshape([b * r, t, d])?;
                let y = block.forward(&x, &repeat(r, 1)?)?;
                y.reshape([b, r, t, d])?.permute(&[0, 2, 1, 3])?.reshape([b * t, r, d])
            }
            _ => block.forward(&x.reshape([b, t * r, d])?, &repeat(1, r)?)?.reshape([b * t, r, d]),
        }
    }

    /// The first `len` rows of a positional table, as a constant.
    fn positions(&self, table: &Parameter, len: usize, tape: &Tape) -> Result<Var> {
        if len > self.config().max_positions {
            return Err(Error::IndexOutOfRange {
                op: "positional table",
                index: len as u64,
                len: self.config().max_positions as u64,
            });
        }
        Ok(tape.constant(table.value().view(0, [len, self.config().embedding_dim])?))
    }
}

impl Model for Bicnet {
    type Config = BicnetConfig;

    fn declare(config: &BicnetConfig, s: &Scope<'_>) -> Result<Finish<Self>> {
        let (c, d, init) = (config, config.embedding_dim, config.init());
        let (regions, frames) = (s.scope("S_T_trans_region"), s.scope("T_Trans_global"));
        let layer = |branch: &Scope<'_>, l: usize, part: usize| {
            encoder_layer(&branch.scope(l).scope("encoder_layers").scope(part), c, &init)
        };
        let table = positional_table(c.max_positions, d);
        let positions = |name: &str| s.scope(name).declare_table("pe", [c.max_positions, d], table.clone());
        let region = Ends::new(s, c, c.region_dim, ["proj_region", "norm_region", "T_pool_region", "norm_1"])?;
        let positions_region = positions("embedding_region")?;
        let region_layers =
            (0..c.layer_num).map(|l| Ok([layer(&regions, l, 0)?, layer(&regions, l, 1)?])).collect::<Result<_>>()?;
        let norm_residual = LayerNorm::unbiased(&s.scope("norm"), d, NORM_EPS, &init)?;
        let global = Ends::new(s, c, c.global_dim, ["proj_global", "norm_global", "T_pool_global", "norm_2"])?;
        let positions_global = positions("embedding_global")?;
        let global_layers = (0..c.layer_num).map(|l| layer(&frames, l, 0)).collect::<Result<_>>()?;
        let text = Ends::new(s, c, c.text_dim, ["proj_text", "norm_text", "pool_text", "norm_3"])?;
        Ok(Box::new(move |stored| Self {
            stored,
            text,
            region,
            positions_region,
            region_layers,
            norm_residual,
            global,
            positions_global,
            global_layers,
        }))
    }

    fn stored(&self) -> &Stored<BicnetConfig> {
        &self.stored
    }
}

impl TwoSpaceModel for Bicnet {
    fn width(&self) -> usize {
        self.config().embedding_dim
    }

    fn hinge(&self) -> Hinge {
        Hinge { margin: self.config().margin, max_violation: self.config().max_violation }
    }

    fn encode_text(&self, tape: &Tape, text: &Tensor, mask: &Tensor) -> Result<Var> {
        self.encode_tokens(&tape.constant(text.clone()), mask)
    }

    fn forward(&self, tape: &Tape, inputs: &TwoSpaceInputs) -> Result<Embeddings> {
        let frames = inputs.frame_mask.as_ref();
        Ok(Embeddings {
            text: self.encode_text(tape, &inputs.text, &inputs.text_mask)?,
            region: self.encode_region(&tape.constant(inputs.region.clone()), frames)?,
            global: self.encode_global(&tape.constant(inputs.global.clone()), frames)?,
        })
    }
}

fn shape_error(argument: &'static str, expected: &str, got: &Var) -> Error {
    Error::Shape { op: "BiC-Net", argument, expected: expected.into(), got: got.shape().to_vec() }
}

/// Post-norm: h = Dropout(N(MHA(x) + x)), y = N(FFN(h) + h), with dropout before the GELU.
fn encoder_layer(s: &Scope<'_>, c: &BicnetConfig, init: &Init) -> Result<TransformerBlock> {
    let d = c.embedding_dim;
    let hidden = (d as f64 * c.mlp_ratio) as usize;
    // The official name lacks an r.
    let (first, second) = (s.scope("self_attention_layer"), s.scope("pointwise_feedfoward_layer"));
    let names = ["query_projection", "key_projection", "value_projection", "final_projection"];
    let attention = MultiHeadAttention::new(&first.scope("sublayer"), names, d, c.num_heads, c.attn_drop, init)?;
    let norm = |s: &Scope<'_>| LayerNorm::unbiased(&s.scope("layer_normalization"), d, NORM_EPS, init);
    let norm_attention = norm(&first)?;
    let forward = second.scope("sublayer.feed_forward");
    let feed_forward = FeedForward {
        expand: Linear::new(&forward.scope(0), d, hidden, init)?,
        activation: Activation::Gelu,
        contract: Linear::new(&forward.scope(3), hidden, d, init)?,
        dropout_hidden: c.attn_drop,
        dropout_output: c.attn_drop,
    };
    let norm_feed_forward = norm(&second)?;
    Ok(TransformerBlock {
        place: NormPlace::Post,
        attention,
        norm_attention,
        feed_forward,
        norm_feed_forward,
        dropout_between: c.attn_drop,
    })
}

/// Sinusoids as the official code has them: the frequency of channel c is 10000^(-2c/dim) with c the channel itself, not
/// its pair's number; even channels take the sine, odd ones the cosine. Row-major (positions, dim), in f32 as PyTorch.
pub fn positional_table(positions: usize, dim: usize) -> Vec<f32> {
    let wavelengths: Vec<f32> = (0..dim).map(|c| 10000f32.powf((2 * c) as f32 / dim as f32)).collect();
    (0..positions)
        .flat_map(|p| {
            wavelengths.iter().enumerate().map(move |(c, &w)| {
                let angle = p as f32 / w;
                if c % 2 == 0 { angle.sin() } else { angle.cos() }
            })
        })
        .collect()
}
