//! Layers: they declare their parameters in a [`Scope`] when they are made, and compute on variables of a tape.

mod attention;
mod builder;
mod init;
mod linear;
mod norm;
mod parameter;
mod pooling;
mod transformer;

pub use attention::MultiHeadAttention;
pub use builder::{Scope, StoreBuilder, shapes};
pub use init::Init;
pub use linear::{Embedding, Linear, LinearInit};
pub use norm::LayerNorm;
pub use parameter::{Parameter, ParameterStore, Shard};
pub use pooling::ChannelAttentionPool;
pub use transformer::{AttentionBlock, FeedForward, NormPlace, TransformerBlock};
