//! Every differentiable op against central differences, alone and between others, on odd shapes.

mod common;

use common::{gpus, noise, spaced};
use reelgrad::autograd::{AttentionOptions, GradientCheck, Tape, Var, check_gradient, concat};
use reelgrad::kernels::attention::Layout;
use reelgrad::kernels::elementwise::dropout::Dropout;
use reelgrad::kernels::elementwise::unary::Activation;
use reelgrad::kernels::pooling::Masked;
use reelgrad::kernels::rows::l2_normalize::Divisor;
use reelgrad::kernels::rows::layer_norm::Norm;
use reelgrad::{Array, Result, Tensor};

type Function = Box<dyn Fn(&[Var]) -> Result<Var>>;

/// One op at one size.
struct Case {
    name: String,
    inputs: Vec<Array>,
    /// Relative to the inputs; smaller where a kink is near.
    step: f32,
    function: Function,
}

/// `function` at inputs of these shapes with normal values.
fn case(name: impl Into<String>, shapes: &[&[usize]], function: impl Fn(&[Var]) -> Result<Var> + 'static) -> Case {
    let inputs = shapes.iter().zip(1..).map(|(shape, seed)| noise(shape, seed)).collect();
    Case { name: name.into(), inputs, step: 1e-2, function: Box::new(function) }
}

/// As [`case`], with values `gap` apart.
fn kinked(gap: f32, name: &str, shapes: &[&[usize]], function: impl Fn(&[Var]) -> Result<Var> + 'static) -> Case {
    let inputs = shapes.iter().zip(1..).map(|(shape, seed)| spaced(shape, gap, seed)).collect();
    Case { name: name.into(), inputs, step: 1e-3, function: Box::new(function) }
}

/// Checks every case alone, and with its inputs and its result used twice by other ops.
fn check(cases: Vec<Case>) {
    let mut failed = Vec::new();
    for gpu in gpus() {
        for case in &cases {
            let options = GradientCheck { step: case.step, ..GradientCheck::default() };
            let alone = |_: &Tape, x: &[Var]| (case.function)(x);
            let within = |_: &Tape, x: &[Var]| {
                let x: Vec<Var> = x.iter().map(|x| x.scale(0.25)?.add(&x.scale(0.75)?)).collect::<Result<_>>()?;
                let y = (case.function)(&x)?;
                y.square()?.scale(0.25)?.add(&y)
            };
            for (place, report) in [
                ("alone", check_gradient(&gpu, &case.inputs, options, alone)),
                ("within", check_gradient(&gpu, &case.inputs, options, within)),
            ] {
                let report = report.unwrap_or_else(|e| panic!("{} {place} ({}): {e}", case.name, gpu.family()));
                for (input, r) in report.inputs.iter().enumerate() {
                    if r.error.is_nan() || r.error > options.tolerance {
                        failed.push(format!("{} {place} ({}), input {input}: {r:?}", case.name, gpu.family()));
                    }
                }
            }
        }
    }
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

fn tensor(like: &Var, shape: &[usize], values: &[f32]) -> Result<Tensor> {
    Tensor::from_slice(like.value().gpu(), shape, values)
}

/// 1 and 0 in no simple pattern; the first row of `width` is all 0 if `hidden`.
fn mask(like: &Var, shape: &[usize], hidden: bool) -> Result<Tensor> {
    let width = shape[shape.len() - 1];
    let on = |i: usize| !(hidden && i < width) && (i * 7 + i / 3) % 5 < 3;
    let values: Vec<f32> = (0..shape.iter().product()).map(|i| f32::from(u8::from(on(i)))).collect();
    tensor(like, shape, &values)
}

#[test]
fn matmul() {
    let mut cases = Vec::new();
    for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
        for (m, k, n) in [(1, 1, 1), (7, 9, 8), (33, 31, 65), (8, 32, 16)] {
            let (a, b) = (if ta { [k, m] } else { [m, k] }, if tb { [n, k] } else { [k, n] });
            let name = format!("matmul {m}x{k}x{n} {ta} {tb}");
            cases.push(case(name, &[&a, &b], move |x| x[0].matmul_transposed(&x[1], ta, tb)));
        }
        let (m, k, n) = (3, 5, 7);
        let (a, b) = (if ta { [k, m] } else { [m, k] }, if tb { [n, k] } else { [k, n] });
        for (name, left, right) in [("both", true, true), ("shared right", true, false), ("shared left", false, true)] {
            let batched = |batch: bool, s: [usize; 2]| if batch { vec![2, 3, s[0], s[1]] } else { s.to_vec() };
            let (a, b) = (batched(left, a), batched(right, b));
            let name = format!("matmul batch {name} {ta} {tb}");
            cases.push(case(name, &[&a, &b], move |x| x[0].matmul_transposed(&x[1], ta, tb)));
        }
    }
    // Long enough to be cut into slices.
    cases.push(case("matmul long", &[&[9, 700], &[700, 7]], |x| x[0].matmul(&x[1])));
    cases.push(case("matmul by itself", &[&[9, 9]], |x| x[0].matmul(&x[0])));
    cases.push(case("cosine_matrix", &[&[7, 9], &[5, 9]], |x| x[0].cosine_matrix(&x[1])));
    check(cases);
}

