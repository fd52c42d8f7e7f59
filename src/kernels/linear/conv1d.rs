//! Convolution along one axis.

use crate::kernels::shape::count_elements;
use crate::kernels::{expect_iterations, launch};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const WGSL: &str = include_str!("../../../shaders/linear/conv1d.wgsl");
const WEIGHTS: &str = include_str!("../../../shaders/linear/conv1d_weights.wgsl");

/// The most sums that a weight's gradient is first made of.
const SLOTS: usize = 1024;
/// By how much a stage reduces the sums.
const FOLD: usize = 32;
/// The most positions that an invocation sums: software adapters end longer loops.
const LONGEST: usize = 1 << 15;

/// How a convolution walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv1d {
    /// Positions from one step to the next; at least 1.
    pub stride: usize,
    /// Zeros before the start and after the end.
    pub padding: usize,
}

params! {
    struct Params { count: u32, walk: [u32; 7] as [cin, cout, taps, length, steps, stride, padding] }
}

params! {
    struct WeightParams {
        count: u32, positions: u32, slots: u32, walk: [u32; 7] as [cin, cout, taps, length, steps, stride, padding],
    }
}

fn variant(bias: bool, grad: bool) -> Variant {
    Variant::own::<Params>("conv1d", WGSL).on("BIAS", bias).on("GRAD", grad)
}

/// What a stage of a weight's or bias's gradient sums.
#[derive(Clone, Copy, PartialEq)]
enum Sums {
    Products,
    Gradients,
    Partial,
}

fn sums_variant(of: Sums) -> Variant {
    let variant = Variant::own::<WeightParams>("conv1d_weights", WEIGHTS);
    variant.on("BIAS", of == Sums::Gradients).on("FOLD", of == Sums::Partial)
}

pub(crate) fn variants() -> Vec<Variant> {
    let sums = [Sums::Products, Sums::Gradients, Sums::Partial].map(sums_variant);
    [variant(false, false), variant(true, false), variant(false, true)].into_iter().chain(sums).collect()
}

/// The extents of one call.
#[derive(Clone, Copy)]
struct Extents {
    batch: usize,
    cin: usize,
    cout: usize,
    taps: usize,
    length: usize,
    steps: usize,
    conv: Conv1d,
}

impl Extents {
    /// For x of shape [B, Cin, L] and a weight of shape [Cout, Cin, K].
    fn new(op: &'static str, x: [usize; 3], weight: [usize; 3], conv: Conv1d) -> Result<Self> {
        let ([batch, cin, length], [cout, of, taps]) = (x, weight);
        if of != cin {
            return Err(Error::mismatch(op, &x, &weight, "the weight's second axis is x's channels"));
        }
        if conv.stride == 0 {
            return Err(Error::Argument { op, argument: "stride", why: "is 0".into() });
        }
        // The shaders add padding and stride to places.
        let padded = conv.padding.checked_mul(2).and_then(|p| p.checked_add(length)).unwrap_or(usize::MAX);
        count_elements(op, &[padded])?;
        count_elements(op, &[conv.stride])?;
        if taps == 0 || taps > padded {
            let expected = format!("[channels out, channels in, 1 to {padded}]");
            return Err(Error::shape(op, "weight", expected, &weight));
        }
        let steps = (padded - taps) / conv.stride + 1;
        for extents in [x, weight, [batch, cout, steps]] {
            count_elements(op, &extents)?;
        }
        Ok(Self { batch, cin, cout, taps, length, steps, conv })
    }

    fn y_shape(self) -> [usize; 3] {
        [self.batch, self.cout, self.steps]
    }

    /// As the shaders take it.
    fn walk(self) -> [u32; 7] {
        let Self { cin, cout, taps, length, steps, conv: Conv1d { stride, padding }, .. } = self;
        [cin, cout, taps, length, steps, stride, padding].map(|n| n as u32)
    }

    fn flops(self) -> u64 {
        [self.batch, self.cout, self.steps, self.cin, self.taps].iter().fold(2, |n, &d| n.saturating_mul(d as u64))
    }
}

const X: &str = "[batch, channels, length]";
const WEIGHT: &str = "[channels out, channels in, taps]";

