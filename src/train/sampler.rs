//! The order in which a run sees its data.

use serde::{Deserialize, Serialize};

use crate::random::Random;
use crate::{Error, Result};

/// Keeps the streams of the epochs apart from those that others draw from the same seed.
const STREAMS: u64 = u64::from_be_bytes(*b"epochs\0\0");

/// Batches of shuffled indices, a pure function of seed, epoch and batch: a resumed run needs only its step to see
/// exactly the data it would have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampler {
    len: usize,
    batch: usize,
    seed: u64,
    drop_last: bool,
}

/// Where a step lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Batch within the epoch, from 0.
    pub batch: usize,
}

impl Sampler {
    /// Batches of `batch` out of `len` items. `drop_last` leaves out a smaller batch at the end of an epoch.
    ///
    /// # Errors
    /// [`Error::Argument`] when there would be no batch.
    pub fn new(len: usize, batch: usize, seed: u64, drop_last: bool) -> Result<Self> {
        if batch == 0 || len == 0 || (drop_last && len < batch) {
            let why = format!("of {batch} gives no batch of {len} items");
            return Err(Error::Argument { op: "Sampler", argument: "batch", why });
        }
        Ok(Self { len, batch, seed, drop_last })
    }

    /// Batches of one epoch.
    pub fn batches_per_epoch(&self) -> usize {
        if self.drop_last { self.len / self.batch } else { self.len.div_ceil(self.batch) }
    }

    /// Epoch and batch of the global step `step`, from 0.
    pub fn position(&self, step: u64) -> Position {
        let batches = self.batches_per_epoch() as u64;
        Position { epoch: step / batches, batch: (step % batches) as usize }
    }

    /// The items of an epoch in their order.
    pub fn epoch(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.len).collect();
        Random::new(self.seed, STREAMS ^ epoch).shuffle(&mut order);
        order
    }

    /// The batches of an epoch from batch `from` on.
    pub fn batches(&self, epoch: u64, from: usize) -> impl Iterator<Item = Vec<usize>> {
        let (order, size) = (self.epoch(epoch), self.batch);
        (from..self.batches_per_epoch()).map(move |b| order[b * size..order.len().min((b + 1) * size)].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_once_an_epoch_in_another_order() {
        let sampler = Sampler::new(10, 4, 7, false).unwrap();
        let first: Vec<usize> = sampler.batches(0, 0).flatten().collect();
        let second: Vec<usize> = sampler.batches(1, 0).flatten().collect();
        assert_ne!(first, second);
        for mut order in [first.clone(), second] {
            order.sort();
            assert_eq!(order, (0..10).collect::<Vec<_>>());
        }
        assert_eq!(first, sampler.epoch(0));
        assert_ne!(first, Sampler::new(10, 4, 8, false).unwrap().epoch(0));
    }

    #[test]
    fn resumes_in_mid_epoch() {
        for (drop_last, batches) in [(false, 3), (true, 2)] {
            let sampler = Sampler::new(10, 4, 7, drop_last).unwrap();
            assert_eq!(sampler.batches_per_epoch(), batches);
            let all: Vec<_> = (0..3).flat_map(|epoch| sampler.batches(epoch, 0)).collect();
            for step in 0..all.len() as u64 {
                let Position { epoch, batch } = sampler.position(step);
                assert_eq!(sampler.batches(epoch, batch).next().as_ref(), Some(&all[step as usize]));
            }
            assert!(sampler.batches(0, 9).next().is_none());
        }
    }

    #[test]
    fn a_sampler_without_batches_is_an_error() {
        for (len, batch, drop_last) in [(0, 1, false), (1, 0, false), (3, 4, true)] {
            assert!(Sampler::new(len, batch, 0, drop_last).is_err());
        }
    }
}
