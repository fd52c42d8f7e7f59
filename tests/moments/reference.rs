//! Search on the CPU in f64, written from the definition: cosines, the highest of the clips, means of streams, spans of
//! starts and ends.

use reelgrad::Array;
use reelgrad::Tensor;
use reelgrad::autograd::Tape;
use reelgrad::models::Model;
use reelgrad::models::reloclnet::{Padding, Reloclnet};

use crate::corpus::{Corpus, encoded};

/// Everything that a search computes, for each query and video.
pub struct Reference {
    /// Video-level scores.
    pub scores: Vec<Vec<f64>>,
    /// Probabilities of starts and of ends at each clip.
    starts: Vec<Vec<Vec<f64>>>,
    ends: Vec<Vec<Vec<f64>>>,
}

impl Reference {
    /// Takes clips and query vectors of the network, each encoded alone.
    pub fn new(model: &Reloclnet, corpus: &Corpus) -> Self {
        let parameters = model.store().to_arrays().unwrap();
        let taps = |name: &str| parameters[&format!("merged_{name}_predictor.weight")].data().to_vec();
        let (start_taps, end_taps) = (taps("st"), taps("ed"));
        let masked = model.config().padding == Padding::Masked;
        let names = model.stream_names();
        let videos = encoded(model, corpus);
        let mut reference = Self { scores: Vec::new(), starts: Vec::new(), ends: Vec::new() };
        for tokens in &corpus.tokens {
            let queries = query_vectors(model, tokens);
            let linear = |(name, q): (&&str, &Vec<f64>)| {
                let part = |part: &str| &parameters[&format!("{name}_query_linear.{part}")];
                let row = |i: usize| dot(part("weight").row(i), q) + f64::from(part("bias").data()[i]);
                (0..q.len()).map(row).collect::<Vec<f64>>()
            };
            let span_queries: Vec<Vec<f64>> = names.iter().zip(&queries).map(linear).collect();
            let (mut scores, mut starts, mut ends) = (Vec::new(), Vec::new(), Vec::new());
            for (video, streams) in &videos {
                scores.push(mean(queries.iter().zip(streams).map(|(q, clips)| {
                    let cosine = |i: usize| dot(clips.row(i), q) / (norm(q) * norm(&wide(clips.row(i))));
                    (0..video.clips).map(cosine).fold(f64::MIN, f64::max)
                })));
                let similarity = |clip: usize| {
                    let hidden = masked && clip >= video.clips;
                    let of = |(q, clips): (&Vec<f64>, &Array)| dot(clips.row(clip), q);
                    if hidden { 0.0 } else { mean(span_queries.iter().zip(streams).map(of)) }
                };
                let similarities: Vec<f64> = (0..model.config().max_clips).map(similarity).collect();
                starts.push(probabilities(&similarities, &start_taps, video.clips));
                ends.push(probabilities(&similarities, &end_taps, video.clips));
            }
            reference.scores.push(scores);
            reference.starts.push(starts);
            reference.ends.push(ends);
        }
        reference
    }

    /// All spans of a video of `lengths`: the first clip, the end, and the probability.
    pub fn spans(&self, query: usize, video: usize, lengths: std::ops::Range<usize>) -> Vec<(usize, usize, f64)> {
        let (starts, ends) = (&self.starts[query][video], &self.ends[query][video]);
        let mut spans = Vec::new();
        for (i, start) in starts.iter().enumerate() {
            for (j, end) in ends.iter().enumerate() {
                if j >= i && lengths.contains(&(j - i)) {
                    spans.push((i, j, start * end));
                }
            }
        }
        spans
    }
}

/// For each stream the vector of a query.
fn query_vectors(model: &Reloclnet, tokens: &Array) -> Vec<Vec<f64>> {
    let gpu = model.store().gpu();
    let n = tokens.shape()[0];
    let tape = Tape::inference(gpu);
    let x = tape.constant(Tensor::from_slice(gpu, [1, n, tokens.shape()[1]], tokens.data()).unwrap());
    let mask = Tensor::from_slice(gpu, [1, n], &vec![1.0; n]).unwrap();
    model.encode_query(&x, &mask).unwrap().iter().map(|q| wide(&q.value().to_vec().unwrap())).collect()
}

/// The softmax over the first `clips` of a convolution that keeps the length.
fn probabilities(x: &[f64], taps: &[f32], clips: usize) -> Vec<f64> {
    let at = |i: isize| usize::try_from(i).ok().and_then(|i| x.get(i)).copied().unwrap_or(0.0);
    let shift = (taps.len() / 2) as isize;
    let term = |l: usize, (k, &w): (usize, &f32)| f64::from(w) * at(l as isize + k as isize - shift);
    let logit = |l: usize| taps.iter().enumerate().map(|tap| term(l, tap)).sum::<f64>();
    let exp: Vec<f64> = (0..clips).map(|l| logit(l).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|e| e / sum).collect()
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| v.into()).collect()
}

fn dot(a: &[f32], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(&a, b)| f64::from(a) * b).sum()
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12)
}
