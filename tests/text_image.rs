//! Text-image models as a user opens them: every family's gradients, published shapes, and models on top.

mod common;

use std::path::Path;

use common::{gpu, noise};
use reelgrad::autograd::{GradientCheck, Tape, Var, check_gradient};
use reelgrad::data::media::pixels::Image;
use reelgrad::models::Model;
use reelgrad::models::clip::{Clip, ClipActivation, ClipConfig, Family, TowerConfig};
use reelgrad::models::clip4clip::{BaseConfig, Clip4Clip};
use reelgrad::models::text_image::{OpenOptions, TextImageModel};
use reelgrad::models::towers::TowerModel;
use reelgrad::nn::StoreBuilder;
use reelgrad::random::Random;
use reelgrad::{Array, Error, Gpu, Result, Tensor};

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// A small model of each family; pictures are no whole number of patches.
fn families() -> [ClipConfig; 3] {
    let tower = TowerConfig { width: 24, heads: 3, layers: 2, mlp: 20 };
    let clip = ClipConfig {
        image_size: 13,
        patch_size: 4,
        vision: tower,
        text: TowerConfig { width: 18, heads: 2, ..tower },
        vocabulary: 30,
        positions: 5,
        joint: 24,
        logit_scale: 1.0,
        ..ClipConfig::vit_b_32()
    };
    [
        ClipConfig { family: Family::Siglip, activation: ClipActivation::GeluTanh, ..clip.clone() },
        ClipConfig { family: Family::ChineseClip { token_types: 2, pad: 0 }, ..clip.clone() },
        ClipConfig { activation: ClipActivation::Gelu, ..clip },
    ]
}

const IDS: [u32; 15] = [3, 7, 9, 29, 0, 3, 29, 0, 0, 0, 3, 4, 5, 6, 29];

/// Logits of three texts and three pictures.
fn logits(clip: &Clip, pixels: &Var) -> Result<Var> {
    let images = clip.towers().image.encode(pixels, false)?.image;
    let texts = clip.towers().text.encode(pixels.tape(), &IDS, 5, None, false)?.sentence;
    clip.logits_per_text(&texts, &images)
}

#[test]
fn pixels_have_their_gradient_in_every_family() {
    for gpu in common::gpus() {
        for config in families() {
            let clip = Clip::new(&gpu, config.clone(), 3).unwrap();
            let check = GradientCheck { seed: 5, ..GradientCheck::default() };
            let report =
                check_gradient(&gpu, &[noise(&[3, 3, 13, 13], 1)], check, |_, x| logits(&clip, &x[0])).unwrap();
            assert!(report.passed, "{:?} {report:?}", config.family);
        }
    }
}

/// Every parameter's gradient along a random direction, against two more evaluations.
#[test]
fn parameters_have_their_gradients_in_every_family() {
    let gpu = gpu();
    for config in families() {
        let clip = Clip::new(&gpu, config.clone(), 3).unwrap();
        let pixels = Tensor::from_array(&gpu, &noise(&[3, 3, 13, 13], 1)).unwrap();
        let weights = noise(&[3, 3], 9);
        let loss = |tape: &Tape| {
            let weights = tape.constant(Tensor::from_array(&gpu, &weights).unwrap());
            logits(&clip, &tape.constant(pixels.clone())).unwrap().mul(&weights).unwrap().mean_all().unwrap()
        };
        let tape = Tape::new(&gpu);
        tape.backward(&loss(&tape)).unwrap();
        let parameters = clip.store().parameters();
        let gradients: Vec<Vec<f32>> = parameters.iter().map(|p| p.gradient().unwrap().to_vec().unwrap()).collect();
        for (p, gradient) in parameters.iter().zip(gradients) {
            let (values, mut random) = (p.value().to_vec().unwrap(), Random::new(17, 0));
            // Half of it along the gradient, so that no difference drowns in rounding.
            let norm = gradient.iter().map(|g| g * g).sum::<f32>().sqrt().max(1e-12);
            let direction: Vec<f32> =
                gradient.iter().map(|g| g / norm + random.normal() / (gradient.len() as f32).sqrt()).collect();
            let at = |step: f32| {
                let moved: Vec<f32> = values.iter().zip(&direction).map(|(v, d)| v + step * d).collect();
                p.value().write(&moved).unwrap();
                f64::from(loss(&Tape::inference(&gpu)).value().item().unwrap())
            };
            let step = 4e-3;
            let numeric = (at(step) - at(-step)) / f64::from(2.0 * step);
            p.value().write(&values).unwrap();
            let analytic: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
            let error = (numeric - analytic).abs() / (analytic.abs() + 2e-3);
            assert!(error < 2e-2, "{:?} {}: {analytic} and {numeric}", config.family, p.name());
        }
    }
}

