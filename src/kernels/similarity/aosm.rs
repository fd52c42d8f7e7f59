//! Attention over the similarity matrix, as X-CLIP names it: what GLCCL makes of frame-word dot products.
//!
//! For every pair of a text and a video, the rows x and y have a matrix M of dot products. Row k's score is the mean of
//! the row's products, weighted by their own softmax times a learned matrix. In the tiled family M is never in memory: a
//! workgroup makes it for one pair, a few rows at a time, and backward makes it again. Software adapters, which wait long
//! at its barriers, multiply matrices far faster than that; see `products`.

mod products;

use crate::gpu::KernelFamily;
use crate::kernels::rows::reduce;
use crate::kernels::shape::{count_elements, expect_at_most};
use crate::kernels::{expect_iterations, inverse_temperature, launch};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const OP: &str = "aosm";
const BACKWARD: &str = "aosm backward";
const WGSL: &str = include_str!("../../../shaders/similarity/aosm.wgsl");
const WGSL_BACKWARD: &str = include_str!("../../../shaders/similarity/aosm_backward.wgsl");

/// The most rows of a pair.
pub const MOST_ROWS: usize = INVOCATIONS;
/// Invocations of a workgroup.
const INVOCATIONS: usize = 256;
/// Workgroups of a dispatch, each with several pairs: enough to fill a large GPU. To start one is dear on software
/// adapters.
const MOST_GROUPS: usize = 512;
/// Elements of their partial sums of the matrix's gradient: 4 MiB.
const PARTIAL: usize = 1 << 20;
/// Iterations of an invocation, from where on it is left to another dispatch to go on: some tenths of a second on small
/// GPUs.
const ITERATIONS: usize = 16_384;

const X: u32 = 1;
const Y: u32 = 2;
const MATRIX: u32 = 4;

params! {
    struct Params {
        pairs: u32, videos: u32, rows: u32, frames: u32, first: u32, groups: u32, each: u32, wanted: u32, inverse: f32,
    }
    flags [X, Y, MATRIX]
}

fn variant() -> Variant {
    Variant::own::<Params>("aosm", WGSL)
}

fn backward_variant() -> Variant {
    Variant::own::<Params>("aosm_backward", WGSL_BACKWARD)
}

pub(crate) fn variants() -> Vec<Variant> {
    vec![variant(), backward_variant()]
}

/// The extents of a call.
#[derive(Clone, Copy)]
struct Extents {
    texts: usize,
    rows: usize,
    videos: usize,
    frames: usize,
}

impl Extents {
    fn of(op: &'static str, x: &Tensor, y: &Tensor, matrix: &Tensor) -> Result<Self> {
        let [texts, rows, videos, frames] = x.extents(op, "x", "[texts, rows, videos, frames]")?;
        y.expect(op, "y", DType::F32, x.shape())?;
        matrix.expect(op, "matrix", DType::F32, &[rows, rows])?;
        count_elements(op, x.shape())?;
        count_elements(op, &[texts, videos, rows])?;
        expect_at_most(op, "number of rows", rows, MOST_ROWS, "use fewer words")?;
        Ok(Self { texts, rows, videos, frames })
    }

    fn scores(self) -> [usize; 3] {
        [self.texts, self.videos, self.rows]
    }

    fn pairs(self) -> usize {
        self.texts * self.videos
    }

    /// Whether there are no products.
    fn is_empty(self) -> bool {
        self.pairs() * self.rows * self.frames == 0
    }

    /// Quads that a workgroup has at a time, and how often it takes such a block for a pair.
    fn blocks(self) -> [usize; 2] {
        let quads = self.rows.div_ceil(4);
        let slots = (INVOCATIONS / self.rows).min(quads);
        [slots, quads.div_ceil(slots)]
    }

    /// Iterations of an invocation for one pair, forward.
    fn iterations(self) -> usize {
        let [_, blocks] = self.blocks();
        blocks * (self.frames + 3 * self.rows + 4) + 2
    }

    /// The same backward: the loops of forward but the last, and those for the three gradients.
    fn backward_iterations(self) -> usize {
        let [slots, blocks] = self.blocks();
        let turns = |elements: usize| elements.div_ceil(INVOCATIONS);
        let dx = turns(slots * self.frames) * (self.rows + 2);
        let dy = turns(self.rows * self.frames) * (slots + 2);
        let dmatrix = turns(self.rows.div_ceil(4) * self.rows) * (slots + 2);
        blocks * (self.frames + 2 * self.rows + dx + dy + dmatrix + 7) + 2
    }

