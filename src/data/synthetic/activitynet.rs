//! Simulated features for the real sentences and times of ActivityNet Captions.

use std::collections::HashMap;

use super::stream;
use super::words::words;
use crate::data::checked_index;
use crate::data::moments::{Clips, MomentQuery, MomentSource, MomentSplit, Timing, Widths, l2_normalize_rows};
use crate::random::Random;
use crate::tensor::Array;
use crate::{Error, Result};

const OP: &str = "SimulatedActivityNet::new";

/// The widest vectors, the most clips and the most distractors that can be asked for.
const MOST: usize = 4096;

/// How features are simulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SimulationOptions {
    /// The seed of everything; splits that belong together need the same.
    pub seed: u64,
    /// Width of a word's vector, 1 to 4,096.
    pub word_width: usize,
    /// Width of a clip's features, 1 to 4,096.
    pub clip_width: usize,
    /// How long a clip lasts, in seconds.
    pub seconds_per_clip: f64,
    /// Most clips of a video, 1 to 4,096; longer videos have longer clips, so that they last as long
    /// ([`Timing::Rescaled`]).
    pub max_clips: usize,
    /// Most words of a query; the rest is cut off.
    pub max_tokens: usize,
    /// The deviation of the noise in a clip; its words have about 1.
    pub noise: f32,
    /// Words of the split's vocabulary that are mixed into each clip, drawn anew for each; at most 4,096.
    pub distractors: usize,
    /// Uses the first videos of the split only, for quick runs.
    pub max_videos: Option<usize>,
}

impl Default for SimulationOptions {
    /// Seed 0, words of 64 and clips of 128 values, at most 128 clips of 2 s and 64 words, noise of 1, 4 distractors,
    /// all videos.
    fn default() -> Self {
        Self {
            seed: 0,
            word_width: 64,
            clip_width: 128,
            seconds_per_clip: 2.0,
            max_clips: 128,
            max_tokens: 64,
            noise: 1.0,
            distractors: 4,
            max_videos: None,
        }
    }
}

impl SimulationOptions {
    fn check(&self) -> Result<()> {
        let sizes = [self.word_width, self.clip_width, self.max_clips];
        let why = if !sizes.iter().all(|size| (1..=MOST).contains(size)) || self.distractors > MOST {
            format!("must have widths and clips from 1 to {MOST}, and no more distractors")
        } else if !(self.seconds_per_clip.is_finite() && self.seconds_per_clip > 0.0) {
            "must have clips that last a positive time".to_owned()
        } else if self.max_tokens == 0 || self.max_videos == Some(0) {
            "must allow at least one word and one video".to_owned()
        } else if !self.noise.is_finite() || self.noise < 0.0 {
            "must have a finite deviation of noise that is not negative".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::argument(OP, "options", why))
    }
}

/// The sentences and times of ActivityNet Captions with **simulated** features: no features of the real videos exist
/// here, and figures measured on these say nothing about real videos.
///
/// Each word has a random vector of its own, a function of the seed and the word alone, which is also its token
/// feature. A clip is a fixed random projection of the sum of the vectors of all words of the sentences whose windows
/// touch it and of some distractors, divided by the root of their number, plus noise. All rows are L2-normalised. The
/// splits of one seed share vectors and projection, and nothing else.
///
/// Features are computed when asked for, each a function of the options, the video's id and its sentences, to the bit
/// on every platform. What is kept is two rows for each word of the vocabulary: 8 MB for the training split.
#[derive(Clone, Debug)]
pub struct SimulatedActivityNet {
    options: SimulationOptions,
    split: MomentSplit,
    /// The words of each query, as places in the tables.
    words: Vec<Vec<u32>>,
    /// The place of each query's video.
    video_of: Vec<Option<usize>>,
    /// The queries of each video.
    queries_of: Vec<Vec<usize>>,
    /// (vocabulary, word width), L2-normalised.
    tokens: Array,
    /// The vectors after the projection, (vocabulary, clip width).
    projected: Array,
}

