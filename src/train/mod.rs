//! Training: run folders, checkpoints, logs.

pub mod checkpoint;
#[cfg(feature = "plot")]
mod curves;
mod fit;
mod fit_core;
mod fit_moments;
mod fit_pairs;
mod history;
mod model_files;
mod run_folder;
mod sampler;
mod session;

pub use crate::progress::{Progress, Silent};
pub use crate::stop::StopFlag;
pub use checkpoint::Checkpoint;
pub use fit::{FitOptions, fit};
pub use fit_core::FitCore;
pub use fit_moments::{MomentFitOptions, fit_moments, is_decayed};
pub use fit_pairs::{PairFitOptions, fit_pairs, is_frozen};
pub use history::{History, Record};
pub use model_files::open;
#[cfg(all(feature = "datasets", feature = "images", feature = "text"))]
pub(crate) use run_folder::slot_path;
pub use run_folder::{Resumed, RunFolder, Slot};
pub use sampler::Sampler;
pub use session::{Evaluate, Figures, FitHooks, FitReport};
