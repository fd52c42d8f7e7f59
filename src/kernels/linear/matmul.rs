//! Matrix products with what usually follows them: y = act(alpha * op(A) op(B) + bias) + residual.
//!
//! | family | a workgroup's tile | when |
//! |---|---|---|
//! | subgroup of s | 32 x 4s | m > 16 and these tiles, times the slices of k there may be, are at least 16 |
//! | | 8 x 4s (16 x 4s for s = 16) | otherwise |
//! | tiled | 8 x 128 | m <= 8 |
//! | | 64 x 64 | m, n > 32 and these tiles, times the slices of k there may be, are at least 128 |
//! | | 32 x 32 | otherwise |
//!
//! With fewer tiles than that (16 or 128), k is cut into slices of at least 256, as many as make up the number; and what
//! is longer than 131,072 is cut in any case. A second kernel adds the slices' partial sums in order. Weight gradients,
//! whose k is long, are the case this is for; batches are never cut. Choices depend on the family and the shape alone,
//! so results are bitwise repeatable.

pub mod cpu;
mod oversize;
#[cfg(test)]
mod tests;

use crate::gpu::{Gpu, KernelFamily};
use crate::kernels::elementwise::permute;
use crate::kernels::elementwise::unary::Activation;
use crate::kernels::shape::count_elements;
use crate::kernels::tile::{DISPATCH_FLOPS, Tile, runs, units};
use crate::kernels::{expect_iterations, launch};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const OP: &str = "matmul";
const SUBGROUP: &str = include_str!("../../../shaders/linear/matmul_subgroup.wgsl");
const TILED: &str = include_str!("../../../shaders/linear/matmul_tiled.wgsl");
const REDUCE: &str = include_str!("../../../shaders/linear/matmul_reduce.wgsl");

/// Workgroups that keep a device of either family busy: (subgroup, tiled).
const BUSY: (usize, usize) = (16, 128);
/// The shortest slice of k worth a workgroup of its own, and the longest, which takes the subgroup family 32,768
/// iterations: software adapters end loops of 65,535.
const SLICE: usize = 256;
const LONGEST: usize = 1 << 17;

const BIAS: u32 = 1;
const RESIDUAL: u32 = 2;
const KEEP: u32 = 4;
const DOWN: u32 = 8;

/// How to multiply and what follows.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Whether a is stored as `[.., k, m]`.
    pub transpose_a: bool,
    /// Whether b is stored as `[.., n, k]`.
    pub transpose_b: bool,
    /// The factor of the product.
    pub alpha: f32,
    /// A summand of each row, `[n]`.
    pub bias: Option<&'a Tensor>,
    /// Applied after the bias.
    pub activation: Option<Activation>,
    /// Added after the activation, of y's shape.
    pub residual: Option<&'a Tensor>,
    /// Whether to return what went into the activation, for its gradient.
    pub keep_pre_activation: bool,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            transpose_a: false,
            transpose_b: false,
            alpha: 1.0,
            bias: None,
            activation: None,
            residual: None,
            keep_pre_activation: false,
        }
    }
}

/// What [`forward`] returns.
#[derive(Clone, Debug)]
pub struct Output {
    /// The result, `[batch.., m, n]`.
    pub y: Tensor,
    /// alpha * op(A) op(B) + bias, of y's shape, if it was asked for.
    pub pre_activation: Option<Tensor>,
}

params! {
    struct Params {
        extents: [u32; 3] as [m, n, k], alpha: f32, strides: [u32; 3] as [stride_a, stride_b, stride_y], k_step: u32,
        k_count: u32, first: [u32; 3] as [first_m, first_n, first_z], flags: u32,
    }
    flags [BIAS, RESIDUAL, KEEP, DOWN]
}

params! {
    struct ReduceParams { n: u32, slices: u32, stride: u32, width: u32, alpha: f32, flags: u32 }
    flags [BIAS, RESIDUAL, KEEP]
}

/// How operands are stored and fetched: what a matmul's kernel is specialised for.
#[derive(Clone, Copy, Debug)]
struct Layout {
    transpose_a: bool,
    transpose_b: bool,
    /// Whether a and b can be fetched as vec4: both rows' lengths are multiples of 4.
    vec: bool,
    /// Whether y can be stored so, too.
    vec_out: bool,
    /// Whether b is f16.
    half: bool,
}

