//! The vectors with the largest dot products with a query, exactly: the answer is that of scoring every vector on the CPU in
//! f64, whatever the GPU's arithmetic, the tiles, and the precision of what it reads.
//!
//! The GPU scores all vectors, chunk by chunk, and gives the best few of each ([`nearest`]). No product of its is off by more
//! than a bound: rounding, and what the vectors lost where it reads bytes. Candidates that could be among the best, under that
//! bound, are scored again on the CPU; a chunk that may hide more of them than it gave is scored as a whole.

use crate::gpu::Gpu;
use crate::kernels::ranking::nearest::{self, CHUNK, MOST_KEPT, Rows};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Candidates of a batch of queries that are read back at once, in bytes.
const CANDIDATE_BYTES: usize = 32 << 20;
/// What is given to a tile at most, however large the budget is: the first answer comes sooner.
const TILE_BYTES: usize = 64 << 20;

/// Vectors to be searched.
pub trait Vectors: Send + Sync {
    /// How many there are.
    fn count(&self) -> usize;

    /// Numbers of each.
    fn width(&self) -> usize;

    /// `count` of them from `first` on, as they count.
    ///
    /// # Errors
    /// What reading them returns.
    fn exact(&self, first: usize, count: usize) -> Result<Vec<f32>>;

    /// Bytes that the GPU reads of one, at most.
    fn scanned_bytes(&self) -> usize;

    /// The same as [`Vectors::exact`], as the GPU reads them.
    ///
    /// # Errors
    /// What reading them returns.
    fn scanned(&self, first: usize, count: usize) -> Result<Scanned>;
}

/// Vectors as the GPU reads them.
#[derive(Clone, Debug, PartialEq)]
pub struct Scanned {
    /// The numbers.
    pub values: ScannedValues,
    /// No vector is longer.
    pub longest: f32,
    /// No vector differs by a longer one from what it should be.
    pub residual: f32,
}

/// How vectors are scanned.
#[derive(Clone, Debug, PartialEq)]
pub enum ScannedValues {
    /// Floats of a width that is a multiple of 4, in this precision.
    Floats(Vec<f32>, DType),
    /// Signed bytes of a width that is a multiple of 16, and the factors of every
    /// [`BLOCK`](crate::kernels::ranking::nearest::BLOCK) of a row.
    Bytes(Vec<u8>, Vec<f32>),
}

/// A vector that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Its number.
    pub number: usize,
    /// Its dot product with the query, summed in f64.
    pub score: f64,
}

/// Exact search on a GPU. What does not fit into the budget is uploaded anew for each batch of queries.
pub struct ExactSearch<V> {
    gpu: Gpu,
    vectors: V,
    /// Vectors of a tile: a multiple of [`CHUNK`].
    tile: usize,
    resident: Vec<Tile>,
}

struct Tile {
    rows: TileRows,
    longest: f64,
    residual: f64,
}

enum TileRows {
    Floats(Tensor),
    Bytes { values: Tensor, scales: Tensor },
}

/// What a chunk gave for a query.
struct ChunkList {
    /// Its first vector, and how many it has.
    first: usize,
    count: usize,
    /// Candidates with their products.
    found: Vec<(usize, f64)>,
    /// How far a product may be off.
    error: f64,
}

impl<V: Vectors> ExactSearch<V> {
    /// Searches `vectors` with at most `budget` bytes of them in GPU memory; as many as fit stay there.
    ///
    /// # Errors
    /// [`Error::Argument`] for a budget that does not hold a chunk of [`CHUNK`] vectors; what `vectors` return; device errors.
    pub fn new(gpu: &Gpu, vectors: V, budget: u64) -> Result<Self> {
        let row = vectors.scanned_bytes().max(1);
        let binding = gpu.report().limits.max_storage_buffer_binding_size;
        let most = usize::try_from(budget.min(binding)).unwrap_or(usize::MAX).min(TILE_BYTES);
        let tile = most / row / CHUNK * CHUNK;
        if tile == 0 {
            let why = format!("of {budget} bytes is too small: {CHUNK} vectors take {}", CHUNK * row);
            return Err(Error::argument("ExactSearch", "budget", why));
        }
        let tiles = vectors.count().div_ceil(tile);
        let fit = usize::try_from(budget).unwrap_or(usize::MAX) / (tile * row);
        // One place is for those that come and go.
        let staying = if fit >= tiles { tiles } else { fit - 1 };
        let mut search = Self { gpu: gpu.clone(), vectors, tile, resident: Vec::new() };
        for number in 0..staying {
            search.resident.push(search.upload(number)?);
        }
        Ok(search)
    }

