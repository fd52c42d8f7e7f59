//! The parts of a dataset, and how a model is evaluated on them.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Data;
use crate::Result;
use crate::data::Part;
use crate::data::captions::Dataset;
use crate::data::media::preprocess::Preprocess;
use crate::data::media::video::VideoInput;
use crate::data::moments::Problems;
use crate::data::pairs::PairSource;
use crate::data::pairs::dataset::PairDataset;
use crate::data::synthetic::{ClipPairs, ClipWorld};
use crate::data::tokenizer::Tokenizer;
use crate::models::clip::{ClipConfig, Family, Pretrained};
use crate::models::clip4clip::BaseConfig;
use crate::models::text_image::Processor;
use crate::models::towers::{TowerModel, TwoStageModel};
use crate::retrieval::gallery::{Gallery, TextTile, VideoToText, score_all};
use crate::retrieval::{Counts, RetrievalMetrics, Ties};
use crate::run::{Parts, Spread};
use crate::tensor::Array;

/// Videos, and texts, that are encoded and compared at a time.
const TILE: usize = 64;

/// Texts and videos of one part, and for each text the videos that answer it.
pub struct Source {
    /// The texts and videos.
    pub pairs: Box<dyn PairSource>,
    /// For each text its videos; none in the synthetic training part, which needs none.
    answers: Vec<Vec<usize>>,
    /// The texts that tell a part of their clip only, ascending; none in real datasets.
    partial: Vec<usize>,
    /// Texts that lost tokens, in words.
    pub cut: Vec<String>,
}

impl Parts<Source> {
    pub(super) fn open(data: &Data, base: &BaseConfig, problems: &mut Problems) -> Result<Self> {
        match (&data.root, &data.clip, &data.videos) {
            (Some(root), Some(clip), Some(videos)) => Self::real([root, clip, videos], data, base, problems),
            _ => Self::synthetic(data, base),
        }
    }

    fn real([root, clip, videos]: [&Path; 3], data: &Data, base: &BaseConfig, problems: &mut Problems) -> Result<Self> {
        let dataset: Dataset = data.dataset.parse()?;
        let Processor { tokenizer, preprocess, .. } = processor(Some(clip), base)?;
        let input = VideoInput::published(data.sampling, data.choice, base.frames, preprocess);
        let mut part = |part: Part| -> Result<Source> {
            let split = dataset.read(root, part, problems)?;
            let pairs = PairDataset::open(split, videos, &tokenizer, base.words, input.clone(), problems)?;
            let answers = (0..pairs.texts()).map(|t| Ok(vec![pairs.video_of(t)?])).collect::<Result<_>>()?;
            let cut = pairs.cut().map(|(video, caption)| format!("caption {} of {video}", caption + 1)).collect();
            Ok(Source { pairs: Box::new(pairs), answers, partial: Vec::new(), cut })
        };
        let has = |part: &Part| dataset.parts().contains(part);
        // As published: where a part is missing, the other one serves for both.
        let validation = if has(&Part::Validation) { Part::Validation } else { Part::Test };
        let test = if has(&Part::Test) { Part::Test } else { Part::Validation };
        Ok(Self { train: part(Part::Train)?, validation: part(validation)?, test: part(test)? })
    }

    fn synthetic(data: &Data, base: &BaseConfig) -> Result<Self> {
        let world = ClipWorld::new(data.world)?;
        let tokenizer = processor(None, base)?.tokenizer;
        let part = |split: Part| -> Result<Source> {
            let pairs = ClipPairs::new(&world, split, &tokenizer, base.words)?;
            // Whoever trains needs no answers, and they are many.
            let texts = if split == Part::Train { 0 } else { pairs.texts() };
            let answers = (0..texts).map(|t| pairs.fits(t)).collect();
            let is_partial = |&t: &usize| pairs.caption(t).is_some_and(|c| c.is_partial());
            let partial = (0..texts).filter(is_partial).collect();
            Ok(Source { pairs: Box::new(pairs), answers, partial, cut: Vec::new() })
        };
        Ok(Self { train: part(Part::Train)?, validation: part(Part::Validation)?, test: part(Part::Test)? })
    }