#[test]
fn linear() {
    let mut cases = vec![
        case("linear", &[&[2, 7, 9], &[5, 9]], |x| x[0].linear(&x[1], None, None, None)),
        case("linear bias", &[&[33, 31], &[65, 31], &[65]], |x| x[0].linear(&x[1], Some(&x[2]), None, None)),
        case("linear single row", &[&[1, 9], &[5, 9], &[5]], |x| x[0].linear(&x[1], Some(&x[2]), None, None)),
        case("linear residual", &[&[7, 8], &[8, 8], &[7, 8]], |x| x[0].linear(&x[1], None, None, Some(&x[2]))),
        case("linear residual of itself", &[&[7, 8], &[8, 8]], |x| x[0].linear(&x[1], None, None, Some(&x[0]))),
    ];
    for activation in [Activation::Gelu, Activation::QuickGelu, Activation::GeluTanh] {
        cases.push(case(format!("linear {activation:?}"), &[&[7, 9], &[5, 9]], move |x| {
            x[0].linear(&x[1], None, Some(activation), None)
        }));
        let shapes: [&[usize]; 4] = [&[3, 8, 9], &[5, 9], &[5], &[3, 8, 5]];
        cases.push(case(format!("linear bias {activation:?} residual"), &shapes, move |x| {
            x[0].linear(&x[1], Some(&x[2]), Some(activation), Some(&x[3]))
        }));
    }
    // One output is on each side of the kink, and far from it.
    cases.push(case("linear Relu", &[&[7, 3], &[2, 3]], |x| {
        let weight = x[1].scale(0.01)?;
        let bias = x[0].tape().constant(tensor(&x[0], &[2], &[1.0, -1.0])?);
        x[0].linear(&weight, Some(&bias), Some(Activation::Relu), None)
    }));
    check(cases);
}

