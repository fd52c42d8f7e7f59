//! Losses as scalars.

pub mod cross_entropy;
pub mod hinge;
pub mod total;
