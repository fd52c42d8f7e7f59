//! Training runs of a tiny BiC-Net: equal bits, resumption, constant memory; and the official model's parameters.

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use common::{Outcome, builder, gpu, outcome};
use reelgrad::autograd::{Tape, Var};
use reelgrad::data::Part;
use reelgrad::data::bicnet::{BicnetDataset, DatasetKind, Dims, Sample, SampleSource};
use reelgrad::data::formats::safetensors::TensorFile;
use reelgrad::data::synthetic::{World, WorldConfig};
use reelgrad::gpu::GpuBuilder;
use reelgrad::models::bicnet::{Bicnet, BicnetConfig};
use reelgrad::models::two_space::{Embeddings, Hinge, TwoSpaceInputs, TwoSpaceModel};
use reelgrad::models::{Finish, Model, Stored};
use reelgrad::nn::Scope;
use reelgrad::retrieval::Ties;
use reelgrad::retrieval::two_space::{EncodeOptions, encode};
use reelgrad::train::{FitCore, FitHooks, FitOptions, RunFolder, Silent, Slot, StopFlag, fit};
use reelgrad::{Array, Error, Result, Tensor};

const STEPS: u64 = 12;

/// A part of a world of 28 contents, made once.
fn data(part: Part) -> BicnetDataset {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let config = WorldConfig { seed: 3, train: 24, validation: 2, test: 2 };
        World::new(config).unwrap().write(folder.path()).unwrap();
        folder
    });
    BicnetDataset::open(folder, &DatasetKind::MsrVtt { split: "synthetic".into() }, part).unwrap()
}

fn tiny(dims: Dims) -> BicnetConfig {
    BicnetConfig {
        embedding_dim: 16,
        global_dim: dims.global,
        region_dim: dims.region,
        text_dim: dims.text,
        region_num: dims.regions,
        num_heads: 2,
        layer_num: 1,
        dropout: 0.1,
        attn_drop: 0.2,
        max_positions: 20,
        ..BicnetConfig::default()
    }
}

fn options(seed: u64) -> FitOptions {
    let core = FitCore { batch: 8, steps: STEPS, lr: 1e-3, seed, log_every: 4, evaluate_every: 6 };
    FitOptions { core, ..FitOptions::default() }
}

/// Trains in `folder`, from its checkpoint if `resume`; stops after the step that follows the log of step `stop_at`.
fn train(model: &Bicnet, folder: &Path, options: &FitOptions, resume: bool, stop_at: Option<u64>) -> Result<Outcome> {
    let (data, validation) = (data(Part::Train), data(Part::Validation));
    let (mut run, checkpoint) = if resume {
        let resumed = RunFolder::resume(folder, Slot::Last)?;
        (resumed.folder, resumed.checkpoint)
    } else {
        (RunFolder::create(folder, options)?, None)
    };
    let stop = StopFlag::new();
    let groups: Vec<Vec<usize>> = (0..data.len()).map(|i| vec![i]).collect();
    let hooks = FitHooks {
        evaluate: &mut |_, _| {
            let options = EncodeOptions { batch: 4, ..EncodeOptions::default() };
            let encoded = encode(model, &validation, &[0, 1, 2, 3], &options)?;
            let metrics = encoded.evaluate(Ties::Expected)?.text_to_video;
            Ok((metrics.r1, vec![("val/R@1".into(), metrics.r1), ("val/MnR".into(), metrics.mnr)]))
        },
        run: Some(&mut run),
        progress: &mut |done, _, _: &str| {
            if stop_at == Some(done) {
                stop.stop();
            }
        },
        stop: &stop,
    };
    fit(model, &data, &groups, options, checkpoint.as_ref(), hooks)?;
    Ok(outcome(model.store(), folder))
}

/// A whole run on a device of its own.
fn whole(builder: GpuBuilder, seed: u64) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let gpu = builder.build().unwrap();
    let model = Bicnet::new(&gpu, tiny(data(Part::Train).dims()), seed).unwrap();
    train(&model, &folder.path().join("run"), &options(seed), false, None).unwrap()
}

fn reference() -> &'static Outcome {
    static REFERENCE: OnceLock<Outcome> = OnceLock::new();
    REFERENCE.get_or_init(|| whole(builder(), 7))
}

