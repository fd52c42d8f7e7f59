//! Models from run folders, and as single files.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::checkpoint;
use super::run_folder::{CONFIG, RunFolder, Slot, slot_path};
use crate::data::formats::safetensors;
use crate::gpu::Gpu;
use crate::models::bicnet::{Bicnet, BicnetConfig};
use crate::models::reloclnet::{Reloclnet, ReloclnetConfig};
use crate::models::two_space::TwoSpaceModel;
use crate::tensor::Array;
use crate::{Error, Result};

/// The configuration and the parameters of a checkpoint in the run folder `run`, and where they are from.
fn of_run<C: DeserializeOwned>(run: &Path, slot: Slot) -> Result<(C, BTreeMap<String, Array>, String)> {
    let path = run.join(CONFIG);
    let config = RunFolder::config(run)?;
    let model = config.get("model").cloned().ok_or_else(|| Error::malformed(&path, "model", "is missing"))?;
    let config = serde_json::from_value(model).map_err(|e| Error::malformed(&path, "model", e))?;
    let dir = slot_path(run, slot);
    Ok((config, checkpoint::load_model(&dir)?, dir.display().to_string()))
}

macro_rules! model_files {
    ($model:ident, $config:ident) => {
        impl $model {
            /// The model of a checkpoint in the run folder `run`, with the run's configuration. Every byte is verified.
            ///
            /// # Errors
            /// [`Error::Io`] when there is no run; [`Error::Malformed`] for a configuration without `model`;
            /// [`Error::Checkpoint`]; those of `load`.
            pub fn open(gpu: &Gpu, run: impl AsRef<Path>, slot: Slot) -> Result<Self> {
                let (config, arrays, origin) = of_run(run.as_ref(), slot)?;
                let model = Self::new(gpu, config, 0)?;
                model.store().load(&origin, &arrays)?;
                Ok(model)
            }

            /// The model of this configuration, with the parameters of a safetensors file under their official names;
            /// PyTorch's prefix `module.` may stand before them.
            ///
            /// # Errors
            /// [`Error::Io`], [`Error::Malformed`] for the file; [`Error::MissingParameter`],
            /// [`Error::UnknownParameter`], [`Error::ParameterShape`] and [`Error::NonFinite`] where it does not fit the
            /// configuration; those of `new`.
            pub fn load(gpu: &Gpu, config: $config, path: impl AsRef<Path>) -> Result<Self> {
                let path = path.as_ref();
                let arrays = safetensors::read(path)?;
                let model = Self::new(gpu, config, 0)?;
                model.store().load(&path.display().to_string(), &arrays)?;
                Ok(model)
            }

            /// Writes the parameters to a safetensors file that `load` and PyTorch read.
            ///
            /// # Errors
            /// [`Error::Io`]; device errors.
            pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
                safetensors::write(path, &self.store().to_arrays()?, &BTreeMap::new())
            }
        }
    };
}

model_files!(Bicnet, BicnetConfig);
model_files!(Reloclnet, ReloclnetConfig);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::gpus;
    use crate::train::Checkpoint;
    use serde_json::json;

    fn tiny() -> BicnetConfig {
        BicnetConfig {
            embedding_dim: 8,
            global_dim: 6,
            region_dim: 5,
            text_dim: 7,
            num_heads: 2,
            region_num: 3,
            layer_num: 1,
            max_positions: 10,
            ..BicnetConfig::default()
        }
    }

    #[test]
    fn models_come_back_from_runs_and_files() {
        let gpu = &gpus()[0];
        let model = Bicnet::new(gpu, tiny(), 5).unwrap();
        let arrays = model.store().to_arrays().unwrap();
        let folder = tempfile::tempdir().unwrap();

        let run = folder.path().join("run");
        let mut open_run = RunFolder::create(&run, &json!({ "model": tiny() })).unwrap();
        assert!(matches!(Bicnet::open(gpu, &run, Slot::Best), Err(Error::Checkpoint { .. })));
        let checkpoint = Checkpoint { model: arrays.clone(), state: json!({ "step": 1 }), ..Default::default() };
        open_run.save(Slot::Best, &checkpoint).unwrap();
        let opened = Bicnet::open(gpu, &run, Slot::Best).unwrap();
        assert_eq!((opened.config(), opened.store().to_arrays().unwrap()), (&tiny(), arrays.clone()));

        let file = folder.path().join("model.safetensors");
        model.save(&file).unwrap();
        assert_eq!(Bicnet::load(gpu, tiny(), &file).unwrap().store().to_arrays().unwrap(), arrays);
        let prefixed: BTreeMap<String, Array> =
            arrays.iter().map(|(name, array)| (format!("module.{name}"), array.clone())).collect();
        safetensors::write(&file, &prefixed, &BTreeMap::new()).unwrap();
        assert_eq!(Bicnet::load(gpu, tiny(), &file).unwrap().store().to_arrays().unwrap(), arrays);
    }

    #[test]
    fn what_is_missing_or_does_not_fit_is_named() {
        let gpu = &gpus()[0];
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Bicnet::open(gpu, folder.path(), Slot::Last), Err(Error::Io { .. })));
        for config in [json!({}), json!({ "model": { "num_heads": "two" } })] {
            std::fs::write(folder.path().join(CONFIG), config.to_string()).unwrap();
            match Bicnet::open(gpu, folder.path(), Slot::Last).map(|_| ()) {
                Err(Error::Malformed { place, .. }) => assert_eq!(place, "model"),
                other => panic!("{other:?}"),
            }
        }
        let file = folder.path().join("model.safetensors");
        Bicnet::new(gpu, tiny(), 5).unwrap().save(&file).unwrap();
        let more_layers = BicnetConfig { layer_num: 2, ..tiny() };
        let wider = BicnetConfig { text_dim: 9, ..tiny() };
        assert!(matches!(Bicnet::load(gpu, more_layers, &file), Err(Error::MissingParameter { .. })));
        assert!(matches!(Bicnet::load(gpu, wider, &file), Err(Error::ParameterShape { .. })));
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        assert!(matches!(Bicnet::load(gpu, tiny(), &file), Err(Error::Malformed { .. })));
    }
}
