//! Dropout: a mask from a counter-based generator, made anew in backward, so that it takes no memory.

use crate::kernels::elementwise::unary::{self, Activation, Unary};
use crate::kernels::launch;
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const WGSL: &str = include_str!("../../../shaders/elementwise/dropout.wgsl");

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

params! {
    struct Params {
        blocks: u32, threshold: u32, scale: f32, words: [u32; 4] as [seed_low, seed_high, stream_low, stream_high],
    }
}

fn variant(activation: Option<Activation>, grad: bool) -> Variant {
    let activation = activation.map(|a| a as u32);
    let grad = grad && activation.is_some();
    Variant::own::<Params>("dropout", WGSL).maybe("ACTIVATION", activation).on("GRAD", grad)
}

pub(crate) fn variants() -> Vec<Variant> {
    let activated = Activation::ALL.into_iter().flat_map(|a| [variant(Some(a), false), variant(Some(a), true)]);
    std::iter::once(variant(None, false)).chain(activated).collect()
}

fn run(op: &'static str, inputs: &[&Tensor], dropout: Dropout, variant: &Variant) -> Result<Tensor> {
    let x = inputs[0];
    let y = Tensor::uninit(x.gpu(), op, x.shape())?;
    let blocks = x.len().div_ceil(4);
    let params = Params {
        blocks: blocks as u32,
        threshold: dropout.threshold(),
        scale: dropout.scale(),
        words: dropout.words(),
    };
    let grid = x.gpu().grid(blocks.div_ceil(64));
    launch(op, variant, &[inputs, &[&y]].concat(), &params, grid, 0)?;
    Ok(y)
}

/// x with the mask applied, of x's shape. The gradient is the same function of the result's gradient. With probability
/// 0, x itself.
///
/// # Errors
/// [`Error::Argument`] unless the probability is in [0, 1); [`Error::DType`] unless x is f32; device errors.
pub fn apply(x: &Tensor, dropout: Dropout) -> Result<Tensor> {
    dropout.check("dropout")?;
    x.expect_dtype("dropout", "x", DType::F32)?;
    if dropout.probability == 0.0 {
        return Ok(x.clone());
    }
    run("dropout", &[x], dropout, &variant(None, false))
}

/// `activation(dropout(x))`, of x's shape.
///
/// # Errors
/// As [`apply`].
pub fn apply_activation(x: &Tensor, dropout: Dropout, activation: Activation) -> Result<Tensor> {
    dropout.check("dropout")?;
    if dropout.probability == 0.0 {
        return unary::forward(Unary::Activation(activation), x);
    }
    x.expect_dtype("dropout", "x", DType::F32)?;
    run("dropout", &[x], dropout, &variant(Some(activation), false))
}

/// The gradient of x from `g`, the gradient of [`apply_activation`]'s result; of x's shape.
///
/// # Errors
/// As [`apply`]; [`Error::Shape`] unless g has x's shape.
pub fn apply_activation_backward(x: &Tensor, g: &Tensor, dropout: Dropout, activation: Activation) -> Result<Tensor> {
    dropout.check("dropout backward")?;
    if dropout.probability == 0.0 {
        return unary::backward(Unary::Activation(activation), x, g);
    }
    x.expect_dtype("dropout backward", "x", DType::F32)?;
    g.expect("dropout backward", "gradient", DType::F32, x.shape())?;
    run("dropout backward", &[x, g], dropout, &variant(Some(activation), true))
}

/// The same in plain Rust.
pub mod cpu {
    use super::Dropout;
    use crate::random::philox4x32;

