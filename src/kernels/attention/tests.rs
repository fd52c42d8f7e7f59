use super::cpu::Problem;
use super::*;
use crate::kernels::testing::{assert_close, gpus, noise};
use crate::parity::golden;

fn problem(batch: usize, heads: usize, queries: usize, keys: usize, width: usize) -> Problem {
    Problem {
        batch,
        heads,
        queries,
        keys,
        width,
        tokens_first: true,
        scale: 1.0 / (width as f64).sqrt(),
        causal: false,
        lengths: None,
        mask: None,
        bias: None,
        dropout: None,
    }
}

/// A problem with its inputs, as f32 on the host.
struct Case {
    problem: Problem,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dy: Vec<f32>,
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

impl Case {
    fn new(problem: Problem) -> Self {
        let row = problem.batch * problem.heads * problem.width;
        let q = noise(row * problem.queries, 1).iter().map(|x| 2.0 * x).collect();
        let k = noise(row * problem.keys, 2).iter().map(|x| 2.0 * x).collect();
        let (v, dy) = (noise(row * problem.keys, 3), noise(row * problem.queries, 4));
        Self { problem, q, k, v, dy }
    }

    fn shape(&self, rows: usize) -> Vec<usize> {
        let Problem { batch, heads, width, tokens_first, .. } = self.problem;
        if tokens_first { vec![batch, rows, heads * width] } else { vec![batch, heads, rows, width] }
    }

    /// An upload with NaN behind its end.
    fn upload(&self, gpu: &Gpu, rows: usize, data: &[f32]) -> Tensor {
        let mut padded = data.to_vec();
        padded.extend([f32::NAN; 600]);
        Tensor::from_slice(gpu, [padded.len()], &padded).unwrap().view(0, self.shape(rows)).unwrap()
    }

    fn on(&self, gpu: &Gpu) -> OnGpu {
        let p = &self.problem;
        let upload = |shape: Vec<usize>, x: &[f32]| Tensor::from_slice(gpu, shape, x).unwrap();
        OnGpu {
            q: self.upload(gpu, p.queries, &self.q),
            k: self.upload(gpu, p.keys, &self.k),
            v: self.upload(gpu, p.keys, &self.v),
            dy: self.upload(gpu, p.queries, &self.dy),
            lengths: p.lengths.as_ref().map(|l| Tensor::from_u32(gpu, [p.batch], l).unwrap()),
            mask: p.mask.as_ref().map(|m| upload(vec![p.batch, p.keys], m)),
            bias: p.bias.as_ref().map(|(x, shape)| upload(shape.to_vec(), &narrow(x))),
            layout: if p.tokens_first { Layout::TokensFirst { heads: p.heads } } else { Layout::HeadsFirst },
            scale: p.scale as f32,
            causal: p.causal,
            dropout: p.dropout,
        }
    }

    /// Both directions on every device against the twin, and twice for equal bits.
    fn check(&self) {
        gpus().iter().for_each(|gpu| self.check_on(gpu));
    }

    fn check_on(&self, gpu: &Gpu) {
        let p = &self.problem;
        let label = format!("{p:?}");
        let label = &label[..label.len().min(400)];
        let [q, k, v, dy] = [&self.q, &self.k, &self.v, &self.dy].map(|x| wide(x));
        let (shares, lse) = p.probabilities(&q, &k);
        let y = p.forward(&q, &k, &v);
        let d = p.backward(&q, &k, &v, &dy);
        println!("{gpu:?} {label}");
        let on = self.on(gpu);
        let (output, gradients) = on.run();
        assert_close(&output.y, &narrow(&y), 1e-4, 1e-5);
        assert_close(&output.lse, &narrow(&lse), 1e-5, 1e-5);
        assert_close(&probabilities(&on.q, &on.k, &output.lse, &on.options()).unwrap(), &narrow(&shares), 1e-4, 1e-6);
        assert_close(&gradients.q, &narrow(&d.q), 1e-4, 5e-5);
        assert_close(&gradients.k, &narrow(&d.k), 1e-4, 5e-5);
        assert_close(&gradients.v, &narrow(&d.v), 1e-4, 5e-5);
        assert_eq!(gradients.bias.is_some(), p.bias.is_some());
        if let Some(bias) = &gradients.bias {
            assert_close(bias, &narrow(&p.bias_gradient(&d.scores)), 1e-4, 5e-5);
        }
        let (again, gradients_again) = on.run();
        let bits = |o: &Output, g: &Gradients| -> Vec<Vec<u32>> {
            let all = [&o.y, &o.lse, &g.q, &g.k, &g.v];
            let all: Vec<&Tensor> = all.into_iter().chain(g.bias.as_ref()).collect();
            let values = Tensor::read_all(&all).unwrap();
            values.iter().map(|v| v.iter().map(|x| x.to_bits()).collect()).collect()
        };
        assert_eq!(bits(&output, &gradients), bits(&again, &gradients_again), "two runs differ");
    }
}

struct OnGpu {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dy: Tensor,
    lengths: Option<Tensor>,
    mask: Option<Tensor>,
    bias: Option<Tensor>,
    layout: Layout,
    scale: f32,
    causal: bool,
    dropout: Option<Dropout>,
}

impl OnGpu {
    fn options(&self) -> Options<'_> {
        let keys = match (&self.lengths, &self.mask) {
            (Some(lengths), None) => Keys::Lengths(lengths),
            (None, Some(mask)) => Keys::Mask(mask),
            _ => Keys::All,
        };
        Options {
            layout: self.layout,
            scale: self.scale,
            causal: self.causal,
            keys,
            bias: self.bias.as_ref(),
            dropout: self.dropout,
        }
    }

