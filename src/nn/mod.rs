//! Layers: they declare their parameters in a store when they are made, and compute on variables of a tape.

mod attention;
mod linear;
mod norm;
mod parameter;
mod pooling;
mod transformer;

pub use attention::MultiHeadAttention;
pub use linear::{Embedding, Linear, LinearInit};
pub use norm::LayerNorm;
pub use parameter::{Init, Parameter, ParameterStore, Shard};
pub use pooling::ChannelAttentionPool;
pub use transformer::{AttentionBlock, FeedForward, NormPlace, TransformerBlock};
