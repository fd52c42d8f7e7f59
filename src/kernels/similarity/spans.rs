//! Moments of videos as spans of clips: where they start and end, and the best of many videos.

#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::gpu::{Gpu, KernelFamily};
use crate::kernels::ranking::select::{self, Each, Parts};
use crate::kernels::shape::{count_elements, expect_at_most, product};
use crate::kernels::{expect_iterations, lanes, launch};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const SIMILARITY: &str = include_str!("../../../shaders/similarity/spans_similarity.wgsl");
const PROBABILITIES: &str = include_str!("../../../shaders/similarity/spans_probabilities.wgsl");
const DECODE: &str = include_str!("../../../shaders/similarity/spans_decode.wgsl");

/// The most spans that [`decode`] finds for a query.
pub const MAX_TOP: usize = select::MAX_PICKED;

/// The widest vectors, and the most clips times taps: lavapipe ends every loop of an invocation that has had 65,535
/// iterations in all.
const MAX_WIDTH: usize = 1 << 14;
const MAX_LENGTH: usize = 1 << 17;
const SHORTER: &str = "resample the video, or project its features";

/// What queries look for and clips show, in vectors of one width D.
#[derive(Clone, Copy, Debug)]
pub struct Stream<'a> {
    /// A vector a query, (Nq, D), f32.
    pub queries: &'a Tensor,
    /// A vector a clip, (Nv, L, D), f32 or f16. L is what all videos are padded to.
    pub clips: &'a Tensor,
}

/// Queries and the videos that are searched for them.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// What is compared.
    pub first: Stream<'a>,
    /// What is compared besides; similarities are then the mean of both.
    pub second: Option<Stream<'a>>,
    /// 0 for padding, (Nv, L), f32.
    pub mask: &'a Tensor,
    /// The places of each query's videos, (Nq, K), u32. One that is not below Nv is no video.
    pub candidates: &'a Tensor,
}

/// What makes starts and ends of similarities.
#[derive(Clone, Copy, Debug)]
pub struct Predictor<'a> {
    /// Weights of neighbouring similarities, (taps), f32; an odd number.
    pub start: &'a Tensor,
    /// As many.
    pub end: &'a Tensor,
    /// Whether similarities of padding count as 0; otherwise, as in the official code, they show in the logits of the
    /// last clips.
    pub mask_similarity: bool,
}

params! {
    struct SimilarityParams { pairs: u32, candidates: u32, videos: u32, length: u32, width: u32 }
}

params! {
    struct ProbabilitiesParams { pairs: u32, videos: u32, length: u32, taps: u32, mask_similarity: u32 }
}

params! {
    struct DecodeParams {
        lists: u32, candidates: u32, length: u32, shortest: u32, lengths: u32, top: u32, room: u32, parts: u32,
        part_size: u32, longer_parts: u32,
    }
}

fn similarity_variant(family: KernelFamily, vec4: bool, half: bool, streams: u32) -> Variant {
    let variant = Variant::own::<SimilarityParams>("spans_similarity", SIMILARITY);
    let variant = match family {
        KernelFamily::Tiled => variant.set("TEAM", 16),
        KernelFamily::Subgroup { size } => variant.set("SUBGROUP", 1).set("TEAM", size).set("LOG_TEAM", size.ilog2()),
    };
    variant.on("VEC4", vec4).on("HALF", half).on("SECOND", streams == 2).set("STREAMS", streams)
}

fn probabilities_variant(family: KernelFamily, logits: bool) -> Variant {
    let variant = Variant::own::<ProbabilitiesParams>("spans_probabilities", PROBABILITIES);
    variant.all(lanes::defines(family)).on("LOGITS", logits)
}

fn decode_variant(family: KernelFamily, merge: bool) -> Variant {
    Variant::own::<DecodeParams>("spans_decode", DECODE).all(select::defines(family)).on("MERGE", merge)
}

pub(crate) fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for family in lanes::FAMILIES {
        for (vec4, half) in [(false, false), (false, true), (true, false), (true, true)] {
            all.extend([1, 2].map(|streams| similarity_variant(family, vec4, half, streams)));
        }
        all.extend([false, true].map(|logits| probabilities_variant(family, logits)));
        all.extend([false, true].map(|merge| decode_variant(family, merge)));
    }
    all
}

/// The extents of a search.
#[derive(Clone, Copy)]
struct Extents {
    queries: usize,
    candidates: usize,
    videos: usize,
    length: usize,
    width: usize,
    half: bool,
}

