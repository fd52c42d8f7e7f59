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

mod parts;

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Gpu, KernelFamily};
use crate::kernels::elementwise::permute;
use crate::kernels::elementwise::unary::Activation;
use crate::kernels::{MOST_FLOPS, expect_iterations, launch};
use crate::shader::Variant;
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

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    m: u32,
    n: u32,
    k: u32,
    alpha: f32,
    stride_a: u32,
    stride_b: u32,
    stride_y: u32,
    k_step: u32,
    k_count: u32,
    first_m: u32,
    first_n: u32,
    first_z: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ReduceParams {
    n: u32,
    slices: u32,
    stride: u32,
    width: u32,
    alpha: f32,
    flags: u32,
}

/// The extents of a product and how its operands are stored.
#[derive(Clone, Copy, Debug)]
struct Problem {
    z: usize,
    m: usize,
    n: usize,
    k: usize,
    transpose_a: bool,
    transpose_b: bool,
    stride_a: usize,
    stride_b: usize,
    /// Whether b is kept as pairs of halves.
    half: bool,
}

impl Problem {
    /// Whether a and b can be fetched as vec4: both rows' lengths are multiples of 4.
    fn vec(&self) -> bool {
        let (a, b) = (if self.transpose_a { self.m } else { self.k }, if self.transpose_b { self.k } else { self.n });
        a.is_multiple_of(4) && b.is_multiple_of(4)
    }

    fn vec_out(&self) -> bool {
        self.vec() && self.n.is_multiple_of(4)
    }

    /// Whether the kernel itself can do more than scale. Others leave it to the reduction, which keeps variants few.
    fn fuses(&self) -> bool {
        self.vec_out() && !self.transpose_a
    }
}

/// A workgroup's tile, as the shader's defines give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tile {
    Subgroup { lanes: u32, groups: u32 },
    Tiled { tx: u32, ty: u32 },
}

impl Tile {
    const LARGE: Self = Self::Tiled { tx: 16, ty: 16 };
    const SMALL: Self = Self::Tiled { tx: 8, ty: 8 };
    const THIN: Self = Self::Tiled { tx: 32, ty: 2 };

    fn all() -> Vec<Self> {
        let subgroup = |lanes, groups| Self::Subgroup { lanes, groups };
        let of = [(4, 2), (4, 8), (8, 1), (8, 4), (16, 1), (16, 2)].map(|(lanes, groups)| subgroup(lanes, groups));
        of.into_iter().chain([Self::LARGE, Self::SMALL, Self::THIN]).collect()
    }

    /// Rows and columns.
    fn extent(self) -> (usize, usize) {
        match self {
            Self::Subgroup { lanes, groups } => ((lanes * groups) as usize, 4 * lanes as usize),
            Self::Tiled { tx, ty } => (4 * ty as usize, 4 * tx as usize),
        }
    }

    /// Workgroups for a problem.
    fn count(self, p: &Problem) -> usize {
        let (rows, columns) = self.extent();
        p.m.div_ceil(rows) * p.n.div_ceil(columns) * p.z
    }

    fn choose(family: KernelFamily, p: &Problem) -> Self {
        match family {
            KernelFamily::Subgroup { size: lanes } => {
                let large = Self::Subgroup { lanes, groups: 32 / lanes };
                let small = Self::Subgroup { lanes, groups: if lanes == 4 { 2 } else { 1 } };
                if p.m > 16 && large.count(p) * most_slices(p) >= BUSY.0 { large } else { small }
            }
            KernelFamily::Tiled if p.m <= 8 => Self::THIN,
            KernelFamily::Tiled => {
                let enough = Self::LARGE.count(p) * most_slices(p) >= BUSY.1;
                if p.m > 32 && p.n > 32 && enough { Self::LARGE } else { Self::SMALL }
            }
        }
    }

