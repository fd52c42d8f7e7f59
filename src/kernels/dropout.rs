//! Dropout: a mask from a counter-based generator, made anew in backward, so that it takes no memory.

use crate::shader::Variant;

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

pub(super) fn variants() -> Vec<Variant> {
    vec![]
}
