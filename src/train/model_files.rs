//! Models from run folders.

use std::path::Path;

use super::checkpoint;
use super::run_folder::{CONFIG, RunFolder, Slot, slot_path};
use crate::gpu::Gpu;
use crate::models::Model;
use crate::nn::StoreBuilder;
use crate::{Error, Result};

/// The model of a checkpoint in the run folder `run`, with the run's configuration. Every byte is verified.
///
/// # Errors
/// [`Error::Io`] when there is no run; [`Error::Malformed`] for a configuration without `model`; [`Error::Checkpoint`];
/// those of [`Model::load`] for parameters that do not fit.
pub fn open<M: Model>(gpu: &Gpu, run: impl AsRef<Path>, slot: Slot) -> Result<M> {
    let (run, path) = (run.as_ref(), run.as_ref().join(CONFIG));
    let mut config = RunFolder::config(run)?;
    let model = config.get_mut("model").ok_or_else(|| Error::malformed(&path, "model", "is missing"))?.take();
    let config = serde_json::from_value(model).map_err(|e| Error::malformed(&path, "model", e))?;
    let dir = slot_path(run, slot);
    let arrays = checkpoint::load_model(&dir)?;
    M::build(config, StoreBuilder::from_arrays(gpu, dir.display().to_string(), arrays))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::data::formats::safetensors;
    use crate::kernels::testing::gpus;
    use crate::models::bicnet::{Bicnet, BicnetConfig};
    use crate::tensor::Array;
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
        assert!(matches!(open::<Bicnet>(gpu, &run, Slot::Best), Err(Error::Checkpoint { .. })));
        let checkpoint = Checkpoint { model: arrays.clone(), state: json!({ "step": 1 }), ..Default::default() };
        open_run.save(Slot::Best, &checkpoint).unwrap();
        let opened = open::<Bicnet>(gpu, &run, Slot::Best).unwrap();
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
        assert!(matches!(open::<Bicnet>(gpu, folder.path(), Slot::Last), Err(Error::Io { .. })));
        for config in [json!({}), json!({ "model": { "num_heads": "two" } })] {
            std::fs::write(folder.path().join(CONFIG), config.to_string()).unwrap();
            match open::<Bicnet>(gpu, folder.path(), Slot::Last).map(|_| ()) {
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