#[test]
fn texts_of_a_siglip_take_all_positions() {
    let [siglip, ..] = families();
    let clip = Clip::new(&gpu(), siglip, 3).unwrap();
    let got = clip.towers().text.encode(&Tape::inference(&gpu()), &IDS[..4], 4, None, false).map(drop);
    assert!(matches!(got, Err(Error::Argument { argument: "ids", .. })), "{got:?}");
}

/// CLIP4Clip on the towers of every family: a loss, and a gradient in both towers.
#[test]
fn clip4clip_stands_on_every_family() {
    for config in families() {
        let base = BaseConfig { words: 5, frames: 2, temporal_heads: 3, temporal_layers: 1, ..BaseConfig::on(config) };
        let model = Clip4Clip::new(&gpu(), base, 4).unwrap();
        let tape = Tape::training(&gpu(), 1, 0);
        let pixels = tape.constant(Tensor::from_array(&gpu(), &noise(&[6, 3, 13, 13], 1)).unwrap());
        let mask = Tensor::from_slice(&gpu(), [3, 2], &[1.0, 1.0, 1.0, 0.0, 1.0, 1.0]).unwrap();
        let videos = model.base().encode_frames(&pixels, &mask, true).unwrap();
        assert_eq!(videos.patches.as_ref().unwrap().shape(), [3, 2 * 9, 24]);
        let texts = model.base().encode_texts(&tape, &IDS, true).unwrap();
        assert_eq!(texts.words.as_ref().unwrap().shape(), [3, 5, 24]);
        tape.backward(&model.loss(&texts, &videos).unwrap().0).unwrap();
        for name in ["clip.visual.conv1.weight", "embedding"] {
            let moved =
                model.store().parameters().iter().any(|p| {
                    p.name().contains(name) && p.gradient().unwrap().to_vec().unwrap().iter().any(|&g| g != 0.0)
                });
            assert!(moved, "{name}");
        }
    }
}

/// Adapters of 128 MiB bindings hold tables of 152 and 1180 MB in parts.
#[test]
fn published_shapes_run_on_small_bindings() {
    let gpu = common::builder().binding_limit(128 << 20).build().unwrap();
    let vision = TowerConfig { width: 1152, heads: 16, layers: 1, mlp: 4304 };
    let so400m = ClipConfig {
        family: Family::Siglip,
        image_size: 384,
        patch_size: 14,
        vision,
        text: vision,
        vocabulary: 256_000,
        positions: 64,
        joint: 1152,
        activation: ClipActivation::GeluTanh,
        ..ClipConfig::vit_b_32()
    };
    let mut l14 = ClipConfig::of_architecture("ViT-L-14-336-quickgelu").unwrap();
    (l14.vision.layers, l14.text.layers) = (1, 1);
    for config in [l14, so400m] {
        let (side, joint, length) = (config.image_size, config.joint, config.positions);
        let last = config.vocabulary as u32 - 1;
        // Cheaper to make than normal values: there are three hundred million.
        let value = |i: usize| ((i * 7919 % 1009) as f32 / 1009.0 - 0.5) * 0.05;
        let arrays = Clip::shapes(config.clone()).unwrap().into_iter().map(|(name, shape)| {
            let data = (0..shape.iter().product()).map(value).collect();
            (name, Array::new(shape, data).unwrap())
        });
        let builder = StoreBuilder::from_arrays(&gpu, "the test", arrays.collect()).freeze(|_| true);
        let clip = Clip::build(config, builder).unwrap();
        let tape = Tape::inference(&gpu);
        let pixels = tape.constant(Tensor::from_array(&gpu, &noise(&[2, 3, side, side], 1)).unwrap());
        let images = clip.towers().image.encode(&pixels, false).unwrap().image;
        let ids: Vec<u32> = (0..2 * length as u32).map(|i| if i % 7 == 6 { last } else { i * 631 % last }).collect();
        let texts = clip.towers().text.encode(&tape, &ids, length, None, false).unwrap().sentence;
        let logits = clip.logits_per_text(&texts, &images).unwrap().value().to_vec().unwrap();
        assert_eq!((images.shape(), texts.shape()), (&[2, joint][..], &[2, joint][..]));
        assert!(logits.iter().all(|x| x.is_finite()) && logits[0] != logits[3], "{logits:?}");
    }
}

