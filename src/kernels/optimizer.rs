//! Steps of Adam, AdamW and BertAdam over flat buffers, and clipping by norm that never leaves the GPU.
//!
//! All parameters live in one f32 tensor, and so do their gradients and the two moving averages, at equal places. A
//! [`Group`] is the list of ranges that share hyper-parameters: one dispatch steps all of it. The gradients must not be
//! views of the same memory as the others: a dispatch cannot both read and write a buffer.

use bytemuck::{Pod, Zeroable};

use super::{lanes, launch};
use crate::gpu::{Gpu, KernelFamily};
use crate::shader::Variant;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const WGSL: &str = include_str!("../../shaders/optimizer.wgsl");
const WGSL_NORM: &str = include_str!("../../shaders/optimizer_norm.wgsl");

/// Elements a workgroup steps.
const BLOCK: usize = 4096;

/// Ranges of flat buffers, cut into blocks.
#[derive(Clone, Debug)]
pub struct Group {
    ranges: usize,
    blocks: usize,
    elements: usize,
    /// The largest end of a range.
    end: usize,
    /// Whether every range starts at a multiple of four.
    aligned: bool,
    /// `[blocks, 4]`: first element, length, range, 0.
    table: Tensor,
    /// `[1, 2]`: all blocks; and `[ranges, 2]`: each range's.
    all: Tensor,
    each: Tensor,
}

impl Group {
    /// A group of ranges `(first element, length)` that do not overlap; steps are fastest if all of them start at
    /// multiples of four.
    ///
    /// # Errors
    /// [`Error::Argument`] if ranges overlap, [`Error::LimitExceeded`] beyond 32 bits; device errors.
    pub fn new(gpu: &Gpu, ranges: &[(usize, usize)]) -> Result<Self> {
        let mut sorted: Vec<(usize, usize)> = ranges.iter().copied().filter(|r| r.1 > 0).collect();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|w| w[0].0.saturating_add(w[0].1) > w[1].0) {
            let why = format!("{:?} and {:?} overlap", pair[0], pair[1]);
            return Err(Error::Argument { op: "optimizer", argument: "ranges", why });
        }
        let end = sorted.last().map_or(0, |r| r.0.saturating_add(r.1));
        lanes::expect_u32("optimizer", &[end.saturating_add(BLOCK)])?;
        let (mut table, mut spans) = (Vec::new(), Vec::new());
        for (number, &(start, len)) in ranges.iter().enumerate() {
            let blocks = len.div_ceil(BLOCK);
            spans.extend([(table.len() / 4) as u32, blocks as u32]);
            for block in 0..blocks {
                let at = block * BLOCK;
                table.extend([(start + at) as u32, BLOCK.min(len - at) as u32, number as u32, 0]);
            }
        }
        let blocks = table.len() / 4;
        Ok(Self {
            ranges: ranges.len(),
            blocks,
            elements: ranges.iter().map(|r| r.1).sum(),
            end,
            aligned: sorted.iter().all(|r| r.0.is_multiple_of(4)),
            table: Tensor::from_u32(gpu, [blocks, 4], &table)?,
            all: Tensor::from_u32(gpu, [1, 2], &[0, blocks as u32])?,
            each: Tensor::from_u32(gpu, [ranges.len(), 2], &spans)?,
        })
    }

    /// How many ranges there are.
    pub fn ranges(&self) -> usize {
        self.ranges
    }

    /// How many elements they hold together.
    pub fn elements(&self) -> usize {
        self.elements
    }
}

/// How a step changes a parameter p, given its gradient g (after clipping) and the averages
/// m ← β₁ m + (1 - β₁) g and v ← β₂ v + (1 - β₂) g².
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Update {
    /// g ← g + decay p first; then with m̂ = m / (1 - β₁ᵗ) and v̂ = v / (1 - β₂ᵗ), p ← p - rate m̂ / (√v̂ + ε).
    Adam(Numbers),
    /// p ← (1 - rate decay) p first; then as Adam.
    AdamW(Numbers),
    /// p ← p - rate (m / (√v + ε) + decay p), without bias correction; the step's number is not used.
    BertAdam(Numbers),
}

