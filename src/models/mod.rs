//! Published models, number for number.

pub mod bert;
pub mod bicnet;
pub mod clip;
pub mod clip4clip;
pub mod eercf;
pub mod glccl;
pub mod heads;
pub mod mean_pool;
pub mod pair;
pub mod pairing;
pub mod reloclnet;
pub mod two_space;