#[test]
fn a_seed_gives_the_same_bits() {
    assert_eq!(&whole(builder(), 7), reference());
    assert_eq!(reference().log.len(), 6, "steps 4, 6, 8, 12, and evaluations after 6 and 12");
    let other = whole(builder(), 8);
    assert_ne!(other.parameters, reference().parameters);
    assert_ne!(other.log, reference().log);
}

#[test]
fn batching_and_parameter_passing_change_no_bit() {
    assert_eq!(&whole(builder().max_dispatches_per_submit(1), 7), reference());
    assert_eq!(&whole(builder().immediates(false), 7), reference());
}

#[test]
fn checked_shaders_change_no_bit() {
    assert_eq!(&whole(builder().checked(true), 7), reference());
}

#[test]
fn a_stopped_run_resumes_as_if_it_had_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let gpu = builder().build().unwrap();
    let dims = data(Part::Train).dims();
    let model = Bicnet::new(&gpu, tiny(dims), 7).unwrap();
    // Stops after step 5: between two logs and two evaluations; then after step 9.
    match train(&model, &path, &options(7), false, Some(4)) {
        Err(Error::Interrupted { saved }) => assert_eq!(saved, Some(path.join("checkpoints/last"))),
        other => panic!("{other:?}"),
    }
    for (stop_at, saved_step) in [(Some(8), 5), (None, 9)] {
        let resumed = RunFolder::resume(&path, Slot::Last).unwrap();
        assert_eq!(resumed.checkpoint.unwrap().state["step"], saved_step);
        drop(resumed.folder);
        // Other initial values, which the checkpoint replaces.
        let model = Bicnet::new(&gpu, tiny(dims), 1000).unwrap();
        match (train(&model, &path, &options(7), true, stop_at), stop_at) {
            (Err(Error::Interrupted { .. }), Some(_)) => {}
            (Ok(outcome), None) => assert_eq!(&outcome, reference()),
            (other, _) => panic!("{other:?}"),
        }
    }
}

/// Notes the memory and the pipelines at the start of every step.
struct Watched {
    model: Bicnet,
    seen: RefCell<Vec<(u64, u64, usize)>>,
}

impl Model for Watched {
    type Config = BicnetConfig;

    fn declare(config: &BicnetConfig, s: &Scope<'_>) -> Result<Finish<Self>> {
        let finish = Bicnet::declare(config, s)?;
        Ok(Box::new(|stored| Self { model: finish(stored), seen: RefCell::default() }))
    }

    fn stored(&self) -> &Stored<BicnetConfig> {
        self.model.stored()
    }
}

impl TwoSpaceModel for Watched {
    fn width(&self) -> usize {
        self.model.width()
    }

    fn hinge(&self) -> Hinge {
        self.model.hinge()
    }

    fn encode_text(&self, tape: &Tape, text: &Tensor, mask: &Tensor) -> Result<Var> {
        self.model.encode_text(tape, text, mask)
    }

    fn forward(&self, tape: &Tape, inputs: &TwoSpaceInputs) -> Result<Embeddings> {
        let memory = tape.gpu().memory_report();
        self.seen.borrow_mut().push((memory.live, memory.buffers_created, tape.gpu().pipelines_compiled()));
        self.model.forward(tape, inputs)
    }
}

/// Captions cut to one length.
struct Cut(BicnetDataset, usize);

impl SampleSource for Cut {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn dims(&self) -> Dims {
        self.0.dims()
    }

    fn id(&self, video: usize) -> Result<&str> {
        self.0.id(video)
    }

    fn captions(&self, video: usize) -> Result<usize> {
        self.0.captions(video)
    }

    fn sample(&self, video: usize, caption: usize) -> Result<Sample> {
        let sample = self.0.sample(video, caption)?;
        let width = self.dims().text;
        let text = Array::new([self.1, width], sample.text.data()[..self.1 * width].to_vec())?;
        Ok(Sample { text, ..sample })
    }
}

/// Live bytes, buffers created and pipelines compiled at the start of each step.
fn watch(data: &dyn SampleSource, steps: u64, log_every: u64) -> Vec<(u64, u64, usize)> {
    let gpu = builder().build().unwrap();
    let model = Watched::new(&gpu, tiny(data.dims()), 7).unwrap();
    let core = FitCore { batch: 2, steps, log_every, evaluate_every: 0, ..options(7).core };
    let options = FitOptions { core, ..options(7) };
    let groups: Vec<Vec<usize>> = (0..data.len()).map(|i| vec![i]).collect();
    let stop = StopFlag::new();
    let hooks = FitHooks { evaluate: &mut |_, _| Ok((0.0, vec![])), run: None, progress: &mut Silent, stop: &stop };
    fit(&model, data, &groups, &options, None, hooks).unwrap();
    model.seen.into_inner()
}