/// Cross-correlation of x, (B, Cin, L), with weight, (Cout, Cin, K), plus bias, (Cout): (B, Cout, M) with
/// M = (L + 2 padding - K) / stride + 1.
///
/// # Errors
/// [`Error::Shape`], [`Error::ShapeMismatch`] and [`Error::DType`] unless the arguments are as said, with
/// 1 <= K <= L + 2 padding; [`Error::Argument`] for a stride of 0; [`Error::LimitExceeded`]; device errors.
pub fn forward(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, conv: Conv1d) -> Result<Tensor> {
    let op = "conv1d";
    let e = Extents::new(op, x.extents(op, "x", X)?, weight.extents(op, "weight", WEIGHT)?, conv)?;
    if let Some(bias) = bias {
        bias.expect(op, "bias", DType::F32, &[e.cout])?;
    }
    expect_iterations(x.gpu(), op, e.cin.saturating_mul(e.taps + 2))?;
    let y = Tensor::uninit(x.gpu(), op, e.y_shape())?;
    let tensors: Vec<&Tensor> = [x, weight, &y].into_iter().chain(bias).collect();
    run(op, &variant(bias.is_some(), false), &tensors, &y, e)?;
    Ok(y)
}

/// The gradient of [`forward`]'s x, [B, Cin, `length`], from its result's, [B, Cout, M].
///
/// # Errors
/// As [`forward`]; [`Error::Shape`] unless the gradient is that of such an x.
pub fn backward_x(gradient: &Tensor, weight: &Tensor, length: usize, conv: Conv1d) -> Result<Tensor> {
    let op = "conv1d backward";
    let weight_shape @ [_, cin, _] = weight.extents(op, "weight", WEIGHT)?;
    let [batch, _, _] = gradient.extents(op, "gradient", X)?;
    let e = Extents::new(op, [batch, cin, length], weight_shape, conv)?;
    gradient.expect_shape(op, "gradient", &e.y_shape())?;
    expect_iterations(gradient.gpu(), op, e.taps.saturating_mul(e.cout.saturating_add(2)))?;
    let dx = Tensor::uninit(gradient.gpu(), op, [batch, cin, length])?;
    run(op, &variant(false, true), &[gradient, weight, &dx], &dx, e)?;
    Ok(dx)
}

/// An invocation for each element of `result`.
fn run(op: &'static str, variant: &Variant, tensors: &[&Tensor], result: &Tensor, e: Extents) -> Result<()> {
    let params = Params { count: result.len() as u32, walk: e.walk() };
    launch(op, variant, tensors, &params, result.gpu().grid(result.len().div_ceil(64)), e.flops())
}

/// The gradient of [`forward`]'s weight, [Cout, Cin, `taps`], from its x and its result's gradient, [B, Cout, M].
///
/// # Errors
/// As [`forward`]; [`Error::Shape`] unless the gradient is that of such a weight.
pub fn backward_weight(gradient: &Tensor, x: &Tensor, taps: usize, conv: Conv1d) -> Result<Tensor> {
    let op = "conv1d backward weight";
    let x_shape @ [_, cin, _] = x.extents(op, "x", X)?;
    let [_, cout, _] = gradient.extents(op, "gradient", X)?;
    let e = Extents::new(op, x_shape, [cout, cin, taps], conv)?;
    gradient.expect_shape(op, "gradient", &e.y_shape())?;
    reduce(op, e, &[gradient, x], &[cout, cin, taps], Sums::Products)
}

/// The gradient of [`forward`]'s bias, (Cout), from its result's, `gradient`, (B, Cout, M).
///
/// # Errors
/// [`Error::Shape`] unless the gradient has three axes; [`Error::DType`] unless it is f32; device errors.
pub fn backward_bias(gradient: &Tensor) -> Result<Tensor> {
    let op = "conv1d backward bias";
    let [batch, cout, steps] = gradient.extents(op, "gradient", X)?;
    count_elements(op, &[batch, cout, steps])?;
    let conv = Conv1d { stride: 1, padding: 0 };
    let e = Extents { batch, cin: 1, cout, taps: 1, length: steps, steps, conv };
    reduce(op, e, &[gradient], &[cout], Sums::Gradients)
}

/// Of how many sums over `positions` each of `rows` weights is first made.
fn first_slots(positions: usize, rows: usize) -> usize {
    // Many weights keep the device busy with few sums of each.
    let busy = positions.div_ceil(FOLD).min(SLOTS).min((1 << 18) / rows.min(1 << 18));
    busy.max(positions.div_ceil(LONGEST))
}

