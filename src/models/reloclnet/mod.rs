//! ReLoCLNet: queries and untrimmed videos are encoded apart, and trained with a video-level and a frame-level
//! contrastive loss (Zhang et al., "Video Corpus Moment Retrieval with Contrastive Learning", SIGIR 2021).
//!
//! The default is the official code's behaviour; [`ReloclnetConfig`] holds what differs from it.

mod encoders;
mod losses;
mod scores;

use serde::{Deserialize, Serialize};

use crate::data::moments::{BatchOptions, MomentBatch};
use crate::gpu::Gpu;
use crate::models::{Finish, Model, Stored};
use crate::nn::{Init, LinearInit, Parameter, Scope};
use crate::tensor::{Array, Tensor};
use crate::{Error, Result};

pub use encoders::{ClipLevels, StreamInput};
use encoders::{ContextEncoder, QueryEncoder};
pub use losses::{Losses, NegativeDraws};
pub use scores::SpanLogits;

/// What of a video the network sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Streams {
    /// What is seen and what is said, with cross attention between them: the published network.
    #[default]
    Both,
    /// What is seen alone, without cross attention.
    Video,
    /// What is said alone.
    Sub,
}

/// What padded clips do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// As in the official code: masked keys get -10,000 added to their scores, so that a row which sees no key attends
    /// to all of them, and the similarities of padded clips enter the span convolution next to the last clips.
    #[default]
    Official,
    /// Padded clips have no influence: their keys are left out and their similarities are 0.
    Masked,
}

/// The ranking loss of the video-level scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankingLoss {
    /// max(0, margin + negative - positive).
    #[default]
    Hinge,
    /// log(1 + exp(negative - positive)).
    Lse,
}

/// Sizes and options; the default is the official configuration for TVR with all features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReloclnetConfig {
    /// Width of every layer.
    pub hidden_size: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Width of what is seen in a clip, without endpoint features.
    pub video_dim: usize,
    /// Width of what is said in a clip, without endpoint features.
    pub sub_dim: usize,
    /// Width of a query's tokens.
    pub query_dim: usize,
    /// What of a video the network sees.
    pub streams: Streams,
    /// Whether clips carry where they start and end, as two more features ("tef").
    pub endpoints: bool,
    /// Positions of a video; every video is padded to them.
    pub max_clips: usize,
    /// Positions of a query.
    pub max_tokens: usize,
    /// Dropout of inputs and positions.
    pub input_dropout: f32,
    /// Dropout inside attention blocks.
    pub dropout: f32,
    /// Taps of the two span convolutions; odd.
    pub conv_kernel: usize,
    /// What padded clips do.
    pub padding: Padding,
    /// Standard deviation of initial weights.
    pub init_std: f32,
    /// The ranking loss of the video-level scores.
    pub ranking_loss: RankingLoss,
    /// Margin of the hinge.
    pub margin: f32,
    /// Weight of the loss on negative queries.
    pub weight_negative_query: f32,
    /// Weight of the loss on negative videos.
    pub weight_negative_video: f32,
    /// Weight of the span loss.
    pub weight_span: f32,
    /// Weight of FrameCL; 0 leaves it out.
    pub weight_frame: f32,
    /// Weight of VideoCL; 0 leaves it out.
    pub weight_video: f32,
    /// Negatives that are drawn from once hard negatives are on: the highest of a row.
    pub hard_pool: usize,
}

impl Default for ReloclnetConfig {
    fn default() -> Self {
        Self {
            hidden_size: 384,
            num_heads: 8,
            video_dim: 3072,
            sub_dim: 768,
            query_dim: 768,
            streams: Streams::Both,
            endpoints: true,
            max_clips: 128,
            max_tokens: 30,
            input_dropout: 0.1,
            dropout: 0.1,
            conv_kernel: 5,
            padding: Padding::Official,
            init_std: 0.02,
            ranking_loss: RankingLoss::Hinge,
            margin: 0.1,
            weight_negative_query: 1.0,
            weight_negative_video: 1.0,
            weight_span: 0.01,
            weight_frame: 0.03,
            weight_video: 0.03,
            hard_pool: 20,
        }
    }
}

impl ReloclnetConfig {
    /// How samples become the network's batches.
    pub fn batch_options(&self) -> BatchOptions {
        BatchOptions { clips: self.max_clips, endpoints: self.endpoints }
    }

    /// Of affine maps: normal weights, zero biases.
    fn linear_init(&self) -> LinearInit {
        LinearInit { weight: Init::Normal { std: self.init_std }, bias: Init::Constant(0.0) }
    }