impl Layout {
    fn new([m, n, k]: [usize; 3], transpose_a: bool, transpose_b: bool, half: bool) -> Self {
        let rows = [if transpose_a { m } else { k }, if transpose_b { k } else { n }];
        let vec = rows.iter().all(|len| len.is_multiple_of(4));
        Self { transpose_a, transpose_b, vec, vec_out: vec && n.is_multiple_of(4), half }
    }

    /// Whether the kernel itself can do more than scale. Others leave it to the reduction, which keeps variants few.
    fn fuses(self) -> bool {
        self.vec_out && !self.transpose_a
    }
}

/// The extents of a product and how its operands are stored.
#[derive(Clone, Copy, Debug)]
struct Problem {
    z: usize,
    m: usize,
    n: usize,
    k: usize,
    stride_a: usize,
    stride_b: usize,
    layout: Layout,
}

fn tiles() -> impl Iterator<Item = Tile> {
    Tile::subgroups().chain([Tile::LARGE, Tile::SMALL, Tile::THIN])
}

/// Workgroups for a problem.
fn count(tile: Tile, p: &Problem) -> usize {
    let (rows, columns) = tile.extent();
    p.m.div_ceil(rows) * p.n.div_ceil(columns) * p.z
}

fn choose(family: KernelFamily, p: &Problem) -> Tile {
    match family {
        KernelFamily::Subgroup { size } => {
            let large = Tile::high(size);
            if p.m > 16 && count(large, p) * most_slices(p) >= BUSY.0 { large } else { Tile::low(size) }
        }
        KernelFamily::Tiled if p.m <= 8 => Tile::THIN,
        KernelFamily::Tiled => {
            let enough = count(Tile::LARGE, p) * most_slices(p) >= BUSY.1;
            if p.m > 32 && p.n > 32 && enough { Tile::LARGE } else { Tile::SMALL }
        }
    }
}

/// Into how many slices k is cut: as many as keep the device busy, and none too long.
fn slices(tile: Tile, p: &Problem) -> usize {
    let busy = if matches!(tile, Tile::Subgroup { .. }) { BUSY.0 } else { BUSY.1 };
    busy.div_ceil(count(tile, p)).max(p.k.div_ceil(LONGEST)).min(most_slices(p))
}

/// Into how many slices k may be cut: none shorter than [`SLICE`], and none at all in a batch.
fn most_slices(p: &Problem) -> usize {
    if p.z > 1 { 1 } else { (p.k / SLICE).max(1) }
}

/// The length of a slice of k: whole steps of either kernel, so that only k's own end is ragged.
fn slice_len(k: usize, slices: usize) -> usize {
    k.div_ceil(slices).next_multiple_of(16)
}

/// Without `epilogue` the kernel only scales; with it come bias, activation (0: none) and residual.
fn variant(tile: Tile, layout: Layout, epilogue: Option<u32>) -> Variant {
    let (name, source) = match tile {
        Tile::Subgroup { .. } => ("matmul_subgroup", SUBGROUP),
        Tile::Tiled { .. } => ("matmul_tiled", TILED),
    };
    Variant::own::<Params>(name, source)
        .all(tile.defines(["A_LOADS", "B_LOADS"]))
        .on("TRANSPOSE_A", layout.transpose_a)
        .on("TRANSPOSE_B", layout.transpose_b)
        .on("VEC", layout.vec)
        .on("VEC_OUT", layout.vec_out)
        .on("HALF", layout.half)
        .maybe("ACTIVATION", epilogue)
}

fn reduce_variant(vec: bool, epilogue: Option<u32>) -> Variant {
    Variant::own::<ReduceParams>("matmul_reduce", REDUCE).on("VEC_OUT", vec).maybe("ACTIVATION", epilogue)
}

pub(crate) fn variants() -> Vec<Variant> {
    let epilogues = || std::iter::once(None).chain((0..=Activation::ALL.len() as u32).map(Some));
    let mut all = Vec::new();
    for tile in tiles() {
        for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false)] {
            let layout = |vec, vec_out, half| Layout { transpose_a, transpose_b, vec, vec_out, half };
            all.push(variant(tile, layout(false, false, false), None));
            for half in [false, true].into_iter().filter(|half| transpose_b || !half) {
                if transpose_b {
                    all.push(variant(tile, layout(true, false, half), None));
                }
                let fused = epilogues().filter(|e| e.is_none() || !transpose_a);
                all.extend(fused.map(|e| variant(tile, layout(true, true, half), e)));
            }
        }
    }
    all.extend(epilogues().flat_map(|e| [reduce_variant(false, e), reduce_variant(true, e)]));
    all
}