    /// The factor of element `index`: 0, or 1 / (1 - probability).
    pub fn factor(dropout: Dropout, index: usize) -> f32 {
        let [key0, key1, stream0, stream1] = dropout.words();
        let word = philox4x32([(index / 4) as u32, stream0, stream1, 0], [key0, key1])[index % 4];
        if word >= dropout.threshold() { dropout.scale() } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::elementwise::unary::cpu::value_and_derivative;
    use crate::kernels::testing::{assert_close, gpus, noise, noise_tensor};

    const CASE: Dropout = Dropout { probability: 0.3, seed: 0x0123_4567_89ab_cdef, stream: 0xfedc_ba98_7654_3210 };

    #[test]
    fn philox_gives_the_published_words() {
        let wgsl = "
            @group(0) @binding(0) var<storage, read> c: array<u32>;
            @group(0) @binding(1) var<storage, read_write> y: array<u32>;
            #import philox
            @compute @workgroup_size(1)
            fn main() {
                for (var i = 0u; i < 2u; i++) {
                    let v = c[i];
                    let r = philox(vec4<u32>(v), vec2<u32>(v));
                    y[4u * i] = r.x;
                    y[4u * i + 1u] = r.y;
                    y[4u * i + 2u] = r.z;
                    y[4u * i + 3u] = r.w;
                }
            }
        ";
        for gpu in gpus() {
            let c = Tensor::from_u32(&gpu, [2], &[0, u32::MAX]).unwrap();
            let y = Tensor::uninit_of(&gpu, "test", [8], DType::U32).unwrap();
            launch("test", &Variant::user("philox", wgsl, vec![]), &[&c, &y], &(), [1, 1, 1], 0).unwrap();
            let zeros = [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8];
            let ones = [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd];
            assert_eq!(y.to_u32().unwrap(), [zeros, ones].concat());
            assert_eq!(crate::random::philox4x32([0; 4], [0; 2]), zeros);
        }
    }

    #[test]
    fn the_mask_equals_its_twin_bit_for_bit() {
        for gpu in gpus() {
            for n in [1usize, 3, 4, 5, 255, 256, 257, 4099] {
                for probability in [1e-9, 0.1, 0.3, 0.5, 1.0 - f32::EPSILON / 2.0] {
                    let dropout = Dropout { probability, ..CASE };
                    let x = noise(n, 7);
                    let twin: Vec<f32> = x
                        .iter()
                        .enumerate()
                        .map(|(i, &v)| match cpu::factor(dropout, i) {
                            0.0 => 0.0,
                            scale => scale * v,
                        })
                        .collect();
                    let y = apply(&Tensor::from_slice(&gpu, [n], &x).unwrap(), dropout).unwrap();
                    assert_eq!(y.to_vec().unwrap(), twin, "{n} elements, probability {probability}");
                }
            }
        }
    }

    #[test]
    fn the_kept_share_and_the_mean_are_right() {
        let gpu = &gpus()[0];
        let n = 100_000;
        let ones = Tensor::from_slice(gpu, [n], &vec![1.0; n]).unwrap();
        for probability in [0.1, 0.5, 0.9f32] {
            let y = apply(&ones, Dropout { probability, ..CASE }).unwrap().to_vec().unwrap();
            let kept = y.iter().filter(|&&v| v != 0.0).count() as f64 / n as f64;
            // Five standard deviations.
            let bound = 5.0 * (f64::from(probability * (1.0 - probability)) / n as f64).sqrt();
            assert!((kept - f64::from(1.0 - probability)).abs() < bound, "{probability}: {kept}");
        }
        let other = apply(&ones, Dropout { stream: 1, ..CASE }).unwrap().to_vec().unwrap();
        assert_ne!(other, apply(&ones, CASE).unwrap().to_vec().unwrap());
    }

    #[test]
    fn with_an_activation_it_equals_the_two_in_turn() {
        for gpu in gpus() {
            for activation in Activation::ALL {
                for n in [1usize, 63, 259] {
                    let (x, g) = (noise(n, 1), noise(n, 2));
                    let z: Vec<f32> = (0..n).map(|i| cpu::factor(CASE, i)).collect();
                    let twin = |i: usize| {
                        value_and_derivative(Unary::Activation(activation), f64::from(z[i]) * f64::from(x[i]))
                    };
                    let y: Vec<f32> = (0..n).map(|i| twin(i).0 as f32).collect();
                    let dx: Vec<f32> = (0..n).map(|i| twin(i).1 as f32 * g[i] * z[i]).collect();
                    let (tx, tg) = (noise_tensor(&gpu, &[n], 1), noise_tensor(&gpu, &[n], 2));
                    assert_close(&apply_activation(&tx, CASE, activation).unwrap(), &y, 1e-5, 2e-6);
                    assert_close(&apply_activation_backward(&tx, &tg, CASE, activation).unwrap(), &dx, 1e-5, 4e-6);
                }
            }
        }
    }

    #[test]
    fn what_is_dropped_is_zero_whatever_it_was() {
        for gpu in gpus() {
            let x = Tensor::from_slice(&gpu, [64], &[f32::NAN; 64]).unwrap();
            let y = apply(&x, CASE).unwrap().to_vec().unwrap();
            for (i, v) in y.iter().enumerate() {
                assert_eq!(v.is_nan(), cpu::factor(CASE, i) != 0.0);
            }
        }
    }

    #[test]
    fn the_corners() {
        for gpu in gpus() {
            let x = noise_tensor(&gpu, &[2, 3], 1);
            for probability in [-0.1, 1.0, 1.5, f32::NAN, f32::INFINITY] {
                let dropout = Dropout { probability, ..CASE };
                assert!(matches!(apply(&x, dropout), Err(Error::Argument { .. })));
                assert!(matches!(apply_activation(&x, dropout, Activation::Gelu), Err(Error::Argument { .. })));
            }
            let none = Dropout { probability: 0.0, ..CASE };
            // No copy: a write to x shows in the result.
            let same = apply(&x, none).unwrap();
            x.write(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
            assert_eq!(same.to_vec().unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
            let relu = Activation::Relu;
            let y = apply_activation(&x, none, relu).unwrap().to_vec().unwrap();
            assert_eq!(y, unary::forward(Unary::Activation(relu), &x).unwrap().to_vec().unwrap());
            let wrong = noise_tensor(&gpu, &[3, 2], 1);
            assert!(matches!(apply_activation_backward(&x, &wrong, CASE, relu), Err(Error::Shape { .. })));
            let ids = Tensor::from_u32(&gpu, [2], &[1, 2]).unwrap();
            assert!(matches!(apply(&ids, CASE), Err(Error::DType { .. })));
            let empty = Tensor::from_slice(&gpu, [0, 3], &[]).unwrap();
            assert!(apply(&empty, CASE).unwrap().is_empty());
        }
    }
}
