//! Scaled dot-product attention by head, y = softmax(scale q kᵀ + bias) v, and its gradients.
//!
//! Neither direction stores the probabilities: forward keeps the logarithm of every row's sum, backward makes the
//! probabilities anew from it. Two ways to mask: [`Keys`] and causality forbid, so that a query that sees no key gives
//! 0 and gets no gradient; a bias is arithmetic, so that a query whose keys all have a bias of -10000 is an ordinary
//! softmax. A bias of -3e38 or less forbids, too.

mod backward;
pub mod cpu;
#[cfg(test)]
mod tests;

use super::launch;
use crate::gpu::{Gpu, KernelFamily};
use crate::kernels::elementwise::dropout::Dropout;
use crate::kernels::shape::{expect_at_most, in_fours, product};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

pub use backward::{Gradients, backward};

const FORWARD_SUBGROUP: &str = include_str!("../../../shaders/attention/attention_forward_subgroup.wgsl");
const FORWARD_TILED: &str = include_str!("../../../shaders/attention/attention_forward_tiled.wgsl");
const MASK: &str = include_str!("../../../shaders/attention/attention_mask.wgsl");
const PROBABILITIES: &str = include_str!("../../../shaders/attention/attention_probabilities.wgsl");

/// The widest head.
pub const MAX_WIDTH: usize = 128;

/// How queries, keys and values lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[B, T, heads * d]`: the heads are contiguous blocks of the width.
    TokensFirst {
        /// How many heads.
        heads: usize,
    },
    /// `[B, H, T, d]`.
    HeadsFirst,
}

/// Which keys a batch item's queries may see.
#[derive(Clone, Copy, Debug)]
pub enum Keys<'a> {
    /// All of them.
    All,
    /// u32 `[B]`: the first so many.
    Lengths(&'a Tensor),
    /// f32 `[B, Tk]`: those with 1, not those with 0.
    Mask(&'a Tensor),
}

/// What kind of attention.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The layout of queries, keys, values and results.
    pub layout: Layout,
    /// The factor of the scores; usually 1 / √d.
    pub scale: f32,
    /// Whether query i sees only keys 0 to i.
    pub causal: bool,
    /// Which keys are valid.
    pub keys: Keys<'a>,
    /// Added to the scaled scores: `[B or 1, H or 1, Tq or 1, Tk]`.
    pub bias: Option<&'a Tensor>,
    /// Dropout of the probabilities. The index of an element is ((b H + h) Tq + query) Tk4 + key, with Tk4 the number
    /// of keys rounded up to a multiple of 4.
    pub dropout: Option<Dropout>,
}

/// What [`forward`] gives, and [`backward`] needs again.
#[derive(Clone, Debug)]
pub struct Output {
    /// The result, of the queries' shape.
    pub y: Tensor,
    /// `[B, H, Tq]`: the logarithm of the sum of e^score; 0 where every key is forbidden.
    pub lse: Tensor,
}

/// The extents of a call.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    width: usize,
    tokens_first: bool,
}

impl Sizes {
    /// Those of `q`, with `k` and `v` checked against them.
    fn check(op: &'static str, q: &Tensor, k: &Tensor, v: Option<&Tensor>, layout: Layout) -> Result<Self> {
        expect_scores(op, q.shape())?;
        expect_scores(op, k.shape())?;
        let sizes = match layout {
            Layout::TokensFirst { heads } => {
                let [batch, queries, width] = q.extents(op, "q", "[B, Tq, heads * d]")?;
                if heads == 0 || !width.is_multiple_of(heads) {
                    let why = format!("({heads}) do not divide the width {width}");
                    return Err(Error::Argument { op, argument: "heads", why });
                }
                let [_, keys, _] = k.extents(op, "k", "[B, Tk, heads * d]")?;
                k.expect_shape(op, "k", &[batch, keys, width])?;
                Self { batch, heads, queries, keys, width: width / heads, tokens_first: true }
            }
            Layout::HeadsFirst => {
                let [batch, heads, queries, width] = q.extents(op, "q", "[B, H, Tq, d]")?;
                let [_, _, keys, _] = k.extents(op, "k", "[B, H, Tk, d]")?;
                k.expect_shape(op, "k", &[batch, heads, keys, width])?;
                Self { batch, heads, queries, keys, width, tokens_first: false }
            }
        };
        if let Some(v) = v {
            v.expect(op, "v", DType::F32, k.shape())?;
        }
        if !(1..=MAX_WIDTH).contains(&sizes.width) {
            let why = format!("have {} channels; 1 to {MAX_WIDTH} are possible", sizes.width);
            return Err(Error::Argument { op, argument: "heads", why });
        }
        Ok(sizes)
    }