impl Extents {
    fn of(op: &'static str, search: &Search) -> Result<Self> {
        let Stream { queries, clips } = search.first;
        queries.expect_dtype(op, "queries", DType::F32)?;
        let half = clips.is_half(op, "clips")?;
        let (&[n, width], &[videos, length, _]) = (queries.shape(), clips.shape()) else {
            let why = "queries are (queries, width), clips (videos, length, width)";
            return Err(Error::mismatch(op, queries.shape(), clips.shape(), why));
        };
        search.candidates.expect_dtype(op, "candidates", DType::U32)?;
        let candidates = search.candidates.width();
        search.candidates.expect_shape(op, "candidates", &[n, candidates])?;
        search.mask.expect(op, "mask", DType::F32, &[videos, length])?;
        if half && !width.is_multiple_of(2) {
            let why = "must be even for clips in half precision".into();
            return Err(Error::Argument { op, argument: "width", why });
        }
        let e = Self { queries: n, candidates, videos, length, width, half };
        for Stream { queries, clips } in search.streams() {
            queries.expect(op, "queries", DType::F32, &[n, width])?;
            clips.expect(op, "clips", search.first.clips.dtype(), &[videos, length, width])?;
        }
        expect_at_most(op, "width of vectors", width, MAX_WIDTH, SHORTER)?;
        // The shaders step beyond the end of a length by up to 64, and of a width by up to 4 * 16.
        for counts in [[n, width + 64, 1], [videos, length + 64, width + 64], [n, candidates, length + 64]] {
            count_elements(op, &counts)?;
        }
        Ok(e)
    }

    fn pairs(self) -> usize {
        self.queries * self.candidates
    }

    fn shape(self) -> [usize; 3] {
        [self.queries, self.candidates, self.length]
    }
}

impl<'a> Search<'a> {
    fn streams(&self) -> impl Iterator<Item = Stream<'a>> {
        [self.first].into_iter().chain(self.second)
    }
}

/// The probabilities that a moment starts, and that it ends, at each clip of each candidate: both (Nq, K, L), f32, with
/// sums of 1 over L. Padding has probability 0, and so has everything of a video without clips and of a candidate that
/// is no video.
///
/// # Errors
/// [`Error::Shape`], [`Error::ShapeMismatch`] and [`Error::DType`] for tensors that are not as [`Search`] and
/// [`Predictor`] say; [`Error::Argument`] for an even number of taps, or an odd width in half precision;
/// [`Error::LimitExceeded`] for 2³¹ elements or more, vectors wider than 16,384, and more clips than
/// 131,072 / (taps + 3); device errors.
pub fn probabilities(search: &Search, predictor: &Predictor) -> Result<(Tensor, Tensor)> {
    predict("span probabilities", search, predictor, false)
}

/// As [`probabilities`], before the softmax: padding has -1e10.
///
/// # Errors
/// As [`probabilities`].
pub fn logits(search: &Search, predictor: &Predictor) -> Result<(Tensor, Tensor)> {
    predict("span logits", search, predictor, true)
}

fn predict(op: &'static str, search: &Search, predictor: &Predictor, logits: bool) -> Result<(Tensor, Tensor)> {
    let e = Extents::of(op, search)?;
    let taps = predictor.start.len();
    for (argument, tensor) in [("start", predictor.start), ("end", predictor.end)] {
        tensor.expect(op, argument, DType::F32, &[taps])?;
    }
    if taps.is_multiple_of(2) {
        return Err(Error::Argument { op, argument: "start", why: format!("has {taps} taps, an even number") });
    }
    expect_at_most(op, "clips of a video", e.length, MAX_LENGTH / (taps + 3), SHORTER)?;
    let gpu = search.candidates.gpu();
    if e.videos == 0 {
        return Ok((Tensor::zeros(gpu, op, e.shape())?, Tensor::zeros(gpu, op, e.shape())?));
    }
    let (starts, ends) = (Tensor::uninit(gpu, op, e.shape())?, Tensor::uninit(gpu, op, e.shape())?);
    if !starts.is_empty() {
        let similarity = similarity(op, search, e)?;
        let params = ProbabilitiesParams {
            pairs: e.pairs() as u32,
            videos: e.videos as u32,
            length: e.length as u32,
            taps: taps as u32,
            mask_similarity: predictor.mask_similarity.into(),
        };
        let tensors = [&similarity, search.mask, search.candidates, predictor.start, predictor.end, &starts, &ends];
        let variant = probabilities_variant(gpu.family(), logits);
        launch(op, &variant, &tensors, &params, gpu.grid(e.pairs()), 4 * (starts.len() * taps) as u64)?;
    }
    Ok((starts, ends))
}

