//! Ranking by counting, with exact integers, over tiles of a matrix of scores that need never exist as a whole.
//!
//! The rank of a query's target is the number of other candidates with a greater score; ties are counted apart, so that
//! the caller can be optimistic, pessimistic or fair about them. Rows and columns carry group numbers: candidates of the
//! query's own group do not compete, and the best of them is the target. So text to video, video to text, and several
//! captions a video are one thing:
//!
//! | question | queries | groups of rows | groups of columns |
//! |---|---|---|---|
//! | text i to its video t\[i\] | rows | t | 0, 1, 2, … |
//! | video j to its text t\[j\] | columns | 0, 1, 2, … | t |
//! | video to its best caption | columns | each caption's video | 0, 1, 2, … |

use crate::gpu::{Gpu, KernelFamily};
use crate::kernels::shape::{count_elements, expect_below};
use crate::kernels::{lanes, launch};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const WGSL: &str = include_str!("../../../shaders/ranking/rank.wgsl");

/// What is ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queries {
    /// Every row looks among the columns.
    Rows,
    /// Every column looks among the rows.
    Columns,
}

/// Where a query's target stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rank {
    /// Competitors with a greater score: the optimistic 0-based rank.
    pub greater: u32,
    /// Competitors with an equal score; `greater + equal` is the pessimistic 0-based rank.
    pub equal: u32,
}

params! {
    struct Params {
        extents: [u32; 2] as [rows, columns], start: [u32; 2] as [row_start, column_start], queries: u32, chunks: u32,
    }
}

#[derive(Clone, Copy)]
enum Kernel {
    Best(Queries),
    CountRows { vec4: bool, family: KernelFamily },
    CountColumns,
    Pool,
    Decode,
}

fn variant(kernel: Kernel) -> Variant {
    let variant = Variant::own::<Params>("rank", WGSL);
    match kernel {
        Kernel::Best(queries) => variant.set("BEST", 1).on("COLUMNS", matches!(queries, Queries::Columns)),
        Kernel::CountColumns => variant.set("COUNT", 1).set("COLUMNS", 1),
        Kernel::CountRows { vec4, family } => variant.set("COUNT", 1).on("VEC4", vec4).all(lanes::defines(family)),
        Kernel::Pool => variant.set("POOL", 1),
        Kernel::Decode => variant.set("DECODE", 1),
    }
}

pub(crate) fn variants() -> Vec<Variant> {
    let rows =
        lanes::FAMILIES.into_iter().flat_map(|family| [false, true].map(|vec4| Kernel::CountRows { vec4, family }));
    let others = [
        Kernel::Best(Queries::Rows),
        Kernel::Best(Queries::Columns),
        Kernel::CountColumns,
        Kernel::Pool,
        Kernel::Decode,
    ];
    rows.chain(others).map(variant).collect()
}

/// The extents of a tile that must lie within `rows` by `columns`.
fn tile_extents(op: &'static str, tile: &Tensor, start: (usize, usize), whole: (usize, usize)) -> Result<[usize; 2]> {
    let [rows, columns] = tile.extents(op, "tile", "[rows, columns]")?;
    let fits = |at: usize, len: usize, end: usize| at.checked_add(len).is_some_and(|e| e <= end);
    if !(fits(start.0, rows, whole.0) && fits(start.1, columns, whole.1)) {
        return Err(Error::shape(op, "tile", format!("[rows, columns] within {whole:?} from {start:?}"), tile.shape()));
    }
    count_elements(op, &[rows, columns])?;
    Ok([rows, columns])
}

fn params(extents: [usize; 2], start: (usize, usize), queries: usize, chunks: usize) -> Params {
    let start = [start.0 as u32, start.1 as u32];
    Params { extents: extents.map(|n| n as u32), start, queries: queries as u32, chunks: chunks as u32 }
}

/// Ranks the targets of all queries over the tiles of one matrix.
///
/// Every tile is shown twice: first to [`Ranking::find_targets`], then, after the last of those, to
/// [`Ranking::count`]. Tiles may come in any order and of any size, but must not overlap, and a score must have the same
/// bits both times. Tiles without an own score of any query may be left out of the first round.
#[derive(Debug)]
pub struct Ranking {
    queries: Queries,
    row_groups: Tensor,
    column_groups: Tensor,
    /// Ordered keys of the targets' scores.
    best: Tensor,
    /// `[4, queries]`: greater, equal, non-finite, the first non-finite.
    counts: Tensor,
}