#[test]
fn attention() {
    let mut cases = Vec::new();
    let heads = |heads| Layout::TokensFirst { heads };
    let plain = |x: &[Var], options: AttentionOptions| {
        let width = x[0].value().width();
        let d = if let Layout::TokensFirst { heads } = options.layout { width / heads } else { width };
        x[0].attention(&x[1], &x[2], &AttentionOptions { scale: 1.0 / (d as f32).sqrt(), ..options })
    };
    for (b, h, tq, tk, d) in [(1, 1, 1, 1, 5), (2, 2, 7, 9, 8), (1, 3, 9, 8, 13), (1, 2, 33, 31, 7), (1, 1, 5, 65, 48)]
    {
        let (q, k) = ([b, tq, h * d], [b, tk, h * d]);
        cases.push(case(format!("attention {b} {h} {tq} {tk} {d}"), &[&q, &k, &k], move |x| {
            plain(x, AttentionOptions { layout: heads(h), ..Default::default() })
        }));
        let (q, k) = ([b, h, tq, d], [b, h, tk, d]);
        cases.push(case(format!("attention heads first {b} {h} {tq} {tk} {d}"), &[&q, &k, &k], move |x| {
            plain(x, AttentionOptions::default())
        }));
    }
    for (layout, q, k) in [(heads(2), vec![3, 7, 10], vec![3, 9, 10]), (heads(1), vec![3, 9, 8], vec![3, 9, 8])] {
        let shapes: [&[usize]; 3] = [&q, &k, &k];
        let keys = k[1];
        cases.push(case("attention causal", &shapes, move |x| {
            plain(x, AttentionOptions { layout, causal: true, ..Default::default() })
        }));
        // The first item sees no key, the second some, the third all.
        cases.push(case("attention lengths", &shapes, move |x| {
            let lengths = Tensor::from_u32(x[0].value().gpu(), [3], &[0, 5, keys as u32])?;
            plain(x, AttentionOptions { layout, key_lengths: Some(lengths), ..Default::default() })
        }));
        cases.push(case("attention mask", &shapes, move |x| {
            let key_mask = Some(mask(&x[0], &[3, keys], true)?);
            plain(x, AttentionOptions { layout, key_mask, ..Default::default() })
        }));
        cases.push(case("attention mask causal", &shapes, move |x| {
            let key_mask = Some(mask(&x[0], &[3, keys], true)?);
            plain(x, AttentionOptions { layout, key_mask, causal: true, ..Default::default() })
        }));
    }
    for bias in [[3, 2, 7, 9], [1, 2, 7, 9], [3, 1, 1, 9], [1, 1, 1, 9]] {
        let shapes: [&[usize]; 4] = [&[3, 7, 10], &[3, 9, 10], &[3, 9, 10], &bias];
        for kind in 0..3 {
            cases.push(case(format!("attention bias {bias:?} {kind}"), &shapes, move |x| {
                let mut options = AttentionOptions {
                    layout: heads(2),
                    bias: Some(x[3].clone()),
                    causal: kind == 2,
                    ..Default::default()
                };
                if kind == 0 {
                    options.key_mask = Some(mask(&x[0], &[3, 9], true)?);
                } else if kind == 1 {
                    options.key_lengths = Some(Tensor::from_u32(x[0].value().gpu(), [3], &[0, 4, 9])?);
                }
                plain(x, options)
            }));
        }
    }
    cases.push(case("attention to itself", &[&[2, 9, 12]], move |x| {
        plain(&[x[0].clone(), x[0].clone(), x[0].clone()], AttentionOptions { layout: heads(2), ..Default::default() })
    }));
    check(cases);
}

