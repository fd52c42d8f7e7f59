//! Training: run folders, checkpoints, logs.

pub mod checkpoint;
#[cfg(feature = "plot")]
mod curves;
mod fit;
mod history;
mod interrupt;
mod model_files;
mod progress;
mod run_folder;
mod sampler;

pub use checkpoint::Checkpoint;
pub use fit::{Figures, FitHooks, FitOptions, FitReport, fit};
pub use history::{History, Record};
pub use interrupt::StopFlag;
pub use progress::{Progress, Silent};
pub use run_folder::{Resumed, RunFolder, Slot};
pub use sampler::{Position, Sampler};
