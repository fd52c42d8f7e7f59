//! Published models, number for number.

pub mod bert;
pub mod bicnet;
pub mod clip;
pub mod clip4clip;
pub mod eercf;
pub mod glccl;
pub mod heads;
pub mod mean_pool;
mod model;
pub mod pairing;
pub mod reloclnet;
#[cfg(feature = "text")]
pub mod text_image;
pub mod towers;
pub mod two_space;

pub use model::{Finish, Model, Stored};