    fn run(&self) -> (Output, Gradients) {
        let options = self.options();
        let output = forward(&self.q, &self.k, &self.v, &options).unwrap();
        let gradients = backward(&self.q, &self.k, &self.v, &output, &self.dy, true, &options).unwrap();
        (output, gradients)
    }
}

const DROPOUT: Dropout = Dropout { probability: 0.3, seed: 0x0123_4567_89ab_cdef, stream: 0xfedc_ba98_7654_3210 };

#[test]
fn sizes_around_the_tiles_equal_the_twin() {
    for (queries, keys, width) in [(1, 1, 1), (4, 4, 16), (8, 9, 9), (17, 31, 64), (33, 67, 128), (65, 5, 127)] {
        Case::new(problem(2, 3, queries, keys, width)).check();
    }
}

#[test]
fn heads_may_come_first() {
    for (queries, keys, width) in [(4, 4, 16), (19, 34, 64)] {
        Case::new(Problem { tokens_first: false, ..problem(2, 3, queries, keys, width) }).check();
    }
}

#[test]
fn forbidden_keys_count_for_nothing() {
    for (queries, keys, width) in [(9, 17, 9), (21, 70, 16)] {
        let base = problem(3, 2, queries, keys, width);
        let lengths = Some(vec![0, keys as u32 + 5, 3]);
        let mask = Some((0..3 * keys).map(|i| if i < keys || i % 3 == 1 { 0.0 } else { 1.0 }).collect::<Vec<f32>>());
        let bias = |shape: [usize; 4]| Some((wide(&noise(shape.iter().product(), 9)), shape));
        if width == 9 {
            // What is left out here differs in the loads alone.
            Case::new(Problem { bias: bias([3, 2, 1, keys]), mask, causal: true, ..base }).check();
            continue;
        }
        Case::new(Problem { causal: true, ..base.clone() }).check();
        Case::new(Problem { lengths: lengths.clone(), ..base.clone() }).check();
        Case::new(Problem { lengths: lengths.clone(), causal: true, ..base.clone() }).check();
        Case::new(Problem { mask: mask.clone(), ..base.clone() }).check();
        Case::new(Problem { bias: bias([3, 2, queries, keys]), ..base.clone() }).check();
        Case::new(Problem { bias: bias([3, 1, 1, keys]), causal: true, ..base.clone() }).check();
        Case::new(Problem { bias: bias([1, 2, queries, keys]), lengths, ..base.clone() }).check();
        Case::new(Problem { bias: bias([1, 1, 1, keys]), mask, ..base }).check();
    }
}

#[test]
fn a_row_without_keys_gives_zero_and_no_gradient() {
    for gpu in gpus() {
        let mut case = Case::new(Problem { lengths: Some(vec![0, 3]), ..problem(2, 1, 9, 20, 16) });
        // What lies beyond the valid keys need not even be a number.
        for x in [&mut case.k, &mut case.v] {
            x[..20 * 16].fill(f32::NAN);
            x[23 * 16..].fill(f32::NAN);
        }
        let (output, gradients) = case.on(&gpu).run();
        for (x, rows) in [(&output.y, 9), (&gradients.q, 9), (&gradients.k, 20), (&gradients.v, 20)] {
            let x = x.to_vec().unwrap();
            assert!(x[..rows * 16].iter().all(|&x| x == 0.0), "{x:?}");
            assert!(x.iter().all(|x| x.is_finite()), "{x:?}");
        }
        assert_eq!(output.lse.to_vec().unwrap()[..9], [0.0; 9]);
    }
}