/// y = act(alpha * op(A) op(B) + bias) + residual.
///
/// a is `[batch.., m, k]` (`[batch.., k, m]` if transposed) and b `[batch.., k, n]` (`[batch.., n, k]`); the batch
/// dimensions are equal, or one operand has none and serves the whole batch. The result is `[batch.., m, n]`. With
/// k = 0 the product is zero.
///
/// A transposed b may be f16, with k a multiple of 4: weights for inference. Products and sums are f32.
///
/// # Errors
/// [`Error::Shape`] or [`Error::ShapeMismatch`] if the shapes do not fit; [`Error::DType`] unless all are f32 but such a b;
/// [`Error::LimitExceeded`] for 2³¹ elements or more, for batches larger than a binding and, on software adapters, for
/// batches with a k beyond 261,884; device errors.
pub fn forward(a: &Tensor, b: &Tensor, options: &Options) -> Result<Output> {
    run(a, b, options, Plan::new)
}

/// op(a) op(b) with nothing else.
///
/// # Errors
/// As [`forward`].
pub fn product(a: &Tensor, b: &Tensor, transpose_a: bool, transpose_b: bool) -> Result<Tensor> {
    Ok(forward(a, b, &Options { transpose_a, transpose_b, ..Options::default() })?.y)
}

/// How a product is carried out.
#[derive(Clone, Copy, Debug)]
struct Plan {
    tile: Tile,
    /// Into how many slices k is cut, at most.
    slices: usize,
    /// Workgroups that fit in one dimension of a grid.
    limit: u32,
    /// Floating-point operations of one dispatch, at most.
    most_flops: u64,
}

impl Plan {
    fn new(gpu: &Gpu, p: &Problem) -> Self {
        let tile = choose(gpu.family(), p);
        let limit = gpu.report().limits.max_compute_workgroups_per_dimension;
        Self { tile, slices: slices(tile, p), limit, most_flops: DISPATCH_FLOPS }
    }
}

/// [`forward`], carried out as `plan` says.
fn run(a: &Tensor, b: &Tensor, options: &Options, plan: impl Fn(&Gpu, &Problem) -> Plan) -> Result<Output> {
    if options.transpose_a && options.transpose_b {
        check(a, b, options)?;
        // The kernels know three layouts; of the fourth, the smaller operand is turned.
        return if a.len() <= b.len() || is_half(b, options) {
            run(&permute::transpose(a)?, b, &Options { transpose_a: false, ..*options }, plan)
        } else {
            run(a, &permute::transpose(b)?, &Options { transpose_b: false, ..*options }, plan)
        };
    }
    let (problem, shape) = check(a, b, options)?;
    if oversize::is(a, b, &problem) {
        return oversize::run(a, b, options, &problem, &shape);
    }
    let gpu = a.gpu();
    let y = Tensor::uninit(gpu, OP, shape)?;
    let follows = options.bias.is_some() || options.activation.is_some() || options.residual.is_some();
    let code = follows.then(|| options.activation.map_or(0, |a| a as u32));
    // Without activation and residual, y is what went into them.
    let keep = options.keep_pre_activation && (options.activation.is_some() || options.residual.is_some());
    let kept = if keep { Some(Tensor::uninit(gpu, OP, y.shape())?) } else { None };
    if !y.is_empty() {
        let epilogue = Epilogue { options, kept: kept.as_ref(), code };
        multiply_and_reduce([a, b, &y], &problem, plan, &epilogue)?;
    }
    let pre_activation = options.keep_pre_activation.then(|| kept.unwrap_or_else(|| y.clone()));
    Ok(Output { y, pre_activation })
}