impl Ranking {
    /// Prepares to rank; `row_groups` and `column_groups` hold a group number for each row and column of the whole
    /// matrix.
    ///
    /// # Errors
    /// [`Error::Argument`] if a query's group has no candidate; device errors.
    pub fn new(gpu: &Gpu, queries: Queries, row_groups: &[u32], column_groups: &[u32]) -> Result<Self> {
        let (asking, argument, answering) = match queries {
            Queries::Rows => (row_groups, "row_groups", column_groups),
            Queries::Columns => (column_groups, "column_groups", row_groups),
        };
        let known: std::collections::HashSet<u32> = answering.iter().copied().collect();
        if let Some(i) = asking.iter().position(|g| !known.contains(g)) {
            let why = format!("[{i}] is {}, a group without a candidate", asking[i]);
            return Err(Error::Argument { op: "rank", argument, why });
        }
        let n = asking.len();
        count_elements("rank", &[4, n])?;
        let mut counts = vec![0; 4 * n];
        counts[3 * n..].fill(u32::MAX);
        Ok(Self {
            queries,
            row_groups: Tensor::from_u32(gpu, [row_groups.len()], row_groups)?,
            column_groups: Tensor::from_u32(gpu, [column_groups.len()], column_groups)?,
            best: Tensor::from_u32(gpu, [n], &vec![0; n])?,
            counts: Tensor::from_u32(gpu, [4, n], &counts)?,
        })
    }

    fn extents(&self, tile: &Tensor, start: (usize, usize)) -> Result<[usize; 2]> {
        tile_extents("rank", tile, start, (self.row_groups.len(), self.column_groups.len()))
    }

    /// First round: takes note of the queries' own scores in a tile that starts at (row, column) `start` of the whole.
    ///
    /// # Errors
    /// [`Error::Shape`] if the tile reaches beyond the whole; device errors.
    pub fn find_targets(&self, tile: &Tensor, start: (usize, usize)) -> Result<()> {
        let [rows, columns] = self.extents(tile, start)?;
        let chunks = columns.div_ceil(256);
        let params = params([rows, columns], start, self.best.len(), chunks);
        let tensors = [tile, &self.row_groups, &self.column_groups, &self.best];
        let grid = tile.gpu().grid(rows * chunks);
        launch("rank targets", &variant(Kernel::Best(self.queries)), &tensors, &params, grid, 0)
    }

    /// Second round: counts the scores of a tile that beat or equal the queries' targets, and those that are not finite.
    ///
    /// # Errors
    /// [`Error::Shape`] if the tile reaches beyond the whole; device errors.
    pub fn count(&self, tile: &Tensor, start: (usize, usize)) -> Result<()> {
        let [rows, columns] = self.extents(tile, start)?;
        let family = tile.gpu().family();
        let vec4 = columns.is_multiple_of(4) && start.1.is_multiple_of(4);
        // The rows and columns of a workgroup.
        let (kernel, tall, wide) = match self.queries {
            Queries::Rows => (Kernel::CountRows { vec4, family }, 1, 64 * lanes::count(family)),
            Queries::Columns => (Kernel::CountColumns, 64, 64),
        };
        let chunks = columns.div_ceil(wide);
        let params = params([rows, columns], start, self.best.len(), chunks);
        let tensors = [tile, &self.row_groups, &self.column_groups, &self.best, &self.counts];
        launch("rank", &variant(kernel), &tensors, &params, tile.gpu().grid(rows.div_ceil(tall) * chunks), 0)
    }