#[test]
fn rows() {
    let mut cases = Vec::new();
    for shape in [&[1usize, 1][..], &[7], &[9, 8], &[2, 3, 31], &[3, 65], &[2, 257]] {
        cases.push(case(format!("softmax {shape:?}"), &[shape], |x| x[0].softmax()));
        cases.push(case(format!("log_softmax {shape:?}"), &[shape], |x| x[0].log_softmax()));
        cases.push(case(format!("logsumexp {shape:?}"), &[shape], |x| x[0].logsumexp()));
        cases.push(case(format!("l2_normalize {shape:?}"), &[shape], |x| x[0].l2_normalize(1e-12)));
        let divisor = Divisor::Added { eps: 0.1 };
        cases.push(case(format!("normalize added {shape:?}"), &[shape], move |x| x[0].normalize(divisor)));
        let width = [shape[shape.len() - 1]];
        if width[0] < 2 {
            continue;
        }
        for norm in [Norm::Biased { eps: 1e-5 }, Norm::Unbiased { eps: 1e-6 }] {
            let name = format!("layer_norm {norm:?} {shape:?}");
            cases
                .push(case(name.clone(), &[shape, &width, &width], move |x| x[0].layer_norm(None, &x[1], &x[2], norm)));
            cases.push(case(name + " residual", &[shape, &width, &width, shape], move |x| {
                x[0].layer_norm(Some(&x[3]), &x[1], &x[2], norm)
            }));
        }
    }
    for shape in [&[9usize][..], &[1, 1], &[7, 33], &[3, 5, 7], &[2, 3, 4, 5]] {
        for axis in 0..shape.len() {
            cases.push(case(format!("sum {shape:?} {axis}"), &[shape], move |x| x[0].sum(axis)));
            cases.push(case(format!("mean {shape:?} {axis}"), &[shape], move |x| x[0].mean(axis)));
            cases.push(kinked(1.0, &format!("max {shape:?} {axis}"), &[shape], move |x| x[0].max(axis)));
        }
        cases.push(case(format!("sum_all {shape:?}"), &[shape], |x| x[0].sum_all()));
        cases.push(case(format!("mean_all {shape:?}"), &[shape], |x| x[0].mean_all()));
    }
    check(cases);
}

#[test]
fn arithmetic() {
    let mut cases = Vec::new();
    for (a, b) in [
        (&[7usize, 9][..], &[7usize, 9][..]),
        (&[7, 8], &[8]),
        (&[3, 5, 7], &[3, 1, 7]),
        (&[5, 1], &[1, 33]),
        (&[1], &[7, 3]),
        (&[2, 3, 4, 5], &[3, 1, 5]),
        (&[6], &[]),
    ] {
        let name = |op: &str| format!("{op} {a:?} {b:?}");
        cases.push(case(name("add"), &[a, b], |x| x[0].add(&x[1])));
        cases.push(case(name("sub"), &[a, b], |x| x[0].sub(&x[1])));
        cases.push(case(name("mul"), &[a, b], |x| x[0].mul(&x[1])));
        cases.push(case(name("div"), &[a, b], |x| x[0].div(&x[1].square()?.affine(1.0, 0.7)?)));
    }
    for n in [1usize, 7, 33, 257] {
        let shape: &[usize] = &[n];
        cases.push(case(format!("exp {n}"), &[shape], |x| x[0].exp()));
        cases.push(case(format!("log {n}"), &[shape], |x| x[0].square()?.affine(1.0, 0.7)?.log()));
        cases.push(case(format!("square {n}"), &[shape], |x| x[0].square()));
        cases.push(case(format!("affine {n}"), &[shape], |x| x[0].affine(-1.5, 0.3)));
        cases.push(case(format!("scale {n}"), &[shape], |x| x[0].scale(2.5)));
        cases.push(case(format!("Gelu {n}"), &[shape], |x| x[0].activation(Activation::Gelu)));
        cases.push(case(format!("QuickGelu {n}"), &[shape], |x| x[0].activation(Activation::QuickGelu)));
        cases.push(case(format!("GeluTanh {n}"), &[shape], |x| x[0].activation(Activation::GeluTanh)));
        cases.push(kinked(0.5, &format!("Relu {n}"), &[shape], |x| x[0].activation(Activation::Relu)));
        let dropout = Dropout { probability: 0.4, seed: 9, stream: 3 };
        cases.push(case(format!("dropout {n}"), &[shape], move |x| x[0].dropout_with(dropout)));
    }
    for (shape, of) in [([7, 9], &[7usize, 9][..]), ([7, 9], &[9]), ([7, 8], &[7, 1])] {
        cases.push(case(format!("masked_fill {of:?}"), &[&shape], move |x| {
            x[0].masked_fill(&mask(&x[0], of, false)?, -3.0)
        }));
    }
    check(cases);
}

