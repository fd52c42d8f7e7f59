//! What every model has: a configuration, parameters, and files of them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Result;
use crate::data::formats::safetensors;
use crate::gpu::Gpu;
use crate::nn::{self, ParameterStore, Scope, StoreBuilder};

/// A model's configuration, and the parameters that it declared.
pub struct Stored<C> {
    /// Sizes and options.
    pub config: C,
    /// The parameters.
    pub store: ParameterStore,
}

/// Makes a model of what it is stored as.
pub type Finish<M> = Box<dyn FnOnce(Stored<<M as Model>::Config>) -> M>;

/// A network with parameters.
pub trait Model: Sized {
    /// Sizes and options.
    type Config: Clone + Serialize + DeserializeOwned;

    /// Declares the parameters under their official names and shapes.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] for sizes that do not fit each other.
    fn declare(config: &Self::Config, s: &Scope<'_>) -> Result<Finish<Self>>;

    /// What [`Finish`] was given.
    fn stored(&self) -> &Stored<Self::Config>;

    /// Sizes and options.
    fn config(&self) -> &Self::Config {
        &self.stored().config
    }

    /// The parameters.
    fn store(&self) -> &ParameterStore {
        &self.stored().store
    }

    /// The model whose parameters `builder` makes: what they are at first, which are trained, and their precision.
    ///
    /// # Errors
    /// Those of [`Model::declare`] and [`StoreBuilder::build`].
    fn build(config: Self::Config, builder: StoreBuilder<'_>) -> Result<Self> {
        let (store, finish) = builder.build(|s| Self::declare(&config, s))?;
        Ok(finish(Stored { config, store }))
    }

    /// A model with initial values drawn from `seed`.
    fn new(gpu: &Gpu, config: Self::Config, seed: u64) -> Result<Self> {
        Self::build(config, StoreBuilder::new(gpu, seed))
    }

    /// As [`Model::new`]; what `frozen` names is not trained. With everything frozen it takes half of the memory.
    fn frozen(gpu: &Gpu, config: Self::Config, seed: u64, frozen: impl Fn(&str) -> bool) -> Result<Self> {
        Self::build(config, StoreBuilder::new(gpu, seed).freeze(frozen))
    }

    /// The model of this configuration, with the parameters of a safetensors file under their official names; PyTorch's
    /// prefix `module.` may stand before them.
    ///
    /// # Errors
    /// [`crate::Error::Io`], [`crate::Error::Malformed`] for the file; [`crate::Error::MissingParameter`], [`crate::Error::UnknownParameter`],
    /// [`crate::Error::ParameterShape`] and [`crate::Error::NonFinite`] where it does not fit the configuration; those of
    /// [`Model::build`].
    fn load(gpu: &Gpu, config: Self::Config, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let arrays = safetensors::read(path)?;
        Self::build(config, StoreBuilder::from_arrays(gpu, path.display().to_string(), arrays))
    }

    /// Writes the parameters to a safetensors file that [`Model::load`] and PyTorch read.
    ///
    /// # Errors
    /// [`crate::Error::Io`]; device errors.
    fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        safetensors::write(path, &self.store().to_arrays()?, &BTreeMap::new())
    }

    /// Names and shapes of the parameters, tables included; nothing is allocated.
    fn shapes(config: Self::Config) -> Result<BTreeMap<String, Vec<usize>>> {
        nn::shapes(|s| Self::declare(&config, s))
    }
}
