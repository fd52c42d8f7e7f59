//! When things happen: stretches of events and of spoken lines.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::random::Random;

/// A clip in hundredths of a second.
const CLIP: u32 = 150;

/// Seconds of a clip, as in TVR's files.
pub const CLIP_SECONDS: f64 = 1.5;

/// Most events of a video; there are at least three.
pub const MOST_EVENTS: usize = 5;

/// Clips of the shortest event.
const SHORTEST: usize = 3;

/// Clips that the most events need, with one between each two.
pub const FEWEST_CLIPS: usize = MOST_EVENTS * SHORTEST + MOST_EVENTS - 1;

/// A stretch of time. It begins in the first half of its first clip and ends in the second half of its last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// The start in hundredths of a second.
    pub from: u32,
    /// The end in hundredths of a second.
    pub to: u32,
}

impl Stretch {
    fn over(clips: Range<usize>, random: &mut Random) -> Self {
        let mut less_than_half = || random.below(CLIP as usize / 2) as u32;
        Self { from: clips.start as u32 * CLIP + less_than_half(), to: clips.end as u32 * CLIP - less_than_half() }
    }

    /// The clips that it touches.
    pub fn clips(self) -> Range<usize> {
        (self.from / CLIP) as usize..self.to.div_ceil(CLIP) as usize
    }

    /// Start and end in seconds.
    pub fn window(self) -> [f64; 2] {
        [self.from, self.to].map(|t| f64::from(t) / 100.0)
    }

    /// The same stretch, counted from the end of a video of `clips` clips.
    pub fn mirrored(self, clips: usize) -> Self {
        let end = clips as u32 * CLIP;
        Self { from: end - self.to, to: end - self.from }
    }

    /// What two stretches share, if it is at least two clips: decoders find nothing shorter.
    pub fn shared(self, other: Self) -> Option<Self> {
        let shared = Self { from: self.from.max(other.from), to: self.to.min(other.to) };
        (shared.clips().len() >= 2).then_some(shared)
    }
}

/// Stretches of 3 to 8 clips for `count` events, with at least a clip between each two. `clips` is at least
/// [`FEWEST_CLIPS`] and `count` at most [`MOST_EVENTS`].
pub fn event_stretches(clips: usize, count: usize, random: &mut Random) -> Vec<Stretch> {
    let mut free = clips - (SHORTEST * count + count - 1);
    let mut lengths: Vec<usize> = (0..count)
        .map(|_| {
            let more = random.below(6).min(free);
            free -= more;
            SHORTEST + more
        })
        .collect();
    // The last ones may have got less.
    random.shuffle(&mut lengths);
    let mut gaps = vec![1; count + 1];
    gaps[0] = 0;
    for _ in 0..free {
        gaps[random.below(count + 1)] += 1;
    }
    let mut end = 0;
    let place = |(gap, length)| {
        let start = end + gap;
        end = start + length;
        Stretch::over(start..end, random)
    };
    gaps.into_iter().zip(lengths).map(place).collect()
}

/// Stretches of 2 to 4 clips for lines, with up to 3 silent clips between each two.
pub fn line_stretches(clips: usize, random: &mut Random) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    let mut end = 0;
    loop {
        let start = end + random.below(4);
        end = start + 2 + random.below(3);
        if end > clips {
            return stretches;
        }
        stretches.push(Stretch::over(start..end, random));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_keep_their_clips() {
        let mut random = Random::new(1, 0);
        for (start, end) in [(0, 2), (3, 4), (17, 25)] {
            for _ in 0..200 {
                let stretch = Stretch::over(start..end, &mut random);
                assert_eq!(stretch.clips(), start..end);
                let [from, to] = stretch.window();
                assert_eq!((from / CLIP_SECONDS).floor(), start as f64);
                assert_eq!((to / CLIP_SECONDS).ceil(), end as f64);
                assert_eq!(stretch.mirrored(30).clips(), 30 - end..30 - start);
                assert_eq!(stretch.mirrored(30).mirrored(30), stretch);
            }
        }
    }

    #[test]
    fn two_clips_must_be_shared() {
        let stretch = |from, to| Stretch { from, to };
        let event = stretch(310, 1180);
        assert_eq!(event.shared(stretch(1000, 1500)), Some(stretch(1000, 1180)));
        assert_eq!(event.shared(stretch(1050, 1500)), None);
        assert_eq!(event.shared(stretch(0, 300)), None);
        assert_eq!(event.shared(event), Some(event));
    }

    #[test]
    fn stretches_have_their_lengths_and_gaps() {
        let mut random = Random::new(2, 0);
        let mut lengths = [0; 9];
        for round in 0..300 {
            let clips = FEWEST_CLIPS + round % 23;
            let count = 3 + round % 3;
            let events = event_stretches(clips, count, &mut random);
            assert_eq!(events.len(), count);
            let lines = line_stretches(clips, &mut random);
            assert!(lines.len() >= 2, "{lines:?}");
            for (stretches, gap, range) in [(&events, 1, 3..9), (&lines, 0, 2..5)] {
                assert!(stretches.iter().all(|s| range.contains(&s.clips().len())), "{stretches:?}");
                assert!(stretches.windows(2).all(|s| s[0].clips().end + gap <= s[1].clips().start), "{stretches:?}");
                assert!(stretches.last().unwrap().clips().end <= clips);
            }
            events.iter().for_each(|s| lengths[s.clips().len()] += 1);
        }
        assert!(lengths[3..].iter().all(|&n| n > 50), "{lengths:?}");
    }
}