    /// What is searched.
    pub fn vectors(&self) -> &V {
        &self.vectors
    }

    fn tile_range(&self, number: usize) -> (usize, usize) {
        let first = number * self.tile;
        (first, self.tile.min(self.vectors.count() - first))
    }

    fn upload(&self, number: usize) -> Result<Tile> {
        let (first, count) = self.tile_range(number);
        let Scanned { values, longest, residual } = self.vectors.scanned(first, count)?;
        let rows = match values {
            ScannedValues::Floats(values, precision) => {
                let shape = [count, values.len() / count.max(1)];
                TileRows::Floats(match precision {
                    DType::F16 => Tensor::from_slice_f16(&self.gpu, shape, &values)?,
                    _ => Tensor::from_slice(&self.gpu, shape, &values)?,
                })
            }
            ScannedValues::Bytes(bytes, scales) => {
                let words: Vec<u32> =
                    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
                TileRows::Bytes {
                    values: Tensor::from_u32(&self.gpu, [count, words.len() / count.max(1)], &words)?,
                    scales: Tensor::from_slice(&self.gpu, [count, scales.len() / count.max(1)], &scales)?,
                }
            }
        };
        Ok(Tile { rows, longest: longest.into(), residual: residual.into() })
    }

    /// For each of the queries (queries, D) the `k` vectors with the largest dot products, the largest first; of equals the
    /// one with the lower number. Queries of one batch share what is read.
    ///
    /// # Errors
    /// [`Error::Argument`] for `k` of 0 or above the number of vectors; [`Error::Shape`]; [`Error::NonFinite`]; what the
    /// vectors return; device errors.
    pub fn search(&self, queries: &[f32], k: usize) -> Result<Vec<Vec<Hit>>> {
        self.expect(queries, k)?;
        let width = self.vectors.width();
        let chunks = self.vectors.count().div_ceil(CHUNK);
        let kept = (4 * k.div_ceil(chunks)).clamp(16, MOST_KEPT);
        let batch = (CANDIDATE_BYTES / (8 * kept * chunks)).max(1);
        let mut found = Vec::new();
        for group in queries.chunks(batch * width) {
            for (query, lists) in group.chunks_exact(width).zip(self.lists(group, kept)?) {
                found.push(self.settle(query, &lists, k)?);
            }
        }
        Ok(found)
    }

    /// What share of the `k` best by the GPU's products alone are among the `k` best indeed, on average over the queries: what
    /// bytes would lose if nothing was scored again.
    ///
    /// # Errors
    /// As [`ExactSearch::search`].
    pub fn scanned_recall(&self, queries: &[f32], k: usize) -> Result<f64> {
        let exact = self.search(queries, k)?;
        let mut hit = 0;
        for (group, exact) in queries.chunks(16 * self.vectors.width()).zip(exact.chunks(16)) {
            let lists = self.lists(group, k.clamp(16, MOST_KEPT))?;
            for ((query, lists), exact) in group.chunks_exact(self.vectors.width()).zip(lists).zip(exact) {
                let mut all: Vec<(usize, f64)> = lists.into_iter().flat_map(|list| list.found).collect();
                all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                // One that is as near as the last of the best is as good.
                let least = exact.last().map_or(f64::INFINITY, |hit| hit.score);
                let first = self.scores(query, all.iter().take(k).map(|candidate| candidate.0).collect())?;
                hit += first.iter().filter(|hit| hit.score >= least).count();
            }
        }
        Ok(hit as f64 / (exact.len() * k).max(1) as f64)
    }