/// (Nq, K, L), of clips there are.
fn similarity(op: &'static str, search: &Search, e: Extents) -> Result<Tensor> {
    let gpu = search.candidates.gpu();
    if e.width == 0 {
        return Tensor::zeros(gpu, op, e.shape());
    }
    let similarity = Tensor::uninit(gpu, op, e.shape())?;
    let params = SimilarityParams {
        pairs: e.pairs() as u32,
        candidates: e.candidates as u32,
        videos: e.videos as u32,
        length: e.length as u32,
        width: e.width as u32,
    };
    let mut tensors = vec![search.candidates, &similarity];
    let streams: Vec<Stream> = search.streams().collect();
    streams.iter().for_each(|s| tensors.extend([s.queries, s.clips]));
    let variant = similarity_variant(gpu.family(), e.width.is_multiple_of(4), e.half, streams.len() as u32);
    let flops = 2 * (similarity.len() * e.width * streams.len()) as u64;
    launch(op, &variant, &tensors, &params, gpu.grid(e.pairs() * e.length.div_ceil(64)), flops)?;
    Ok(similarity)
}

/// The `top` best spans of each query over all its candidates, exactly, without a list of them all.
///
/// `starts` and `ends` are probabilities (Nq, K, L), thus at most 1, `weights` (Nq, K). Spans from clip i to clip j count if `lengths`
/// contains j - i. Their score is (start\[i\] * weight) * end\[j\], in this order; of equal scores the lower candidate
/// is first, then the lower start, then the lower end. Spans whose score is not above 0 are no moments.
///
/// Returns scores (Nq, top), f32, descending, and spans (Nq, top, 3), u32: the candidate's number from 0 to K - 1, the
/// first clip i, and j. Places that are left over have score 0 and 2³² - 1 three times.
///
/// # Errors
/// [`Error::Argument`] if `top` exceeds [`MAX_TOP`]; [`Error::Shape`], [`Error::DType`] for tensors that are not as
/// above; [`Error::LimitExceeded`] for more spans than 32 bits can count and, on software adapters, for more than 3,373
/// lengths; device errors.
pub fn decode(
    starts: &Tensor,
    ends: &Tensor,
    weights: &Tensor,
    lengths: Range<usize>,
    top: usize,
) -> Result<(Tensor, Tensor)> {
    let op = "span decoding";
    let gpu = starts.gpu();
    let [queries, candidates, length] = check_decode(op, starts, ends, weights, &lengths)?;
    select::expect_k(op, "top", top, MAX_TOP)?;
    let choices = choices(&lengths, length);
    let spans = candidates * length * choices;
    if queries * top * spans == 0 {
        let none = vec![u32::MAX; queries * top * 3];
        let scores = Tensor::zeros(gpu, op, [queries, top])?;
        return Ok((scores, Tensor::from_u32(gpu, [queries, top, 3], &none)?));
    }
    let plan = |units: usize, each: Each| {
        let parts = Parts::new(gpu.family(), queries, units, each, top);
        count_elements(op, &[queries, parts.count * top + 256, 3])?;
        let params = DecodeParams {
            lists: (queries * parts.count) as u32,
            candidates: candidates as u32,
            length: length as u32,
            shortest: lengths.start as u32,
            lengths: choices as u32,
            top: top as u32,
            room: select::room(top),
            parts: parts.count as u32,
            part_size: parts.size,
            longer_parts: parts.longer,
        };
        Ok::<_, Error>((params, parts.count, Found::new(op, gpu, [queries, parts.count * top])?))
    };
    let (params, mut parts, mut found) = plan(candidates * length, Each { entries: choices, steps: choices + 2 })?;
    let tensors = [starts, ends, weights, &found.scores, &found.spans];
    launch(op, &decode_variant(gpu.family(), false), &tensors, &params, gpu.grid(queries * parts), 0)?;
    while parts > 1 {
        let (params, fewer, merged) = plan(parts * top, Each { entries: 1, steps: 1 })?;
        let tensors = [&found.scores, &found.spans, &merged.scores, &merged.spans];
        let params = DecodeParams { candidates: (parts * top) as u32, ..params };
        launch(op, &decode_variant(gpu.family(), true), &tensors, &params, gpu.grid(queries * fewer), 0)?;
        (parts, found) = (fewer, merged);
    }
    Ok((found.scores, found.spans))
}

