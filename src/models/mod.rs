//! Published models, number for number.

pub mod bicnet;
