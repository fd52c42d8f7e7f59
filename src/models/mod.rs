//! Published models, number for number.

pub mod bert;
pub mod bicnet;
pub mod mean_pool;
pub mod reloclnet;
pub mod two_space;