    /// Into how many slices k is cut: as many as keep the device busy, and none too long.
    fn slices(self, p: &Problem) -> usize {
        let busy = if matches!(self, Self::Subgroup { .. }) { BUSY.0 } else { BUSY.1 };
        busy.div_ceil(self.count(p)).max(p.k.div_ceil(LONGEST)).min(most_slices(p))
    }
}

/// Into how many slices k may be cut: none shorter than [`SLICE`], and none at all in a batch.
fn most_slices(p: &Problem) -> usize {
    if p.z > 1 { 1 } else { (p.k / SLICE).max(1) }
}

/// The length of a slice of k: whole steps of either kernel, so that only k's own end is ragged.
fn slice_len(k: usize, slices: usize) -> usize {
    k.div_ceil(slices).next_multiple_of(16)
}

/// What a matmul's kernel is specialised for.
#[derive(Clone, Copy)]
struct Layout {
    transpose_a: bool,
    transpose_b: bool,
    vec: bool,
    vec_out: bool,
    half: bool,
}

impl Layout {
    fn of(p: &Problem) -> Self {
        let (transpose_a, transpose_b) = (p.transpose_a, p.transpose_b);
        Self { transpose_a, transpose_b, vec: p.vec(), vec_out: p.vec_out(), half: p.half }
    }
}

/// Without `epilogue` the kernel only scales; with it come bias, activation (0: none) and residual.
fn variant(tile: Tile, layout: Layout, epilogue: Option<u32>) -> Variant {
    let (name, source, mut defines) = match tile {
        Tile::Subgroup { lanes, groups } => ("matmul_subgroup", SUBGROUP, vec![("LANES", lanes), ("GROUPS", groups)]),
        Tile::Tiled { tx, ty } => {
            let loads = |t: u32| (16 * t).div_ceil(tx * ty);
            ("matmul_tiled", TILED, vec![("TX", tx), ("TY", ty), ("A_LOADS", loads(ty)), ("B_LOADS", loads(tx))])
        }
    };
    for (define, set) in [
        ("TRANSPOSE_A", layout.transpose_a),
        ("TRANSPOSE_B", layout.transpose_b),
        ("VEC", layout.vec),
        ("VEC_OUT", layout.vec_out),
        ("HALF", layout.half),
    ] {
        if set {
            defines.push((define, 1));
        }
    }
    defines.extend(epilogue.map(|activation| ("ACTIVATION", activation)));
    Variant::own(name, source, defines)
}

fn reduce_variant(vec: bool, epilogue: Option<u32>) -> Variant {
    let mut defines = Vec::new();
    if vec {
        defines.push(("VEC_OUT", 1));
    }
    defines.extend(epilogue.map(|activation| ("ACTIVATION", activation)));
    Variant::own("matmul_reduce", REDUCE, defines)
}