    fn pairs(&self) -> usize {
        self.batch * self.heads
    }

    fn scores(&self) -> [usize; 4] {
        [self.batch, self.heads, self.queries, self.keys]
    }

    fn flops(&self, products: usize) -> u64 {
        2 * (products * self.width) as u64 * self.scores().map(|n| n as u64).iter().product::<u64>()
    }

    /// Elements, or vec4s, in a row of one head.
    fn units(&self) -> usize {
        in_fours(self.width).0
    }

    /// Strides between heads and between rows, in units, where a head has `rows`.
    fn strides(&self, rows: usize, units: usize) -> [u32; 2] {
        let strides = if self.tokens_first { [units, self.heads * units] } else { [rows * units, units] };
        strides.map(|n| n as u32)
    }
}

/// Scores are counted, for dropout's random words, even where they are never in memory.
fn expect_scores(op: &'static str, shape: &[usize]) -> Result<()> {
    expect_at_most(op, "scores", product(shape), u32::MAX as usize, "use a smaller batch")
}

/// The masks of a call as the kernels take them.
enum Masks {
    None,
    Lengths(Tensor),
    /// With the strides between batch items, heads and queries.
    Bias(Tensor, [u32; 3]),
}

/// Elements between neighbours along batch, heads and queries in a bias that is broadcast where its extent is 1.
fn bias_strides(shape: &[usize]) -> [u32; 3] {
    let stride = |axis: usize| if shape[axis] == 1 { 0 } else { shape[axis + 1..].iter().product::<usize>() as u32 };
    [stride(0), stride(1), stride(2)]
}

params! {
    struct MaskParams { n: u32, heads: u32, rows: u32, keys: u32, bias: [u32; 3] as [bias_batch, bias_head, bias_row] }
}

fn mask_variant(mask: bool, bias: bool) -> Variant {
    Variant::own::<MaskParams>("attention_mask", MASK).set(if mask { "MASK" } else { "LENGTHS" }, 1).on("BIAS", bias)
}

impl Masks {
    /// Checks the masks of `options`; a bias and a key mask become one bias.
    fn new(op: &'static str, sizes: &Sizes, options: &Options<'_>) -> Result<Self> {
        let [batch, heads, queries, keys] = sizes.scores();
        match options.keys {
            Keys::All => {}
            Keys::Lengths(lengths) => {
                lengths.expect(op, "lengths", DType::U32, &[batch])?;
            }
            Keys::Mask(mask) => {
                mask.expect(op, "mask", DType::F32, &[batch, keys])?;
            }
        }
        if let Some(bias) = options.bias {
            bias.expect_dtype(op, "bias", DType::F32)?;
            let fits = bias.shape().len() == 4
                && bias.shape()[3] == keys
                && bias.shape().iter().zip([batch, heads, queries]).all(|(&got, full)| got == full || got == 1);
            if !fits {
                let expected = format!("[{batch} or 1, {heads} or 1, {queries} or 1, {keys}]");
                return Err(Error::shape(op, "bias", expected, bias.shape()));
            }
        }
        let (mask, variant) = match (options.keys, options.bias) {
            (Keys::All, None) => return Ok(Self::None),
            (Keys::All, Some(bias)) => return Ok(Self::Bias(bias.clone(), bias_strides(bias.shape()))),
            (Keys::Lengths(lengths), None) => return Ok(Self::Lengths(lengths.clone())),
            (Keys::Lengths(lengths), Some(_)) => (lengths, mask_variant(false, true)),
            (Keys::Mask(mask), bias) => (mask, mask_variant(true, bias.is_some())),
        };
        let (bias_heads, bias_rows) = options.bias.map_or((1, 1), |b| (b.shape()[1], b.shape()[2]));
        let shape = [batch, bias_heads, bias_rows, keys];
        expect_scores(op, &shape)?;
        let folded = Tensor::uninit(mask.gpu(), op, shape)?;
        let params = MaskParams {
            n: folded.len() as u32,
            heads: bias_heads as u32,
            rows: bias_rows as u32,
            keys: keys as u32,
            bias: options.bias.map_or([0; 3], |b| bias_strides(b.shape())),
        };
        let tensors: Vec<&Tensor> = [Some(mask), options.bias, Some(&folded)].into_iter().flatten().collect();
        launch(op, &variant, &tensors, &params, mask.gpu().grid(folded.len().div_ceil(256)), 0)?;
        Ok(Self::Bias(folded, bias_strides(&shape)))
    }