    /// Waits for the ranks of all queries. `origin` names the scores in errors.
    ///
    /// # Errors
    /// [`Error::NonFinite`] with the count and the place of the first if any score is NaN or infinite; device errors.
    pub fn read(&self, origin: &str) -> Result<Vec<Rank>> {
        let counts = self.counts.to_u32()?;
        let n = self.best.len();
        let broken = &counts[2 * n..3 * n];
        let (query, other) = match self.queries {
            Queries::Rows => ("row", "column"),
            Queries::Columns => ("column", "row"),
        };
        if let Some(i) = broken.iter().position(|&count| count > 0) {
            return Err(Error::NonFinite {
                origin: origin.into(),
                place: format!("{query} {i}, {other} {}", counts[3 * n + i]),
                count: broken.iter().map(|&count| u64::from(count)).sum(),
            });
        }
        Ok((0..n).map(|i| Rank { greater: counts[i], equal: counts[n + i] }).collect())
    }
}

/// The ranks of all queries of a matrix of scores that is at hand as a whole; see [`Ranking`].
///
/// # Errors
/// [`Error::Shape`] unless there is a group for each row and column; as [`Ranking::new`] and [`Ranking::read`].
pub fn ranks(scores: &Tensor, queries: Queries, row_groups: &[u32], column_groups: &[u32]) -> Result<Vec<Rank>> {
    scores.expect_shape("rank", "scores", &[row_groups.len(), column_groups.len()])?;
    let ranking = Ranking::new(scores.gpu(), queries, row_groups, column_groups)?;
    ranking.find_targets(scores, (0, 0))?;
    ranking.count(scores, (0, 0))?;
    ranking.read("scores")
}

/// The highest score of every group of rows in every column, over tiles: how a video's captions vote together.
/// NaN is passed over; find it with [`Ranking`].
#[derive(Debug)]
pub struct GroupMax {
    row_groups: Tensor,
    columns: usize,
    best: Tensor,
}

impl GroupMax {
    /// Prepares for a matrix of `row_groups.len()` rows, each of a group below `groups`, and `columns` columns.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`] for a group beyond `groups`; device errors.
    pub fn new(gpu: &Gpu, row_groups: &[u32], groups: usize, columns: usize) -> Result<Self> {
        let op = "group max";
        expect_below(op, row_groups, groups)?;
        count_elements(op, &[groups, columns])?;
        let best = Tensor::uninit_of(gpu, op, [groups, columns], DType::U32)?;
        best.fill_zero()?;
        Ok(Self { row_groups: Tensor::from_u32(gpu, [row_groups.len()], row_groups)?, columns, best })
    }

    /// Takes in a tile that starts at (row, column) `start` of the whole.
    ///
    /// # Errors
    /// [`Error::Shape`] if the tile reaches beyond the whole; device errors.
    pub fn add(&self, tile: &Tensor, start: (usize, usize)) -> Result<()> {
        let extents = tile_extents("group max", tile, start, (self.row_groups.len(), self.columns))?;
        let chunks = extents[1].div_ceil(256);
        let params = params(extents, start, self.columns, chunks);
        let grid = tile.gpu().grid(extents[0] * chunks);
        launch("group max", &variant(Kernel::Pool), &[tile, &self.row_groups, &self.best], &params, grid, 0)
    }

    /// The maxima, `[groups, columns]`; the lowest f32 for a group without rows.
    ///
    /// # Errors
    /// Device errors.
    pub fn finish(&self) -> Result<Tensor> {
        let gpu = self.best.gpu();
        let values = Tensor::uninit(gpu, "group max", self.best.shape())?;
        let params = params([0, 0], (0, 0), values.len(), 1);
        let grid = gpu.grid(values.len().div_ceil(256));
        launch("group max", &variant(Kernel::Decode), &[&self.best, &values], &params, grid, 0)?;
        Ok(values)
    }
}

/// The same in plain Rust.
pub mod cpu {
    use super::{Queries, Rank};

