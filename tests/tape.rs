//! What a tape does beyond single ops: wrong rules are caught, recomputation, dropout, empty batches, inference.

mod common;

use common::{gpu, gpus, noise};
use reelgrad::autograd::{AttentionOptions, GradientCheck, OpMemory, Tape, Var, check_gradient, concat};
use reelgrad::kernels::attention::Layout;
use reelgrad::kernels::elementwise::unary::Activation;
use reelgrad::kernels::pooling::Masked;
use reelgrad::kernels::rows::l2_normalize::Divisor;
use reelgrad::kernels::rows::layer_norm::Norm;
use reelgrad::{Array, Error, Gpu, Result, Tensor};

fn passes(f: impl Fn(&Var) -> Result<Var>) -> bool {
    let x = noise(&[5, 7], 1);
    check_gradient(&gpu(), &[x], GradientCheck::default(), |_, x| f(&x[0].scale(0.5)?)?.square()).unwrap().passed
}

/// The square, whose rule turns the right gradient into `rule`'s.
fn square(x: &Var, rule: fn(Tensor, &Tensor) -> Result<Tensor>) -> Result<Var> {
    let product = |a: &Tensor, b: &Tensor| -> Result<Tensor> {
        let tape = Tape::inference(a.gpu());
        Ok(tape.constant(a.clone()).mul(&tape.constant(b.clone()))?.scale(2.0)?.into_value())
    };
    let y = x.detach().square()?.into_value();
    x.tape().record("square", &[("x", x)], y, vec![x.value().clone()], move |b| {
        Ok(vec![Some(rule(product(&b.saved[0], b.grad)?, &b.saved[0])?)])
    })
}

#[test]
fn a_wrong_rule_is_caught() {
    assert!(passes(|x| square(x, |g, _| Ok(g))));
    // Off by 5 %; one element lost; two elements swapped; the gradient that arrives taken to be 1.
    assert!(!passes(|x| square(x, |g, _| edit(&g, |v| v.iter_mut().for_each(|v| *v *= 1.05)))));
    assert!(!passes(|x| square(x, |g, _| edit(&g, |v| v[34] = 0.0))));
    assert!(!passes(|x| square(x, |g, _| edit(&g, |v| v.swap(3, 4)))));
    assert!(!passes(|x| square(x, |_, x| edit(x, |v| v.iter_mut().for_each(|v| *v *= 2.0)))));
}

fn edit(tensor: &Tensor, change: fn(&mut Vec<f32>)) -> Result<Tensor> {
    let mut values = tensor.to_vec()?;
    change(&mut values);
    Tensor::from_slice(tensor.gpu(), tensor.shape(), &values)
}

/// A small network with dropout in every op that has it: x (3, 7, 8), weights (8, 8).
fn network(x: &[Var]) -> Result<Var> {
    let options = AttentionOptions { layout: Layout::TokensFirst { heads: 2 }, dropout: 0.3, ..Default::default() };
    let h = x[0].linear(&x[1], None, Some(Activation::Gelu), None)?.dropout(0.2)?;
    let h = h.attention(&h, &x[0], &options)?;
    let h = h.linear(&x[1], None, None, Some(&x[0]))?.dropout_activation(0.25, Activation::Gelu)?;
    x[0].attention_pool(&h, None, 0.3)
}

fn leaves(tape: &Tape) -> Vec<Var> {
    let upload = |a: Array| tape.leaf(Tensor::from_array(tape.gpu(), &a).unwrap());
    vec![upload(noise(&[3, 7, 8], 1)), upload(noise(&[8, 8], 2))]
}