    fn tensor(&self) -> Option<&Tensor> {
        match self {
            Self::None => None,
            Self::Lengths(tensor) | Self::Bias(tensor, _) => Some(tensor),
        }
    }

    fn define(&self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Lengths(_) => Some("LENGTHS"),
            Self::Bias(..) => Some("BIAS"),
        }
    }
}

params! {
    struct Params {
        heads: u32, rows: u32, cols: u32, width: u32, quads: u32, row: [u32; 2] as [row_head, row_stride],
        col: [u32; 2] as [col_head, col_stride], causal: u32, groups: u32,
        bias: [u32; 3] as [bias_batch, bias_head, bias_row], scale: f32, threshold: u32, keep: f32,
        words: [u32; 4] as [seed_low, seed_high, stream_low, stream_high],
    }
}

impl Params {
    /// Rows are queries, or with `kv` keys; a workgroup owns `tile` of them.
    fn new(sizes: &Sizes, options: &Options<'_>, masks: &Masks, kv: bool, tile: usize) -> Self {
        let (rows, cols) = if kv { (sizes.keys, sizes.queries) } else { (sizes.queries, sizes.keys) };
        let dropout = dropout(options);
        Self {
            heads: sizes.heads as u32,
            rows: rows as u32,
            cols: cols as u32,
            width: sizes.units() as u32,
            quads: sizes.width.div_ceil(4) as u32,
            row: sizes.strides(rows, sizes.units()),
            col: sizes.strides(cols, sizes.units()),
            causal: options.causal.into(),
            groups: (sizes.pairs() * rows.div_ceil(tile)) as u32,
            bias: if let Masks::Bias(_, strides) = masks { *strides } else { [0; 3] },
            scale: options.scale,
            threshold: dropout.map_or(0, |d| d.threshold()),
            keep: dropout.map_or(1.0, |d| d.scale()),
            words: dropout.map_or([0; 4], |d| d.words()),
        }
    }
}

/// The dropout of a call; none with probability 0.
fn dropout(options: &Options<'_>) -> Option<Dropout> {
    options.dropout.filter(|d| d.probability > 0.0)
}

fn check_dropout(op: &'static str, sizes: &Sizes, options: &Options<'_>) -> Result<()> {
    let Some(dropout) = options.dropout else { return Ok(()) };
    dropout.check(op)?;
    let [batch, heads, queries, keys] = sizes.scores();
    expect_scores(op, &[batch, heads, queries, keys.next_multiple_of(4)])
}

/// How a kernel is cut: by family and sizes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// `rows` a workgroup, `per` columns a lane, `quads` vec4s of channels a lane.
    Subgroup { size: u32, rows: u32, per: u32, quads: u32 },
    /// `rows` and `cols` an invocation, `chunks` of eight vec4s of channels.
    Tiled { rows: u32, cols: u32, chunks: u32 },
}