    fn expect(&self, queries: &[f32], k: usize) -> Result<()> {
        let (count, width) = (self.vectors.count(), self.vectors.width());
        if k == 0 || k > count {
            let why = format!("of {k}: there are {count} to be found, and at least one must be asked for");
            return Err(Error::argument("search", "k", why));
        }
        if !queries.len().is_multiple_of(width) {
            return Err(Error::shape("search", "queries", format!("[queries, {width}]"), &[queries.len()]));
        }
        if let Some(at) = queries.iter().position(|v| !v.is_finite()) {
            let wrong = queries.iter().filter(|v| !v.is_finite()).count() as u64;
            let place = format!("query {}, number {}", at / width, at % width);
            return Err(Error::NonFinite { origin: "search".into(), place, count: wrong });
        }
        Ok(())
    }

    /// What all chunks give for each query, `kept` at most.
    fn lists(&self, queries: &[f32], kept: usize) -> Result<Vec<Vec<ChunkList>>> {
        let mut lists: Vec<Vec<ChunkList>> = (0..queries.len() / self.vectors.width()).map(|_| Vec::new()).collect();
        for number in 0..self.vectors.count().div_ceil(self.tile) {
            match self.resident.get(number) {
                Some(tile) => self.scan(number, tile, queries, kept, &mut lists)?,
                None => self.scan(number, &self.upload(number)?, queries, kept, &mut lists)?,
            }
        }
        Ok(lists)
    }

    /// Adds the lists of a tile's chunks to those of each query.
    fn scan(
        &self,
        number: usize,
        tile: &Tile,
        queries: &[f32],
        kept: usize,
        lists: &mut [Vec<ChunkList>],
    ) -> Result<()> {
        let (tile_first, tile_count) = self.tile_range(number);
        let (rows, padded) = match &tile.rows {
            TileRows::Floats(x) => (Rows::Floats(x), x.width()),
            TileRows::Bytes { values, scales } => (Rows::Bytes { values, scales }, 4 * values.width()),
        };
        let width = self.vectors.width();
        let mut wide = Vec::with_capacity(lists.len() * padded);
        for query in queries.chunks_exact(width) {
            wide.extend_from_slice(query);
            wide.resize(wide.len() + padded - width, 0.0);
        }
        let wide = Tensor::from_slice(&self.gpu, [lists.len(), padded], &wide)?;
        let found = nearest::forward(&wide, rows, kept)?;
        let (numbers, products) = (found.rows.to_u32()?, found.products.to_vec()?);
        let chunks = tile_count.div_ceil(CHUNK);
        let each = numbers.chunks_exact(kept).zip(products.chunks_exact(kept)).enumerate();
        for (place, (numbers, products)) in each {
            let (query, first) = (place / chunks, place % chunks * CHUNK);
            let pairs = numbers.iter().zip(products).filter(|(number, _)| **number != u32::MAX);
            lists[query].push(ChunkList {
                first: tile_first + first,
                count: CHUNK.min(tile_count - first),
                found: pairs.map(|(&number, &product)| (tile_first + number as usize, product.into())).collect(),
                error: bound(&queries[query * width..][..width], padded, tile),
            });
        }
        Ok(())
    }

