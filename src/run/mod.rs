//! Runs: settings, data, a model, training and evaluation, in one piece for every family of models.
//!
//! Errors that are not named here are those of the readers in [`crate::data`], of models, of the loops in [`crate::train`]
//! and of the evaluations in [`crate::retrieval`].
//!
//! A family is its settings: a struct that is the run's `config.json` and implements [`Task`]. A [`Plan`] resolves them
//! from a recipe, a file and what a user sets by name, opens the data and trains in a run folder:
//!
//! ```no_run
//! # #[cfg(feature = "datasets")]
//! # fn main() -> reelgrad::Result<()> {
//! use reelgrad::run::{Plan, Request, bicnet};
//! use reelgrad::train::{Silent, StopFlag};
//!
//! let set = vec!["data.root=MSRVTT".parse()?, "model.embedding_dim=256".parse()?];
//! let mut plan = Plan::<bicnet::Settings>::new(&Request { set, ..Request::default() })?;
//! let (data, _) = plan.open()?;
//! let mut trained = plan.train(&reelgrad::Gpu::new()?, &data, &mut Silent, &StopFlag::new())?;
//! trained.load_best()?;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "datasets"))]
//! # fn main() {}
//! ```

#[cfg(feature = "datasets")]
pub mod bicnet;
#[cfg(all(feature = "datasets", feature = "text"))]
pub mod clip;
#[cfg(feature = "datasets")]
pub mod moments;
mod plan;
mod settings;
mod spread;
mod trained;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Result;
use crate::data::moments::Problems;
use crate::gpu::Gpu;
use crate::models::Model;
use crate::train::{Checkpoint, Figures, FitHooks, FitReport};

pub use plan::{Asked, Plan, Request, free_folder, stored};
pub use settings::{Setting, list, with};
pub use spread::Spread;
pub use trained::{Trained, profile, train, train_all};

/// The parts of a dataset.
pub struct Parts<P> {
    /// What is trained on.
    pub train: P,
    /// What chooses the best checkpoint.
    pub validation: P,
    /// What the final numbers are of.
    pub test: P,
}

impl<P> Parts<P> {
    /// The parts with their names.
    pub fn named(&self) -> [(&'static str, &P); 3] {
        [("training", &self.train), ("validation", &self.validation), ("test", &self.test)]
    }
}

/// The settings of a family of models: everything that decides what a run comes to, and how it is done.
///
/// As JSON they are an object of the sections `data`, `model`, `fit` and what else the family needs; `fit` has `steps`,
/// `seed`, `log_every` and `evaluate_every`.
pub trait Task: Clone + Serialize + DeserializeOwned {
    /// What is trained.
    type Model: Model;
    /// The parts of a dataset.
    type Data;
    /// What an evaluation gives.
    type Evaluated;

    /// The model's name, as people write it.
    const NAME: &'static str;

    /// The settings that a new run starts from: the published recipe, or one for small networks that a processor trains
    /// within minutes. `asked` holds what a user sets, unchecked.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] where the recipe is not for what is asked; those of reading files that it depends on.
    fn recipe(asked: &Value, small: bool) -> Result<Self>;

    /// Whether what cannot be read in the data is left out, and counted.
    fn is_lenient(&self) -> bool {
        false
    }

    /// Opens the data.
    fn open(&self, problems: &mut Problems) -> Result<Self::Data>;

    /// Sets what the data decide, such as widths of features, and steps that are counted in epochs.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] for data that cannot be trained on.
    fn adapt(&mut self, data: &Self::Data, asked: &Asked) -> Result<()>;

    /// A line a part: what the data hold.
    fn describe(&self, data: &Self::Data) -> Vec<String>;

    /// The model, with initial values.
    fn build(&self, gpu: &Gpu) -> Result<Self::Model>;

    /// Loads what a new run starts from, where that is not the model's initial values.
    fn load_initial(&self, _model: &Self::Model) -> Result<()> {
        Ok(())
    }

    /// Trains.
    fn fit(
        &self,
        model: &Self::Model,
        data: &Self::Data,
        resume: Option<&Checkpoint>,
        hooks: FitHooks<'_>,
    ) -> Result<FitReport>;

    /// Evaluates on the part that chooses the best checkpoint.
    fn evaluate(&self, model: &Self::Model, data: &Self::Data) -> Result<Self::Evaluated>;

    /// The figure to maximise, and what to log.
    fn figures(evaluated: &Self::Evaluated) -> Figures;

    /// A line for people.
    fn line(evaluated: &Self::Evaluated) -> String;
}

/// Refuses a dataset without a folder.
#[cfg(feature = "datasets")]
fn expect_root(root: &std::path::Path) -> Result<()> {
    if root.as_os_str().is_empty() {
        let why = "the dataset needs a folder".to_string();
        return Err(crate::Error::Setting { name: "data.root".into(), value: "empty".into(), why });
    }
    Ok(())
}

/// Recalls and the median rank, for people.
#[cfg(feature = "datasets")]
fn recalls(m: &crate::retrieval::RetrievalMetrics) -> String {
    format!("R@1 {:.1}, R@5 {:.1}, R@10 {:.1}, MdR {:.1}", m.r1, m.r5, m.r10, m.mdr)
}