impl Cut {
    fn new(gpu: &Gpu, sizes: &Sizes, kv: bool) -> Self {
        let (rows, cols) = if kv { (sizes.keys, sizes.queries) } else { (sizes.queries, sizes.keys) };
        let quads = sizes.width.div_ceil(4) as u32;
        match gpu.family() {
            KernelFamily::Subgroup { size } => Self::Subgroup {
                size,
                rows: if rows <= 4 || size == 4 { 4 } else { 8 },
                per: if cols <= size as usize { 1 } else { 2 },
                quads: quads.div_ceil(size).next_power_of_two(),
            },
            KernelFamily::Tiled => {
                let edge = if rows <= 16 && cols <= 16 { 1 } else { 4 };
                Self::Tiled { rows: edge, cols: edge, chunks: quads.div_ceil(8).next_power_of_two() }
            }
        }
    }

    /// Checks that the loops over the columns, and within over the channels, are not too long for a software adapter.
    fn expect_iterations(self, op: &'static str, gpu: &Gpu, sizes: &Sizes, kv: bool) -> Result<()> {
        let cols = if kv { sizes.queries } else { sizes.keys };
        // Columns of a step and its iterations, in backward, which has more of them.
        let (step, iterations) = match self {
            Self::Subgroup { size, per, .. } => (size * per, sizes.width.div_ceil(4) + 5),
            Self::Tiled { cols, chunks, .. } => (8 * cols, 80 * chunks as usize + 16),
        };
        super::expect_iterations(gpu, op, cols.div_ceil(step as usize) * iterations)
    }

    /// Every cut that [`Cut::new`] may give.
    fn all() -> Vec<Self> {
        let mut cuts = Vec::new();
        for (size, quads) in [(4, &[1, 2, 4, 8][..]), (8, &[1, 2, 4]), (16, &[1, 2])] {
            for &quads in quads {
                for &rows in if size == 4 { &[4][..] } else { &[4, 8] } {
                    cuts.extend([1, 2].map(|per| Self::Subgroup { size, rows, per, quads }));
                }
            }
        }
        for chunks in [1, 2, 4] {
            cuts.extend([1, 4].map(|edge| Self::Tiled { rows: edge, cols: edge, chunks }));
        }
        cuts
    }

    /// Rows a workgroup.
    fn tile(self) -> usize {
        match self {
            Self::Subgroup { rows, .. } => rows as usize,
            Self::Tiled { rows, .. } => 16 * rows as usize,
        }
    }

    fn defines(self) -> Vec<(&'static str, u32)> {
        match self {
            Self::Subgroup { size, rows, per, quads } => {
                vec![("S", size), ("ROWS", rows), ("PER", per), ("QUADS", quads)]
            }
            Self::Tiled { rows, cols, chunks } => vec![("R", rows), ("J", cols), ("CHUNKS", chunks)],
        }
    }
}

/// A variant of forward or backward, with the defines that they share.
fn specialise(
    name: &'static str,
    source: &'static str,
    cut: Cut,
    vec4: bool,
    mask: Option<&'static str>,
    dropout: bool,
) -> Variant {
    let variant = Variant::own::<Params>(name, source).all(cut.defines()).on("VEC4", vec4);
    variant.all(mask.map(|name| (name, 1))).on("DROPOUT", dropout)
}

const MASK_DEFINES: [Option<&str>; 3] = [None, Some("LENGTHS"), Some("BIAS")];

fn forward_variant(cut: Cut, vec4: bool, mask: Option<&'static str>, dropout: bool) -> Variant {
    let (name, source) = match cut {
        Cut::Subgroup { .. } => ("attention_forward_subgroup", FORWARD_SUBGROUP),
        Cut::Tiled { .. } => ("attention_forward_tiled", FORWARD_TILED),
    };
    specialise(name, source, cut, vec4, mask, dropout)
}

