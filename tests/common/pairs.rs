//! Models over given features, for tests of what comes after the towers.

use std::collections::BTreeMap;

use reelgrad::autograd::{Tape, Var};
use reelgrad::models::Model;
use reelgrad::models::clip::TextFeatures;
use reelgrad::models::clip4clip::{BaseConfig, SimilarityHeader, VideoFeatures};
use reelgrad::models::eercf::{Eercf, EercfConfig};
use reelgrad::models::glccl::{Glccl, GlcclConfig};
use reelgrad::nn::ParameterStore;
use reelgrad::{Array, Gpu, Tensor};

use super::noise;

/// exp(logit_scale) of every model here.
pub const SCALE: f64 = 20.0;

/// How many of what: texts B, videos N, words n, frames F, patches of a frame P, width D.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub texts: usize,
    pub videos: usize,
    pub words: usize,
    pub frames: usize,
    pub patches: usize,
    pub width: usize,
}

impl Sizes {
    /// No towers, and no temporal transformer: frames stay as they are.
    pub fn base(&self) -> BaseConfig {
        BaseConfig {
            clip: None,
            joint: self.width,
            frames: self.frames,
            words: self.words,
            header: SimilarityHeader::MeanPool,
            ..BaseConfig::default()
        }
    }

    /// With matrices beside the identity.
    pub fn eercf(&self, gpu: &Gpu, config: EercfConfig) -> Eercf {
        let model = Eercf::new(gpu, EercfConfig { base: self.base(), ..config }, 0).unwrap();
        disturb(model.store());
        model
    }

    /// With matrices beside the identity.
    pub fn glccl(&self, gpu: &Gpu, config: GlcclConfig) -> Glccl {
        let model = Glccl::new(gpu, GlcclConfig { base: self.base(), ..config }, 0).unwrap();
        disturb(model.store());
        model
    }

    pub fn sentences(&self) -> Array {
        noise(&[self.texts, self.width], 1)
    }

    pub fn words(&self) -> Array {
        noise(&[self.texts, self.words, self.width], 2)
    }

    pub fn frames(&self) -> Array {
        noise(&[self.videos, self.frames, self.width], 3)
    }

    pub fn patches(&self) -> Array {
        noise(&[self.videos, self.frames * self.patches, self.width], 4)
    }

    /// Every video has a first frame; most lack some of the others.
    pub fn mask(&self) -> Vec<f32> {
        let seen = |i: usize| i % self.frames <= (i / self.frames * 2 + 1) % self.frames;
        (0..self.videos * self.frames).map(|i| f32::from(u8::from(seen(i)))).collect()
    }

    /// The texts in `range`.
    pub fn text_features(&self, gpu: &Gpu, range: std::ops::Range<usize>) -> TextFeatures {
        let tape = Tape::inference(gpu);
        let part = |array: Array| tape.constant(items(gpu, &array, range.clone()));
        TextFeatures { sentence: part(self.sentences()), words: Some(part(self.words())) }
    }

    /// The videos in `range`.
    pub fn video_features(&self, gpu: &Gpu, range: std::ops::Range<usize>) -> VideoFeatures {
        let tape = Tape::inference(gpu);
        let mask = Array::new([self.videos, self.frames], self.mask()).unwrap();
        let part = |array: Array| items(gpu, &array, range.clone());
        let patches = (self.patches > 0).then(|| tape.constant(part(self.patches())));
        VideoFeatures { frames: tape.constant(part(self.frames())), mask: part(mask), patches }
    }
}

/// The entries `range` of the first dimension.
fn items(gpu: &Gpu, array: &Array, range: std::ops::Range<usize>) -> Tensor {
    let each: usize = array.shape()[1..].iter().product();
    let shape = [&[range.len()], &array.shape()[1..]].concat();
    Tensor::from_slice(gpu, shape, &array.data()[range.start * each..range.end * each]).unwrap()
}

/// Adds noise to what starts as the identity, and sets the factor of similarities to [`SCALE`].
fn disturb(store: &ParameterStore) {
    let changed = |(seed, (name, array)): (u64, (String, Array))| {
        if name == "clip.logit_scale" {
            return (name, Array::new([], vec![SCALE.ln() as f32]).unwrap());
        }
        let sum = array.data().iter().zip(noise(array.shape(), seed).data()).map(|(a, b)| a + 0.1 * b).collect();
        (name, Array::new(array.shape(), sum).unwrap())
    };
    let arrays: BTreeMap<String, Array> = (10..).zip(store.to_arrays().unwrap()).map(changed).collect();
    store.load("the test", &arrays).unwrap();
}

/// The arrays on a tape, with gradients.
pub fn leaves<const N: usize>(tape: &Tape, arrays: [&Array; N]) -> [Var; N] {
    arrays.map(|a| tape.leaf(Tensor::from_array(tape.gpu(), a).unwrap()))
}

/// Texts that are already on a tape.
pub fn given(sentence: &Var, words: Option<&Var>) -> TextFeatures {
    TextFeatures { sentence: sentence.clone(), words: words.cloned() }
}