pub(crate) fn variants() -> Vec<Variant> {
    let epilogues = || std::iter::once(None).chain((0..=Activation::ALL.len() as u32).map(Some));
    let mut all = Vec::new();
    for tile in Tile::all() {
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
/// A transposed b may be u32 `[batch.., n, k / 2]` of two halves each, the first in the low bits, with k a multiple of 4:
/// weights for inference. Products and sums are f32.
///
/// # Errors
/// [`Error::Shape`] or [`Error::ShapeMismatch`] if the shapes do not fit; [`Error::DType`] unless all are f32 but such a b;
/// [`Error::LimitExceeded`] for 2³² elements or more, for batches larger than a binding and, on software adapters, for
/// batches with a k beyond 261,884; device errors.
pub fn forward(a: &Tensor, b: &Tensor, options: &Options) -> Result<Output> {
    run(a, b, options, None)
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
        let tile = Tile::choose(gpu.family(), p);
        let limit = gpu.report().limits.max_compute_workgroups_per_dimension;
        Self { tile, slices: tile.slices(p), limit, most_flops: MOST_FLOPS }
    }
}

/// [`forward`], by another plan than the rules' if given.
fn run(a: &Tensor, b: &Tensor, options: &Options, force: Option<Plan>) -> Result<Output> {
    if options.transpose_a && options.transpose_b {
        check(a, b, options)?;
        // The kernels know three layouts; of the fourth, the smaller operand is turned.
        return if a.len() <= b.len() || is_half(b, options) {
            run(&permute::transpose(a)?, b, &Options { transpose_a: false, ..*options }, force)
        } else {
            run(a, &permute::transpose(b)?, &Options { transpose_b: false, ..*options }, force)
        };
    }
    let (problem, shape) = check(a, b, options)?;
    if parts::needed(a, b, &problem) {
        return parts::run(a, b, options, &problem, &shape);
    }
    let gpu = a.gpu();
    let y = Tensor::uninit(gpu, OP, shape)?;
    let epilogue = options.bias.is_some() || options.activation.is_some() || options.residual.is_some();
    let epilogue = epilogue.then(|| options.activation.map_or(0, |a| a as u32));
    // Without activation and residual, y is what went into them.
    let keep = options.keep_pre_activation && (options.activation.is_some() || options.residual.is_some());
    let kept = if keep { Some(Tensor::uninit(gpu, OP, y.shape())?) } else { None };
    let output = |y: &Tensor| {
        let pre_activation = options.keep_pre_activation.then(|| kept.clone().unwrap_or_else(|| y.clone()));
        Output { y: y.clone(), pre_activation }
    };
    if y.is_empty() {
        return Ok(output(&y));
    }
    let kept = kept.as_ref();
    if problem.k == 0 {
        reduce(None, 0, &y, kept, options, epilogue)?;
        return Ok(output(&y));
    }
    if problem.z > 1 {
        expect_iterations(gpu, OP, problem.k.div_ceil(4) + 64)?;
    }
    let plan = force.unwrap_or_else(|| Plan::new(gpu, &problem));
    let slices = problem.k.div_ceil(slice_len(problem.k, plan.slices));
    if slices == 1 && (epilogue.is_none() || problem.fuses()) {
        multiply(a, b, &y, kept, options, &problem, &Plan { slices, ..plan }, epilogue)?;
    } else {
        let partial = Tensor::uninit(gpu, "matmul partial sums", [slices, y.len()])?;
        let plain = Options { alpha: 1.0, ..Options::default() };
        multiply(a, b, &partial, None, &plain, &problem, &Plan { slices, ..plan }, None)?;
        reduce(Some(&partial), slices, &y, kept, options, epilogue)?;
    }
    Ok(output(&y))
}

/// Whether b is kept as pairs of halves, which is for transposed ones alone.
fn is_half(b: &Tensor, options: &Options) -> bool {
    b.dtype() == DType::U32 && options.transpose_b
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
        _ => {
            let expected = "two dimensions or more".into();
            Err(Error::Shape { op: OP, argument, expected, got: t.shape().to_vec() })
        }
    };
    let (batch_a, mut m, k) = matrix(a, "a", options.transpose_a)?;
    let (batch_b, stored, n) = matrix(b, "b", options.transpose_b)?;
    let k_b = if half { stored.saturating_mul(2) } else { stored };
    if half && !k_b.is_multiple_of(4) {
        let expected = "rows of a multiple of four halves".into();
        return Err(Error::Shape { op: OP, argument: "b", expected, got: b.shape().to_vec() });
    }
    let mismatch = |why| Error::ShapeMismatch { op: OP, left: a.shape().to_vec(), right: b.shape().to_vec(), why };
    if k != k_b {
        return Err(mismatch("the inner extents differ"));
    }
    if batch_a != batch_b && !batch_a.is_empty() && !batch_b.is_empty() {
        return Err(mismatch("the batch dimensions must be equal, or one operand must have none"));
    }
    let batch = if batch_a.is_empty() { &batch_b } else { &batch_a };
    let shape = [batch.as_slice(), &[m, n]].concat();
    if let Some(bias) = options.bias {
        bias.expect_dtype(OP, "bias", DType::F32)?;
        bias.expect_shape(OP, "bias", &[n])?;
    }
    if let Some(residual) = options.residual {
        residual.expect_dtype(OP, "residual", DType::F32)?;
        residual.expect_shape(OP, "residual", &shape)?;
    }
    let mut z: usize = batch.iter().product();
    let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(usize::MAX);
    let needed = elements.max(a.len()).max(if half { b.len().saturating_mul(2) } else { b.len() });
    if u32::try_from(needed).is_err() {
        let (what, limit) = ("elements", u32::MAX.into());
        return Err(Error::LimitExceeded { op: OP, what, needed: needed as u64, limit, remedy: "split the batch" });
    }
    if batch_b.is_empty() && !options.transpose_a {
        // One b for all rows: the batch is just more rows.
        m *= z;
        z = 1;
    }
    let stride_a = if batch_a.is_empty() || z == 1 { 0 } else { m * k };
    let stride_b = if batch_b.is_empty() || z == 1 { 0 } else { k * n };
    let (transpose_a, transpose_b) = (options.transpose_a, options.transpose_b);
    Ok((Problem { z, m, n, k, transpose_a, transpose_b, stride_a, stride_b, half }, shape))
}