    /// The ranks of all queries of a matrix; every query's group must have a candidate.
    pub fn ranks(scores: &[f32], queries: Queries, row_groups: &[u32], column_groups: &[u32]) -> Vec<Rank> {
        let (asking, answering) = match queries {
            Queries::Rows => (row_groups, column_groups),
            Queries::Columns => (column_groups, row_groups),
        };
        let score = |query: usize, candidate: usize| match queries {
            Queries::Rows => scores[query * column_groups.len() + candidate],
            Queries::Columns => scores[candidate * column_groups.len() + query],
        };
        asking
            .iter()
            .enumerate()
            .map(|(query, group)| {
                let all = answering.iter().enumerate().map(|(j, g)| (score(query, j), g));
                let (own, others): (Vec<_>, Vec<_>) = all.partition(|(_, g)| *g == group);
                let target = own.iter().map(|(s, _)| *s).fold(f32::NEG_INFINITY, f32::max);
                Rank {
                    greater: others.iter().filter(|(s, _)| *s > target).count() as u32,
                    equal: others.iter().filter(|(s, _)| *s == target).count() as u32,
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{gpus, noise, noise_tensor, poisoned};
    use crate::parity::golden;

    /// Scores with many ties, -0 among them.
    fn tied(n: usize, seed: u64) -> Vec<f32> {
        noise(n, seed).iter().map(|v| (v * 6.0).round() * 0.25).collect()
    }

    fn iota(n: usize) -> Vec<u32> {
        (0..n as u32).collect()
    }

    #[test]
    fn whole_matrices_equal_plain_counting() {
        for gpu in gpus() {
            for (n, m) in
                [(1usize, 1usize), (3, 1), (1, 5), (7, 8), (64, 64), (65, 63), (33, 260), (5, 4099), (130, 12)]
            {
                let s = tied(n * m, (n * m) as u64);
                let scores = poisoned(&gpu, &[n, m], &s);
                let to_columns: Vec<u32> = (0..n).map(|i| (i * 7 % m) as u32).collect();
                let to_rows: Vec<u32> = (0..m).map(|j| (j * 5 % n) as u32).collect();
                for (queries, rows, columns) in
                    [(Queries::Rows, to_columns, iota(m)), (Queries::Columns, iota(n), to_rows)]
                {
                    let expected = cpu::ranks(&s, queries, &rows, &columns);
                    assert_eq!(ranks(&scores, queries, &rows, &columns).unwrap(), expected, "{n} {m} {queries:?}");
                }
            }
        }
    }

    #[test]
    fn tiles_equal_the_whole() {
        let (n, m) = (150, 131);
        let s = tied(n * m, 9);
        let owners: Vec<u32> = (0..n).map(|i| (i * i % m) as u32).chain(iota(m)).take(n).collect();
        let owners: Vec<u32> = owners.iter().enumerate().map(|(i, &o)| if i < m { i as u32 } else { o }).collect();
        for gpu in gpus() {
            for queries in [Queries::Rows, Queries::Columns] {
                let ranking = Ranking::new(&gpu, queries, &owners, &iota(m)).unwrap();
                let pool = GroupMax::new(&gpu, &owners, m, m).unwrap();
                for round in 0..2 {
                    for (row, rows) in [(0usize, 64usize), (64, 65), (129, 21)] {
                        for (column, columns) in [(0usize, 60usize), (60, 64), (124, 7)] {
                            let cut: Vec<f32> = (0..rows * columns)
                                .map(|k| s[(row + k / columns) * m + column + k % columns])
                                .collect();
                            let tile = poisoned(&gpu, &[rows, columns], &cut);
                            if round == 0 {
                                ranking.find_targets(&tile, (row, column)).unwrap();
                                pool.add(&tile, (row, column)).unwrap();
                            } else {
                                ranking.count(&tile, (row, column)).unwrap();
                            }
                        }
                    }
                }
                assert_eq!(ranking.read("tiles").unwrap(), cpu::ranks(&s, queries, &owners, &iota(m)));
                let mut expected = vec![f32::MIN; m * m];
                for (i, &owner) in owners.iter().enumerate() {
                    for j in 0..m {
                        let best = &mut expected[owner as usize * m + j];
                        *best = best.max(s[i * m + j]);
                    }
                }
                assert_eq!(pool.finish().unwrap().to_vec().unwrap(), expected);
            }
        }
    }

    #[test]
    fn non_finite_scores_are_found() {
        for gpu in gpus() {
            let (n, m) = (70usize, 90usize);
            let mut s = tied(n * m, 2);
            s[40 * m + 77] = f32::NAN;
            s[40 * m + 80] = f32::INFINITY;
            s[69 * m + 3] = f32::NEG_INFINITY;
            let scores = Tensor::from_slice(&gpu, [n, m], &s).unwrap();
            for (queries, expected) in [(Queries::Rows, "row 40, column 77"), (Queries::Columns, "column 3, row 69")] {
                let (rows, columns) = match queries {
                    Queries::Rows => (vec![0; n], iota(m)),
                    Queries::Columns => (iota(n), vec![0; m]),
                };
                match ranks(&scores, queries, &rows, &columns) {
                    Err(Error::NonFinite { count: 3, place, .. }) => assert_eq!(place, expected),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn ranks_equal_the_reference() {
        for case in ["all-equal", "square", "square-ties", "multi", "multi-ties"] {
            let file = golden::json(&format!("retrieval-metrics-{case}"));
            let floats = |v: &serde_json::Value| -> Vec<f32> {
                v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
            };
            let shape = floats(&file["similarity"]["shape"]);
            let (n, m) = (shape[0] as usize, shape[1] as usize);
            let owners: Vec<u32> = match file["config"]["captions_per_video"].as_array() {
                Some(counts) => {
                    counts.iter().zip(0..).flat_map(|(c, v)| vec![v; c.as_u64().unwrap() as usize]).collect()
                }
                None => iota(n),
            };
            let check = |key: &str, ranks: Vec<Rank>| {
                let expected = &file["expected"][key];
                // Square cases have no captions to pool.
                assert_eq!(expected.is_null(), key == "caption_level_v2t" && !case.contains("multi"), "{case} {key}");
                if expected.is_null() {
                    return;
                }
                let greater: Vec<f32> = ranks.iter().map(|r| r.greater as f32).collect();
                let all: Vec<f32> = ranks.iter().map(|r| (r.greater + r.equal) as f32).collect();
                assert_eq!(greater, floats(&expected["optimistic"]["ranks"]), "{case} {key}");
                assert_eq!(all, floats(&expected["pessimistic"]["ranks"]), "{case} {key}");
            };
            for gpu in gpus() {
                let s = Tensor::from_slice(&gpu, [n, m], &floats(&file["similarity"]["data"])).unwrap();
                check("tie_aware_t2v", ranks(&s, Queries::Rows, &owners, &iota(m)).unwrap());
                check("caption_level_v2t", ranks(&s, Queries::Columns, &owners, &iota(m)).unwrap());
                let pool = GroupMax::new(&gpu, &owners, m, m).unwrap();
                pool.add(&s, (0, 0)).unwrap();
                let pooled = pool.finish().unwrap();
                check("tie_aware_v2t", ranks(&pooled, Queries::Columns, &iota(m), &iota(m)).unwrap());
            }
        }
    }

    #[test]
    fn wrong_shapes_and_groups_are_errors() {
        for gpu in gpus() {
            let s = noise_tensor(&gpu, &[3, 4], 1);
            let wrong = ranks(&s, Queries::Rows, &[0, 1, 4], &iota(4));
            assert!(matches!(wrong, Err(Error::Argument { argument: "row_groups", .. })));
            assert!(matches!(ranks(&s, Queries::Rows, &[0, 1], &iota(4)), Err(Error::Shape { .. })));
            let ranking = Ranking::new(&gpu, Queries::Rows, &[0, 1, 2], &iota(4)).unwrap();
            assert!(matches!(ranking.count(&s, (1, 0)), Err(Error::Shape { argument: "tile", .. })));
            assert!(matches!(GroupMax::new(&gpu, &[0, 2], 2, 3), Err(Error::IndexOutOfRange { index: 2, .. })));
            let none = Tensor::from_slice(&gpu, [0, 4], &[]).unwrap();
            assert_eq!(ranks(&none, Queries::Rows, &[], &iota(4)).unwrap(), vec![]);
        }
    }

    /// Software adapters end loops that are too long.
    #[test]
    fn long_rows_and_columns_are_counted_to_their_end() {
        let n = 600_001;
        let s = tied(n, 3);
        for gpu in gpus() {
            let one = vec![n as u32 - 1];
            for (shape, queries, rows, columns) in
                [([1, n], Queries::Rows, one.clone(), iota(n)), ([n, 1], Queries::Columns, iota(n), one)]
            {
                let scores = poisoned(&gpu, &shape, &s);
                let expected = cpu::ranks(&s, queries, &rows, &columns);
                assert_eq!(ranks(&scores, queries, &rows, &columns).unwrap(), expected, "{queries:?}");
            }
        }
    }
}