/// Sums over all positions for each element of `shape`: by `first` over some of them, then of those sums.
fn reduce(op: &'static str, e: Extents, inputs: &[&Tensor], shape: &[usize], first: Sums) -> Result<Tensor> {
    let gpu = inputs[0].gpu();
    let rows: usize = shape.iter().product();
    if rows == 0 || e.batch == 0 || e.steps == 0 {
        return Tensor::zeros(gpu, op, shape);
    }
    let positions = e.batch * e.steps;
    let mut params = WeightParams { count: 0, positions: positions as u32, slots: 0, walk: e.walk() };
    let mut slots = first_slots(positions, rows);
    let mut stage = |slots: usize, tensors: &[&Tensor], of: Sums| -> Result<()> {
        params.count = count_elements(op, &[rows, slots])? as u32;
        params.slots = slots as u32;
        launch(op, &sums_variant(of), tensors, &params, gpu.grid((rows * slots).div_ceil(64)), 0)?;
        params.positions = params.slots;
        Ok(())
    };
    let mut sums = Tensor::uninit(gpu, op, [rows, slots])?;
    let tensors: Vec<&Tensor> = [inputs[0], &sums].into_iter().chain(inputs.get(1).copied()).collect();
    stage(slots, &tensors, first)?;
    while slots > 1 {
        slots = slots.div_ceil(FOLD);
        let fewer = Tensor::uninit(gpu, op, [rows, slots])?;
        stage(slots, &[&sums, &fewer], Sums::Partial)?;
        sums = fewer;
    }
    sums.reshape(shape)
}

/// The same in plain Rust, in f64.
pub mod cpu {
    use super::Conv1d;

    /// Calls `each` with every triple of indices that belong together, in y, x and the weight. `x` and `weight` are
    /// shapes.
    fn walk(x: [usize; 3], weight: [usize; 3], conv: Conv1d, mut each: impl FnMut(usize, usize, usize)) {
        let ([batch, cin, length], [cout, _, taps]) = (x, weight);
        let steps = steps(x, weight, conv);
        let mut pairs = |b: usize, o: usize, m: usize| {
            for (c, k) in (0..cin).flat_map(|c| (0..taps).map(move |k| (c, k))) {
                let place = m * conv.stride + k;
                if (conv.padding..conv.padding + length).contains(&place) {
                    let at = (b * cin + c) * length + place - conv.padding;
                    each((b * cout + o) * steps + m, at, (o * cin + c) * taps + k);
                }
            }
        };
        for b in 0..batch {
            for o in 0..cout {
                (0..steps).for_each(|m| pairs(b, o, m));
            }
        }
    }

    /// M, the length of y.
    pub fn steps(x: [usize; 3], weight: [usize; 3], conv: Conv1d) -> usize {
        (x[2] + 2 * conv.padding - weight[2]) / conv.stride + 1
    }

    /// As [`super::forward`], each array with its shape.
    pub fn forward(
        (x, xs): (&[f64], [usize; 3]),
        (weight, ws): (&[f64], [usize; 3]),
        bias: Option<&[f64]>,
        conv: Conv1d,
    ) -> Vec<f64> {
        let steps = steps(xs, ws, conv);
        let mut y: Vec<f64> = (0..xs[0] * ws[0] * steps).map(|i| bias.map_or(0.0, |b| b[i / steps % ws[0]])).collect();
        walk(xs, ws, conv, |i, at, w| y[i] += x[at] * weight[w]);
        y
    }

