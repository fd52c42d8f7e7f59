//! Training: run folders, checkpoints, logs.

pub mod checkpoint;

pub use checkpoint::Checkpoint;