fn probabilities_variant(mask: Option<&'static str>) -> Variant {
    Variant::own::<Params>("attention_probabilities", PROBABILITIES).all(mask.map(|name| (name, 1)))
}

pub(crate) fn variants() -> Vec<Variant> {
    let mut variants = vec![mask_variant(false, true), mask_variant(true, true), mask_variant(true, false)];
    for mask in MASK_DEFINES {
        variants.push(probabilities_variant(mask));
        for cut in Cut::all() {
            for vec4 in [false, true] {
                variants.extend([false, true].map(|dropout| forward_variant(cut, vec4, mask, dropout)));
            }
        }
    }
    variants.extend(backward::variants());
    variants
}

/// Attention of `q` (`[B, Tq, heads * d]` or `[B, H, Tq, d]`) over `k` and `v` (the same with Tk); d at most
/// [`MAX_WIDTH`]. Without keys the result is 0.
///
/// # Errors
/// [`Error::Shape`], [`Error::DType`], [`Error::Argument`] where shapes, types or options do not fit;
/// [`Error::LimitExceeded`] beyond 2³² elements and, on software adapters, beyond some thousands of tokens (28,336 with
/// d = 128 in subgroups of 8); device errors.
pub fn forward(q: &Tensor, k: &Tensor, v: &Tensor, options: &Options<'_>) -> Result<Output> {
    const OP: &str = "attention";
    let sizes = Sizes::check(OP, q, k, Some(v), options.layout)?;
    check_dropout(OP, &sizes, options)?;
    let gpu = q.gpu();
    let lse_shape = [sizes.batch, sizes.heads, sizes.queries];
    let masks = Masks::new(OP, &sizes, options)?;
    if sizes.scores().contains(&0) {
        return Ok(Output { y: Tensor::zeros(gpu, OP, q.shape())?, lse: Tensor::zeros(gpu, OP, lse_shape)? });
    }
    let y = Tensor::uninit(gpu, OP, q.shape())?;
    let lse = Tensor::uninit(gpu, OP, lse_shape)?;
    let cut = Cut::new(gpu, &sizes, false);
    cut.expect_iterations(OP, gpu, &sizes, false)?;
    let variant = forward_variant(cut, sizes.width.is_multiple_of(4), masks.define(), dropout(options).is_some());
    let params = Params::new(&sizes, options, &masks, false, cut.tile());
    let tensors: Vec<&Tensor> = [q, k, v, &y, &lse].into_iter().chain(masks.tensor()).collect();
    launch(OP, &variant, &tensors, &params, gpu.grid(params.groups as usize), sizes.flops(2))?;
    Ok(Output { y, lse })
}

/// The probabilities before dropout, `[B, H, Tq, Tk]`, from the `lse` of [`forward`]; 0 for forbidden keys.
///
/// # Errors
/// As [`forward`].
pub fn probabilities(q: &Tensor, k: &Tensor, lse: &Tensor, options: &Options<'_>) -> Result<Tensor> {
    const OP: &str = "attention probabilities";
    let sizes = Sizes::check(OP, q, k, None, options.layout)?;
    lse.expect(OP, "lse", DType::F32, &[sizes.batch, sizes.heads, sizes.queries])?;
    expect_scores(OP, &sizes.scores())?;
    let masks = Masks::new(OP, &sizes, options)?;
    let y = Tensor::uninit(q.gpu(), OP, sizes.scores())?;
    if y.is_empty() {
        return Ok(y);
    }
    let mut params = Params::new(&sizes, options, &masks, false, 1);
    params.width = sizes.width as u32;
    params.row = sizes.strides(sizes.queries, sizes.width);
    params.col = sizes.strides(sizes.keys, sizes.width);
    params.groups = y.len() as u32;
    let tensors: Vec<&Tensor> = [q, k, lse, &y].into_iter().chain(masks.tensor()).collect();
    let grid = q.gpu().grid(y.len().div_ceil(64));
    launch(OP, &probabilities_variant(masks.define()), &tensors, &params, grid, sizes.flops(1))?;
    Ok(y)
}
