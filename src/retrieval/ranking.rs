//! Counting ranks on the GPU, tile by tile: from a matrix of scores, or from embeddings whose scores never exist as a
//! whole. [`Scores`] is the same on the host.

use std::ops::Range;

use crate::gpu::Gpu;
use crate::kernels::elementwise::permute;
use crate::kernels::linear::matmul;
use crate::kernels::ranking::rank::{GroupMax, Queries, Rank, Ranking};
use crate::retrieval::metrics::{Counts, Scores};
use crate::tensor::{Array, Tensor};
use crate::{Error, Result};

/// Texts and videos of a tile; it takes 16 MiB.
const TILE: (usize, usize) = (1024, 4096);

/// Where scores come from: rows texts, columns videos.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A matrix on the host (N, M).
    Matrix(&'a Array),
    /// The products of embeddings (N, D) and (M, D) on the host, which go to the GPU a tile at a time.
    Embeddings(&'a Array, &'a Array),
    /// The products of embeddings (N, D) and (M, D) on the GPU.
    Tensors(&'a Tensor, &'a Tensor),
}

/// Scores of texts, each of which belongs to a video, with all videos.
#[derive(Debug)]
pub struct Tiles<'a> {
    gpu: &'a Gpu,
    source: Source<'a>,
    owners: &'a [u32],
    texts: usize,
    videos: usize,
    tile: (usize, usize),
}

/// The ranks of both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranks {
    /// A query for every text, among all videos.
    pub text_to_video: Counts,
    /// A query for every video: its best own caption among all captions of the other videos.
    pub video_to_caption: Counts,
}

impl<'a> Tiles<'a> {
    /// `owners` holds the video of every text.
    ///
    /// # Errors
    /// [`Error::Shape`] unless the source has two dimensions and a row for every owner; [`Error::ShapeMismatch`] for
    /// embeddings of different widths.
    pub fn new(gpu: &'a Gpu, source: Source<'a>, owners: &'a [u32]) -> Result<Self> {
        let op = "ranking";
        let (left, right) = match source {
            Source::Matrix(matrix) => (matrix.shape(), None),
            Source::Embeddings(texts, videos) => (texts.shape(), Some(videos.shape())),
            Source::Tensors(texts, videos) => (texts.shape(), Some(videos.shape())),
        };
        let (texts, videos) = match (left, right) {
            (&[n, m], None) => (n, m),
            (&[n, d], Some(&[m, e])) if d == e => (n, m),
            (&[_, _], Some(right @ &[_, _])) => {
                return Err(Error::mismatch(op, left, right, "rows must have the same width"));
            }
            (got, right) => {
                let got = if got.len() == 2 { right.unwrap_or(got) } else { got };
                return Err(Error::shape(op, "source", "two dimensions", got));
            }
        };
        if texts != owners.len() {
            let expected = format!("{} rows, one for every owner", owners.len());
            return Err(Error::shape(op, "texts", expected, left));
        }
        Ok(Self { gpu, source, owners, texts, videos, tile: TILE })
    }

    /// Ranks texts among videos, and videos among captions.
    ///
    /// # Errors
    /// [`Error::NonFinite`] with the count over all scores and the place of the first; [`Error::Argument`] for a video
    /// without a caption and an owner that is no video; device errors.
    pub fn ranks(&self) -> Result<Ranks> {
        let videos = numbers(self.videos);
        let rows = Ranking::new(self.gpu, Queries::Rows, self.owners, &videos)?;
        let columns = Ranking::new(self.gpu, Queries::Columns, self.owners, &videos)?;
        self.each(0..self.videos, |tile, start| {
            rows.find_targets(tile, start)?;
            columns.find_targets(tile, start)
        })?;
        self.each(0..self.videos, |tile, start| {
            rows.count(tile, start)?;
            columns.count(tile, start)
        })?;
        // The rows first: their error names row and column in this order.
        Ok(Ranks { text_to_video: counts(rows.read(ORIGIN)?), video_to_caption: counts(columns.read(ORIGIN)?) })
    }

    /// A query for every video, among the caption groups of all videos; a group scores as its best caption does.
    ///
    /// # Errors
    /// As [`Tiles::ranks`]; NaN is passed over here.
    pub fn video_to_text(&self) -> Result<Counts> {
        let videos = numbers(self.videos);
        let ranking = Ranking::new(self.gpu, Queries::Columns, &videos, &videos)?;
        for range in tiles(0..self.videos, self.tile.1) {
            let (first, width) = (range.start, range.len());
            let pool = GroupMax::new(self.gpu, self.owners, self.videos, width)?;
            self.each(range, |tile, (row, column)| pool.add(tile, (row, column - first)))?;
            let best = pool.finish()?;
            ranking.find_targets(&best, (0, first))?;
            ranking.count(&best, (0, first))?;
        }
        Ok(counts(ranking.read(ORIGIN)?))
    }

