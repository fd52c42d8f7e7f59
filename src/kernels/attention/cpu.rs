//! Attention in plain Rust and f64.

use crate::kernels::elementwise::dropout::{self, Dropout};

/// A call's extents and options.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Batch items.
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// Queries of a batch item.
    pub queries: usize,
    /// Keys of a batch item.
    pub keys: usize,
    /// Channels of a head.
    pub width: usize,
    /// `[B, T, H * d]` instead of `[B, H, T, d]`.
    pub tokens_first: bool,
    /// The scores' factor.
    pub scale: f64,
    /// Query i sees keys 0 to i.
    pub causal: bool,
    /// How many keys of each batch item are valid.
    pub lengths: Option<Vec<u32>>,
    /// 1 for valid keys, `[B, Tk]`.
    pub mask: Option<Vec<f32>>,
    /// The bias and its shape, with 1 where it is broadcast.
    pub bias: Option<(Vec<f64>, [usize; 4])>,
    /// Dropout of the probabilities.
    pub dropout: Option<Dropout>,
}

/// Gradients of queries, keys, values, and of the biased scores `[B, H, Tq, Tk]`.
pub struct Gradients {
    /// Of the queries.
    pub q: Vec<f64>,
    /// Of the keys.
    pub k: Vec<f64>,
    /// Of the values.
    pub v: Vec<f64>,
    /// Of the scores.
    pub scores: Vec<f64>,
}

impl Problem {
    /// Where row `t` of head `h` starts, in a tensor of `rows` rows a head.
    fn at(&self, b: usize, h: usize, t: usize, rows: usize) -> usize {
        let row = if self.tokens_first { (b * rows + t) * self.heads + h } else { (b * self.heads + h) * rows + t };
        row * self.width
    }

    fn for_each_query(&self, mut f: impl FnMut(usize, usize, usize)) {
        for b in 0..self.batch {
            for h in 0..self.heads {
                (0..self.queries).for_each(|i| f(b, h, i));
            }
        }
    }

    fn allowed(&self, b: usize, query: usize, key: usize) -> bool {
        (!self.causal || key <= query)
            && self.lengths.as_ref().is_none_or(|l| key < l[b] as usize)
            && self.mask.as_ref().is_none_or(|m| m[b * self.keys + key] > 0.5)
    }

    /// Where the bias of a score is.
    pub fn bias_index(&self, shape: [usize; 4], b: usize, h: usize, query: usize, key: usize) -> usize {
        let at = |extent: usize, i: usize| if extent == 1 { 0 } else { i };
        ((at(shape[0], b) * shape[1] + at(shape[1], h)) * shape[2] + at(shape[2], query)) * shape[3] + key
    }

    /// Probabilities `[B, H, Tq, Tk]` before dropout, and lse `[B, H, Tq]`.
    pub fn probabilities(&self, q: &[f64], k: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let mut p = Vec::new();
        let mut lse = Vec::new();
        self.for_each_query(|b, h, i| {
            let query = &q[self.at(b, h, i, self.queries)..][..self.width];
            let scores: Vec<Option<f64>> = (0..self.keys)
                .map(|j| {
                    let key = &k[self.at(b, h, j, self.keys)..][..self.width];
                    let dot: f64 = query.iter().zip(key).map(|(a, b)| a * b).sum();
                    let bias = self.bias.as_ref().map_or(0.0, |(x, s)| x[self.bias_index(*s, b, h, i, j)]);
                    self.allowed(b, i, j).then_some(dot * self.scale + bias)
                })
                .collect();
            let top = scores.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().flatten().map(|s| (s - top).exp()).sum();
            lse.push(if sum > 0.0 { top + sum.ln() } else { 0.0 });
            p.extend(scores.iter().map(|s| s.map_or(0.0, |s| (s - top).exp() / sum)));
        });
        (p, lse)
    }

    /// The factor of a probability: 0 where it is dropped.
    fn factor(&self, row: usize, key: usize) -> f64 {
        self.dropout.map_or(1.0, |d| dropout::cpu::factor(d, row * self.keys.next_multiple_of(4) + key).into())
    }

    /// The result, of q's shape.
    pub fn forward(&self, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
        let (p, _) = self.probabilities(q, k);
        let mut y = vec![0.0; q.len()];
        self.for_each_query(|b, h, i| {
            let row = (b * self.heads + h) * self.queries + i;
            let to = self.at(b, h, i, self.queries);
            for j in 0..self.keys {
                let share = p[row * self.keys + j] * self.factor(row, j);
                let from = self.at(b, h, j, self.keys);
                (0..self.width).for_each(|c| y[to + c] += share * v[from + c]);
            }
        });
        y
    }

    /// The gradients from that of the result.
    pub fn backward(&self, q: &[f64], k: &[f64], v: &[f64], dy: &[f64]) -> Gradients {
        let (p, _) = self.probabilities(q, k);
        let zeros = |n: usize| vec![0.0; n];
        let mut d = Gradients { q: zeros(q.len()), k: zeros(k.len()), v: zeros(v.len()), scores: zeros(p.len()) };
        self.for_each_query(|b, h, i| {
            let row = (b * self.heads + h) * self.queries + i;
            let to = self.at(b, h, i, self.queries);
            let d_share: Vec<f64> = (0..self.keys)
                .map(|j| {
                    let from = self.at(b, h, j, self.keys);
                    (0..self.width).map(|c| dy[to + c] * v[from + c]).sum::<f64>() * self.factor(row, j)
                })
                .collect();
            let mean: f64 = (0..self.keys).map(|j| p[row * self.keys + j] * d_share[j]).sum();
            for j in 0..self.keys {
                let from = self.at(b, h, j, self.keys);
                let share = p[row * self.keys + j];
                let d_score = share * (d_share[j] - mean);
                d.scores[row * self.keys + j] = d_score;
                for c in 0..self.width {
                    d.q[to + c] += self.scale * d_score * k[from + c];
                    d.k[from + c] += self.scale * d_score * q[to + c];
                    d.v[from + c] += share * self.factor(row, j) * dy[to + c];
                }
            }
        });
        d
    }

    /// The bias's gradient from that of the scores.
    pub fn bias_gradient(&self, scores: &[f64]) -> Vec<f64> {
        let Some((bias, shape)) = &self.bias else { return Vec::new() };
        let mut sum = vec![0.0; bias.len()];
        self.for_each_query(|b, h, i| {
            let row = (b * self.heads + h) * self.queries + i;
            (0..self.keys).for_each(|j| sum[self.bias_index(*shape, b, h, i, j)] += scores[row * self.keys + j]);
        });
        sum
    }
}
