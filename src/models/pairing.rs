//! Which videos each text is compared with: all of them, or those that a list names.

use crate::autograd::Var;
use crate::kernels::linear::embedding;
use crate::kernels::similarity::{gates, gathered, soft_similarity};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Pairs of a text and a video, by their places among texts and videos that are given beside them. What they cost is in
/// proportion to their number, and least where pairs with one video stand side by side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairList(Vec<[u32; 2]>);

impl PairList {
    /// Pairs of a text and a video, in this order.
    pub fn new(pairs: impl IntoIterator<Item = [u32; 2]>) -> Self {
        Self(pairs.into_iter().collect())
    }

    /// The pairs.
    pub fn pairs(&self) -> &[[u32; 2]] {
        &self.0
    }

    /// The number of pairs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Which videos each text is compared with. What is said of texts and videos (B, V) is said of pairs (P, 1) for a list.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pairing<'a> {
    /// All texts with all videos: V = N.
    All,
    /// Pairs of a list. Without gradients: to ask for one is [`Error::NoGradient`].
    Listed(&'a PairList),
}

/// The result of an op that has no gradient, on the tape of its first input.
fn without_gradient(op: &'static str, inputs: &[(&'static str, &Var)], value: Tensor) -> Result<Var> {
    inputs[0].1.tape().record(op, inputs, value, vec![], |_| Ok(vec![]))
}

