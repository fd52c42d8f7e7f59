use super::*;
use crate::kernels::testing::{assert_slices_close, gpus, noise, noise_tensor, poisoned};
use crate::parity::golden;

const NUMBERS: Numbers = Numbers { rate: 0.01, beta1: 0.9, beta2: 0.98, eps: 1e-6, decay: 0.1, step: 3, max: None };

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
                            x.iter().enumerate().map(|(i, &x)| if inside(i).is_some() { x } else { f32::NAN }).collect()
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
        let grads = poisoned(&gpu, &[n], &g);
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
        let golden = golden::open(&format!("op-optimizer-{case}"));
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
                let grads = flat(
                    [0, 1, 2]
                        .map(|i| golden.f32(&format!("input.grads.{}", names[i]))[t * lens[i]..][..lens[i]].to_vec()),
                );
                let grads = Tensor::from_slice(&gpu, [192], &grads).unwrap();
                let global = number("clip_global_norm").map(|limit| {
                    let clip = clip_global(&grads, &all, limit as f32).unwrap();
                    norms.extend(clip.norm.to_vec().unwrap());
                    clip.scale
                });
                for (group, decay) in &groups {
                    let scale = match number("clip_tensor_norm") {
                        Some(limit) => Some(clip_ranges(&grads, group, limit as f32, global.as_ref()).unwrap().scale),
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
                        max: None,
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

/// As [`step`] on tensors of `p`, `g`, `m` and `v`; returns the new p, m and v.
fn stepped(gpu: &Gpu, [p, g, m, v]: [&[f32]; 4], update: &Update, scale: Option<f32>) -> Vec<Vec<f32>> {
    let group = Group::new(gpu, &[(0, p.len())]).unwrap();
    let scale = scale.map(|s| Tensor::from_slice(gpu, [1], &[s]).unwrap());
    let t = [p, g, m, v].map(|x| poisoned(gpu, &[x.len()], x));
    step(&t[0], &t[1], &t[2], &t[3], &group, update, scale.as_ref()).unwrap();
    Tensor::read_all(&[&t[0], &t[2], &t[3]]).unwrap()
}

/// With a β₁ of 1, a step does nothing to m but round it.
#[test]
fn halves_are_rounded_to_the_nearest_and_ties_to_even() {
    // Every half, what lies in the middle between neighbours, and the floats beside that; and more than halves hold.
    let mut values = Vec::new();
    for bits in (0..0x7c00u16).step_by(7).chain(0x3f8..0x408).chain(0..40).chain(0x7bf8..0x7c00) {
        let [x, next] = [bits, bits + 1].map(|b| half::f16::from_bits(b).to_f32());
        let middle = if next.is_finite() { 0.5 * (x + next) } else { 65_520.0 };
        values.extend([x, middle, middle.next_up(), middle.next_down(), 0.3 * x + 0.7 * middle]);
    }
    values.extend([65_519.996, 65_536.0, 1e6, f32::MAX, f32::INFINITY, 1e-10, 2.0f32.powi(-25), f32::MIN_POSITIVE]);
    values.extend(noise(5000, 1).iter().map(|x| x * 1e-4));
    values.extend(values.clone().iter().map(|x| -x));
    let zeros = vec![0.0; values.len()];
    let update = Update::HalfBertAdam(Numbers { beta1: 1.0, ..NUMBERS });
    for gpu in gpus() {
        let got = stepped(&gpu, [&zeros, &zeros, &values, &zeros], &update, None);
        for (&x, &rounded) in values.iter().zip(&got[1]) {
            assert_eq!(rounded, cpu::half(x), "{x:e} became {rounded:e}");
        }
        let nan = stepped(&gpu, [&[0.0], &[0.0], &[f32::NAN], &[0.0]], &update, None);
        assert!(nan[1][0].is_nan());
    }
}

#[test]
fn steps_of_halves_equal_the_twin() {
    let n = 4099;
    let halves = |seed, factor: f32| noise(n, seed).iter().map(|x| cpu::half(x * factor)).collect::<Vec<f32>>();
    let (p, g, m) = (halves(1, 0.05), noise(n, 2).iter().map(|x| x * 0.01).collect::<Vec<f32>>(), halves(3, 0.01));
    let v: Vec<f32> = halves(4, 0.01).iter().map(|x| cpu::half(x * x)).collect();
    let update = Update::HalfBertAdam(Numbers { rate: 1e-3, ..NUMBERS });
    for gpu in gpus() {
        for scale in [None, Some(0.37f32)] {
            let got = stepped(&gpu, [&p, &g, &m, &v], &update, scale);
            let mut different = 0;
            for i in 0..n {
                let g = scale.map_or(g[i], |s| cpu::half(cpu::half(g[i]) * cpu::half(s)));
                let (p, m, v) = cpu::step((p[i].into(), m[i].into(), v[i].into()), g.into(), &update);
                for (x, expected) in [got[0][i], got[1][i], got[2][i]].into_iter().zip([p, m, v]) {
                    assert_eq!(x, cpu::half(x), "a half");
                    // Drivers divide, and contract sums, a little differently: then a value beside a tie moves.
                    assert_slices_close(&[x], &[expected as f32], 2e-3, 1.2e-7);
                    different += usize::from(x != expected as f32);
                }
            }
            assert!(different < n / 50, "{different} of {} differ", 3 * n);
        }
    }
}

/// What becomes of a weight of 0.02 at the published rate of 1e-7 in 50 steps: far more than that of floats where the
/// second moment vanishes, and nothing where steps are lost.
#[test]
fn halves_move_as_published() {
    for gpu in gpus() {
        let group = Group::new(&gpu, &[(0, 4)]).unwrap();
        let gradients = [1e-3, 1e-4, 1e-5, 1e-6];
        let g = Tensor::from_slice(&gpu, [4], &gradients).unwrap();
        let moved = |update: &dyn Fn(Numbers) -> Update| {
            let p = Tensor::from_slice(&gpu, [4], &[0.02; 4]).unwrap();
            let [m, v] = [0, 1].map(|_| Tensor::zeros(&gpu, "test", [4]).unwrap());
            for t in 0..50 {
                let numbers =
                    Numbers { rate: 1e-7, beta1: 0.9, beta2: 0.98, eps: 1e-6, decay: 0.2, step: t + 1, max: None };
                step(&p, &g, &m, &v, &group, &update(numbers), None).unwrap();
            }
            p.to_vec().unwrap().iter().map(|p| cpu::half(0.02) - p).collect::<Vec<f32>>()
        };
        let moved_halves = moved(&Update::HalfBertAdam);
        assert_slices_close(&moved_halves, &[3.9e-3, 5.6e-4, 0.0, 0.0], 0.03, 0.0);
    }
}

#[test]
fn parameters_stay_below_their_maximum() {
    let (p, g) = ([4.59, 4.7, -1.0, 4.6], [-1.0, 0.0, -1.0, f32::NAN]);
    for gpu in gpus() {
        for update in [Update::Adam, Update::AdamW, Update::BertAdam, Update::HalfBertAdam] {
            let numbers = Numbers { rate: 0.1, decay: 0.0, step: 1, max: Some(100f64.ln()), ..NUMBERS };
            let got = &stepped(&gpu, [&p, &g, &[0.0; 4], &[0.0; 4]], &update(numbers), None)[0];
            let max = 100f32.ln();
            assert_eq!(got[..2], [max, max]);
            assert!(got[2] < 0.0 && got[3].is_nan(), "{got:?}");
            let free =
                &stepped(&gpu, [&p, &g, &[0.0; 4], &[0.0; 4]], &update(Numbers { max: None, ..numbers }), None)[0];
            assert!(free[0] > max && free[1] > max);
        }
    }
}
