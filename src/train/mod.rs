//! Training: run folders, checkpoints, logs.