impl Pairing<'_> {
    /// Dot products of rows (B, q, D) with the items (N, R, D) of each row's videos: (B, q, V, R).
    pub(crate) fn dots(&self, rows: &Var, items: &Var) -> Result<Var> {
        let (&[texts, count, width], &[videos, each, _]) = (rows.shape(), items.shape()) else {
            return Err(Error::ShapeMismatch {
                op: "pair dots",
                left: rows.shape().to_vec(),
                right: items.shape().to_vec(),
                why: "rows (texts, q, width) and items (videos, r, width) are needed",
            });
        };
        match self {
            Self::All => {
                let (rows, items) = (rows.reshape([texts * count, width])?, items.reshape([videos * each, width])?);
                rows.matmul_nt(&items)?.reshape([texts, count, videos, each])
            }
            Self::Listed(list) => {
                let dots = gathered::forward(rows.value(), items.value(), list.pairs())?;
                let dots = without_gradient("listed pairs", &[("rows", rows), ("items", items)], dots)?;
                dots.reshape([list.len(), count, 1, each])
            }
        }
    }

    /// Softmax gates of dot products (B, q, V, F) over the frames, divided by the length of the average that they make:
    /// `grams` (N, F, F), `mask` (N, F).
    pub(crate) fn gates(&self, dots: &Var, grams: &Var, mask: Option<&Tensor>, temperature: f32) -> Result<Var> {
        let shape = dots.shape().to_vec();
        let &[texts, count, videos, frames] = shape.as_slice() else { return dots.gates(grams, mask, temperature) };
        let rows = dots.reshape([texts * count, videos, frames])?;
        let gates = match self {
            Self::All => rows.gates(grams, mask, temperature)?,
            Self::Listed(list) => {
                let which: Vec<u32> = list.pairs().iter().flat_map(|&[_, video]| vec![video; count]).collect();
                let which = Tensor::from_u32(rows.value().gpu(), [texts * count, videos], &which)?;
                let gates = gates::forward(rows.value(), grams.value(), mask, Some(&which), temperature)?;
                without_gradient("gates of listed pairs", &[("dots", &rows), ("grams", grams)], gates)?
            }
        };
        gates.reshape(shape)
    }

    /// Σ_r softmax_r(s / τ) s_r with s the dot products of texts (B, D) with the items (N, R, D): (B, V). Items whose
    /// `mask` (N, R) is 0 are left out.
    pub(crate) fn soft_similarity(
        &self,
        texts: &Var,
        items: &Var,
        mask: Option<&Tensor>,
        temperature: f32,
    ) -> Result<Var> {
        let Self::Listed(list) = self else { return texts.soft_similarity(items, mask, temperature) };
        let &[count, width] = texts.shape() else { return texts.soft_similarity(items, mask, temperature) };
        let dots = self.dots(&texts.reshape([count, 1, width])?, items)?;
        let rows = dots.value().reshape([list.len(), dots.value().width()])?;
        let mask = mask.map(|m| self.of_videos(m)?.reshape([list.len(), m.width()])).transpose()?;
        let scores = soft_similarity::rows(&rows, mask.as_ref(), temperature)?.0;
        let scores = without_gradient("similarities of listed pairs", &[("texts", texts), ("items", items)], scores)?;
        scores.reshape([list.len(), 1])
    }

    /// What belongs to texts (B, ...), for what is said of texts and videos: (B, ...), or (P, ...).
    pub(crate) fn of_texts(&self, of_texts: &Var) -> Result<Var> {
        let Self::Listed(list) = self else { return Ok(of_texts.clone()) };
        let shape = of_texts.shape();
        let numbers: Vec<u32> = list.pairs().iter().map(|&[text, _]| text).collect();
        let rows = of_texts.reshape([shape[0], shape[1..].iter().product()])?.embedding(&numbers, &[list.len()])?;
        rows.reshape([&[list.len()], &shape[1..]].concat())
    }

    /// What belongs to videos (N, w), for each pair: (1, N, w), or (P, 1, w).
    pub(crate) fn of_videos(&self, of_videos: &Tensor) -> Result<Tensor> {
        let &[videos, width] = of_videos.shape() else { return Ok(of_videos.clone()) };
        match self {
            Self::All => of_videos.reshape([1, videos, width]),
            Self::Listed(list) => {
                let numbers: Vec<u32> = list.pairs().iter().map(|&[_, video]| video).collect();
                embedding::forward(of_videos, &numbers, &[list.len(), 1])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::Tape;
    use crate::kernels::testing::{gpus, noise_tensor};

    #[test]
    fn listed_pairs_have_no_gradient_and_say_so() {
        for gpu in gpus() {
            let list = PairList::new([[0, 1], [1, 0], [1, 2]]);
            let pairing = Pairing::Listed(&list);
            let leaf = |tape: &Tape, shape: &[usize]| tape.leaf(noise_tensor(&gpu, shape, 1));
            let lacks = |tape: &Tape, y: Var, op: &str, argument: &str| {
                let result = tape.backward(&y.sum_all().unwrap()).map(drop);
                let right = matches!(result, Err(Error::NoGradient { op: o, argument: a }) if o == op && a == argument);
                assert!(right, "{result:?}");
            };
            let tape = Tape::new(&gpu);
            let (rows, items) = (leaf(&tape, &[2, 1, 8]), leaf(&tape, &[3, 4, 8]));
            lacks(&tape, pairing.dots(&rows, &items).unwrap(), "listed pairs", "rows");
            let tape = Tape::new(&gpu);
            let (rows, items) = (leaf(&tape, &[2, 1, 8]).detach(), leaf(&tape, &[3, 4, 8]));
            lacks(&tape, pairing.dots(&rows, &items).unwrap(), "listed pairs", "items");
            let tape = Tape::new(&gpu);
            let (dots, grams) = (leaf(&tape, &[3, 1, 1, 4]), leaf(&tape, &[3, 4, 4]));
            let gates = pairing.gates(&dots.detach(), &grams, None, 0.5).unwrap();
            lacks(&tape, gates, "gates of listed pairs", "grams");
            let tape = Tape::new(&gpu);
            let (texts, items) = (leaf(&tape, &[2, 8]), leaf(&tape, &[3, 4, 8]));
            let scores = pairing.soft_similarity(&texts, &items, None, 0.5).unwrap();
            lacks(&tape, scores, "similarities of listed pairs", "texts");
            // Without gradients there is nothing to say.
            let tape = Tape::inference(&gpu);
            let (texts, items) = (leaf(&tape, &[2, 8]), leaf(&tape, &[3, 4, 8]));
            assert!(!pairing.soft_similarity(&texts, &items, None, 0.5).unwrap().needs_gradient());
        }
    }
}