#[test]
fn dropout_has_its_gradient() {
    for gpu in gpus() {
        // As check_gradient does, but with a training tape, which repeats its masks for the same seed and step.
        let inputs = [noise(&[3, 7, 8], 1), noise(&[8, 8], 2)];
        let run = |tape: &Tape, inputs: &[Array]| {
            let upload = |a: &Array| tape.leaf(Tensor::from_array(&gpu, a).unwrap());
            let x: Vec<Var> = inputs.iter().map(upload).collect();
            (network(&x).unwrap(), x)
        };
        let tape = Tape::training(&gpu, 5, 9);
        let (y, x) = run(&tape, &inputs);
        let u = noise(y.shape(), 3);
        let grads = tape.backward_from(&y, Tensor::from_array(&gpu, &u).unwrap()).unwrap();
        for at in 0..inputs.len() {
            let v = noise(inputs[at].shape(), 4);
            let shifted = |step: f32| {
                let mut inputs = inputs.clone();
                inputs[at].data_mut().iter_mut().zip(v.data()).for_each(|(x, v)| *x += step * v);
                run(&Tape::training(&gpu, 5, 9), &inputs).0.value().to_vec().unwrap()
            };
            let (above, below) = (shifted(5e-3), shifted(-5e-3));
            let numeric: f64 =
                above.iter().zip(&below).zip(u.data()).map(|((a, b), u)| f64::from(u * (a - b)) / 1e-2).sum();
            let gradient = grads.get(&x[at]).unwrap().to_vec().unwrap();
            let analytic: f64 = gradient.iter().zip(v.data()).map(|(g, v)| f64::from(g * v)).sum();
            let error = (analytic - numeric).abs() / analytic.abs().max(numeric.abs());
            assert!(error < 1e-2, "{} input {at}: {analytic} and {numeric}", gpu.family());
        }
    }
}

#[test]
fn dropout_depends_on_seed_and_step_alone() {
    let gpu = gpu();
    let run = |seed, step| {
        let tape = Tape::training(&gpu, seed, step);
        network(&leaves(&tape)).unwrap().value().to_vec().unwrap()
    };
    assert_eq!(run(1, 2), run(1, 2));
    assert_ne!(run(1, 2), run(1, 3));
    assert_ne!(run(1, 2), run(2, 2));
}

fn held(tape: &Tape) -> u64 {
    tape.memory_by_op().iter().map(|m| m.saved_bytes).sum()
}

/// The network twice, one after the other, plain or recomputed: value, gradients, and bytes held between.
fn twice(gpu: &Gpu, recompute: bool, dropout: bool) -> (Vec<Vec<f32>>, u64) {
    let tape = if dropout { Tape::training(gpu, 5, 9) } else { Tape::new(gpu) };
    let x = leaves(&tape);
    let expand = |x: &[Var]| x[0].add(&network(x)?.reshape([3, 1, 8])?);
    let block = |x: &[Var]| {
        if recompute { tape.checkpoint(&[&x[0], &x[1]], move |_, x| expand(x)) } else { expand(x) }
    };
    let h = block(&x).unwrap();
    // A dropout after the block sees whether the block counted its own.
    let y = block(&[h, x[1].clone()]).unwrap().dropout(0.2).unwrap();
    let bytes = held(&tape);
    let seed = Tensor::from_array(gpu, &noise(y.shape(), 3)).unwrap();
    let grads = tape.backward_from(&y, seed).unwrap();
    let all = [y.value(), grads.get(&x[0]).unwrap(), grads.get(&x[1]).unwrap()];
    (all.map(|t| t.to_vec().unwrap()).to_vec(), bytes)
}

#[test]
fn a_checkpoint_changes_memory_and_nothing_else() {
    for gpu in gpus() {
        for dropout in [false, true] {
            let (plain, held_plain) = twice(&gpu, false, dropout);
            let (recomputed, held_recomputed) = twice(&gpu, true, dropout);
            assert_eq!(plain[0], recomputed[0]);
            // The weight's two gradients are added block by block instead of op by op.
            for (a, b) in plain.iter().zip(&recomputed).flat_map(|(a, b)| a.iter().zip(b)) {
                assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()), "{a} and {b}");
            }
            assert!(4 * held_recomputed < held_plain, "{held_recomputed} of {held_plain} bytes");
        }
    }
}

#[test]
fn memory_is_listed_by_op_and_freed_by_backward() {
    let tape = Tape::new(&gpu());
    let x = tape.leaf(Tensor::from_array(&gpu(), &noise(&[4, 8], 1)).unwrap());
    let y = x.exp().unwrap().exp().unwrap().sum_all().unwrap();
    assert_eq!(tape.memory_by_op()[0], OpMemory { op: "exp", records: 2, saved_bytes: 2 * 4 * 32 });
    tape.backward(&y).unwrap();
    assert!(tape.memory_by_op().is_empty());
}

