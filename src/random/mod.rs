//! Random numbers that are a pure function of seed, stream and position.
//!
//! A counter-based generator needs no warm-up and no shared state: every video, epoch or matrix takes a stream of its
//! own, so results do not depend on the order of work or on the number of threads.

use serde::{Deserialize, Serialize};

pub(crate) mod portable;

/// One block of Philox 4x32-10: 128 random bits from a 128-bit counter and a 64-bit key.
///
/// Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let p0 = u64::from(c0) * 0xD251_1F53;
        let p1 = u64::from(c2) * 0xCD9E_8D57;
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

/// A stream of random numbers: the same on every platform, cheap to make, and resumable at any position.
///
/// Serialises as seed, stream and position.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Random {
    seed: u64,
    stream: u64,
    /// Words drawn so far.
    position: u64,
    /// The block that the last word was of; `None` before the first.
    #[serde(skip)]
    block: Option<[u32; 4]>,
}

/// The block is a function of the rest, where it matters.
impl PartialEq for Random {
    fn eq(&self, other: &Self) -> bool {
        (self.seed, self.stream, self.position) == (other.seed, other.stream, other.position)
    }
}

impl Eq for Random {}

impl Random {
    /// The start of stream `stream` of `seed`. Streams are independent of each other.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self::at(seed, stream, 0)
    }

    /// The stream after `position` words of 32 bits were drawn from it.
    pub fn at(seed: u64, stream: u64, position: u64) -> Self {
        Self { seed, stream, position, block: None }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The stream.
    pub fn stream(&self) -> u64 {
        self.stream
    }

    /// How many words of 32 bits were drawn.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next 32 random bits.
    pub fn u32(&mut self) -> u32 {
        let lane = (self.position % 4) as usize;
        let block = self.block.filter(|_| lane > 0).unwrap_or_else(|| self.block());
        (self.block, self.position) = (Some(block), self.position.wrapping_add(1));
        block[lane]
    }

    /// The next 64 random bits, the first word in the low half.
    pub fn u64(&mut self) -> u64 {
        let low = self.u32();
        u64::from(self.u32()) << 32 | u64::from(low)
    }

    /// An integer in `0..n`, each equally likely; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        if n == 0 {
            return 0;
        }
        // Lemire's method: the high half of a product, where the few low halves that favour some results are rejected.
        let reject_below = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.u64()) * u128::from(n);
            if product as u64 >= reject_below {
                return (product >> 64) as usize;
            }
        }
    }

    /// A number in `[0, 1)`, a multiple of 2^-24.
    pub fn uniform(&mut self) -> f32 {
        (self.u32() >> 8) as f32 / (1 << 24) as f32
    }

    /// A standard normal number, by Box and Muller; always draws two words.
    pub fn normal(&mut self) -> f32 {
        const SCALE: f64 = 1.0 / 4_294_967_296.0;
        // In (0, 1): the logarithm stays finite.
        let radius = (f64::from(self.u32()) + 0.5) * SCALE;
        let (_, cos) = portable::sin_cos_turns(f64::from(self.u32()) * SCALE);
        ((-2.0 * portable::ln(radius)).sqrt() * cos) as f32
    }

    /// Puts `items` into a random order, each order equally likely (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// The block that holds the next word.
    fn block(&self) -> [u32; 4] {
        let Self { seed, stream, position, .. } = *self;
        let block = position / 4;
        philox4x32(
            [block as u32, (block >> 32) as u32, stream as u32, (stream >> 32) as u32],
            [seed as u32, (seed >> 32) as u32],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]);
        assert_eq!(philox4x32([u32::MAX; 4], [u32::MAX; 2]), [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]);
        let pi = ([0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344], [0xA409_3822, 0x299F_31D0]);
        assert_eq!(philox4x32(pi.0, pi.1), [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1]);
    }

    #[test]
    fn resumes_anywhere_and_through_json() {
        let mut whole = Random::new(7, 1 << 40);
        for position in 0..9 {
            assert_eq!(whole.position(), position);
            let mut saved: Random = serde_json::from_str(&serde_json::to_string(&whole).unwrap()).unwrap();
            assert_eq!(saved, Random::at(7, 1 << 40, position));
            assert_eq!((saved.seed(), saved.stream()), (7, 1 << 40));
            assert_eq!(saved.u32(), whole.u32());
        }
    }

    #[test]
    fn moments_and_ranges() {
        let mut random = Random::new(1, 2);
        let n = 200_000i32;
        let mut sums = [0.0f64; 5];
        let mut counts = [0; 7];
        for _ in 0..n {
            let u = random.uniform();
            assert!((0.0..1.0).contains(&u));
            let z = f64::from(random.normal());
            for (sum, v) in sums.iter_mut().zip([u.into(), z, z * z, z * z * z, z * z * z * z]) {
                *sum += v / f64::from(n);
            }
            counts[random.below(7)] += 1;
        }
        for (got, expected) in sums.iter().zip([0.5, 0.0, 1.0, 0.0, 3.0]) {
            assert!((got - expected).abs() < 0.05, "{sums:?}");
        }
        for c in counts {
            assert!((c - n / 7).abs() < 700, "{counts:?}");
        }
        assert_eq!((random.below(0), random.below(1)), (0, 0));
    }

    #[test]
    fn shuffle_keeps_every_item() {
        let mut items: Vec<usize> = (0..100).collect();
        Random::new(3, 0).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
        Random::new(3, 0).shuffle::<u8>(&mut []);
    }
}
