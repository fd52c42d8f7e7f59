//! Features of clips, of speech and of queries, from random vectors that stand for frozen networks.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{MomentWorldConfig, SimulatedVideo, Stretch, script};
use crate::data::moments::{Widths, l2_normalize_rows};
use crate::data::synthetic::captions::{POSITION_DIMS, position_code, vocabulary};
use crate::data::synthetic::events::{Action, Colour, Event, Shape};
use crate::data::synthetic::stream;
use crate::data::synthetic::words::words;
use crate::random::Random;
use crate::tensor::Array;
use crate::{Error, Result};

const CLIP_DIMS: usize = 64;
const WORD_DIMS: usize = 48;
const TOKEN_DIMS: usize = WORD_DIMS + POSITION_DIMS;

pub const WIDTHS: Widths = Widths { query: TOKEN_DIMS, video: CLIP_DIMS, sub: WORD_DIMS };

/// The deviation of the offset that all clips of a video share.
const OFFSET: f32 = 0.5;

/// The vectors of words and of what events are made of, all of unit variance.
#[derive(Clone, Debug)]
pub struct Encoder {
    words: BTreeMap<String, [f32; WORD_DIMS]>,
    colours: Vec<[f32; CLIP_DIMS]>,
    shapes: Vec<[f32; CLIP_DIMS]>,
    actions: Vec<[f32; CLIP_DIMS]>,
}

impl Encoder {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, stream::MOMENT_WORDS);
        let lines = script::lines();
        let texts = vocabulary().into_iter().chain(lines.iter().map(String::as_str)).chain([script::CONNECTIVES]);
        // In the order of the alphabet, so that no vector hangs on the order of the grammar.
        let mut vectors: BTreeMap<_, _> = texts.flat_map(words).map(|word| (word, [0.0; WORD_DIMS])).collect();
        vectors.values_mut().for_each(|vector| vector.fill_with(|| random.normal()));

        let mut random = Random::new(seed, stream::MOMENT_EVENTS);
        let mut draw = |count| (0..count).map(|_| std::array::from_fn(|_| random.normal())).collect();
        Self {
            words: vectors,
            colours: draw(Colour::ALL.len()),
            shapes: draw(Shape::ALL.len()),
            actions: draw(Action::ALL.len()),
        }
    }

    /// What a clip shows while `event` is on.
    pub fn event(&self, event: Event) -> [f32; CLIP_DIMS] {
        let parts = [
            &self.colours[event.colour as usize],
            &self.shapes[event.shape as usize],
            &self.actions[event.action as usize],
        ];
        std::array::from_fn(|i| parts.iter().map(|part| part[i]).sum())
    }

    /// What is seen, (clips, 64): events, the video's offset and noise; rows are L2-normalised.
    pub fn seen(&self, video: &SimulatedVideo, config: &MomentWorldConfig, index: usize) -> Array {
        let mut random = Random::new(config.seed, stream::SEEN + index as u64);
        let offset: [f32; CLIP_DIMS] = std::array::from_fn(|_| OFFSET * random.normal());
        let mut seen = Array::zeros([video.clips, CLIP_DIMS]);
        for row in seen.data_mut().chunks_exact_mut(CLIP_DIMS) {
            for (x, offset) in row.iter_mut().zip(offset) {
                *x = offset + config.noise * random.normal();
            }
        }
        for &(event, stretch) in &video.events {
            let shown = self.event(event);
            for row in rows(&mut seen, stretch) {
                row.iter_mut().zip(shown).for_each(|(x, part)| *x += part);
            }
        }
        l2_normalize_rows(&mut seen);
        seen
    }

    /// What is said, (clips, 48): the maximum over the line's words, and noise; zeros where nobody speaks.
    pub fn said(&self, video: &SimulatedVideo, config: &MomentWorldConfig, index: usize) -> Array {
        let mut random = Random::new(config.seed, stream::SAID + index as u64);
        let mut said = Array::zeros([video.clips, WORD_DIMS]);
        for (line, stretch) in &video.lines {
            let mut loudest = [f32::NEG_INFINITY; WORD_DIMS];
            for vector in words(line).filter_map(|word| self.words.get(&word)) {
                loudest.iter_mut().zip(vector).for_each(|(max, &x)| *max = max.max(x));
            }
            for row in rows(&mut said, *stretch) {
                row.iter_mut().zip(loudest).for_each(|(x, max)| *x = max + config.speech_noise * random.normal());
            }
        }
        said
    }

    /// The features of each word of a query, (tokens, 64): the word's vector and its position's code.
    pub fn query(&self, text: &str) -> Result<Array> {
        let wrong = |why| Error::argument("MomentWorld::encode_query", "text", why);
        let mut features = Vec::new();
        for (position, word) in words(text).enumerate() {
            let vector = self.words.get(&word).ok_or_else(|| {
                let known: Vec<_> = self.words.keys().map(String::as_str).collect();
                wrong(format!("has the word {word:?}; known are: {}", known.join(" ")))
            })?;
            let mut code = [0.0; POSITION_DIMS];
            position_code(position, &mut code);
            features.extend_from_slice(vector);
            features.extend(code.map(|x| x as f32));
        }
        if features.is_empty() {
            return Err(wrong("has no words".to_owned()));
        }
        Array::new([features.len() / TOKEN_DIMS, TOKEN_DIMS], features)
    }
}

/// The rows of the clips that `stretch` touches.
fn rows(clips: &mut Array, stretch: Stretch) -> impl Iterator<Item = &mut [f32]> {
    let width = clips.shape()[1];
    let Range { start, end } = stretch.clips();
    clips.data_mut()[start * width..end * width].chunks_exact_mut(width)
}