/// The extents of the tensors that are decoded.
fn check_decode(
    op: &'static str,
    starts: &Tensor,
    ends: &Tensor,
    weights: &Tensor,
    lengths: &Range<usize>,
) -> Result<[usize; 3]> {
    let [queries, candidates, length] = starts.extents(op, "starts", "(queries, candidates, length)")?;
    ends.expect(op, "ends", DType::F32, starts.shape())?;
    weights.expect(op, "weights", DType::F32, &[queries, candidates])?;
    let choices = choices(lengths, length);
    // The shaders step beyond the end by up to 256.
    count_elements(op, &[queries, candidates + 256, length + 256])?;
    let counted = product(&[candidates, length, choices + 1]);
    expect_at_most(op, "spans of a query", counted, u32::MAX as usize, "search fewer candidates or lengths")?;
    // A position is looked at up to 17 times; then the best are sorted.
    expect_iterations(starts.gpu(), op, choices.saturating_mul(17).saturating_add(1 << 13))?;
    Ok([queries, candidates, length])
}

/// How many lengths a span of `length` clips may have.
fn choices(lengths: &Range<usize>, length: usize) -> usize {
    lengths.end.min(length).saturating_sub(lengths.start)
}

/// Scores and spans of lists.
struct Found {
    scores: Tensor,
    spans: Tensor,
}

impl Found {
    fn new(op: &'static str, gpu: &Gpu, [queries, places]: [usize; 2]) -> Result<Self> {
        let scores = Tensor::uninit(gpu, op, [queries, places])?;
        Ok(Self { scores, spans: Tensor::uninit_of(gpu, op, [queries, places, 3], DType::U32)? })
    }
}

/// The same in plain Rust.
pub mod cpu {
    use std::ops::Range;

    /// Similarities of a query and a video's clips, rows of the query's width.
    pub fn similarity(query: &[f64], clips: &[f64]) -> Vec<f64> {
        let product = |clip: &[f64]| clip.iter().zip(query).map(|(x, q)| x * q).sum();
        clips.chunks(query.len().max(1)).map(product).collect()
    }

    /// A video's logits from its similarities, which are to be 0 already where they shall not count.
    pub fn logits(similarity: &[f64], mask: &[f32], taps: &[f64]) -> Vec<f64> {
        let at = |i: usize, tap: usize| (i + tap).checked_sub(taps.len() / 2).and_then(|at| similarity.get(at));
        let sum = |i| taps.iter().enumerate().map(|(tap, w)| w * at(i, tap).unwrap_or(&0.0)).sum();
        mask.iter().enumerate().map(|(i, &m)| if m == 0.0 { -1e10 } else { sum(i) }).collect()
    }

    /// The softmax over the positions that are not masked; 0 elsewhere.
    pub fn probabilities(logits: &[f64], mask: &[f32]) -> Vec<f64> {
        let valid = || logits.iter().zip(mask).filter(|(_, m)| **m != 0.0);
        let top = valid().fold(f64::NEG_INFINITY, |top, (&x, _)| top.max(x));
        let sum: f64 = valid().map(|(x, _)| (x - top).exp()).sum();
        logits.iter().zip(mask).map(|(x, &m)| if m == 0.0 { 0.0 } else { (x - top).exp() / sum }).collect()
    }

    /// The best spans of one query: scores, and candidate, start and end; no more than there are.
    pub fn decode(
        starts: &[f32],
        ends: &[f32],
        weights: &[f32],
        lengths: Range<usize>,
        top: usize,
    ) -> Vec<(f32, [u32; 3])> {
        let length = starts.len() / weights.len().max(1);
        let mut all = Vec::new();
        for (v, weight) in weights.iter().enumerate() {
            for i in 0..length {
                for j in (i..length).filter(|j| lengths.contains(&(j - i))) {
                    let score = (starts[v * length + i] * weight) * ends[v * length + j];
                    if score > 0.0 {
                        all.push((score, [v as u32, i as u32, j as u32]));
                    }
                }
            }
        }
        // Stable, so that equal scores stay in the order of the loops.
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        all.truncate(top);
        all
    }
}