    /// Videos that could not be read since they were opened.
    pub fn failures(&self) -> Vec<String> {
        self.named()
            .into_iter()
            .flat_map(|(_, part)| part.pairs.failures())
            .map(|f| format!("{}: {}", f.id, f.error))
            .collect()
    }
}

/// How texts and pictures are made for towers in the folder `clip`, or for those of the synthetic world.
pub(super) fn processor(clip: Option<&Path>, base: &BaseConfig) -> Result<Processor> {
    let towers = base.clip.clone().unwrap_or_else(ClipConfig::vit_b_32);
    let Some(clip) = clip else {
        let tokenizer = Tokenizer::from_words(&ClipWorld::vocabulary())?;
        return Ok(Processor::new(tokenizer, Preprocess::clip(towers.image_size), &towers));
    };
    let mut notes = Vec::new();
    let mut processor = Processor::open(Pretrained::folder(clip), &towers, &mut notes)?;
    // CLIP4Clip and its descendants make pictures in this one way, whatever lies beside the weights.
    let published = towers.family == Family::Clip;
    notes.iter().filter(|_| !published).for_each(|note| log::warn!("{note}"));
    if published {
        processor.preprocess = Preprocess::clip(towers.image_size);
    }
    Ok(processor)
}

/// Which texts count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texts {
    /// All of them.
    All,
    /// Those that tell the whole clip.
    Whole,
    /// Those that tell a part of it.
    Partial,
}

impl Source {
    /// Encodes all videos and texts.
    pub fn encode<M: TowerModel>(&self, model: &M) -> Result<(Gallery<M::Videos>, Vec<TextTile>)> {
        let videos: Vec<usize> = (0..self.pairs.videos()).collect();
        let texts: Vec<usize> = (0..self.pairs.texts()).collect();
        let gallery = Gallery::encode(model, &*self.pairs, &videos, TILE)?;
        Ok((gallery, TextTile::of_source(&*self.pairs, &texts, TILE)?))
    }

    /// The scores of all pairs, (texts, videos).
    pub fn score_all(&self, model: &impl TowerModel) -> Result<Array> {
        let (gallery, texts) = self.encode(model)?;
        score_all(model, &texts, &gallery)
    }

    /// The numbers of the texts that count.
    pub fn texts(&self, which: Texts) -> Vec<usize> {
        let counts = |t: &usize| match which {
            Texts::All => true,
            Texts::Whole => self.partial.binary_search(t).is_err(),
            Texts::Partial => self.partial.binary_search(t).is_ok(),
        };
        (0..self.answers.len()).filter(counts).collect()
    }

    /// Text-to-video metrics of scores (texts, videos). A text that several videos answer counts by the best of them.
    pub fn text_to_video(&self, scores: &Array, which: Texts) -> Result<RetrievalMetrics> {
        let chosen = self.texts(which);
        let answers: Vec<Vec<usize>> = chosen.iter().map(|&t| self.answers[t].clone()).collect();
        let rows: Vec<f32> = chosen.iter().flat_map(|&t| scores.row(t)).copied().collect();
        let rows = Array::new([chosen.len(), self.pairs.videos()], rows)?;
        Counts::of_any(&rows, &answers)?.metrics(Ties::Expected)
    }

    /// Video-to-text metrics over the texts of the whole clip: a video counts by the best of its own.
    pub fn video_to_text(&self, scores: &Array) -> Result<RetrievalMetrics> {
        let (texts, columns) = (self.texts(Texts::Whole), self.pairs.videos());
        let column = |v: usize| texts.iter().map(move |&t| scores.data()[t * columns + v]);
        let data: Vec<f32> = (0..columns).flat_map(column).collect();
        let mut own = vec![Vec::new(); columns];
        for (i, &text) in texts.iter().enumerate() {
            own[self.pairs.video_of(text)?].push(i);
        }
        Counts::of_any(&Array::new([columns, texts.len()], data)?, &own)?.metrics(Ties::Expected)
    }
}