    /// The streams' official names and input widths, endpoint features included.
    fn stream_widths(&self) -> Vec<(&'static str, usize)> {
        let extra = if self.endpoints { 2 } else { 0 };
        let all = [("video", self.video_dim + extra), ("sub", self.sub_dim + extra)];
        match self.streams {
            Streams::Both => all.to_vec(),
            Streams::Video => all[..1].to_vec(),
            Streams::Sub => all[1..].to_vec(),
        }
    }
}

/// The network.
pub struct Reloclnet {
    stored: Stored<ReloclnetConfig>,
    query: QueryEncoder,
    context: ContextEncoder,
    /// (1, 1, taps) each.
    start_predictor: Parameter,
    end_predictor: Parameter,
}

/// The model's inputs for one batch, on the GPU.
#[derive(Clone, Debug)]
pub struct ReloclnetInputs {
    /// Token features (B, Lq, query_dim).
    pub query: Tensor,
    /// 1 for tokens (B, Lq).
    pub query_mask: Tensor,
    /// The streams that the configuration has, video first.
    pub streams: Vec<StreamInput>,
    /// First and last clip of each label, inclusive.
    pub spans: Vec<[u32; 2]>,
}

impl ReloclnetInputs {
    /// Uploads a batch that was made with [`ReloclnetConfig::batch_options`].
    ///
    /// # Errors
    /// [`Error::Argument`] if the batch lacks a stream that the configuration has; device errors.
    pub fn upload(gpu: &Gpu, config: &ReloclnetConfig, batch: &MomentBatch) -> Result<Self> {
        Ok(Self {
            query: Tensor::from_array(gpu, &batch.query)?,
            query_mask: Tensor::from_array(gpu, &batch.query_mask)?,
            streams: upload_streams(gpu, config, [&batch.video, &batch.sub], &batch.clip_mask)?,
            spans: batch.spans.clone(),
        })
    }
}

/// Uploads the padded streams of `[video, sub]` that the configuration has, with their common mask.
///
/// # Errors
/// As [`ReloclnetInputs::upload`].
pub fn upload_streams(
    gpu: &Gpu,
    config: &ReloclnetConfig,
    streams: [&Option<Array>; 2],
    mask: &Array,
) -> Result<Vec<StreamInput>> {
    let mask = Tensor::from_array(gpu, mask)?;
    let wanted = match config.streams {
        Streams::Both => &streams[..],
        Streams::Video => &streams[..1],
        Streams::Sub => &streams[1..],
    };
    let upload = |stream: &&Option<Array>| {
        let missing =
            || Error::Argument { op: "ReLoCLNet", argument: "batch", why: "lacks a stream of the model".into() };
        let features = Tensor::from_array(gpu, stream.as_ref().ok_or_else(missing)?)?;
        Ok(StreamInput { features, mask: mask.clone() })
    };
    wanted.iter().map(upload).collect()
}

impl Model for Reloclnet {
    type Config = ReloclnetConfig;

    fn declare(config: &ReloclnetConfig, s: &Scope<'_>) -> Result<Finish<Self>> {
        if config.conv_kernel.is_multiple_of(2) {
            let why = format!("of {} taps is not odd", config.conv_kernel);
            return Err(Error::Argument { op: "ReLoCLNet", argument: "conv_kernel", why });
        }
        let widths = config.stream_widths();
        let query = QueryEncoder::new(s, config, widths.len())?;
        let context = ContextEncoder::new(s, config, &widths)?;
        // PyTorch's default for a convolution with one input channel.
        let conv = Init::Uniform { bound: 1.0 / (config.conv_kernel as f32).sqrt() };
        let taps = [1, 1, config.conv_kernel];
        let start_predictor = s.declare("merged_st_predictor.weight", taps, conv.clone())?;
        let end_predictor = s.declare("merged_ed_predictor.weight", taps, conv)?;
        Ok(Box::new(move |stored| Self { stored, query, context, start_predictor, end_predictor }))
    }

    fn stored(&self) -> &Stored<ReloclnetConfig> {
        &self.stored
    }
}

impl Reloclnet {
    /// The streams by their official names: `video`, `sub`, or both in this order.
    pub fn stream_names(&self) -> Vec<&'static str> {
        self.config().stream_widths().into_iter().map(|(name, _)| name).collect()
    }

    /// The taps (taps) of the two span convolutions, of starts and of ends.
    pub fn span_taps(&self) -> Result<[Tensor; 2]> {
        let taps = |p: &Parameter| p.value().reshape([self.config().conv_kernel]);
        Ok([taps(&self.start_predictor)?, taps(&self.end_predictor)?])
    }
}
