//! Optimisation: Adam, AdamW and BertAdam over a store's flat buffers, and learning-rate schedules.

mod optimizer;
pub mod schedule;

pub use optimizer::{Algorithm, GroupOptions, Moments, Optimizer};
pub use schedule::{ReduceLrOnPlateau, Schedule};