/// The product, in one kernel if that can be, and otherwise in slices of k.
fn multiply_and_reduce(
    [a, b, y]: [&Tensor; 3],
    problem: &Problem,
    plan: impl Fn(&Gpu, &Problem) -> Plan,
    epilogue: &Epilogue,
) -> Result<()> {
    if problem.k == 0 {
        return reduce(None, 0, y, epilogue);
    }
    if problem.z > 1 {
        expect_iterations(a.gpu(), OP, problem.k.div_ceil(4) + 64)?;
    }
    let plan = plan(a.gpu(), problem);
    // Their sums lie side by side in one binding.
    let room = (y.gpu().report().limits.max_storage_buffer_binding_size / y.bytes()) as usize;
    let most = plan.slices.min(room.max(problem.k.div_ceil(LONGEST)));
    let slices = problem.k.div_ceil(slice_len(problem.k, most));
    let plan = Plan { slices, ..plan };
    if slices == 1 && (epilogue.code.is_none() || problem.layout.fuses()) {
        return multiply([a, b, y], problem, &plan, epilogue);
    }
    let partial = Tensor::uninit(a.gpu(), "matmul partial sums", [slices, y.len()])?;
    let plain = Epilogue { options: &Options::default(), kept: None, code: None };
    multiply([a, b, &partial], problem, &plan, &plain)?;
    reduce(Some(&partial), slices, y, epilogue)
}

/// Whether b is f16, as transposed ones alone may be.
fn is_half(b: &Tensor, options: &Options) -> bool {
    b.dtype() == DType::F16 && options.transpose_b
}

/// Checks the arguments; returns what there is to do and y's shape.
fn check(a: &Tensor, b: &Tensor, options: &Options) -> Result<(Problem, Vec<usize>)> {
    a.expect_dtype(OP, "a", DType::F32)?;
    let half = is_half(b, options);
    if !half {
        b.expect_dtype(OP, "b", DType::F32)?;
    }
    let matrix = |t: &Tensor, argument, transposed| match *t.shape() {
        [ref batch @ .., rows, columns] => {
            let (rows, columns) = if transposed { (columns, rows) } else { (rows, columns) };
            Ok((batch.to_vec(), rows, columns))
        }
        _ => Err(Error::shape(OP, argument, "two dimensions or more", t.shape())),
    };
    let (batch_a, mut m, k) = matrix(a, "a", options.transpose_a)?;
    let (batch_b, k_b, n) = matrix(b, "b", options.transpose_b)?;
    if half && !k_b.is_multiple_of(4) {
        return Err(Error::shape(OP, "b", "rows of a multiple of four halves", b.shape()));
    }
    if k != k_b {
        return Err(Error::mismatch(OP, a.shape(), b.shape(), "the inner extents differ"));
    }
    if batch_a != batch_b && !batch_a.is_empty() && !batch_b.is_empty() {
        let why = "the batch dimensions must be equal, or one operand must have none";
        return Err(Error::mismatch(OP, a.shape(), b.shape(), why));
    }
    let batch = if batch_a.is_empty() { &batch_b } else { &batch_a };
    let shape = [batch.as_slice(), &[m, n]].concat();
    if let Some(bias) = options.bias {
        bias.expect(OP, "bias", DType::F32, &[n])?;
    }
    if let Some(residual) = options.residual {
        residual.expect(OP, "residual", DType::F32, &shape)?;
    }
    let mut z: usize = batch.iter().product();
    for shape in [a.shape(), b.shape(), &shape] {
        count_elements(OP, shape)?;
    }
    if batch_b.is_empty() && !options.transpose_a {
        // One b for all rows: the batch is just more rows.
        m *= z;
        z = 1;
    }
    let stride_a = if batch_a.is_empty() || z == 1 { 0 } else { m * k };
    let stride_b = if batch_b.is_empty() || z == 1 { 0 } else { k * n };
    let layout = Layout::new([m, n, k], options.transpose_a, options.transpose_b, half);
    Ok((Problem { z, m, n, k, stride_a, stride_b, layout }, shape))
}

/// What follows a product, in the kernel that ends it.
struct Epilogue<'a> {
    options: &'a Options<'a>,
    /// Where what went into the activation is written.
    kept: Option<&'a Tensor>,
    /// The shader's number of the activation (0: none); without one the kernel only scales.
    code: Option<u32>,
}