#[test]
fn shapes() {
    let mut cases = vec![
        case("reshape", &[&[3, 5, 7]], |x| x[0].reshape([7, 15])),
        case("permute", &[&[2, 3, 5, 7]], |x| x[0].permute(&[2, 0, 3, 1])),
        case("transpose", &[&[2, 9, 7]], |x| x[0].transpose()),
        case("diagonal", &[&[9, 9]], |x| x[0].diagonal()),
        case("diagonal of one", &[&[1, 1]], |x| x[0].diagonal()),
        case("embedding", &[&[5, 7]], |x| x[0].embedding(&[4, 1, 1, 0, 4, 4], &[2, 3])),
        case("embedding often", &[&[3, 8]], |x| x[0].embedding(&[2; 200], &[200])),
        case("patch_embed", &[&[2, 3, 4, 6], &[5, 3, 2, 2]], |x| x[0].patch_embed(&x[1])),
        case("patch_embed with a rest", &[&[1, 2, 5, 7], &[3, 2, 3, 3]], |x| x[0].patch_embed(&x[1])),
    ];
    for axis in 0..3 {
        cases.push(case(format!("slice {axis}"), &[&[3, 5, 8]], move |x| x[0].slice(axis, 1..3)));
        let mut other = [3, 5, 8];
        other[axis] = 2;
        cases
            .push(case(format!("concat {axis}"), &[&[3, 5, 8], &other], move |x| concat(&[&x[0], &x[1], &x[0]], axis)));
    }
    for (stride, padding) in [(1, 0), (1, 2), (2, 1), (3, 0)] {
        let shapes: [&[usize]; 3] = [&[2, 3, 9], &[5, 3, 4], &[5]];
        let name = format!("conv1d {stride} {padding}");
        cases.push(case(name.clone(), &shapes[..2], move |x| x[0].conv1d(&x[1], None, stride, padding)));
        cases.push(case(name + " bias", &shapes, move |x| x[0].conv1d(&x[1], Some(&x[2]), stride, padding)));
    }
    check(cases);
}

#[test]
fn pooling() {
    let mut cases = Vec::new();
    for (b, s, d) in [(1, 1, 1), (3, 7, 9), (2, 33, 8), (3, 5, 65)] {
        let (full, rows) = ([b, s, d], [b, s]);
        cases.push(case(format!("mean {full:?}"), &[&full], |x| x[0].masked_mean(None)));
        cases.push(case(format!("masked mean {full:?}"), &[&full], move |x| {
            x[0].masked_mean(Some(&mask(&x[0], &rows, true)?))
        }));
        for masked in [Masked::Hide, Masked::Fill(-50.0)] {
            cases.push(kinked(0.1, &format!("masked max {full:?} {masked:?}"), &[&full], move |x| {
                x[0].masked_max(Some(&mask(&x[0], &rows, true)?), masked)
            }));
            for (form, logits) in [("channels", &full[..]), ("shared", &rows[..])] {
                let name = format!("attention_pool {form} {full:?}");
                cases.push(case(name.clone(), &[&full, logits], |x| x[0].attention_pool(&x[1], None, 0.0)));
                cases.push(case(format!("{name} {masked:?}"), &[&full, logits], move |x| {
                    let mask = mask(&x[0], &rows, true)?;
                    Ok(x[0].attention_pool_weights(&x[1], Some(&mask), masked, 0.0)?.0)
                }));
            }
        }
        cases.push(kinked(0.1, &format!("max {full:?}"), &[&full], |x| x[0].masked_max(None, Masked::Hide)));
    }
    check(cases);
}

