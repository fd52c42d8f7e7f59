//! Which videos each text is compared with: all of them, or the candidates that a first stage found.

use crate::Result;
use crate::autograd::Var;
use crate::gpu::Gpu;
use crate::kernels::{embedding, gates, gathered, soft_similarity};
use crate::tensor::Tensor;

/// For each text the same number of videos, by their place among the videos that it is compared with. A number beyond
/// them stands for no video: its scores mean nothing.
#[derive(Clone, Debug)]
pub struct Candidates {
    /// (texts, k).
    ids: Tensor,
    /// The same on the host, for tables that are looked up.
    known: Vec<u32>,
}

impl Candidates {
    /// `ids` holds those of one text after another: (texts · k).
    ///
    /// # Errors
    /// [`crate::Error::Shape`] unless they are as many for each text; device errors.
    pub fn new(gpu: &Gpu, texts: usize, ids: &[u32]) -> Result<Self> {
        let ids_on_gpu = Tensor::from_u32(gpu, [texts, ids.len() / texts.max(1)], ids)?;
        Ok(Self { ids: ids_on_gpu, known: ids.to_vec() })
    }

    /// The numbers, of one text after another.
    pub fn ids(&self) -> &[u32] {
        &self.known
    }

    /// For each of `videos` videos the places (text · k + candidate) at which it stands.
    pub(crate) fn by_video(&self, videos: usize) -> Vec<Vec<usize>> {
        let mut places = vec![Vec::new(); videos];
        for (place, &id) in self.known.iter().enumerate() {
            if let Some(of_video) = places.get_mut(id as usize) {
                of_video.push(place);
            }
        }
        places
    }

    /// Of each text, k.
    pub fn count(&self) -> usize {
        self.ids.width()
    }
}

/// Which videos each text is compared with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pairing<'a> {
    /// All: V = N.
    All,
    /// Its own candidates: V = k. Without gradients.
    Candidates(&'a Candidates),
}

impl Pairing<'_> {
    /// Dot products of rows (B, q, D) with the items (N, R, D) of each row's videos: (B, q, V, R).
    pub(crate) fn dots(&self, rows: &Var, items: &Var) -> Result<Var> {
        let (&[texts, count, width], &[videos, each, _]) = (rows.shape(), items.shape()) else {
            return Err(crate::Error::ShapeMismatch {
                op: "pair dots",
                left: rows.shape().to_vec(),
                right: items.shape().to_vec(),
                why: "rows (texts, q, width) and items (videos, r, width) are needed",
            });
        };
        match self {
            Self::All => {
                let (rows, items) = (rows.reshape([texts * count, width])?, items.reshape([videos * each, width])?);
                rows.matmul_transposed(&items, false, true)?.reshape([texts, count, videos, each])
            }
            Self::Candidates(c) => Ok(rows.tape().constant(gathered::forward(rows.value(), items.value(), &c.ids)?)),
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
            Self::Candidates(c) => {
                let which: Vec<u32> = c.known.chunks_exact(videos.max(1)).flat_map(|ids| ids.repeat(count)).collect();
                let which = Tensor::from_u32(rows.value().gpu(), [texts * count, videos], &which)?;
                let gates = gates::forward(rows.value(), grams.value(), mask, Some(&which), temperature)?;
                rows.tape().constant(gates)
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
        let Self::Candidates(_) = self else { return texts.soft_similarity(items, mask, temperature) };
        let &[count, width] = texts.shape() else { return texts.soft_similarity(items, mask, temperature) };
        let dots = self.dots(&texts.reshape([count, 1, width])?, items)?;
        let shape = [count, dots.shape()[2]];
        let mask = mask.map(|m| self.of_pairs(m)?.reshape([shape.iter().product(), m.width()])).transpose()?;
        let rows = dots.value().reshape([shape.iter().product(), dots.value().width()])?;
        texts.tape().constant(soft_similarity::rows(&rows, mask.as_ref(), temperature)?.0).reshape(shape)
    }

    /// What belongs to videos (N, w), for each pair: (1, N, w) for all, (B, k, w) for candidates.
    pub(crate) fn of_pairs(&self, of_videos: &Tensor) -> Result<Tensor> {
        let &[videos, width] = of_videos.shape() else { return Ok(of_videos.clone()) };
        match self {
            Self::All => of_videos.reshape([1, videos, width]),
            Self::Candidates(c) => {
                // No video has nothing of its own; anything will do.
                let last = (videos as u32).saturating_sub(1);
                let ids: Vec<u32> = c.known.iter().map(|&id| id.min(last)).collect();
                embedding::forward(of_videos, &ids, c.ids.shape())
            }
        }
    }
}