/// The hyper-parameters of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Numbers {
    /// The learning rate, any schedule included.
    pub rate: f64,
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// ε.
    pub eps: f64,
    /// Weight decay.
    pub decay: f64,
    /// t: 1 for the first step.
    pub step: u64,
}

/// Norms of gradients and the factors that clip them, both on the GPU.
#[derive(Clone, Debug)]
pub struct Clip {
    /// The norms before this clipping: one, or one a range.
    pub norm: Tensor,
    /// min(1, limit / (norm + 1e-6)), times the factor of a clipping before this: what [`step`] takes.
    pub scale: Tensor,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    blocks: u32,
    each: u32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    rate: f32,
    root: f32,
    eps: f32,
    decay: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct NormParams {
    groups: u32,
    limit: f32,
}

fn variant(kind: &'static str, vec4: bool, clip: bool) -> Variant {
    let mut defines = vec![(kind, 1)];
    defines.extend(vec4.then_some(("VEC4", 1)));
    defines.extend(clip.then_some(("CLIP", 1)));
    Variant::own("optimizer", WGSL, defines)
}

fn norm_variant(stage: &'static str, vec4: bool, family: KernelFamily) -> Variant {
    let mut defines = lanes::defines(family);
    defines.push((stage, 1));
    defines.extend(vec4.then_some(("VEC4", 1)));
    Variant::own("optimizer_norm", WGSL_NORM, defines)
}

pub(super) fn variants() -> Vec<Variant> {
    let steps = ["ADAM", "ADAMW", "BERT"].into_iter().flat_map(|kind| {
        [(false, false), (false, true), (true, false), (true, true)].map(|(vec4, clip)| variant(kind, vec4, clip))
    });
    let stages = [("SQUARES", false), ("SQUARES", true), ("NORM", false), ("AFTER", false)];
    let norms =
        stages.into_iter().flat_map(|(stage, vec4)| lanes::FAMILIES.map(|family| norm_variant(stage, vec4, family)));
    steps.chain(norms).collect()
}

fn expect_flat(op: &'static str, argument: &'static str, tensor: &Tensor, group: &Group) -> Result<()> {
    tensor.expect_dtype(op, argument, DType::F32)?;
    match *tensor.shape() {
        [len] if len >= group.end => Ok(()),
        _ => Err(Error::Shape {
            op,
            argument,
            expected: format!("[at least {}], as the group's ranges reach", group.end),
            got: tensor.shape().to_vec(),
        }),
    }
}

fn clip(grads: &Tensor, group: &Group, limit: f32, each: bool, before: Option<&Tensor>) -> Result<Clip> {
    let op = "clip";
    expect_flat(op, "grads", grads, group)?;
    if let Some(before) = before {
        lanes::expect_scalar(op, before)?;
    }
    let gpu = grads.gpu();
    let part = Tensor::uninit(gpu, op, [group.blocks])?;
    let params = NormParams { groups: group.blocks as u32, limit };
    let squares = norm_variant("SQUARES", group.aligned, gpu.family());
    launch(op, &squares, &[grads, &group.table, &part], &params, gpu.grid(group.blocks), 0)?;
    let (spans, shape) = if each { (&group.each, vec![group.ranges]) } else { (&group.all, vec![]) };
    let (norm, scale) = (Tensor::uninit(gpu, op, shape.clone())?, Tensor::uninit(gpu, op, shape)?);
    let params = NormParams { groups: norm.len() as u32, limit: limit.min(f32::MAX) };
    let grid = gpu.grid(norm.len());
    let family = lanes::family(gpu, op, group.blocks, 1)?;
    match before {
        Some(before) => {
            let tensors = [&part, spans, before, &norm, &scale];
            launch(op, &norm_variant("AFTER", false, family), &tensors, &params, grid, 0)?;
        }
        None => launch(op, &norm_variant("NORM", false, family), &[&part, spans, &norm, &scale], &params, grid, 0)?,
    }
    Ok(Clip { norm, scale })
}

/// The norm of the gradients in all of the group's ranges together (shape `[]`), and the factor that brings it down to
/// `limit`; an infinite limit only measures. The order of the sum is fixed. NaN gradients make both NaN.
///
/// # Errors
/// [`Error::Shape`] unless `grads` is flat and holds the group's ranges; device errors.
pub fn clip_global(grads: &Tensor, group: &Group, limit: f32) -> Result<Clip> {
    clip(grads, group, limit, false, None)
}

/// The norm of the gradients in each of the group's ranges (shape `[ranges]`), and the factors that bring them down to
/// `limit`. With `before`, the scale of a global clipping, the norms are of the gradients after it, and the factors
/// include it.
///
/// # Errors
/// As [`clip_global`]; [`Error::Shape`] unless `before` has one element.
pub fn clip_ranges(grads: &Tensor, group: &Group, limit: f32, before: Option<&Tensor>) -> Result<Clip> {
    clip(grads, group, limit, true, before)
}

/// Steps the group's ranges of `params`, `m` and `v`, in place; what lies between the ranges stays as it is. `scale`
/// clips: one factor, or one for each range of this group.
///
/// # Errors
/// [`Error::Shape`] unless the four buffers are flat, of one length, and hold the group's ranges, or if `scale` fits
/// neither; device errors.
pub fn step(
    params: &Tensor,
    grads: &Tensor,
    m: &Tensor,
    v: &Tensor,
    group: &Group,
    update: &Update,
    scale: Option<&Tensor>,
) -> Result<()> {
    let op = "optimizer";
    expect_flat(op, "params", params, group)?;
    for (argument, tensor) in [("grads", grads), ("m", m), ("v", v)] {
        tensor.expect_dtype(op, argument, DType::F32)?;
        tensor.expect_shape(op, argument, params.shape())?;
    }
    let mut each = 0;
    if let Some(scale) = scale {
        scale.expect_dtype(op, "scale", DType::F32)?;
        if scale.len() != 1 {
            scale.expect_shape(op, "scale", &[group.ranges])?;
            each = 1;
        }
    }
    let (kind, n) = match update {
        Update::Adam(n) => ("ADAM", n),
        Update::AdamW(n) => ("ADAMW", n),
        Update::BertAdam(n) => ("BERT", n),
    };
    // Powers and quotients in f64: 1 - β₂ᵗ has few digits left in f32 at the first steps.
    let correction = |beta: f64| 1.0 - beta.powf(n.step.max(1) as f64);
    let (rate, root) = match update {
        Update::BertAdam(_) => (n.rate, 1.0),
        _ => (n.rate / correction(n.beta1), 1.0 / correction(n.beta2).sqrt()),
    };
    let decay = if let Update::AdamW(_) = update { 1.0 - n.rate * n.decay } else { n.decay };
    let numbers = Params {
        blocks: group.blocks as u32,
        each,
        beta1: n.beta1 as f32,
        rest1: (1.0 - n.beta1) as f32,
        beta2: n.beta2 as f32,
        rest2: (1.0 - n.beta2) as f32,
        rate: rate as f32,
        root: root as f32,
        eps: n.eps as f32,
        decay: decay as f32,
    };
    let mut tensors = vec![params, grads, m, v, &group.table];
    tensors.extend(scale);
    let variant = variant(kind, group.aligned, scale.is_some());
    launch(op, &variant, &tensors, &numbers, params.gpu().grid(group.blocks), 0)
}

/// The same in plain Rust.
pub mod cpu {
    use super::Update;

