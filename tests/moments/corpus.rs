//! A small corpus in memory, and a network of random weights for it.

use reelgrad::autograd::{Tape, Var};
use reelgrad::data::moments::{
    Clips, MomentQuery, MomentSource, MomentSplit, MomentVideo, Problems, Widths, pad_clips,
};
use reelgrad::models::Model;
use reelgrad::models::reloclnet::{Padding, Reloclnet, ReloclnetConfig, Streams, upload_streams};
use reelgrad::retrieval::moments::{IndexOptions, IndexedVideo, MomentIndex, MomentSearchOptions};
use reelgrad::{Array, Error, Gpu, Result, Silent, Tensor};

use crate::common::{gpu, noise};

const WIDTHS: Widths = Widths { query: 4, video: 5, sub: 3 };

pub fn config(streams: Streams, padding: Padding) -> ReloclnetConfig {
    ReloclnetConfig {
        hidden_size: 8,
        num_heads: 2,
        video_dim: WIDTHS.video,
        sub_dim: WIDTHS.sub,
        query_dim: WIDTHS.query,
        streams,
        max_clips: 11,
        max_tokens: 5,
        padding,
        init_std: 0.4,
        ..ReloclnetConfig::default()
    }
}

pub fn model(streams: Streams, padding: Padding) -> Reloclnet {
    model_on(&gpu(), streams, padding)
}

pub fn model_on(gpu: &Gpu, streams: Streams, padding: Padding) -> Reloclnet {
    Reloclnet::new(gpu, config(streams, padding), 3).unwrap()
}

/// Spans of 1 to 5 clips.
pub fn options() -> MomentSearchOptions {
    MomentSearchOptions {
        min_length: 1,
        max_length: 6,
        max_videos: 5,
        top: 40,
        keep: 40,
        batch: 3,
        ..MomentSearchOptions::default()
    }
}

/// Noise for features.
pub struct Corpus {
    split: MomentSplit,
    pub clips: Vec<Clips>,
    pub tokens: Vec<Array>,
}

impl Corpus {
    /// Videos of so many clips each, and queries of so many tokens each; a query belongs to the video of its number.
    pub fn new(clips: &[usize], tokens: &[usize]) -> Self {
        let seconds = |i: usize| 1.5 + 0.25 * i as f64;
        let video = |(i, &n): (usize, &usize)| MomentVideo {
            id: format!("video {i}"),
            duration: seconds(i) * n as f64,
            index: 100 + 7 * i as u64,
        };
        let query = |i: usize| {
            MomentQuery::new(50 - i as u64, format!("query {i}"), Some(format!("video {i}")), vec![[0.0, 1.5]])
        };
        let features = |(i, &n): (usize, &usize)| Clips {
            video: Some(noise(&[n, WIDTHS.video], 100 + i as u64)),
            sub: Some(noise(&[n, WIDTHS.sub], 200 + i as u64)),
            seconds_per_clip: seconds(i),
        };
        Self {
            split: MomentSplit {
                videos: clips.iter().enumerate().map(video).collect(),
                queries: (0..tokens.len()).map(query).collect(),
            },
            clips: clips.iter().enumerate().map(features).collect(),
            tokens: tokens.iter().zip(300..).map(|(&n, seed)| noise(&[n, WIDTHS.query], seed)).collect(),
        }
    }

    /// The tokens of all queries.
    pub fn sentences(&self) -> Vec<&Array> {
        self.tokens.iter().collect()
    }
}

/// Seven videos, and eight queries of which two have one token.
pub fn corpus() -> Corpus {
    let mut corpus = Corpus::new(&[11, 1, 2, 7, 9, 3, 10], &[5, 1, 2, 4, 3, 1, 5]);
    // A query whose label is withheld.
    let withheld = MomentQuery { id: 1, video: None, windows: vec![], ..corpus.queries()[0].clone() };
    corpus.split.queries.push(withheld);
    corpus.tokens.push(noise(&[2, WIDTHS.query], 400));
    corpus
}

impl MomentSource for Corpus {
    fn widths(&self) -> Widths {
        WIDTHS
    }

    fn split(&self) -> &MomentSplit {
        &self.split
    }

    fn video_of(&self, query: usize) -> Result<Option<usize>> {
        Ok(self.queries()[query].video.is_some().then_some(query))
    }

    fn clips(&self, video: usize) -> Result<Clips> {
        finite(&self.videos()[video].id, self.clips[video].video.as_ref().unwrap())?;
        Ok(self.clips[video].clone())
    }

    fn tokens(&self, query: usize) -> Result<Array> {
        finite(&self.queries()[query].text, &self.tokens[query])?;
        Ok(self.tokens[query].clone())
    }
}

/// What readers of files do.
fn finite(place: &str, features: &Array) -> Result<()> {
    let Some((count, _)) = features.non_finite() else { return Ok(()) };
    Err(Error::NonFinite { origin: "memory".into(), place: place.into(), count })
}

/// An index of the corpus.
pub fn build(model: &Reloclnet, source: &Corpus, options: IndexOptions) -> Result<MomentIndex> {
    MomentIndex::build(model, source, options, &mut Problems::strict(), &mut Silent)
}

/// A video with its encodings, (positions, D) for each stream.
pub type Encoded = (IndexedVideo, Vec<Array>);

/// The corpus, encoded one video at a time.
pub fn encoded(model: &Reloclnet, source: &Corpus) -> Vec<Encoded> {
    let gpu = model.store().gpu();
    let encode = |(i, clips): (usize, &Clips)| {
        let (video, sub, mask) = pad_clips(&[clips], model.config().batch_options()).unwrap();
        let streams = upload_streams(gpu, model.config(), [&video, &sub], &mask).unwrap();
        let tape = Tape::inference(gpu);
        let features: Vec<Var> = streams.iter().map(|s| tape.constant(s.features.clone())).collect();
        let masks: Vec<Tensor> = streams.iter().map(|s| s.mask.clone()).collect();
        let levels = model.encode_clips(&features, &masks).unwrap();
        let array = |x: &Var| Array::new(&x.shape()[1..], x.value().to_vec().unwrap()).unwrap();
        let listed = &source.videos()[i];
        let video = IndexedVideo {
            id: listed.id.clone(),
            index: listed.index,
            duration: listed.duration,
            clips: clips.len(),
            seconds_per_clip: clips.seconds_per_clip,
        };
        (video, levels.iter().map(|l| array(&l.last)).collect())
    };
    source.clips.iter().enumerate().map(encode).collect()
}
