//! Captions in a small grammar, and features of their tokens.

use std::collections::BTreeMap;

use super::events::{Action, Colour, Event, Shape};
use super::stream;
use crate::random::Random;
use crate::random::portable;
use crate::{Error, Result};

/// The length of a token's feature vector.
pub const TOKEN_DIMS: usize = 80;

/// No caption of the grammar has more tokens.
pub const MAX_TOKENS: usize = 11;

/// The length of a word's vector; a token holds its own word's and the previous word's.
const WORD_DIMS: usize = 32;
/// The length of a position's code.
pub const POSITION_DIMS: usize = TOKEN_DIMS - 2 * WORD_DIMS;
/// The position counts double, or it would be drowned by the words; without it no model can know the order.
const POSITION_WEIGHT: f64 = 2.0;

/// The four captions of two events: each event in either wording, in an order drawn from `random`.
pub fn captions(events: [Event; 2], random: &mut Random) -> Vec<String> {
    let mut wordings = [[false, false], [false, true], [true, false], [true, true]];
    random.shuffle(&mut wordings);
    let captions = wordings.map(|[first, second]| {
        let [a, b] = [phrase(events[0], first), phrase(events[1], second)];
        format!("{a} then {b}")
    });
    captions.into()
}

/// An event in either wording.
pub fn phrase(Event { colour, shape, action }: Event, other_words: bool) -> String {
    let verb = if other_words { action.other_words() } else { action.word() };
    format!("a {} {} {verb}", colour.word(), shape.word())
}

/// All words of the grammar, sorted.
pub fn vocabulary() -> Vec<&'static str> {
    let nouns = Colour::ALL.iter().map(|c| c.word()).chain(Shape::ALL.iter().map(|s| s.word()));
    let verbs = Action::ALL.iter().flat_map(|a| [a.word(), a.other_words()]).flat_map(str::split_whitespace);
    let mut words: Vec<_> = nouns.chain(verbs).chain(["a", "then"]).collect();
    words.sort_unstable();
    words.dedup();
    words
}

/// Turns captions into token features, the way a frozen language model would: each vector mixes the word, its left
/// neighbour and its position, and no single dimension means anything.
#[derive(Clone, Debug)]
pub struct TokenEncoder {
    words: BTreeMap<&'static str, [f64; WORD_DIMS]>,
    /// (input, output).
    mix: Vec<[f64; TOKEN_DIMS]>,
}

impl TokenEncoder {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, stream::WORDS);
        let words =
            vocabulary().into_iter().map(|w| (w, std::array::from_fn(|_| f64::from(random.normal())))).collect();
        let mut random = Random::new(seed, stream::TOKEN_MATRIX);
        let scale = 1.0 / (TOKEN_DIMS as f64).sqrt();
        let mix = (0..TOKEN_DIMS).map(|_| std::array::from_fn(|_| f64::from(random.normal()) * scale)).collect();
        Self { words, mix }
    }

    /// The features of each token of `caption`, row-major (tokens, [`TOKEN_DIMS`]).
    pub fn encode(&self, caption: &str) -> Result<Vec<f32>> {
        let mut features = Vec::new();
        let mut previous = [0.0; WORD_DIMS];
        for (position, token) in caption.split_whitespace().enumerate() {
            let Some(&word) = self.words.get(token) else {
                let known: Vec<_> = self.words.keys().copied().collect();
                let why = format!("has the word {token:?}; known are: {}", known.join(" "));
                return Err(Error::argument("World::encode_caption", "caption", why));
            };
            let mut input = [0.0; TOKEN_DIMS];
            input[..WORD_DIMS].copy_from_slice(&word);
            input[WORD_DIMS..2 * WORD_DIMS].copy_from_slice(&previous);
            position_code(position, &mut input[2 * WORD_DIMS..]);
            let mut mixed = [0.0; TOKEN_DIMS];
            for (row, x) in self.mix.iter().zip(input) {
                for (sum, m) in mixed.iter_mut().zip(row) {
                    *sum += m * x;
                }
            }
            features.extend(mixed.map(|v| portable::tanh(v) as f32));
            previous = word;
        }
        Ok(features)
    }
}

/// The sinusoids of "Attention is all you need", for [`POSITION_DIMS`] dimensions.
pub fn position_code(position: usize, code: &mut [f64]) {
    /// The ratio of one frequency to the one before: 10000^(-2 / POSITION_DIMS).
    const STEP: f64 = 0.316_227_766_016_837_94;
    const { assert!(POSITION_DIMS == 16) };
    let mut turns = position as f64 / std::f64::consts::TAU;
    for pair in code.chunks_exact_mut(2) {
        let (sin, cos) = portable::sin_cos_turns(turns);
        pair.copy_from_slice(&[POSITION_WEIGHT * sin, POSITION_WEIGHT * cos]);
        turns *= STEP;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_caption_has_one_meaning() {
        let phrases: Vec<_> = Event::all().flat_map(|e| [phrase(e, false), phrase(e, true)]).collect();
        assert_eq!(phrases.len(), 288);
        assert_eq!(phrases.iter().collect::<HashSet<_>>().len(), 288);
        // "then" occurs only between the two phrases, so a caption splits in one way.
        assert!(phrases.iter().all(|p| !p.contains("then")));
        // The longest caption has twice the longest phrase.
        let longest = phrases.iter().map(|p| p.split(' ').count()).max().unwrap();
        assert_eq!(2 * longest + 1, MAX_TOKENS);
    }

    #[test]
    fn four_wordings_in_the_right_order() {
        let events: Vec<_> = Event::all().collect();
        let [a, b] = [events[3], events[77]];
        let captions = captions([a, b], &mut Random::new(0, 0));
        assert_eq!(captions.iter().collect::<HashSet<_>>().len(), 4);
        for caption in captions {
            let (first, second) = caption.split_once(" then ").unwrap();
            assert!([phrase(a, false), phrase(a, true)].contains(&first.to_owned()));
            assert!([phrase(b, false), phrase(b, true)].contains(&second.to_owned()));
        }
    }

    #[test]
    fn tokens_depend_on_word_neighbour_and_position() {
        let encoder = TokenEncoder::new(5);
        let encode = |caption| encoder.encode(caption).unwrap();
        let features = encode("a red square moves left then a red circle rises");
        assert_eq!(features.len(), 10 * TOKEN_DIMS);
        assert!(features.iter().all(|v| v.abs() <= 1.0));
        let token = |i: usize| &features[i * TOKEN_DIMS..(i + 1) * TOKEN_DIMS];
        // "red" after "a" at two positions; then the same position after another word.
        assert_ne!(token(1), token(7));
        assert_ne!(&encode("then red")[TOKEN_DIMS..], token(1));
        assert_eq!(&encode("a red")[TOKEN_DIMS..], token(1));
        assert!(encode("").is_empty());
        assert!(matches!(encoder.encode("a pink square"), Err(Error::Argument { .. })));
    }
}