#[test]
fn memory_is_constant_from_the_second_step_on() {
    let seen = watch(&Cut(data(Part::Train), 7), 200, 10);
    // One pipeline more at the first readback: the kernel that proves that work was done.
    let (live, buffers, pipelines) = seen[1];
    for (&now, step) in seen[1..].iter().zip(2..) {
        assert_eq!(now, (live, buffers, pipelines + usize::from(step > 10)), "step {step}");
    }
}

#[test]
fn captions_of_other_lengths_need_no_other_pipeline() {
    let seen = watch(&data(Part::Train), 40, 1);
    assert!(seen[1..].iter().all(|s| s.2 == seen[1].2), "{seen:?}");
    assert!(seen[39].1 <= seen[1].1 + 40, "{seen:?}");
}

/// Tables are not trained.
fn trained(config: BicnetConfig) -> usize {
    let shapes = Bicnet::shapes(config).unwrap();
    shapes.iter().filter(|(name, _)| !name.ends_with(".pe")).map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

#[test]
fn the_official_model_has_the_official_number_of_parameters() {
    for (layer_num, count) in [(1, 40_954_883), (2, 66_154_499), (3, 91_354_115), (4, 116_553_731)] {
        assert_eq!(trained(BicnetConfig { layer_num, ..BicnetConfig::default() }), count);
    }
    assert_eq!(trained(BicnetConfig::default()), 116_553_731);
}

#[test]
fn parameters_have_the_official_names_and_shapes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/bicnet-tiny-full.safetensors");
    let golden = TensorFile::open(path).unwrap();
    let config: serde_json::Value = serde_json::from_str(&golden.metadata()["config"]).unwrap();
    let size = |key: &str| config[key].as_u64().unwrap() as usize;
    let model = Bicnet::new(
        &gpu(),
        BicnetConfig {
            embedding_dim: size("embedding_dim"),
            global_dim: size("global_dim"),
            region_dim: size("region_dim"),
            text_dim: size("text_dim"),
            num_heads: size("num_heads"),
            region_num: size("region_num"),
            layer_num: size("layers"),
            max_positions: size("positional_max_len"),
            ..BicnetConfig::default()
        },
        0,
    )
    .unwrap();
    let ours: BTreeMap<&str, &[usize]> = model.store().parameters().iter().map(|p| (p.name(), p.shape())).collect();
    let theirs: BTreeMap<&str, &[usize]> =
        golden.names().filter_map(|name| Some((name.strip_prefix("param.")?, golden.shape(name).unwrap()))).collect();
    let tables = ["embedding_global.pe", "embedding_region.pe"];
    assert!(model.store().parameters().iter().all(|p| p.is_trained() != tables.contains(&p.name())));
    for (name, shape) in &theirs {
        assert_eq!(ours.get(name), Some(shape), "{name}");
    }
    let more: Vec<&str> = ours.keys().filter(|name| !theirs.contains_key(*name)).copied().collect();
    assert!(more.iter().all(|name| tables.contains(name)), "{more:?}");
}

#[test]
fn an_evaluation_without_a_figure_is_an_error_and_never_the_best() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let gpu = builder().build().unwrap();
    let data = data(Part::Train);
    let model = Bicnet::new(&gpu, tiny(data.dims()), 7).unwrap();
    let groups: Vec<Vec<usize>> = (0..data.len()).map(|i| vec![i]).collect();
    for figure in [f64::NAN, f64::INFINITY] {
        let _ = std::fs::remove_dir_all(&path);
        let mut run = RunFolder::create(&path, &options(7)).unwrap();
        let hooks = FitHooks {
            evaluate: &mut |_, _| Ok((figure, vec![])),
            run: Some(&mut run),
            progress: &mut Silent,
            stop: &StopFlag::new(),
        };
        match fit(&model, &data, &groups, &options(7), None, hooks) {
            Err(Error::NonFinite { place, .. }) => assert_eq!(place, "step 6"),
            other => panic!("{other:?}"),
        }
        drop(run);
        assert!(!path.join("checkpoints/best").exists(), "{figure} is no best");
    }
}