    /// The factor that brings gradients down to `limit`, and their norm.
    pub fn clip(grads: &[f64], limit: f64) -> (f64, f64) {
        let norm = grads.iter().map(|g| g * g).sum::<f64>().sqrt();
        ((limit / (norm + 1e-6)).min(1.0), norm)
    }

    /// The parameter and its averages (p, m, v) after a step with gradient g.
    pub fn step((mut p, m, v): (f64, f64, f64), mut g: f64, update: &Update) -> (f64, f64, f64) {
        let (Update::Adam(n) | Update::AdamW(n) | Update::BertAdam(n)) = update;
        match update {
            Update::Adam(_) => g += n.decay * p,
            Update::AdamW(_) => p *= 1.0 - n.rate * n.decay,
            Update::BertAdam(_) => {}
        }
        let m = n.beta1 * m + (1.0 - n.beta1) * g;
        let v = n.beta2 * v + (1.0 - n.beta2) * g * g;
        let p = if let Update::BertAdam(_) = update {
            p - n.rate * (m / (v.sqrt() + n.eps) + n.decay * p)
        } else {
            let corrected = |x: f64, beta: f64| x / (1.0 - beta.powf(n.step as f64));
            p - n.rate * corrected(m, n.beta1) / (corrected(v, n.beta2).sqrt() + n.eps)
        };
        (p, m, v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::golden::Golden;
    use crate::kernels::testing::{assert_slices_close, gpus, noise, noise_tensor};

    const NUMBERS: Numbers = Numbers { rate: 0.01, beta1: 0.9, beta2: 0.98, eps: 1e-6, decay: 0.1, step: 3 };

    #[test]
    fn steps_equal_the_twin_and_spare_what_is_between() {
        let n = 20_000usize;
        let sets: [&[(usize, usize)]; 3] = [
            &[(64, 1), (128, 4095), (4480, 4097), (12_800, 3)],
            &[(1, 2), (3, 63), (4099, 8200)],
            &[(19_999, 1), (0, 0), (4096, 4096)],
        ];
        let (p, g) = (noise(n, 1), noise(n, 2));
        let (m, v) = (noise(n, 3), noise(n, 4).iter().map(|x| x * x).collect::<Vec<_>>());
        for gpu in gpus() {
            for ranges in sets {
                let group = Group::new(&gpu, ranges).unwrap();
                let inside = |i: usize| ranges.iter().position(|r| i >= r.0 && i < r.0 + r.1);
                for update in [Update::Adam(NUMBERS), Update::AdamW(NUMBERS), Update::BertAdam(NUMBERS)] {
                    for factors in [0, 1, ranges.len()] {
                        let factor: Vec<f32> = (0..factors).map(|i| 0.5 + 0.25 * i as f32).collect();
                        let scale = Tensor::from_slice(&gpu, [factors], &factor).unwrap();
                        let run = || {
                            // Garbage between the ranges must neither spread nor change.
                            let poison = |x: &[f32]| -> Vec<f32> {
                                x.iter()
                                    .enumerate()
                                    .map(|(i, &x)| if inside(i).is_some() { x } else { f32::NAN })
                                    .collect()
                            };
                            let upload = |x: &[f32]| Tensor::from_slice(&gpu, [n], &poison(x)).unwrap();
                            let t = [&p, &g, &m, &v].map(|x| upload(x));
                            let scale = (factors > 0).then_some(&scale);
                            step(&t[0], &t[1], &t[2], &t[3], &group, &update, scale).unwrap();
                            Tensor::read_all(&[&t[0], &t[2], &t[3]]).unwrap()
                        };
                        let got = run();
                        let mut expected = vec![Vec::new(); 3];
                        let mut found = vec![Vec::new(); 3];
                        for i in 0..n {
                            let Some(range) = inside(i) else {
                                assert!(got.iter().all(|x| x[i].is_nan()));
                                continue;
                            };
                            let f = factor.get(range.min(factors.max(1) - 1)).map_or(1.0, |&f| f64::from(f));
                            let state = (p[i].into(), m[i].into(), v[i].into());
                            let (p, m, v) = cpu::step(state, f * f64::from(g[i]), &update);
                            for (k, x) in [p, m, v].into_iter().enumerate() {
                                expected[k].push(x as f32);
                                found[k].push(got[k][i]);
                            }
                        }
                        for k in 0..3 {
                            assert_slices_close(&found[k], &expected[k], 1e-5, 2e-6);
                        }
                        let bits = |x: &[Vec<f32>]| x.concat().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                        assert_eq!(bits(&got), bits(&run()), "two runs differ");
                    }
                }
            }
        }
    }

    #[test]
    fn norms_equal_the_twin() {
        let n = 30_000usize;
        let g = noise(n, 7);
        let wide = |r: (usize, usize)| g[r.0..r.0 + r.1].iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        for gpu in gpus() {
            let grads = lanes::poisoned(&gpu, &[n], &g);
            for ranges in [vec![(0usize, n)], vec![(64, 1), (128, 4096), (5000, 4097), (25_000, 37), (3, 0)]] {
                let group = Group::new(&gpu, &ranges).unwrap();
                let all: Vec<f64> = ranges.iter().flat_map(|&r| wide(r)).collect();
                for limit in [1.0f32, 1e6, f32::INFINITY] {
                    let (scale, norm) = cpu::clip(&all, limit.into());
                    let clip = clip_global(&grads, &group, limit).unwrap();
                    assert_eq!(clip.norm.shape(), &[] as &[usize]);
                    assert_slices_close(&clip.norm.to_vec().unwrap(), &[norm as f32], 1e-5, 0.0);
                    assert_slices_close(&clip.scale.to_vec().unwrap(), &[scale as f32], 1e-5, 0.0);
                    for before in [None, Some(&clip.scale)] {
                        let first = if before.is_some() { scale } else { 1.0 };
                        let each = clip_ranges(&grads, &group, 0.5, before).unwrap();
                        let twins: Vec<(f64, f64)> = ranges
                            .iter()
                            .map(|&r| cpu::clip(&wide(r).iter().map(|x| x * first).collect::<Vec<_>>(), 0.5))
                            .collect();
                        let norms: Vec<f32> = twins.iter().map(|t| t.1 as f32).collect();
                        let scales: Vec<f32> = twins.iter().map(|t| (t.0 * first) as f32).collect();
                        assert_slices_close(&each.norm.to_vec().unwrap(), &norms, 1e-5, 0.0);
                        assert_slices_close(&each.scale.to_vec().unwrap(), &scales, 1e-5, 0.0);
                        let again = clip_ranges(&grads, &group, 0.5, before).unwrap();
                        assert_eq!(each.norm.to_vec().unwrap(), again.norm.to_vec().unwrap());
                    }
                }
            }
            let broken = Tensor::from_slice(&gpu, [2], &[1.0, f32::NAN]).unwrap();
            let clip = clip_global(&broken, &Group::new(&gpu, &[(0, 2)]).unwrap(), 1.0).unwrap();
            assert!(clip.scale.item().unwrap().is_nan());
        }
    }

    #[test]
    fn traces_equal_the_reference() {
        let cases = [
            "adam-globalclip-b0.98",
            "adam-globalclip-b0.999",
            "adam-noclip-b0.999",
            "adamw-globalclip-b0.98",
            "adamw-globalclip-b0.999",
            "adamw-noclip-b0.999",
            "bertadam-cosine-globalclip",
            "bertadam-linear",
            "bertadam-noclip",
        ];
        for case in cases {
            let Some(golden) = Golden::open(&format!("op-optimizer-{case}")) else { return };
            let number = |key: &str| golden.config[key].as_f64();
            let names = ["w", "b", "s"];
            let lens = names.map(|t| golden.f32(&format!("input.param0.{t}")).len());
            let flat = |values: [Vec<f32>; 3]| {
                let mut flat = vec![f32::NAN; 192];
                values.iter().enumerate().for_each(|(i, x)| flat[64 * i..64 * i + x.len()].copy_from_slice(x));
                flat
            };
            for gpu in gpus() {
                let start = flat(names.map(|t| golden.f32(&format!("input.param0.{t}"))));
                let params = Tensor::from_slice(&gpu, [192], &start).unwrap();
                let m = Tensor::zeros(&gpu, "m", [192]).unwrap();
                let v = Tensor::zeros(&gpu, "v", [192]).unwrap();
                let all = Group::new(&gpu, &[0, 1, 2].map(|i| (64 * i, lens[i]))).unwrap();
                // w and s decay alike, b does not.
                let groups = [vec![0, 2], vec![1]].map(|tensors: Vec<usize>| {
                    let ranges: Vec<_> = tensors.iter().map(|&i| (64 * i, lens[i])).collect();
                    let decay = |i: usize| golden.config["weight_decay_per_tensor"][names[i]].as_f64().unwrap();
                    assert!(tensors.iter().all(|&i| decay(i) == decay(tensors[0])));
                    (Group::new(&gpu, &ranges).unwrap(), decay(tensors[0]))
                });
                let mut traces = [const { Vec::new() }; 3];
                let mut norms = Vec::new();
                for t in 0..number("steps").unwrap() as usize {
                    let grads =
                        flat([0, 1, 2].map(|i| {
                            golden.f32(&format!("input.grads.{}", names[i]))[t * lens[i]..][..lens[i]].to_vec()
                        }));
                    let grads = Tensor::from_slice(&gpu, [192], &grads).unwrap();
                    let global = number("clip_global_norm").map(|limit| {
                        let clip = clip_global(&grads, &all, limit as f32).unwrap();
                        norms.extend(clip.norm.to_vec().unwrap());
                        clip.scale
                    });
                    for (group, decay) in &groups {
                        let scale = match number("clip_tensor_norm") {
                            Some(limit) => {
                                Some(clip_ranges(&grads, group, limit as f32, global.as_ref()).unwrap().scale)
                            }
                            None => global.clone(),
                        };
                        let scheduled = golden.has("output.lr").then(|| f64::from(golden.f32("output.lr")[t]));
                        let numbers = Numbers {
                            rate: scheduled.or(number("lr")).unwrap(),
                            beta1: number("beta1").unwrap(),
                            beta2: number("beta2").unwrap(),
                            eps: number("eps").unwrap(),
                            decay: *decay,
                            step: t as u64 + 1,
                        };
                        let update = match golden.config["algorithm"].as_str().unwrap() {
                            "adam" => Update::Adam(numbers),
                            "adamw" => Update::AdamW(numbers),
                            _ => Update::BertAdam(numbers),
                        };
                        step(&params, &grads, &m, &v, group, &update, scale.as_ref()).unwrap();
                    }
                    let now = params.to_vec().unwrap();
                    (0..3).for_each(|i| traces[i].extend_from_slice(&now[64 * i..64 * i + lens[i]]));
                }
                for (name, trace) in names.iter().zip(&traces) {
                    golden.check(&format!("output.trace.{name}"), trace);
                }
                if golden.has("output.global_norm") {
                    golden.check("output.global_norm", &norms);
                }
            }
        }
    }

    #[test]
    fn wrong_shapes_are_errors() {
        for gpu in gpus() {
            assert!(matches!(Group::new(&gpu, &[(0, 5), (4, 2)]), Err(Error::Argument { argument: "ranges", .. })));
            let group = Group::new(&gpu, &[(0, 5), (8, 2)]).unwrap();
            assert_eq!((group.ranges(), group.elements()), (2, 7));
            let update = Update::AdamW(NUMBERS);
            let [short, long] = [9, 10].map(|n| noise_tensor(&gpu, &[n], 1));
            let result = step(&short, &short, &short, &short, &group, &update, None);
            assert!(matches!(result, Err(Error::Shape { argument: "params", .. })));
            let result = step(&long, &long, &short, &long, &group, &update, None);
            assert!(matches!(result, Err(Error::Shape { argument: "m", .. })));
            assert!(matches!(clip_global(&short, &group, 1.0), Err(Error::Shape { argument: "grads", .. })));
            let three = noise_tensor(&gpu, &[3], 1);
            let [m, v, g] = [2, 3, 4].map(|seed| noise_tensor(&gpu, &[10], seed));
            let result = step(&long, &g, &m, &v, &group, &update, Some(&three));
            assert!(matches!(result, Err(Error::Shape { argument: "scale", .. })));
            let none = Group::new(&gpu, &[]).unwrap();
            step(&long, &g, &m, &v, &none, &update, None).unwrap();
            assert_eq!(clip_global(&g, &none, 1.0).unwrap().norm.item().unwrap(), 0.0);
        }
    }

    /// Software adapters end loops that are too long: a norm is of as many blocks as there are, and a range has one at
    /// least.
    #[test]
    fn norms_of_many_blocks_reach_their_end() {
        let n = 600_000usize;
        let ranges: Vec<(usize, usize)> = (0..n).map(|i| (i, 1)).collect();
        for gpu in gpus() {
            let grads = Tensor::from_slice(&gpu, [n], &vec![0.5; n]).unwrap();
            let clip = clip_global(&grads, &Group::new(&gpu, &ranges).unwrap(), 1.0).unwrap();
            assert_slices_close(&clip.norm.to_vec().unwrap(), &[0.5 * (n as f32).sqrt()], 1e-5, 0.0);
        }
    }
}
