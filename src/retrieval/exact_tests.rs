use super::*;
use crate::kernels::testing::{gpus, half_noise, noise};

/// All scores, sorted: the specification.
fn brute(queries: &[f32], rows: &[f32], width: usize, k: usize) -> Vec<Vec<Hit>> {
    let one = |query: &[f32]| {
        let scored = rows.chunks_exact(width).enumerate().map(|(number, row)| Hit { number, score: dot(query, row) });
        let mut hits: Vec<Hit> = scored.collect();
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.number.cmp(&b.number)));
        hits.truncate(k);
        hits
    };
    queries.chunks_exact(width).map(one).collect()
}

/// Vectors that are scanned in halves.
struct Halves(InMemory);

impl Vectors for Halves {
    fn count(&self) -> usize {
        self.0.count()
    }

    fn width(&self) -> usize {
        self.0.width()
    }

    fn exact(&self, first: usize, count: usize) -> Result<Vec<f32>> {
        self.0.exact(first, count)
    }

    fn scanned_bytes(&self) -> usize {
        self.0.scanned_bytes() / 2
    }

    fn scanned(&self, first: usize, count: usize) -> Result<Scanned> {
        let scanned = self.0.scanned(first, count)?;
        let ScannedValues::Floats(values, _) = scanned.values else { unreachable!("vectors in memory are floats") };
        Ok(Scanned { values: ScannedValues::Floats(values, DType::F16), ..scanned })
    }
}

/// Few different values: products of many vectors are equal.
fn coarse_noise(n: usize, seed: u64) -> Vec<f32> {
    noise(n, seed).into_iter().map(|v| (v * 2.0).round() / 2.0).collect()
}

#[test]
fn the_answer_is_that_of_scoring_everything_ties_included() {
    for gpu in gpus() {
        for (count, width, k) in
            [(1, 3, 1), (2, 4, 2), (1000, 6, 1000), (1025, 5, 7), (3000, 16, 1024), (5000, 33, 40), (20_000, 4, 300)]
        {
            for values in [coarse_noise(count * width, 1), half_noise(count * width, 2)] {
                let queries = noise(3 * width, 3);
                let expected = brute(&queries, &values, width, k);
                let vectors = || InMemory::new(width, values.clone()).unwrap();
                let whole = ExactSearch::new(&gpu, vectors(), 1 << 30).unwrap();
                assert_eq!(whole.search(&queries, k).unwrap(), expected, "{count} {width} {k}");
                let halves = ExactSearch::new(&gpu, Halves(vectors()), 1 << 30).unwrap();
                assert_eq!(halves.search(&queries, k).unwrap(), expected, "{count} {width} {k} in halves");
                // A budget of one chunk: everything comes and goes.
                let small = ExactSearch::new(&gpu, vectors(), (CHUNK * vectors().scanned_bytes()) as u64).unwrap();
                assert_eq!(small.search(&queries, k).unwrap(), expected, "{count} {width} {k} in tiles");
            }
        }
    }
}

#[test]
fn thousands_of_equal_vectors_come_in_their_order() {
    for gpu in gpus() {
        let width = 8;
        let mut values = half_noise(4096 * width, 5);
        // Black pictures: one vector, three thousand times, and it is the best one.
        for row in (500..3500).chain([4000]) {
            values[row * width..][..width].fill(1.0);
        }
        let query = vec![1.0; width];
        for k in [10, 700, 1024, 3002] {
            let search = ExactSearch::new(&gpu, InMemory::new(width, values.clone()).unwrap(), 1 << 30).unwrap();
            assert_eq!(search.search(&query, k).unwrap(), brute(&query, &values, width, k), "{k}");
        }
    }
}

#[test]
fn two_hundred_thousand_vectors() {
    let (gpus, count, width) = (gpus(), 200_000, 12);
    let values = half_noise(count * width, 7);
    let queries = noise(2 * width, 8);
    for gpu in gpus {
        for k in [1, 10, 1024] {
            let expected = brute(&queries, &values, width, k);
            for budget in [1 << 30, 1 << 20] {
                let vectors = InMemory::new(width, values.clone()).unwrap();
                let search = ExactSearch::new(&gpu, vectors, budget).unwrap();
                assert_eq!(search.search(&queries, k).unwrap(), expected, "{k} {budget}");
            }
        }
    }
}

#[test]
fn memory_stays_within_the_budget() {
    for gpu in gpus() {
        let vectors = InMemory::new(64, noise(20_000 * 64, 9)).unwrap();
        let before = gpu.memory_report().live;
        let search = ExactSearch::new(&gpu, vectors, 3 << 20).unwrap();
        let held = gpu.memory_report().live - before;
        assert!(held <= 3 << 20, "{held}");
        assert_eq!(search.search(&noise(64, 1), 5).unwrap()[0].len(), 5);
    }
}

#[test]
fn what_cannot_be_searched_is_an_error() {
    for gpu in gpus() {
        let vectors = || InMemory::new(4, noise(40, 1)).unwrap();
        let search = ExactSearch::new(&gpu, vectors(), 1 << 20).unwrap();
        for k in [0, 11] {
            assert!(matches!(search.search(&[0.0; 4], k), Err(Error::Argument { argument: "k", .. })));
        }
        assert!(matches!(search.search(&[0.0; 5], 1), Err(Error::Shape { argument: "queries", .. })));
        let got = search.search(&[0.0, f32::NAN, 0.0, 0.0], 1);
        assert!(matches!(&got, Err(Error::NonFinite { place, .. }) if place == "query 0, number 1"), "{got:?}");
        assert!(search.search(&[], 1).unwrap().is_empty());
        assert!(matches!(
            ExactSearch::new(&gpu, vectors(), 100).map(drop),
            Err(Error::Argument { argument: "budget", .. })
        ));
    }
    assert!(matches!(InMemory::new(4, vec![0.0; 5]), Err(Error::Shape { .. })));
    assert!(matches!(InMemory::new(0, vec![]), Err(Error::Shape { .. })));
    assert!(matches!(InMemory::new(1, vec![f32::INFINITY]), Err(Error::NonFinite { .. })));
}