/// R@1, R@5, R@10 and MdR over seeds, as cells of a table.
pub fn spreads(results: &[RetrievalMetrics]) -> String {
    let figures: [fn(&RetrievalMetrics) -> f64; 4] = [|m| m.r1, |m| m.r5, |m| m.r10, |m| m.mdr];
    figures.map(|figure| Spread::of(results, figure).to_string()).join(" | ")
}

/// One way to search, and what it came to.
pub struct Way {
    /// Its name.
    pub name: String,
    /// Over the texts of the whole clip.
    pub text_to_video: RetrievalMetrics,
    /// Over the same texts.
    pub video_to_text: RetrievalMetrics,
    /// Of a text and a video of the gallery, on average.
    pub multiply_adds: f64,
    /// Of a text, its encoding included.
    pub time: Duration,
}

impl Way {
    /// The two lines above a table of [`Way::row`]s.
    pub const HEAD: &str = "| search | t2v R@1 | R@5 | R@10 | MdR | v2t R@1 | multiply-adds a pair | ms a query |\n\
                            |---|---|---|---|---|---|---|---|";

    /// A line of a table: one way, over seeds.
    pub fn row(seeds: &[&Self]) -> String {
        let t2v: Vec<RetrievalMetrics> = seeds.iter().map(|way| way.text_to_video).collect();
        let v2t = Spread::of(seeds, |way| way.video_to_text.r1);
        let ms = Spread::of(seeds, |way| way.time.as_secs_f64() * 1e3).mean;
        let (name, multiply_adds) = seeds.first().map_or(("", 0.0), |way| (&way.name, way.multiply_adds));
        format!("| {name} | {} | {v2t} | {multiply_adds:.0} | {ms:.2} |", spreads(&t2v))
    }
}

/// The first stage alone, both stages with each number of candidates, and every score of every pair.
pub fn ways<M: TwoStageModel>(model: &M, source: &Source, candidates: &[usize]) -> Result<Vec<Way>> {
    let (gallery, texts) = source.encode(model)?;
    let queries = source.pairs.texts().max(1);
    let pairs = (queries * gallery.len()).max(1) as f64;
    let [coarse, fine] = gallery.segments().first().map_or([0, 0], |s| model.pair_cost(&s.videos));
    let evaluated = |name: String, [t2v, v2t]: [&Array; 2], multiply_adds: f64, time: Duration| -> Result<Way> {
        Ok(Way {
            name,
            text_to_video: source.text_to_video(t2v, Texts::Whole)?,
            video_to_text: source.video_to_text(v2t)?,
            multiply_adds,
            time: time / queries as u32,
        })
    };
    let mut ways = Vec::new();
    let clock = Instant::now();
    let scores = gallery.coarse_scores(model, &texts)?;
    ways.push(evaluated("coarse only".into(), [&scores; 2], coarse as f64, clock.elapsed())?);
    for &k in candidates {
        let found = gallery.rerank_all(model, &texts, k, VideoToText::Official)?;
        let times = found.times;
        let multiply_adds = (times.coarse_multiply_adds + times.fine_multiply_adds) as f64 / pairs;
        let scores = [&found.text_to_video, &found.video_to_text];
        let time = times.encode + times.coarse + times.fine;
        ways.push(evaluated(format!("two stages, k = {k}"), scores, multiply_adds, time)?);
    }
    let clock = Instant::now();
    let scores = score_all(model, &texts, &gallery)?;
    ways.push(evaluated("full scoring".into(), [&scores; 2], (coarse + fine) as f64, clock.elapsed())?);
    Ok(ways)
}