    /// Launches `call` for all pairs, in several dispatches if an invocation had more to do than `most_iterations`.
    /// `products` is how many products with the frames, and as many with the matrix, it makes for a pair.
    fn launch(
        self,
        call: &Call,
        groups: usize,
        iterations: usize,
        most_iterations: usize,
        products: usize,
    ) -> Result<()> {
        let gpu = call.tensors[0].gpu();
        expect_iterations(gpu, call.op, iterations)?;
        let each = (most_iterations / iterations).clamp(1, self.pairs().div_ceil(groups));
        let flops = 2 * (products * self.rows * self.rows * (self.frames + self.rows)) as u64;
        for first in (0..self.pairs()).step_by(groups * each) {
            let params = Params {
                pairs: self.pairs() as u32,
                videos: self.videos as u32,
                rows: self.rows as u32,
                frames: self.frames as u32,
                first: first as u32,
                groups: groups as u32,
                each: each as u32,
                wanted: call.wanted,
                inverse: call.inverse,
            };
            let pairs = (groups * each).min(self.pairs() - first);
            launch(call.op, &call.variant, call.tensors, &params, gpu.grid(groups), flops * pairs as u64)?;
        }
        Ok(())
    }
}

/// What is the same in all dispatches of a call.
struct Call<'a> {
    op: &'static str,
    variant: Variant,
    tensors: &'a [&'a Tensor],
    wanted: u32,
    inverse: f32,
}

/// What [`forward`] gives.
#[derive(Clone, Debug)]
pub struct Output {
    /// `[texts, videos, rows]`.
    pub scores: Tensor,
    /// What [`backward`] needs.
    pub kept: Vec<Tensor>,
}

/// The scores `[texts, videos, rows]` of `x` and `y`, both `[texts, rows, videos, frames]`: with m_kl the dot product,
/// over the frames, of row k of x and row l of y for a text and a video, and p_k = softmax(m_k / temperature), the score
/// is Σ_ab p_ka matrix_ab m_kb. `matrix` is `[rows, rows]`.
///
/// # Errors
/// [`Error::Shape`] and [`Error::DType`] unless all are as above, [`Error::Argument`] unless the temperature is above 0,
/// [`Error::LimitExceeded`] for more than [`MOST_ROWS`] rows, for 2³¹ elements and, on software adapters, for thousands
/// of frames; device errors.
pub fn forward(x: &Tensor, y: &Tensor, matrix: &Tensor, temperature: f32) -> Result<Output> {
    let empty = Extents::of(OP, x, y, matrix)?.is_empty();
    let inverse = inverse_temperature(OP, temperature)?;
    if x.gpu().family() != KernelFamily::Tiled && !empty {
        return products::forward(x, y, matrix, inverse);
    }
    let scores = run(x, y, matrix, temperature, ITERATIONS)?;
    Ok(Output { kept: vec![x.clone(), y.clone(), matrix.clone(), scores.clone()], scores })
}

/// [`forward`] of the tiled family, in dispatches of so many iterations.
fn run(x: &Tensor, y: &Tensor, matrix: &Tensor, temperature: f32, most_iterations: usize) -> Result<Tensor> {
    let e = Extents::of(OP, x, y, matrix)?;
    let inverse = inverse_temperature(OP, temperature)?;
    if e.is_empty() {
        return Tensor::zeros(x.gpu(), OP, e.scores());
    }
    let scores = Tensor::uninit(x.gpu(), OP, e.scores())?;
    let tensors = [x, y, matrix, &scores];
    let call = Call { op: OP, variant: variant(), tensors: &tensors, wanted: 0, inverse };
    e.launch(&call, MOST_GROUPS.min(e.pairs()), e.iterations(), most_iterations, 1)?;
    Ok(scores)
}

/// The gradients of [`forward`]'s x, y and matrix, each if `wanted`, from what it `kept` and the gradient of its scores,
/// `upstream`. Beside the gradients the tiled family takes up to 4 MiB.
///
/// # Errors
/// As [`forward`]; [`Error::Argument`] for what was not kept by it.
pub fn backward(
    upstream: &Tensor,
    kept: &[Tensor],
    temperature: f32,
    wanted: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    match kept {
        [x, y, matrix, scores] => run_backward(upstream, [x, y, matrix, scores], temperature, wanted, ITERATIONS),
        [x, y, matrix, m, p, q] => {
            let inverse = inverse_temperature(BACKWARD, temperature)?;
            products::backward(upstream, [x, y, matrix, m, p, q], inverse, wanted)
        }
        _ => Err(Error::Argument { op: BACKWARD, argument: "kept", why: "is not what forward keeps".into() }),
    }
}