#[test]
fn a_large_negative_bias_is_arithmetic() {
    let bias = Some((vec![-1.0e4; 2 * 17], [2, 1, 1, 17]));
    let case = Case::new(Problem { bias, ..problem(2, 1, 9, 17, 16) });
    let without = Case::new(problem(2, 1, 9, 17, 16));
    for gpu in gpus() {
        let y = case.on(&gpu).run().0.y;
        assert_close(&y, &without.on(&gpu).run().0.y.to_vec().unwrap(), 1e-2, 1e-3);
    }
}

#[test]
fn the_lowest_bias_forbids() {
    for lowest in [f32::MIN, f32::NEG_INFINITY] {
        let bias: Vec<f64> = (0..34).map(|i| if i < 17 || i % 2 == 0 { lowest.into() } else { 0.0 }).collect();
        let masked =
            Problem { mask: Some(bias.iter().map(|&b| f32::from(b == 0.0)).collect()), ..problem(2, 1, 9, 17, 16) };
        let biased = Problem { bias: Some((bias, [2, 1, 1, 17])), ..problem(2, 1, 9, 17, 16) };
        for gpu in gpus() {
            let expected = Case::new(masked.clone()).on(&gpu).run();
            let got = Case::new(biased.clone()).on(&gpu).run();
            assert_eq!(got.0.y.to_vec().unwrap(), expected.0.y.to_vec().unwrap());
            assert_eq!(got.1.k.to_vec().unwrap(), expected.1.k.to_vec().unwrap());
        }
    }
}

#[test]
fn dropout_equals_the_twin() {
    for (queries, keys, width) in [(9, 14, 9), (20, 37, 32)] {
        let base = Problem { dropout: Some(DROPOUT), ..problem(2, 2, queries, keys, width) };
        Case::new(base.clone()).check();
        Case::new(Problem { causal: true, tokens_first: false, ..base.clone() }).check();
        let bias = Some((wide(&noise(keys, 5)), [1, 1, 1, keys]));
        Case::new(Problem { bias, lengths: Some(vec![keys as u32, 2]), ..base }).check();
    }
}

/// Software adapters end loops that are too long: what they would not finish is refused.
#[test]
fn as_many_tokens_as_are_allowed_equal_the_twin() {
    for gpu in gpus().into_iter().filter(|gpu| gpu.report().is_software()) {
        for (width, kv) in [(4, false), (4, true), (128, false), (128, true)] {
            let extents = |n: usize| if kv { (n, 1) } else { (1, n) };
            let allowed = |n: usize| {
                let (queries, keys) = extents(n);
                let sizes = Sizes { batch: 1, heads: 1, queries, keys, width, tokens_first: true };
                Cut::new(&gpu, &sizes, kv).expect_iterations("test", &gpu, &sizes, kv).is_ok()
            };
            let step = |most: usize, bit: usize| if allowed(most | 1 << bit) { most | 1 << bit } else { most };
            let (queries, keys) = extents((0..20).rev().fold(0, step));
            let mut case = Case::new(Problem { dropout: Some(DROPOUT), ..problem(1, 1, queries, keys, width) });
            // Only the last rows show.
            case.v[..keys.saturating_sub(8) * width].fill(0.0);
            case.v.iter_mut().for_each(|v| *v *= keys as f32);
            case.dy[..queries.saturating_sub(8) * width].fill(0.0);
            case.check_on(&gpu);
        }
    }
}