#[test]
fn max_similarity() {
    let mut cases = Vec::new();
    for [q, n, l, d] in [[1usize, 1, 1, 1], [5, 3, 7, 4], [9, 4, 5, 3], [17, 3, 9, 6], [3, 2, 33, 5]] {
        let (queries, clips, rows) = ([q, d], [n, l, d], [n, l]);
        // A small step, so that no maximum moves to another clip.
        let near = |c: Case| Case { step: 1e-3, ..c };
        let name = format!("max_similarity {q} {n} {l} {d}");
        cases.push(near(case(name.clone(), &[&queries, &clips], |x| x[0].max_similarity(&x[1], None))));
        // The first video has no clip: its score is a large constant, which differences cannot bear.
        cases.push(near(case(name + " mask", &[&queries, &clips], move |x| {
            let scores = x[0].max_similarity(&x[1], Some(&mask(&x[0], &rows, true)?))?;
            let empty: Vec<f32> = (0..q * n).map(|i| f32::from(u8::from(i % n == 0))).collect();
            scores.masked_fill(&tensor(&x[0], &[q, n], &empty)?, 0.5)
        })));
    }
    cases.push(Case {
        step: 1e-3,
        ..case("max_similarity to itself", &[&[6, 4]], |x| x[0].max_similarity(&x[0].reshape([2, 3, 4])?, None))
    });
    check(cases);
}

#[test]
fn soft_similarity() {
    let mut cases = Vec::new();
    for [b, n, r, d] in [[1usize, 1, 1, 1], [5, 3, 7, 4], [9, 4, 5, 3], [3, 2, 33, 5], [70, 3, 9, 6]] {
        let (texts, items, rows) = ([b, d], [n, r, d], [n, r]);
        let name = format!("soft_similarity {b} {n} {r} {d}");
        cases.push(case(name.clone(), &[&texts, &items], |x| x[0].soft_similarity(&x[1], None, 0.7)));
        cases.push(case(name + " mask", &[&texts, &items], move |x| {
            x[0].soft_similarity(&x[1], Some(&mask(&x[0], &rows, true)?), 1.3)
        }));
    }
    cases.push(case("soft_similarity to itself", &[&[6, 4]], |x| {
        x[0].soft_similarity(&x[0].reshape([2, 3, 4])?, None, 1.0)
    }));
    check(cases);
}

#[test]
fn gated_similarities() {
    let mut cases = Vec::new();
    for [r, v, f] in [[1, 1, 2], [5, 3, 6], [7, 2, 17], [33, 2, 4]] {
        let (dots, frames, seen) = ([r, v, f], [v, f, 7], [v, f]);
        let grams = |z: &Var| z.matmul_nt(z);
        let name = format!("gates {r} {v} {f}");
        cases.push(case(name.clone(), &[&dots, &frames], move |x| x[0].gates(&grams(&x[1])?, None, 1.5)));
        cases.push(case(name + " mask", &[&dots, &frames], move |x| {
            x[0].gates(&grams(&x[1])?, Some(&mask(&x[0], &seen, true)?), 1.5)
        }));
    }
    for [b, n, v, f] in [[1, 1, 1, 1], [2, 3, 2, 5], [3, 9, 2, 4], [1, 33, 2, 3]] {
        let rows = [b, n, v, f];
        cases.push(case(format!("aosm {rows:?}"), &[&rows, &rows, &[n, n]], |x| x[0].aosm(&x[1], &x[2], 3.0)));
    }
    cases.push(case("aosm of itself", &[&[2, 5, 3, 4], &[5, 5]], |x| x[0].aosm(&x[0], &x[1], 3.0)));
    check(cases);
}

#[test]
fn losses() {
    let mut cases = Vec::new();
    for n in [1usize, 7, 9, 33] {
        // Differences are multiples of the gap, so that no term is near 0.
        for hardest in [false, true] {
            let gap = if hardest { 0.1 } else { 0.02 };
            let name = format!("hinge {n} {hardest}");
            cases.push(kinked(gap, &name, &[&[n, n]], move |x| x[0].hinge(2.5 * gap, hardest)));
        }
        cases.push(case(format!("info_nce {n}"), &[&[n, n]], |x| x[0].info_nce()));
        cases.push(case(format!("cross_entropy {n}"), &[&[n, 7]], move |x| {
            x[0].cross_entropy(&(0..n as u32).map(|i| i * i % 7).collect::<Vec<_>>())
        }));
    }
    check(cases);
}