/// The tensors of the epilogue, with `unused` in place of those that are not there; and its flags.
fn extras<'t>(options: &Options<'t>, kept: Option<&'t Tensor>, unused: &'t (Tensor, Tensor)) -> ([&'t Tensor; 3], u32) {
    let mut flags = 0;
    for (there, flag) in
        [(options.bias.is_some(), BIAS), (options.residual.is_some(), RESIDUAL), (kept.is_some(), KEEP)]
    {
        if there {
            flags |= flag;
        }
    }
    ([options.bias.unwrap_or(&unused.0), options.residual.unwrap_or(&unused.0), kept.unwrap_or(&unused.1)], flags)
}

/// Something to bind where the shader will not look: one to read, one to write.
fn placeholders(gpu: &Gpu) -> Result<(Tensor, Tensor)> {
    Ok((Tensor::uninit(gpu, OP, [4])?, Tensor::uninit(gpu, OP, [4])?))
}

#[allow(clippy::too_many_arguments)]
fn multiply(
    a: &Tensor,
    b: &Tensor,
    y: &Tensor,
    kept: Option<&Tensor>,
    options: &Options,
    p: &Problem,
    &Plan { tile, slices, limit, most_flops }: &Plan,
    epilogue: Option<u32>,
) -> Result<()> {
    let gpu = a.gpu();
    let variant = variant(tile, Layout::of(p), epilogue);
    let mut tensors = vec![a, b, y];
    let mut flags = 0;
    let unused;
    if epilogue.is_some() {
        unused = placeholders(gpu)?;
        let (more, set) = extras(options, kept, &unused);
        tensors.extend(more);
        flags = set;
    }
    // The longer way goes on outside, so that the operand that is met again and again is the smaller one.
    let down = p.m < p.n;
    if down {
        flags |= DOWN;
    }
    let (rows, columns) = tile.extent();
    let k_count = slice_len(p.k, slices);
    // So many tiles of a row or a column, or products, of so many floating-point operations each.
    let at_most = |flops: usize| (most_flops / (flops as u64).max(1)).clamp(1, limit.into()) as u32;
    let z = p.z * slices;
    for (first_z, count_z) in runs(z, at_most(2 * p.m * p.n * k_count)) {
        for (first_n, count_n) in runs(p.n.div_ceil(columns), at_most(2 * rows * columns * k_count)) {
            let wide = (count_n as usize * columns).min(p.n);
            for (first_m, count_m) in runs(p.m.div_ceil(rows), at_most(2 * rows * wide * k_count * count_z as usize)) {
                let params = Params {
                    m: p.m as u32,
                    n: p.n as u32,
                    k: p.k as u32,
                    alpha: options.alpha,
                    stride_a: p.stride_a as u32,
                    stride_b: p.stride_b as u32,
                    stride_y: (p.m * p.n) as u32,
                    k_step: if slices > 1 { k_count as u32 } else { 0 },
                    k_count: k_count as u32,
                    first_m,
                    first_n,
                    first_z,
                    flags,
                };
                let grid = if down { [count_m, count_n, count_z] } else { [count_n, count_m, count_z] };
                let covered = (count_m as usize * rows).min(p.m) * wide;
                let flops = 2 * (covered * p.k) as u64 * u64::from(count_z) / slices as u64;
                launch(OP, &variant, &tensors, &params, grid, flops)?;
            }
        }
    }
    Ok(())
}

/// Cuts 0..count into runs of at most `limit`: (start, length).
fn runs(count: usize, limit: u32) -> impl Iterator<Item = (u32, u32)> {
    let limit = limit as usize;
    (0..count).step_by(limit).map(move |from| (from as u32, (count - from).min(limit) as u32))
}

fn reduce(
    partial: Option<&Tensor>,
    slices: usize,
    y: &Tensor,
    kept: Option<&Tensor>,
    options: &Options,
    epilogue: Option<u32>,
) -> Result<()> {
    let gpu = y.gpu();
    let unused = placeholders(gpu)?;
    let vec = y.width().is_multiple_of(4);
    let cell = if vec { 4 } else { 1 };
    let mut tensors = vec![partial.unwrap_or(&unused.0), y];
    let mut flags = 0;
    if epilogue.is_some() {
        let (more, set) = extras(options, kept, &unused);
        tensors.extend(more);
        flags = set;
    }
    let n = y.len() / cell;
    let params = ReduceParams {
        n: n as u32,
        slices: slices as u32,
        stride: n as u32,
        width: (y.width() / cell) as u32,
        alpha: options.alpha,
        flags,
    };
    launch("matmul reduce", &reduce_variant(vec, epilogue), &tensors, &params, gpu.grid(n.div_ceil(64)), 0)
}

/// The same in plain Rust.
pub mod cpu {
    use crate::kernels::elementwise::unary::{Activation, Unary, cpu::value_and_derivative};

    /// What to compute: extents, layouts and what follows.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Call<'a> {
        /// Batch, rows, columns and inner extent.
        pub extents: [usize; 4],
        /// Whether a is stored as `[k, m]`.
        pub transpose_a: bool,
        /// Whether b is stored as `[n, k]`.
        pub transpose_b: bool,
        /// Whether the batch shares one a.
        pub shared_a: bool,
        /// Whether the batch shares one b.
        pub shared_b: bool,
        /// The factor of the product.
        pub alpha: f32,
        /// `[n]`.
        pub bias: Option<&'a [f32]>,
        /// Applied after the bias.
        pub activation: Option<Activation>,
        /// Of y's shape.
        pub residual: Option<&'a [f32]>,
    }

    /// y and what went into the activation, summed in f64.
    pub fn forward(call: &Call, a: &[f32], b: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let [batch, m, n, k] = call.extents;
        let (mut y, mut pre_activation) = (Vec::new(), Vec::new());
        for z in 0..batch {
            let a = &a[if call.shared_a { 0 } else { z * m * k }..];
            let b = &b[if call.shared_b { 0 } else { z * k * n }..];
            for i in 0..m {
                for j in 0..n {
                    let sum: f64 = (0..k)
                        .map(|l| {
                            let a = if call.transpose_a { a[l * m + i] } else { a[i * k + l] };
                            let b = if call.transpose_b { b[j * k + l] } else { b[l * n + j] };
                            f64::from(a) * f64::from(b)
                        })
                        .sum();
                    let pre = f64::from(call.alpha) * sum + call.bias.map_or(0.0, |v| v[j].into());
                    let value = call.activation.map_or(pre, |f| value_and_derivative(Unary::Activation(f), pre).0);
                    let residual = call.residual.map_or(0.0, |v| v[y.len()].into());
                    y.push((value + residual) as f32);
                    pre_activation.push(pre as f32);
                }
            }
        }
        (y, pre_activation)
    }
}

#[cfg(test)]
mod tests;
