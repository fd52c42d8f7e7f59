//! How parameters start.

use crate::random::Random;

/// How a parameter starts.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// All elements equal.
    Constant(f32),
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// Normal with mean 0, drawn again until within two standard deviations.
    TruncatedNormal {
        /// Standard deviation before truncation.
        std: f32,
    },
    /// Uniform in [-bound, bound).
    Uniform {
        /// The bound.
        bound: f32,
    },
    /// Given values.
    Values(Vec<f32>),
}

impl Init {
    /// The identity matrix of `n` rows.
    pub fn identity(n: usize) -> Self {
        Self::Values((0..n * n).map(|i| if i % (n + 1) == 0 { 1.0 } else { 0.0 }).collect())
    }

    /// The values of a parameter of `len` elements. Each name has its own stream, so that adding a parameter does not
    /// change the others.
    pub(super) fn values(&self, name: &str, len: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed, stream_of(name));
        match self {
            Self::Constant(value) => vec![*value; len],
            Self::Normal { std } => (0..len).map(|_| std * random.normal()).collect(),
            Self::TruncatedNormal { std } => (0..len)
                .map(|_| {
                    loop {
                        let z = random.normal();
                        if z.abs() < 2.0 {
                            return std * z;
                        }
                    }
                })
                .collect(),
            Self::Uniform { bound } => (0..len).map(|_| bound * (2.0 * random.uniform() - 1.0)).collect(),
            Self::Values(values) => values.clone(),
        }
    }
}

/// FNV-1a: a fixed number for a name, the same on every platform.
fn stream_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