#[test]
fn dropout_keeps_its_share_and_the_mean() {
    // With equal scores and the identity as values, y shows each factor.
    let (batch, queries, keys) = (4, 100, 32);
    let mut case = Case::new(Problem { dropout: Some(DROPOUT), ..problem(batch, 1, queries, keys, keys) });
    case.q.fill(0.0);
    case.v = (0..batch * keys * keys).map(|i| f32::from(i / keys % keys == i % keys)).collect();
    for gpu in gpus() {
        let on = case.on(&gpu);
        let y = forward(&on.q, &on.k, &on.v, &on.options()).unwrap().y.to_vec().unwrap();
        for (i, y) in y.iter().enumerate() {
            let factor = crate::kernels::elementwise::dropout::cpu::factor(DROPOUT, i);
            assert!((y * keys as f32 - factor).abs() < 1e-5, "element {i}: {y}, factor {factor}");
        }
        let kept = y.iter().filter(|&&y| y != 0.0).count() as f64 / y.len() as f64;
        let mean = y.iter().map(|&y| f64::from(y) * keys as f64).sum::<f64>() / y.len() as f64;
        // Four standard deviations of 12800 draws.
        assert!((kept - 0.7).abs() < 0.0163, "{kept}");
        assert!((mean - 1.0).abs() < 0.0232, "{mean}");
    }
}

#[test]
fn the_twins_gradients_are_those_of_its_forward() {
    let bias = Some((wide(&noise(6 * 5, 7)), [1, 2, 3, 5]));
    let case = Case::new(Problem {
        lengths: Some(vec![4, 5]),
        causal: true,
        bias,
        dropout: Some(DROPOUT),
        ..problem(2, 2, 3, 5, 4)
    });
    let p = &case.problem;
    let inputs = [&case.q, &case.k, &case.v].map(|x| wide(x));
    let dy = wide(&case.dy);
    let loss = |p: &Problem, x: &[Vec<f64>; 3]| -> f64 {
        p.forward(&x[0], &x[1], &x[2]).iter().zip(&dy).map(|(y, d)| y * d).sum()
    };
    let d = p.backward(&inputs[0], &inputs[1], &inputs[2], &dy);
    for (n, gradient) in [&d.q, &d.k, &d.v].into_iter().enumerate() {
        for i in 0..gradient.len() {
            let [mut up, mut down] = [inputs.clone(), inputs.clone()];
            up[n][i] += 1e-5;
            down[n][i] -= 1e-5;
            let slope = (loss(p, &up) - loss(p, &down)) / 2e-5;
            assert!((slope - gradient[i]).abs() < 1e-8, "input {n}, element {i}: {slope} against {}", gradient[i]);
        }
    }
    for (i, gradient) in p.bias_gradient(&d.scores).into_iter().enumerate() {
        let shifted = |by: f64| {
            let mut p = p.clone();
            p.bias.as_mut().unwrap().0[i] += by;
            loss(&p, &inputs)
        };
        let slope = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
        assert!((slope - gradient).abs() < 1e-8, "bias {i}: {slope} against {gradient}");
    }
}

#[test]
fn empty_extents_give_zeros() {
    for gpu in gpus() {
        for (batch, queries, keys) in [(0, 3, 3), (2, 0, 3), (2, 3, 0)] {
            let mask = Some(vec![1.0; batch * keys]);
            let case = Case::new(Problem { mask, ..problem(batch, 2, queries, keys, 8) });
            let (output, gradients) = case.on(&gpu).run();
            assert_eq!(output.y.to_vec().unwrap(), vec![0.0; batch * queries * 16]);
            assert_eq!(output.lse.shape(), [batch, 2, queries]);
            assert_eq!(gradients.q.to_vec().unwrap(), vec![0.0; batch * queries * 16]);
            assert_eq!(gradients.k.to_vec().unwrap(), vec![0.0; batch * keys * 16]);
            assert_eq!(gradients.v.to_vec().unwrap(), vec![0.0; batch * keys * 16]);
        }
    }
}