impl SimulationOptions {
    /// The features of a sentence, (words, word width), as the queries of the corpus have them.
    ///
    /// # Errors
    /// [`Error::Argument`] for a sentence without words, and for an option out of its range.
    pub fn encode_query(&self, text: &str) -> Result<Array> {
        self.check()?;
        let mut vocabulary = Vocabulary::default();
        let places = vocabulary.places(text);
        if places.is_empty() {
            return Err(Error::argument("encode_query", "text", format!("has no words: {text:?}")));
        }
        let (vectors, _) = vocabulary.vectors(self);
        let rows = places.iter().take(self.max_tokens).flat_map(|&place| vectors.row(place as usize));
        Array::new([places.len().min(self.max_tokens), self.word_width], rows.copied().collect())
    }
}

impl SimulatedActivityNet {
    /// Prepares the words of `split`.
    ///
    /// # Errors
    /// [`Error::Argument`] for an option out of its range, for a split without videos or queries, for a query without
    /// words, for one whose video is not in the split, and for a duration that is not positive and finite.
    pub fn new(mut split: MomentSplit, options: SimulationOptions) -> Result<Self> {
        options.check()?;
        let wrong = |why: String| Error::argument(OP, "split", why);
        if split.videos.is_empty() {
            return Err(wrong("has no videos".to_owned()));
        }
        if let Some(video) = split.videos.iter().find(|v| !(v.duration.is_finite() && v.duration > 0.0)) {
            return Err(wrong(format!("has the video {:?} of {} s", video.id, video.duration)));
        }
        let places: HashMap<String, usize> =
            split.videos.iter().enumerate().map(|(place, video)| (video.id.clone(), place)).collect();
        let place = |query: &MomentQuery| query.video.as_ref().map(|id| places.get(id).copied());
        if let Some(query) = split.queries.iter().find(|q| place(q) == Some(None)) {
            return Err(wrong(format!("has no video {:?}, which query {} asks for", query.video, query.id)));
        }
        if let Some(most) = options.max_videos {
            split.videos.truncate(most);
            split.queries.retain(|query| place(query).flatten().is_none_or(|place| place < most));
        }

        let video_of: Vec<_> = split.queries.iter().map(|query| place(query).flatten()).collect();
        let mut queries_of = vec![Vec::new(); split.videos.len()];
        for (query, video) in video_of.iter().enumerate() {
            if let Some(video) = *video {
                queries_of[video].push(query);
            }
        }
        let mut vocabulary = Vocabulary::default();
        let words: Vec<_> = split.queries.iter().map(|query| vocabulary.places(&query.text)).collect();
        if let Some(query) = words.iter().position(Vec::is_empty) {
            return Err(wrong(format!("has a query without words: {}", split.queries[query].id)));
        }
        if vocabulary.words.is_empty() {
            return Err(wrong("has no queries".to_owned()));
        }
        let (tokens, projected) = vocabulary.vectors(&options);
        Ok(Self { options, split, words, video_of, queries_of, tokens, projected })
    }

    /// Adds the projected vectors of `words` to `sum`.
    fn add_words(&self, sum: &mut [f32], words: impl IntoIterator<Item = u32>) {
        for word in words {
            let row = &self.projected.data()[word as usize * sum.len()..][..sum.len()];
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    }
}

impl MomentSource for SimulatedActivityNet {
    fn widths(&self) -> Widths {
        Widths { query: self.options.word_width, video: self.options.clip_width, sub: 0 }
    }

    fn split(&self) -> &MomentSplit {
        &self.split
    }

    fn video_of(&self, query: usize) -> Result<Option<usize>> {
        Ok(self.video_of[checked_index("SimulatedActivityNet", query, self.video_of.len())?])
    }

