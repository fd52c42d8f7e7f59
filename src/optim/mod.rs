//! Optimisation: learning-rate schedules.

pub mod schedule;

pub use schedule::{ReduceLrOnPlateau, Schedule};