/// [`backward`] of the tiled family, in dispatches of so many iterations.
fn run_backward(
    upstream: &Tensor,
    [x, y, matrix, scores]: [&Tensor; 4],
    temperature: f32,
    wanted: [bool; 3],
    most_iterations: usize,
) -> Result<[Option<Tensor>; 3]> {
    let op = BACKWARD;
    let e = Extents::of(op, x, y, matrix)?;
    let inverse = inverse_temperature(op, temperature)?;
    for (argument, tensor) in [("upstream", upstream), ("scores", scores)] {
        tensor.expect(op, argument, DType::F32, &e.scores())?;
    }
    let gpu = x.gpu();
    let [for_x, for_y, for_matrix] = wanted;
    if e.is_empty() || wanted == [false; 3] {
        let zeros = |wanted: bool, like: &Tensor| wanted.then(|| Tensor::zeros(gpu, op, like.shape())).transpose();
        return Ok([zeros(for_x, x)?, zeros(for_y, y)?, zeros(for_matrix, matrix)?]);
    }
    let groups = (PARTIAL / matrix.len()).min(MOST_GROUPS).min(e.pairs());
    // What is not wanted is bound all the same.
    let place = |wanted: bool, shape: &[usize]| Tensor::uninit(gpu, op, if wanted { shape } else { &[1] });
    let (dx, dy) = (place(for_x, x.shape())?, place(for_y, y.shape())?);
    let partial = Tensor::zeros(gpu, op, if for_matrix { vec![groups, e.rows, e.rows] } else { vec![1] })?;
    let flag = |wanted: bool, flag: u32| if wanted { flag } else { 0 };
    let flags = flag(for_x, X) | flag(for_y, Y) | flag(for_matrix, MATRIX);
    let tensors = [x, y, matrix, scores, upstream, &dx, &dy, &partial];
    let call = Call { op, variant: backward_variant(), tensors: &tensors, wanted: flags, inverse };
    e.launch(&call, groups, e.backward_iterations(), most_iterations, 3)?;
    let dmatrix = for_matrix.then(|| reduce::sum_to(&partial, matrix.shape(), 1.0)).transpose()?;
    Ok([for_x.then_some(dx), for_y.then_some(dy), dmatrix])
}

/// The same in plain Rust.
pub mod cpu {
    /// Extents: texts, rows, videos, frames.
    pub type Extents = [usize; 4];

    /// Rows p and m of one pair, and the score: what both directions start from.
    fn row(
        [_, rows, videos, frames]: Extents,
        x: &[f64],
        y: &[f64],
        matrix: &[f64],
        t: f64,
        [text, video, k]: [usize; 3],
    ) -> (Vec<f64>, Vec<f64>, f64) {
        let at = |row: usize| ((text * rows + row) * videos + video) * frames;
        let m: Vec<f64> = (0..rows).map(|l| (0..frames).map(|f| x[at(k) + f] * y[at(l) + f]).sum()).collect();
        let top = m.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let e: Vec<f64> = m.iter().map(|m| ((m - top) / t).exp()).collect();
        let total: f64 = e.iter().sum();
        let p: Vec<f64> = e.iter().map(|e| e / total).collect();
        let score = (0..rows * rows).map(|i| p[i / rows] * matrix[i] * m[i % rows]).sum();
        (p, m, score)
    }

    /// Every text, video and row, in the order of the scores.
    fn places([texts, rows, videos, _]: Extents) -> impl Iterator<Item = [usize; 3]> {
        (0..texts * videos * rows).map(move |i| [i / rows / videos, i / rows % videos, i % rows])
    }

    /// The scores.
    pub fn forward(extents: Extents, x: &[f64], y: &[f64], matrix: &[f64], t: f64) -> Vec<f64> {
        places(extents).map(|place| row(extents, x, y, matrix, t, place).2).collect()
    }

    /// The gradients of x, y and matrix, given that of the scores, `g`.
    pub fn backward(extents: Extents, g: &[f64], x: &[f64], y: &[f64], matrix: &[f64], t: f64) -> [Vec<f64>; 3] {
        let [_, rows, videos, frames] = extents;
        let (mut dx, mut dy, mut dmatrix) = (vec![0.0; x.len()], vec![0.0; y.len()], vec![0.0; matrix.len()]);
        for (place, g) in places(extents).zip(g) {
            let [text, video, k] = place;
            let at = |row: usize| ((text * rows + row) * videos + video) * frames;
            let (p, m, score) = row(extents, x, y, matrix, t, place);
            for l in 0..rows {
                let q: f64 = (0..rows).map(|a| p[a] * matrix[a * rows + l]).sum();
                let u: f64 = (0..rows).map(|b| matrix[l * rows + b] * m[b]).sum();
                let dm = g * (q + p[l] * (u - score) / t);
                for f in 0..frames {
                    dx[at(k) + f] += dm * y[at(l) + f];
                    dy[at(l) + f] += dm * x[at(k) + f];
                }
                for b in 0..rows {
                    dmatrix[l * rows + b] += g * p[l] * m[b];
                }
            }
        }
        [dx, dy, dmatrix]
    }
}

#[cfg(test)]
mod tests;