    fn clips(&self, video: usize) -> Result<Clips> {
        let SimulationOptions { clip_width: width, max_clips, noise, distractors, .. } = self.options;
        let entry = &self.split.videos[checked_index("SimulatedActivityNet", video, self.split.videos.len())?];
        let all = ((entry.duration / self.options.seconds_per_clip).ceil() as usize).max(1);
        let kept = all.min(max_clips);
        let seconds_per_clip = Timing::Rescaled.seconds_per_clip(self.options.seconds_per_clip, all, kept);

        // The number of words of each clip, and the sum of their vectors.
        let mut counts = vec![distractors; kept];
        let mut clips = Array::zeros([kept, width]);
        let mut sentence = vec![0.0; width];
        for &query in &self.queries_of[video] {
            sentence.fill(0.0);
            self.add_words(&mut sentence, self.words[query].iter().copied());
            for [start, end] in &self.split.queries[query].windows {
                let first = (start / seconds_per_clip).max(0.0) as usize;
                let end = (end / seconds_per_clip).ceil().max(0.0) as usize;
                let rows = clips.data_mut().chunks_exact_mut(width).zip(&mut counts);
                for (row, count) in rows.take(end).skip(first) {
                    row.iter_mut().zip(&sentence).for_each(|(sum, x)| *sum += x);
                    *count += self.words[query].len();
                }
            }
        }
        let vocabulary = self.tokens.shape()[0];
        let mut random = Random::new(self.options.seed, hash(&entry.id));
        for (row, count) in clips.data_mut().chunks_exact_mut(width).zip(counts) {
            self.add_words(row, (0..distractors).map(|_| random.below(vocabulary) as u32));
            let scale = 1.0 / (count.max(1) as f32).sqrt();
            row.iter_mut().for_each(|x| *x = *x * scale + noise * bell(random.u32()));
        }
        l2_normalize_rows(&mut clips);
        Ok(Clips { video: Some(clips), sub: None, seconds_per_clip })
    }

    fn tokens(&self, query: usize) -> Result<Array> {
        let words = &self.words[checked_index("SimulatedActivityNet", query, self.words.len())?];
        let words = &words[..words.len().min(self.options.max_tokens)];
        let width = self.options.word_width;
        let rows = words.iter().flat_map(|&word| &self.tokens.data()[word as usize * width..][..width]);
        Array::new([words.len(), width], rows.copied().collect())
    }
}

/// Words and their places, in the order in which they were met.
#[derive(Default)]
struct Vocabulary {
    places: HashMap<String, u32>,
    words: Vec<String>,
}

impl Vocabulary {
    fn places(&mut self, text: &str) -> Vec<u32> {
        let place = |word: String| {
            *self.places.entry(word).or_insert_with_key(|word| {
                self.words.push(word.clone());
                self.words.len() as u32 - 1
            })
        };
        words(text).map(place).collect()
    }

    /// The vectors of all words: L2-normalised (words, word width), and projected (words, clip width).
    fn vectors(&self, options: &SimulationOptions) -> (Array, Array) {
        let (from, to) = (options.word_width, options.clip_width);
        let mut random = Random::new(options.seed, stream::WORD_MATRIX);
        let scale = 1.0 / (from as f32).sqrt();
        // (word width, clip width)
        let matrix: Vec<f32> = (0..from * to).map(|_| random.normal() * scale).collect();
        let mut vectors = Array::zeros([self.words.len(), from]);
        let mut projected = Array::zeros([self.words.len(), to]);
        let rows = vectors.data_mut().chunks_exact_mut(from).zip(projected.data_mut().chunks_exact_mut(to));
        for (word, (vector, projected)) in self.words.iter().zip(rows) {
            let mut random = Random::new(options.seed, hash(word));
            vector.fill_with(|| random.normal());
            for (x, row) in vector.iter().zip(matrix.chunks_exact(to)) {
                projected.iter_mut().zip(row).for_each(|(sum, m)| *sum += x * m);
            }
        }
        l2_normalize_rows(&mut vectors);
        (vectors, projected)
    }
}

/// The stream of a word or of a video's id (FNV-1a, 64 bits).
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Almost a standard normal number: the sum of the four bytes of `bits`, centred and scaled. It lies within 3.5, and
/// takes an eighth of the time of [`Random::normal`], which would take most of a batch's.
fn bell(bits: u32) -> f32 {
    /// The deviation of such a sum: the root of 4 * (256 * 256 - 1) / 12.
    const DEVIATION: f32 = 147.800_54;
    let sum: u32 = bits.to_le_bytes().map(u32::from).iter().sum();
    (sum as f32 - 510.0) / DEVIATION
}

#[cfg(test)]
mod tests;
