//! Dropout: a mask from a counter-based generator, made anew in backward, so that it takes no memory.

use crate::shader::Variant;
use crate::{Error, Result};

/// Which elements are dropped: a pure function of these numbers and the element's index.
///
/// Element `i` of a call is kept when word `i % 4` of Philox 4x32-10 with key `seed` (low word first) and counter
/// `(i / 4, stream low, stream high, 0)` is at least `probability` times 2³²; what is kept is scaled by
/// 1 / (1 - probability).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The share that is dropped, in [0, 1).
    pub probability: f32,
    /// The run's seed.
    pub seed: u64,
    /// The call's number: differs between steps and between layers.
    pub stream: u64,
}

impl Dropout {
    /// # Errors
    /// [`Error::Argument`] unless the probability is in [0, 1).
    pub(crate) fn check(&self, op: &'static str) -> Result<()> {
        if (0.0..1.0).contains(&self.probability) {
            return Ok(());
        }
        let why = format!("of {} is not in [0, 1)", self.probability);
        Err(Error::Argument { op, argument: "probability", why })
    }

    /// The least random word that keeps an element.
    pub(crate) fn threshold(&self) -> u32 {
        // Exact in f64; below 2^32, since the greatest f32 below 1 is 1 - 2^-24.
        (f64::from(self.probability) * 4_294_967_296.0).ceil() as u32
    }

    /// The factor of what is kept.
    pub(crate) fn scale(&self) -> f32 {
        (1.0 / (1.0 - f64::from(self.probability))) as f32
    }

    /// Key and the counter's stream: seed low and high, stream low and high.
    pub(crate) fn words(&self) -> [u32; 4] {
        [self.seed as u32, (self.seed >> 32) as u32, self.stream as u32, (self.stream >> 32) as u32]
    }
}

pub(super) fn variants() -> Vec<Variant> {
    vec![]
}

/// The same in plain Rust.
pub mod cpu {
    use super::Dropout;
    use crate::data::random::philox4x32;

    /// The factor of element `index`: 0, or 1 / (1 - probability).
    pub fn factor(dropout: Dropout, index: usize) -> f32 {
        let [key0, key1, stream0, stream1] = dropout.words();
        let word = philox4x32([(index / 4) as u32, stream0, stream1, 0], [key0, key1])[index % 4];
        if word >= dropout.threshold() { dropout.scale() } else { 0.0 }
    }
}