    /// The best `k`, of the lists of all chunks.
    fn settle(&self, query: &[f32], lists: &[ChunkList], k: usize) -> Result<Vec<Hit>> {
        let mut all: Vec<(usize, f64, f64)> = lists
            .iter()
            .flat_map(|list| list.found.iter().map(|&(number, product)| (number, product, list.error)))
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        // What the k best products come to is a score that the k best vectors reach at least.
        let mut least = f64::NEG_INFINITY;
        if all.len() >= k {
            let first: Vec<usize> = all[..k].iter().map(|candidate| candidate.0).collect();
            least = self.scores(query, first)?.iter().map(|hit| hit.score).fold(f64::INFINITY, f64::min);
        }
        let may_reach = |product: f64, error: f64| product.is_nan() || product + error >= least;
        let mut wanted: Vec<usize> = Vec::new();
        for list in lists {
            let hides = list.found.len() < list.count
                && list.found.last().is_none_or(|&(_, product)| may_reach(product, list.error));
            if hides || list.found.iter().any(|(_, product)| !product.is_finite()) {
                wanted.extend(list.first..list.first + list.count);
            } else {
                wanted.extend(list.found.iter().filter(|f| may_reach(f.1, list.error)).map(|f| f.0));
            }
        }
        let mut hits = self.scores(query, wanted)?;
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.number.cmp(&b.number)));
        hits.truncate(k);
        Ok(hits)
    }

    /// The scores of some vectors.
    fn scores(&self, query: &[f32], mut numbers: Vec<usize>) -> Result<Vec<Hit>> {
        numbers.sort_unstable();
        let mut hits = Vec::with_capacity(numbers.len());
        for run in numbers.chunk_by(|a, b| a + 1 == *b).flat_map(|run| run.chunks(CHUNK)) {
            let rows = self.vectors.exact(run[0], run.len())?;
            let scored = run.iter().zip(rows.chunks_exact(query.len()));
            hits.extend(scored.map(|(&number, row)| Hit { number, score: dot(query, row) }));
        }
        Ok(hits)
    }
}

/// The dot product that counts. Equal vectors give equal bits.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// How far the GPU's product of `query` with a vector of the tile may be off: what rounding can do to a sum of `width`
/// products in any order, to the nearest or not, and what the vectors lost.
fn bound(query: &[f32], width: usize, tile: &Tile) -> f64 {
    let length = dot(query, query).sqrt();
    let rounding = (width + 8) as f64 * f64::from(f32::EPSILON);
    // Denormal numbers may count as 0.
    length * (rounding * (tile.longest + tile.residual) + tile.residual) + width as f64 * 1e-37
}

/// Vectors in memory, in full precision.
pub struct InMemory {
    width: usize,
    values: Vec<f32>,
    longest: f32,
}

impl InMemory {
    /// Vectors (count, width), row by row.
    ///
    /// # Errors
    /// [`Error::Shape`] for no width, and a rest that is no vector; [`Error::NonFinite`].
    pub fn new(width: usize, values: Vec<f32>) -> Result<Self> {
        if width == 0 || !values.len().is_multiple_of(width) {
            return Err(Error::shape("InMemory", "values", format!("[vectors, {width}]"), &[values.len()]));
        }
        let count = values.iter().filter(|v| !v.is_finite()).count() as u64;
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let place = format!("vector {}, number {}", at / width, at % width);
            return Err(Error::NonFinite { origin: "InMemory".into(), place, count });
        }
        let longest = values.chunks_exact(width).map(|row| dot(row, row)).fold(0.0, f64::max).sqrt();
        Ok(Self { width, values, longest: (longest * (1.0 + 1e-6)) as f32 })
    }
}

impl Vectors for InMemory {
    fn count(&self) -> usize {
        self.values.len() / self.width
    }

    fn width(&self) -> usize {
        self.width
    }

    fn exact(&self, first: usize, count: usize) -> Result<Vec<f32>> {
        Ok(self.values[first * self.width..][..count * self.width].to_vec())
    }

    fn scanned_bytes(&self) -> usize {
        4 * self.width.next_multiple_of(4)
    }

    fn scanned(&self, first: usize, count: usize) -> Result<Scanned> {
        let values = pad_rows(&self.exact(first, count)?, self.width, 4);
        Ok(Scanned { values: ScannedValues::Floats(values, DType::F32), longest: self.longest, residual: 0.0 })
    }
}

/// Rows of `width`, filled with zeros to a multiple of `unit`.
pub(super) fn pad_rows(rows: &[f32], width: usize, unit: usize) -> Vec<f32> {
    let padded = width.next_multiple_of(unit);
    if padded == width {
        return rows.to_vec();
    }
    rows.chunks_exact(width)
        .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0.0, padded - width)))
        .collect()
}

#[cfg(test)]
#[path = "exact_tests.rs"]
mod tests;