#[test]
fn misfits_are_errors() {
    let gpu = gpus().remove(0);
    let f32s = |shape: &[usize]| Tensor::zeros(&gpu, "test", shape).unwrap();
    let (q, k) = (f32s(&[2, 3, 8]), f32s(&[2, 5, 8]));
    let options = Options {
        layout: Layout::TokensFirst { heads: 2 },
        scale: 1.0,
        causal: false,
        keys: Keys::All,
        bias: None,
        dropout: None,
    };
    let run = |q: &Tensor, k: &Tensor, v: &Tensor, options: Options<'_>| forward(q, k, v, &options).unwrap_err();
    assert!(matches!(run(&q, &f32s(&[2, 5, 4]), &k, options), Error::Shape { argument: "k", .. }));
    assert!(matches!(run(&q, &f32s(&[10, 8]), &k, options), Error::Shape { argument: "k", .. }));
    assert!(matches!(run(&q, &k, &q, options), Error::Shape { argument: "v", .. }));
    assert!(matches!(run(&f32s(&[6, 8]), &k, &k, options), Error::Shape { argument: "q", .. }));
    let layout = Layout::TokensFirst { heads: 3 };
    assert!(matches!(run(&q, &k, &k, Options { layout, ..options }), Error::Argument { argument: "heads", .. }));
    let layout = Layout::HeadsFirst;
    assert!(matches!(run(&q, &k, &k, Options { layout, ..options }), Error::Shape { argument: "q", .. }));
    let broad = f32s(&[1, 1, 258]);
    assert!(matches!(run(&broad, &broad, &broad, options), Error::Argument { argument: "heads", .. }));
    let lengths = Tensor::from_u32(&gpu, [3], &[1, 2, 3]).unwrap();
    let keys = Keys::Lengths(&lengths);
    assert!(matches!(run(&q, &k, &k, Options { keys, ..options }), Error::Shape { argument: "lengths", .. }));
    let keys = Keys::Mask(&lengths);
    assert!(matches!(run(&q, &k, &k, Options { keys, ..options }), Error::DType { argument: "mask", .. }));
    let bias = f32s(&[2, 2, 5, 3]);
    let bias = Some(&bias);
    assert!(matches!(run(&q, &k, &k, Options { bias, ..options }), Error::Shape { argument: "bias", .. }));
    let dropout = Some(Dropout { probability: 1.0, ..DROPOUT });
    assert!(matches!(run(&q, &k, &k, Options { dropout, ..options }), Error::Argument { argument: "probability", .. }));
    let output = forward(&q, &k, &k, &options).unwrap();
    let error = backward(&q, &k, &k, &output, &k, false, &options).unwrap_err();
    assert!(matches!(error, Error::Shape { argument: "gradient", .. }));
}

#[test]
fn golden_files_are_met() {
    for case in [
        "allmasked-add-h32",
        "bias-add-h16",
        "causal-h64",
        "cross-h48",
        "keymask-add-h80",
        "keymask-bool-h32",
        "plain-h32",
    ] {
        check_golden(&golden::open(&format!("op-sdpa-{case}")));
    }
}

fn check_golden(golden: &golden::Case) {
    let config = &golden.config;
    let check = |name: &str, got: &Tensor| golden.check(name, &got.to_vec().unwrap());
    for gpu in gpus() {
        let tensor = |name: &str| golden.upload(&gpu, name);
        let [q, k, v, dy] = ["input.q", "input.k", "input.v", "input.cotangent"].map(tensor);
        let additive = |shape: &[usize], bias: Option<&[f32]>| {
            let value = config["mask_value"].as_f64().unwrap() as f32;
            let mask = golden.f32("input.key_mask");
            let [batch, heads, rows, keys] = *shape else { panic!("four axes") };
            let x: Vec<f32> = (0..shape.iter().product())
                .map(|i| {
                    let item = i / (heads * rows * keys);
                    bias.map_or(0.0, |b| b[i]) + (1.0 - mask[item * keys + i % keys]) * value
                })
                .collect();
            assert_eq!(x.len() / (heads * rows * keys), batch);
            Tensor::from_slice(&gpu, shape, &x).unwrap()
        };
        let key_mask = (config["mask"] == "boolean").then(|| tensor("input.key_mask"));
        let bias = match config["mask"].as_str().unwrap() {
            "additive" => Some(additive(&[q.shape()[0], 1, 1, k.shape()[2]], None)),
            "additive_full" => {
                let bias = tensor("input.bias");
                Some(additive(bias.shape(), Some(&bias.to_vec().unwrap())))
            }
            _ => None,
        };
        let options = Options {
            layout: Layout::HeadsFirst,
            scale: 1.0 / (q.width() as f32).sqrt(),
            causal: config["causal"].as_bool().unwrap(),
            keys: key_mask.as_ref().map_or(Keys::All, Keys::Mask),
            bias: bias.as_ref(),
            dropout: None,
        };
        let output = forward(&q, &k, &v, &options).unwrap();
        check("output.y", &output.y);
        check("output.probs", &probabilities(&q, &k, &output.lse, &options).unwrap());
        let gradients = backward(&q, &k, &v, &output, &dy, true, &options).unwrap();
        check("grad_input.q", &gradients.q);
        check("grad_input.k", &gradients.k);
        check("grad_input.v", &gradients.v);
        if golden.has("grad_input.bias") {
            check("grad_input.bias", &gradients.bias.unwrap());
        }
    }
}