impl Epilogue<'_> {
    /// What the kernel binds for it; there is something to bind, too, where it will not look.
    fn tensors(&self, gpu: &Gpu) -> Result<Vec<Tensor>> {
        if self.code.is_none() {
            return Ok(Vec::new());
        }
        let bound = |tensor: Option<&Tensor>| tensor.map_or_else(|| Tensor::uninit(gpu, OP, [4]), |t| Ok(t.clone()));
        [self.options.bias, self.options.residual, self.kept].into_iter().map(bound).collect()
    }

    fn flags(&self) -> u32 {
        let there = [(self.options.bias, BIAS), (self.options.residual, RESIDUAL), (self.kept, KEEP)];
        there.into_iter().filter(|(tensor, _)| tensor.is_some()).map(|(_, flag)| flag).sum()
    }
}

/// The part of a product that one dispatch does: the first tile of m, n, and the first product, and how many of each.
struct Part {
    first: [u32; 3],
    count: [u32; 3],
    flops: u64,
}

/// The parts of a product, none of which takes long.
fn parts(p: &Problem, plan: &Plan) -> Vec<Part> {
    let (rows, columns) = plan.tile.extent();
    let k_count = slice_len(p.k, plan.slices);
    // So many tiles of a row or a column, or products, of so many floating-point operations each.
    let at_most = |flops: usize| units(flops as u64, plan.most_flops).min(plan.limit as usize);
    let mut parts = Vec::new();
    for (first_z, count_z) in runs(p.z * plan.slices, at_most(2 * p.m * p.n * k_count)) {
        for (first_n, count_n) in runs(p.n.div_ceil(columns), at_most(2 * rows * columns * k_count)) {
            let wide = (count_n as usize * columns).min(p.n);
            for (first_m, count_m) in runs(p.m.div_ceil(rows), at_most(2 * rows * wide * k_count * count_z as usize)) {
                let covered = (count_m as usize * rows).min(p.m) * wide;
                let flops = 2 * (covered * p.k) as u64 * u64::from(count_z) / plan.slices as u64;
                parts.push(Part { first: [first_m, first_n, first_z], count: [count_m, count_n, count_z], flops });
            }
        }
    }
    parts
}

fn multiply([a, b, y]: [&Tensor; 3], p: &Problem, plan: &Plan, epilogue: &Epilogue) -> Result<()> {
    let variant = variant(plan.tile, p.layout, epilogue.code);
    let extras = epilogue.tensors(a.gpu())?;
    let tensors: Vec<&Tensor> = [a, b, y].into_iter().chain(&extras).collect();
    // The longer way goes on outside, so that the operand that is met again and again is the smaller one.
    let down = p.m < p.n;
    let k_count = slice_len(p.k, plan.slices) as u32;
    for Part { first, count, flops } in parts(p, plan) {
        let params = Params {
            extents: [p.m, p.n, p.k].map(|n| n as u32),
            alpha: epilogue.options.alpha,
            strides: [p.stride_a, p.stride_b, p.m * p.n].map(|n| n as u32),
            k_step: if plan.slices > 1 { k_count } else { 0 },
            k_count,
            first,
            flags: epilogue.flags() | if down { DOWN } else { 0 },
        };
        let grid = if down { count } else { [count[1], count[0], count[2]] };
        launch(OP, &variant, &tensors, &params, grid, flops)?;
    }
    Ok(())
}

fn reduce(partial: Option<&Tensor>, slices: usize, y: &Tensor, epilogue: &Epilogue) -> Result<()> {
    let gpu = y.gpu();
    // Without partial sums there is something to bind all the same.
    let partial = partial.map_or_else(|| Tensor::uninit(gpu, OP, [4]), |t| Ok(t.clone()))?;
    let extras = epilogue.tensors(gpu)?;
    let tensors: Vec<&Tensor> = [&partial, y].into_iter().chain(&extras).collect();
    let vec = y.width().is_multiple_of(4);
    let cell = if vec { 4 } else { 1 };
    let n = y.len() / cell;
    let params = ReduceParams {
        n: n as u32,
        slices: slices as u32,
        stride: n as u32,
        width: (y.width() / cell) as u32,
        alpha: epilogue.options.alpha,
        flags: epilogue.flags(),
    };
    launch("matmul reduce", &reduce_variant(vec, epilogue.code), &tensors, &params, gpu.grid(n.div_ceil(64)), 0)
}