    /// The gradients of x, weight and bias.
    pub fn backward(
        gradient: &[f64],
        (x, xs): (&[f64], [usize; 3]),
        (weight, ws): (&[f64], [usize; 3]),
        conv: Conv1d,
    ) -> [Vec<f64>; 3] {
        let steps = steps(xs, ws, conv);
        let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; weight.len()], vec![0.0; ws[0]]);
        walk(xs, ws, conv, |i, at, w| {
            dx[at] += gradient[i] * weight[w];
            dw[w] += gradient[i] * x[at];
        });
        gradient.iter().enumerate().for_each(|(i, g)| db[i / steps % ws[0]] += g);
        [dx, dw, db]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{
        assert_close, assert_slices_close, differences, gpus, inner, noise, noise_tensor, to_f32, to_f64,
    };
    use crate::parity::golden;

    /// x, weight, stride, padding.
    const CASES: [([usize; 3], [usize; 3], usize, usize); 9] = [
        ([1, 1, 1], [1, 1, 1], 1, 0),
        ([3, 1, 12], [1, 1, 5], 1, 2),
        ([2, 3, 7], [4, 3, 3], 1, 0),
        ([2, 3, 7], [4, 3, 3], 2, 1),
        ([1, 2, 5], [3, 2, 5], 3, 0),
        ([2, 2, 3], [1, 2, 6], 1, 2),
        ([1, 1, 4], [2, 1, 2], 5, 3),
        ([5, 1, 257], [1, 1, 5], 1, 2),
        ([37, 2, 1031], [2, 2, 3], 1, 1),
    ];

    #[test]
    fn all_directions_equal_their_twins() {
        for gpu in gpus() {
            for (xs, ws, stride, padding) in CASES {
                let conv = Conv1d { stride, padding };
                let ys = [xs[0], ws[0], cpu::steps(xs, ws, conv)];
                let [x, weight, bias, g] = [(&xs[..], 1), (&ws, 2), (&ws[..1], 3), (&ys, 4)].map(|(shape, seed)| {
                    let values = to_f64(&noise(shape.iter().product(), seed));
                    (noise_tensor(&gpu, shape, seed), values)
                });
                for b in [None, Some(&bias)] {
                    let y = forward(&x.0, &weight.0, b.map(|b| &b.0), conv).unwrap();
                    assert_eq!(y.shape(), ys);
                    let expected = cpu::forward((&x.1, xs), (&weight.1, ws), b.map(|b| &b.1[..]), conv);
                    assert_close(&y, &to_f32(&expected), 1e-5, 2e-6);
                }
                let [dx, dw, db] = cpu::backward(&g.1, (&x.1, xs), (&weight.1, ws), conv);
                assert_close(&backward_x(&g.0, &weight.0, xs[2], conv).unwrap(), &to_f32(&dx), 1e-5, 2e-6);
                // Sums of many products of both signs.
                let atol = 1e-6 * ((ys[0] * ys[2]) as f32).sqrt();
                let got = backward_weight(&g.0, &x.0, ws[2], conv).unwrap();
                assert_eq!(got.shape(), ws);
                assert_close(&got, &to_f32(&dw), 1e-5, atol);
                assert_close(&backward_bias(&g.0).unwrap(), &to_f32(&db), 1e-5, atol);
                let again = backward_weight(&g.0, &x.0, ws[2], conv).unwrap();
                assert_eq!(got.to_vec().unwrap(), again.to_vec().unwrap());
            }
        }
    }

    #[test]
    fn gradients_equal_finite_differences_of_the_twin() {
        for (xs, ws, stride, padding) in &CASES[..7] {
            let (xs, ws, conv) = (*xs, *ws, Conv1d { stride: *stride, padding: *padding });
            let count = xs[0] * ws[0] * cpu::steps(xs, ws, conv);
            let [x, w, b, g] = [(xs.iter().product(), 1), (ws.iter().product(), 2), (ws[0], 3), (count, 4)]
                .map(|(n, seed)| to_f64(&noise(n, seed)));
            let loss = |x: &[f64], w: &[f64], b: &[f64]| inner(&cpu::forward((x, xs), (w, ws), Some(b), conv), &g);
            let differences = [
                differences(&x, |x| loss(x, &w, &b)),
                differences(&w, |w| loss(&x, w, &b)),
                differences(&b, |b| loss(&x, &w, b)),
            ];
            for (got, expected) in cpu::backward(&g, (&x, xs), (&w, ws), conv).iter().zip(&differences) {
                assert_slices_close(&to_f32(got), &to_f32(expected), 1e-5, 1e-7);
            }
        }
    }

    #[test]
    fn the_corners() {
        let conv = Conv1d { stride: 1, padding: 1 };
        for gpu in gpus() {
            let [x, w, g] = [[2, 3, 4], [5, 3, 3], [2, 5, 4]].map(|s| noise_tensor(&gpu, &s, 1));
            let vector = noise_tensor(&gpu, &[4], 1);
            let ids = Tensor::from_u32(&gpu, [1, 1, 1], &[0]).unwrap();
            assert!(matches!(forward(&vector, &w, None, conv), Err(Error::Shape { argument: "x", .. })));
            assert!(matches!(forward(&x, &vector, None, conv), Err(Error::Shape { argument: "weight", .. })));
            assert!(matches!(forward(&g, &w, None, conv), Err(Error::ShapeMismatch { .. })));
            assert!(matches!(forward(&x, &w, Some(&vector), conv), Err(Error::Shape { argument: "bias", .. })));
            assert!(matches!(forward(&ids, &w, None, conv), Err(Error::DType { .. })));
            assert!(matches!(forward(&x, &w, None, Conv1d { stride: 0, padding: 1 }), Err(Error::Argument { .. })));
            let huge = Conv1d { stride: 1, padding: usize::MAX / 2 };
            assert!(matches!(forward(&x, &w, None, huge), Err(Error::LimitExceeded { .. })));
            let long = noise_tensor(&gpu, &[5, 3, 7], 1);
            assert!(matches!(forward(&x, &long, None, conv), Err(Error::Shape { argument: "weight", .. })));
            assert!(matches!(backward_x(&g, &w, 5, conv), Err(Error::Shape { argument: "gradient", .. })));
            assert!(matches!(backward_weight(&g, &x, 4, conv), Err(Error::Shape { argument: "gradient", .. })));
            assert!(matches!(backward_bias(&vector), Err(Error::Shape { .. })));

            let none = Tensor::zeros(&gpu, "test", [0, 3, 4]).unwrap();
            assert_eq!(forward(&none, &w, None, conv).unwrap().shape(), [0, 5, 4]);
            let g = Tensor::zeros(&gpu, "test", [0, 5, 4]).unwrap();
            assert_eq!(backward_x(&g, &w, 4, conv).unwrap().shape(), [0, 3, 4]);
            assert_eq!(backward_weight(&g, &none, 3, conv).unwrap().to_vec().unwrap(), [0.0; 45]);
            assert_eq!(backward_bias(&g).unwrap().to_vec().unwrap(), [0.0; 5]);
        }
    }

    #[test]
    fn golden_conv1d() {
        let golden = golden::open("op-conv1d-k5");
        let conv = Conv1d { stride: 1, padding: 2 };
        for gpu in gpus() {
            let [x, w, g] = ["x", "weight", "cotangent"].map(|n| golden.upload(&gpu, &format!("input.{n}")));
            let y = forward(&x, &w, None, conv).unwrap().to_vec().unwrap();
            golden.check("output.y", &y);
            golden.check_loss(&y);
            golden.check("grad_input.x", &backward_x(&g, &w, x.width(), conv).unwrap().to_vec().unwrap());
            golden.check("grad_input.weight", &backward_weight(&g, &x, 5, conv).unwrap().to_vec().unwrap());
        }
    }

    /// Software adapters end loops that are too long.
    #[test]
    fn many_channels_and_positions_are_summed_to_their_end() {
        for (positions, rows) in [(1, 1), (33, 1 << 20), (1 << 17, 1 << 18), (1 << 31, 1)] {
            let slots = first_slots(positions, rows);
            assert!((1..=positions).contains(&slots) && positions.div_ceil(slots) <= LONGEST, "{positions} {rows}");
        }
        let conv = Conv1d { stride: 1, padding: 0 };
        for gpu in gpus().into_iter().filter(|gpu| gpu.report().is_software()) {
            for (taps, most) in [(1, 21_845), (3, 13_107)] {
                let (xs, ws) = ([1, most, 3], [1, most, taps]);
                let (x, w) = (noise(most * 3, 1), noise(most * taps, 2));
                let y = forward(&noise_tensor(&gpu, &xs, 1), &noise_tensor(&gpu, &ws, 2), None, conv).unwrap();
                assert_close(&y, &to_f32(&cpu::forward((&to_f64(&x), xs), (&to_f64(&w), ws), None, conv)), 1e-4, 1e-3);
                let longer = [[1, most + 1, 3], [1, most + 1, taps]].map(|shape| noise_tensor(&gpu, &shape, 1));
                let refused = forward(&longer[0], &longer[1], None, conv);
                assert!(matches!(refused, Err(Error::LimitExceeded { .. })));
            }
        }
    }
}