#[test]
fn inference_records_nothing() {
    let gpu = gpu();
    let recording = Tape::new(&gpu);
    let inference = Tape::inference(&gpu);
    let (kept, lost) = (network(&leaves(&recording)).unwrap(), network(&leaves(&inference)).unwrap());
    assert_eq!(kept.value().to_vec().unwrap(), lost.value().to_vec().unwrap());
    assert!(kept.needs_gradient() && held(&recording) > 0);
    assert!(!lost.needs_gradient() && inference.memory_by_op().is_empty());
    let checkpointed = inference.checkpoint(&[&leaves(&inference)[0]], |_, x| x[0].square()).unwrap();
    assert!(!checkpointed.needs_gradient() && inference.memory_by_op().is_empty());
    // A detached value keeps what comes after it off the tape.
    let x = leaves(&recording);
    assert!(!x[0].detach().square().unwrap().needs_gradient());
}

#[test]
fn a_tape_is_walked_back_once() {
    let tape = Tape::new(&gpu());
    let x = &leaves(&tape)[1];
    let y = x.square().unwrap().sum_all().unwrap();
    assert!(tape.backward(&y).unwrap().get(x).is_some());
    assert!(matches!(tape.backward(&y), Err(Error::TapeSpent { op: "backward" })));
    assert!(matches!(x.square(), Err(Error::TapeSpent { op: "square" })));
    assert!(matches!(tape.checkpoint(&[x], |_, x| x[0].square()), Err(Error::TapeSpent { op: "checkpoint" })));
    // A tape for inference has no way back.
    let inference = Tape::inference(&gpu());
    let y = leaves(&inference)[1].sum_all().unwrap();
    assert!(matches!(inference.backward(&y), Err(Error::Argument { op: "backward", argument: "tape", .. })));
    // What needs no gradient needs none.
    x.detach().square().unwrap();
    // A seed of a wrong shape takes nothing.
    let tape = Tape::new(&gpu());
    let x = &leaves(&tape)[1];
    assert!(matches!(tape.backward(x), Err(Error::Shape { .. })));
    assert!(tape.backward(&x.sum_all().unwrap()).unwrap().get(x).is_some());
}

#[test]
fn tapes_do_not_mix() {
    let (one, two, inference) = (Tape::new(&gpu()), Tape::new(&gpu()), Tape::inference(&gpu()));
    let (a, b) = (&leaves(&one)[1], &leaves(&two)[1]);
    let foreign = |result: Result<Var>, op: &str, argument: &str| {
        let right = matches!(result, Err(Error::ForeignTape { op: o, argument: a }) if o == op && a == argument);
        assert!(right, "{result:?}");
    };
    foreign(a.mul(b), "mul", "other");
    foreign(a.linear(a, None, None, Some(b)), "linear", "residual");
    foreign(concat(&[a, b], 0), "concat", "parts");
    foreign(one.checkpoint(&[a, b], |_, x| x[0].mul(&x[1])), "checkpoint", "inputs");
    // Ops go onto the tape of self, and that of a constant may not record.
    foreign(inference.constant(a.value().clone()).mul(a), "mul", "other");
    let loss = b.sum_all().unwrap();
    assert!(matches!(one.backward(&loss), Err(Error::ForeignTape { op: "backward", argument: "output" })));
    // Constants belong everywhere.
    let y = a.mul(&b.detach()).unwrap().mul(&inference.constant(b.value().clone())).unwrap();
    let gradients = one.backward(&y.sum_all().unwrap()).unwrap();
    assert!(gradients.get(a).is_some() && gradients.get(b).is_none());
    assert!(two.backward(&loss).unwrap().get(b).is_some());
}

#[test]
fn a_checkpoint_works_on_its_own_tape() {
    let tape = Tape::new(&gpu());
    let x = leaves(&tape).remove(1);
    let body = |f: fn(&Var, &Var) -> Result<Var>| {
        let outside = x.clone();
        tape.checkpoint(&[&x], move |_, inside| f(&inside[0], &outside))
    };
    let foreign = |result| matches!(result, Err(Error::ForeignTape { .. }));
    assert!(foreign(body(|inside, outside| inside.mul(outside))));
    assert!(foreign(body(|inside, outside| outside.mul(inside))));
    assert!(foreign(body(|_, outside| outside.square())));
    // An input that the result does not depend on has a gradient of zeros.
    let y = tape.checkpoint(&[&x, &x.scale(2.0).unwrap()], |_, inside| inside[0].square()).unwrap();
    let gradients = tape.backward(&y.sum_all().unwrap()).unwrap();
    let expected: Vec<f32> = x.value().to_vec().unwrap().iter().map(|x| 2.0 * x).collect();
    assert_eq!(gradients.get(&x).unwrap().to_vec().unwrap(), expected);
}