    /// All scores on the host, the texts in the order of their videos; needs their whole size.
    ///
    /// # Errors
    /// Those of [`Scores::square`] and [`Scores::grouped`]; device errors.
    pub fn to_scores(&self) -> Result<Scores> {
        let m = self.videos;
        if let Some(&owner) = self.owners.iter().find(|&&o| o as usize >= m) {
            return Err(Error::IndexOutOfRange { op: "ranking", index: owner.into(), len: m as u64 });
        }
        let mut matrix = Array::zeros([self.texts, m]);
        let mut captions = vec![0; m];
        self.owners.iter().for_each(|&o| captions[o as usize] += 1);
        let mut order: Vec<usize> = (0..self.texts).collect();
        order.sort_by_key(|&text| self.owners[text]);
        let mut place = vec![0; self.texts];
        order.iter().enumerate().for_each(|(at, &text)| place[text] = at);
        self.each(0..m, |tile, (row, column)| {
            let width = tile.width();
            for (i, scores) in tile.to_vec()?.chunks_exact(width.max(1)).enumerate() {
                let start = place[row + i] * m + column;
                matrix.data_mut()[start..start + width].copy_from_slice(scores);
            }
            Ok(())
        })?;
        let single = captions.iter().all(|&n| n == 1);
        if single { Scores::square(matrix) } else { Scores::grouped(matrix, &captions) }
    }

    /// Shows `f` every tile of the given videos, and where it starts.
    fn each(&self, videos: Range<usize>, mut f: impl FnMut(&Tensor, (usize, usize)) -> Result<()>) -> Result<()> {
        for columns in tiles(videos, self.tile.1) {
            for rows in tiles(0..self.texts, self.tile.0) {
                let start = (rows.start, columns.start);
                f(&self.scores(rows, columns.clone())?, start)?;
            }
        }
        Ok(())
    }

    fn scores(&self, rows: Range<usize>, columns: Range<usize>) -> Result<Tensor> {
        // All products have one shape, also the last: equal embeddings then have scores of equal bits, wherever they are.
        let whole = |r: &Range<usize>, n: usize, tile: usize| {
            let start = r.start.min(n.saturating_sub(tile));
            start..n.min(start + tile)
        };
        let (all_rows, all_columns) =
            (whole(&rows, self.texts, self.tile.0), whole(&columns, self.videos, self.tile.1));
        let options = matmul::Options { transpose_b: true, ..Default::default() };
        let product = |texts: &Tensor, videos: &Tensor| Ok::<_, Error>(matmul::forward(texts, videos, &options)?.y);
        let upload = |x: &Array, r: Range<usize>| {
            let d = x.shape()[1];
            Tensor::from_slice(self.gpu, [r.len(), d], &x.data()[r.start * d..r.end * d])
        };
        let y = match self.source {
            Source::Embeddings(texts, videos) => {
                product(&upload(texts, all_rows.clone())?, &upload(videos, all_columns.clone())?)?
            }
            Source::Tensors(texts, videos) => {
                product(&permute::slice(texts, 0, all_rows.clone())?, &permute::slice(videos, 0, all_columns.clone())?)?
            }
            Source::Matrix(matrix) => {
                let part: Vec<f32> = rows.clone().flat_map(|r| &matrix.row(r)[columns.clone()]).copied().collect();
                return Tensor::from_slice(self.gpu, [rows.len(), columns.len()], &part);
            }
        };
        let part = |y: Tensor, axis: usize, inner: Range<usize>, outer: Range<usize>| {
            if inner == outer {
                Ok(y)
            } else {
                permute::slice(&y, axis, inner.start - outer.start..inner.end - outer.start)
            }
        };
        part(part(y, 0, rows, all_rows)?, 1, columns, all_columns)
    }
}

const ORIGIN: &str = "similarity matrix";

fn numbers(n: usize) -> Vec<u32> {
    (0..n as u32).collect()
}

fn tiles(all: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = all.end;
    all.step_by(size).map(move |start| start..end.min(start + size))
}

fn counts(ranks: Vec<Rank>) -> Counts {
    Counts { greater: ranks.iter().map(|r| r.greater).collect(), equal: ranks.iter().map(|r| r.equal).collect() }
}

#[cfg(test)]
#[path = "ranking_tests.rs"]
mod tests;
