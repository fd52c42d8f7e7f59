//! The order in which a run sees its data.

use serde::{Deserialize, Serialize};

use crate::random::Random;
use crate::{Error, Result};

/// Keeps the streams of the epochs apart from those that others draw from the same seed.
const STREAMS: u64 = u64::from_be_bytes(*b"epochs\0\0");

/// Batches of shuffled indices, a pure function of seed and step: a resumed run needs only its step to see exactly the data
/// it would have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampler {
    len: usize,
    batch: usize,
    seed: u64,
    drop_last: bool,
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

    /// The epoch of the global step `step`, both from 0.
    pub fn epoch_of(&self, step: u64) -> u64 {
        step / self.batches_per_epoch() as u64
    }

    /// The items of an epoch in their order.
    pub fn epoch(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.len).collect();
        Random::new(self.seed, STREAMS ^ epoch).shuffle(&mut order);
        order
    }

    /// The items that the global step `step` sees.
    pub fn batch(&self, step: u64) -> Vec<usize> {
        let place = (step % self.batches_per_epoch() as u64) as usize;
        self.epoch(self.epoch_of(step)).chunks(self.batch).nth(place).unwrap_or_default().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_once_an_epoch_in_another_order() {
        let sampler = Sampler::new(10, 4, 7, false).unwrap();
        assert_eq!(sampler.batches_per_epoch(), 3);
        let epoch = |e: u64| (3 * e..3 * (e + 1)).flat_map(|step| sampler.batch(step)).collect::<Vec<_>>();
        let (first, second) = (epoch(0), epoch(1));
        assert_ne!(first, second);
        for mut order in [first.clone(), second] {
            order.sort();
            assert_eq!(order, (0..10).collect::<Vec<_>>());
        }
        assert_eq!(first, sampler.epoch(0));
        assert_ne!(first, Sampler::new(10, 4, 8, false).unwrap().epoch(0));
        assert_eq!([2, 3].map(|step| sampler.epoch_of(step)), [0, 1]);
    }

    #[test]
    fn a_smaller_last_batch_is_kept_or_dropped() {
        for (drop_last, sizes) in [(false, vec![4, 4, 2]), (true, vec![4, 4])] {
            let sampler = Sampler::new(10, 4, 7, drop_last).unwrap();
            assert_eq!(sampler.batches_per_epoch(), sizes.len());
            for epoch in 0..3u64 {
                let steps = epoch * sizes.len() as u64..;
                let batches: Vec<_> = steps.take(sizes.len()).map(|step| sampler.batch(step)).collect();
                assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
                assert!(sampler.epoch(epoch).starts_with(&batches.concat()));
            }
        }
    }

    #[test]
    fn a_sampler_without_batches_is_an_error() {
        for (len, batch, drop_last) in [(0, 1, false), (1, 0, false), (3, 4, true)] {
            assert!(Sampler::new(len, batch, 0, drop_last).is_err());
        }
    }
}