#[test]
fn a_gradient_that_a_rule_lacks_is_an_error() {
    let lacking = |gradients: fn(&Tensor) -> Vec<Option<Tensor>>| {
        let tape = Tape::new(&gpu());
        let x = &leaves(&tape)[1];
        let inputs = [("x", x), ("constant", &x.detach()), ("y", x)];
        let y = tape.record("mine", &inputs, x.value().clone(), vec![], move |b| Ok(gradients(b.grad))).unwrap();
        tape.backward(&y.sum_all().unwrap()).map(|gradients| gradients.get(x).is_some())
    };
    for gradients in [|_: &Tensor| vec![], |g: &Tensor| vec![None, None, Some(g.clone())]] {
        let result = lacking(gradients);
        assert!(matches!(result, Err(Error::NoGradient { op: "mine", argument: "x" })), "{result:?}");
    }
    let result = lacking(|g| vec![Some(g.clone()), None]);
    assert!(matches!(result, Err(Error::NoGradient { op: "mine", argument: "y" })), "{result:?}");
    assert!(lacking(|g| vec![Some(g.clone()), None, Some(g.clone())]).unwrap());
}

/// Ops on batches of 0: the first input's first extent is 0.
#[test]
fn empty_batches_pass_through_both_ways() {
    type Op = (&'static str, Vec<Vec<usize>>, fn(&[Var]) -> Result<Var>);
    let ops: Vec<Op> = vec![
        ("matmul", vec![vec![0, 5], vec![5, 7]], |x| x[0].matmul(&x[1])),
        ("matmul inner", vec![vec![3, 0], vec![0, 7]], |x| x[0].matmul(&x[1])),
        ("matmul batch", vec![vec![0, 3, 5], vec![0, 5, 7]], |x| x[0].matmul(&x[1])),
        ("matmul shared", vec![vec![0, 3, 5], vec![5, 7]], |x| x[0].matmul(&x[1])),
        ("linear", vec![vec![0, 5], vec![7, 5], vec![7]], |x| {
            x[0].linear(&x[1], Some(&x[2]), Some(Activation::Gelu), None)
        }),
        ("linear residual", vec![vec![0, 3, 5], vec![7, 5], vec![7], vec![0, 3, 7]], |x| {
            x[0].linear(&x[1], Some(&x[2]), None, Some(&x[3]))
        }),
        ("attention", vec![vec![0, 3, 8]], |x| {
            let options = AttentionOptions { layout: Layout::TokensFirst { heads: 2 }, ..Default::default() };
            x[0].attention(&x[0], &x[0], &options)
        }),
        ("attention without keys", vec![vec![2, 3, 8], vec![2, 0, 8]], |x| {
            let options = AttentionOptions { layout: Layout::TokensFirst { heads: 2 }, ..Default::default() };
            x[0].attention(&x[1], &x[1], &options)
        }),
        ("attention without queries", vec![vec![2, 0, 8], vec![2, 3, 8], vec![1, 2, 1, 3]], |x| {
            let layout = Layout::TokensFirst { heads: 2 };
            let options = AttentionOptions { layout, bias: Some(x[2].clone()), ..Default::default() };
            x[0].attention(&x[1], &x[1], &options)
        }),
        ("softmax", vec![vec![0, 7]], |x| x[0].softmax()),
        ("log_softmax", vec![vec![0, 7]], |x| x[0].log_softmax()),
        ("logsumexp", vec![vec![0, 7]], |x| x[0].logsumexp()),
        ("l2_normalize", vec![vec![0, 7]], |x| x[0].l2_normalize(1e-12)),
        ("normalize", vec![vec![0, 7]], |x| x[0].normalize(Divisor::Added { eps: 1e-5 })),
        ("layer_norm", vec![vec![0, 7], vec![7], vec![7]], |x| {
            x[0].layer_norm(None, &x[1], &x[2], Norm::Biased { eps: 1e-5 })
        }),
        ("layer_norm residual", vec![vec![0, 7], vec![7], vec![7], vec![0, 7]], |x| {
            x[0].layer_norm(Some(&x[3]), &x[1], &x[2], Norm::Unbiased { eps: 1e-5 })
        }),
        ("sum", vec![vec![0, 7]], |x| x[0].sum(0)),
        ("sum 1", vec![vec![0, 7]], |x| x[0].sum(1)),
        ("mean 1", vec![vec![0, 7]], |x| x[0].mean(1)),
        ("max 1", vec![vec![0, 7]], |x| x[0].max(1)),
        ("sum_all", vec![vec![0, 7]], |x| x[0].sum_all()),
        ("add", vec![vec![0, 7], vec![7]], |x| x[0].add(&x[1])),
        ("sub", vec![vec![0, 7], vec![1, 7]], |x| x[0].sub(&x[1])),
        ("mul", vec![vec![0, 7], vec![7]], |x| x[0].mul(&x[1])),
        ("div", vec![vec![0, 7], vec![7]], |x| x[0].div(&x[1])),
        ("activation", vec![vec![0, 7]], |x| x[0].activation(Activation::Gelu)),
        ("exp log square affine", vec![vec![0, 7]], |x| x[0].exp()?.log()?.square()?.affine(2.0, 1.0)),
        ("masked_fill", vec![vec![0, 7]], |x| {
            x[0].masked_fill(&Tensor::from_slice(x[0].value().gpu(), [7], &[1.0; 7])?, 0.0)
        }),
        ("dropout", vec![vec![0, 7]], |x| x[0].dropout(0.5)?.dropout_activation(0.5, Activation::Gelu)),
        ("permute", vec![vec![0, 3, 7]], |x| x[0].permute(&[2, 0, 1])),
        ("slice", vec![vec![0, 3, 7]], |x| x[0].slice(1, 1..2)),
        ("slice of nothing", vec![vec![3, 7]], |x| x[0].slice(1, 2..2)),
        ("concat", vec![vec![0, 7], vec![3, 7]], |x| concat(&[&x[0], &x[1]], 0)),
        ("embedding", vec![vec![5, 7]], |x| x[0].embedding(&[], &[0, 3])),
        ("conv1d", vec![vec![0, 3, 9], vec![5, 3, 2], vec![5]], |x| x[0].conv1d(&x[1], Some(&x[2]), 1, 0)),
        ("patch_embed", vec![vec![0, 3, 4, 4], vec![5, 3, 2, 2]], |x| x[0].patch_embed(&x[1])),
        ("masked_mean", vec![vec![0, 3, 7]], |x| x[0].masked_mean(None)),
        ("masked_max", vec![vec![0, 3, 7]], |x| x[0].masked_max(None, Masked::Hide)),
        ("pool without positions", vec![vec![2, 0, 7]], |x| x[0].masked_mean(None)),
        ("attention_pool", vec![vec![0, 3, 7], vec![0, 3, 7]], |x| x[0].attention_pool(&x[1], None, 0.3)),
        ("attention_pool shared", vec![vec![0, 3, 7], vec![0, 3]], |x| x[0].attention_pool(&x[1], None, 0.3)),
        ("hinge", vec![vec![0, 0]], |x| x[0].hinge(0.2, false)),
        ("hinge hardest", vec![vec![0, 0]], |x| x[0].hinge(0.2, true)),
        ("info_nce", vec![vec![0, 0]], |x| x[0].info_nce()),
        ("cross_entropy", vec![vec![0, 7]], |x| x[0].cross_entropy(&[])),
        ("cosine_matrix", vec![vec![0, 7], vec![3, 7]], |x| x[0].cosine_matrix(&x[1])),
        ("diagonal", vec![vec![0, 0]], |x| x[0].diagonal()),
    ];
    for gpu in gpus() {
        for (name, shapes, op) in &ops {
            let tape = Tape::training(&gpu, 1, 1);
            let upload = |(s, seed)| tape.leaf(Tensor::from_array(&gpu, &noise(s, seed)).unwrap());
            let x: Vec<Var> = shapes.iter().map(Vec::as_slice).zip(1..).map(upload).collect();
            let at = format!("{name} ({})", gpu.family());
            let y = op(&x).unwrap_or_else(|e| panic!("{at}: {e}"));
            assert!(y.value().to_vec().unwrap().iter().all(|v| v.is_finite()), "{at}");
            let seed = Tensor::from_array(&gpu, &noise(y.shape(), 9)).unwrap();
            let grads = tape.backward_from(&y, seed).unwrap_or_else(|e| panic!("{at} backward: {e}"));
            for (x, shape) in x.iter().zip(shapes) {
                let Some(gradient) = grads.get(x) else { continue };
                assert_eq!(gradient.shape(), shape, "{at}");
                // Only a part that is passed on whole gets a gradient from nothing.
                let zero = gradient.to_vec().unwrap().iter().all(|&v| v == 0.0);
                assert!(zero || *name == "concat", "{at}: the gradient is not 0");
            }
        }
    }
}
