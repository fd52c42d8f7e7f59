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
    use crate::models::bert::{Bert, BertConfig};
    use crate::models::bicnet::{Bicnet, BicnetConfig};
    use crate::models::clip::{Clip, ClipConfig, TowerConfig};
    use crate::models::clip4clip::{BaseConfig, Clip4Clip};
    use crate::models::eercf::{Eercf, EercfConfig};
    use crate::models::glccl::{Glccl, GlcclConfig};
    use crate::models::mean_pool::{MeanPool, MeanPoolConfig};
    use crate::models::reloclnet::{Reloclnet, ReloclnetConfig};
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

    /// A model from a run folder, and from a file without and with PyTorch's prefix.
    fn comes_back<M: Model<Config: PartialEq + std::fmt::Debug>>(gpu: &Gpu, config: M::Config) {
        let model = M::new(gpu, config.clone(), 5).unwrap();
        let arrays = model.store().to_arrays().unwrap();
        let shapes = arrays.iter().map(|(name, array)| (name.clone(), array.shape().to_vec())).collect();
        assert_eq!(M::shapes(config.clone()).unwrap(), shapes);
        let folder = tempfile::tempdir().unwrap();

        let run = folder.path().join("run");
        let mut open_run = RunFolder::create(&run, &json!({ "model": config })).unwrap();
        assert!(matches!(open::<M>(gpu, &run, Slot::Best), Err(Error::Checkpoint { .. })));
        let checkpoint = Checkpoint { model: arrays.clone(), state: json!({ "step": 1 }), ..Default::default() };
        open_run.save(Slot::Best, &checkpoint).unwrap();
        let opened = open::<M>(gpu, &run, Slot::Best).unwrap();
        assert_eq!((opened.config(), opened.store().to_arrays().unwrap()), (&config, arrays.clone()));

        let file = folder.path().join("model.safetensors");
        model.save(&file).unwrap();
        assert_eq!(M::load(gpu, config.clone(), &file).unwrap().store().to_arrays().unwrap(), arrays);
        let prefixed: BTreeMap<String, Array> =
            arrays.iter().map(|(name, array)| (format!("module.{name}"), array.clone())).collect();
        safetensors::write(&file, &prefixed, &BTreeMap::new()).unwrap();
        assert_eq!(M::load(gpu, config, &file).unwrap().store().to_arrays().unwrap(), arrays);
    }

    #[test]
    fn every_model_comes_back_from_runs_and_files() {
        let gpu = &gpus()[0];
        comes_back::<Bicnet>(gpu, tiny());
        comes_back::<MeanPool>(gpu, MeanPoolConfig { embedding_dim: 8, text_dim: 7, ..MeanPoolConfig::default() });
        let (hidden_size, num_heads) = (8, 2);
        let [video_dim, sub_dim, query_dim] = [5, 6, 7];
        let streams = ReloclnetConfig { video_dim, sub_dim, query_dim, ..ReloclnetConfig::default() };
        comes_back::<Reloclnet>(gpu, ReloclnetConfig { hidden_size, num_heads, ..streams });
        let tower = TowerConfig { width: 8, heads: 2, layers: 1, mlp: 12 };
        let clip = ClipConfig {
            image_size: 8,
            patch_size: 4,
            vision: tower,
            text: tower,
            vocabulary: 11,
            positions: 5,
            joint: 6,
            ..ClipConfig::vit_b_32()
        };
        comes_back::<Clip>(gpu, clip.clone());
        let base = BaseConfig { frames: 3, words: 5, temporal_layers: 1, temporal_heads: 2, ..BaseConfig::on(clip) };
        comes_back::<Eercf>(gpu, EercfConfig { base: base.clone(), ..EercfConfig::default() });
        comes_back::<Glccl>(gpu, GlcclConfig { base: base.clone(), ..GlcclConfig::default() });
        comes_back::<Clip4Clip>(gpu, base);
        let (hidden_size, num_attention_heads, intermediate_size, num_hidden_layers) = (8, 2, 12, 1);
        let small = BertConfig { hidden_size, num_attention_heads, intermediate_size, ..BertConfig::default() };
        comes_back::<Bert>(gpu, BertConfig { vocab_size: 13, num_hidden_layers, ..small });
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