fn open(gpu: &Gpu, name: &str) -> TextImageModel {
    TextImageModel::open(gpu, golden(name)).unwrap()
}

#[test]
fn sentences_and_pictures_become_unit_vectors_and_similarities() {
    let gpu = gpu();
    for name in ["clip-tiny-hf", "siglip2-tiny-hf", "chinese-clip-tiny-hf", "openclip-squash"] {
        let model = open(&gpu, name);
        assert!(model.notes().is_empty(), "{name}: {:?}", model.notes());
        let tape = Tape::inference(&gpu);
        let picture = |grey: u8| Image::new(50, 40, [grey, 90, 200].repeat(50 * 40)).unwrap();
        let texts = model.encode_texts(&tape, &["a red square", "x"]).unwrap();
        let images = model.encode_images(&tape, &[picture(0), picture(250), picture(80)]).unwrap();
        for vectors in [&texts, &images] {
            let rows = vectors.value().to_array().unwrap();
            for row in rows.data().chunks_exact(rows.shape()[1]) {
                assert!((row.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5, "{name}");
            }
        }
        assert_eq!(model.similarity(&texts, &images).unwrap().shape(), [2, 3], "{name}: {}", model.description());
    }
}

/// The files that say how pictures are made, in turn taken away.
#[test]
fn what_stands_in_for_a_file_is_told() {
    let copy = |name: &str, without: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(golden(name)).unwrap() {
            let entry = entry.unwrap();
            if !without.contains(&entry.file_name().to_str().unwrap()) {
                std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
            }
        }
        folder
    };
    let gpu = gpu();
    for (name, file, published) in [
        ("clip-tiny-hf", "preprocessor_config.json", "CLIP, 32 x 32"),
        ("clip-v5-processor-hf", "processor_config.json", "CLIP, 36 x 36"),
        ("siglip-tiny-hf", "preprocessor_config.json", "SigLIP, 48 x 48"),
        ("chinese-clip-tiny-hf", "preprocessor_config.json", "Chinese-CLIP, 32 x 32"),
    ] {
        let folder = copy(name, &[file]);
        let model = TextImageModel::open(&gpu, folder.path()).unwrap();
        let [note] = model.notes() else { panic!("{name}: {:?}", model.notes()) };
        assert!(note.contains(published), "{note}");
    }
    let folder = copy("siglip2-tiny-hf", &["tokenizer.json"]);
    let got = TextImageModel::open(&gpu, folder.path()).map(drop);
    assert!(matches!(&got, Err(Error::Missing { id, .. }) if id.contains("AutoTokenizer")), "{got:?}");
    // Of weights alone the architecture must be named, and then it must fit.
    let how = OpenOptions { architecture: Some("ViT-B-32"), ..OpenOptions::default() };
    let got = TextImageModel::open_with(&gpu, golden("openclip-gelu"), how).map(drop);
    assert!(matches!(got, Err(Error::ParameterShape { .. })), "{got:?}");
}

/// More words than the model has positions: an answer before anything is computed.
#[test]
fn too_many_words_are_refused_with_the_models_number() {
    let model = open(&gpu(), "chinese-clip-tiny-hf");
    let got = model.processor().tokens(&["x"], Some(53)).map(drop);
    assert!(matches!(&got, Err(Error::Argument { argument: "words", why, .. }) if why.contains("52")), "{got:?}");
    assert_eq!(open(&gpu(), "siglip-tiny-hf").processor().text_length(Some(9)).unwrap(), 64);
}
