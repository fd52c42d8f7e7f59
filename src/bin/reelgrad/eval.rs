//! `reelgrad eval`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use reelgrad::data::captions::read_jsonl;
use reelgrad::data::moments::Problems;
use reelgrad::retrieval::index::{Clip, Index, Video};
use reelgrad::retrieval::search::{Query, SearchOptions, Searcher};
use reelgrad::{Error, Gpu, Progress, Result};
use serde_json::json;

use crate::bar::Bar;
use crate::model::ModelFlags;

pub const EXAMPLE: &str = "\
Example: reelgrad eval videos.index --model clip-vit-base-patch32 --captions captions.jsonl

A line of the file is {\"video_id\": \"holiday\", \"caption\": \"a dog jumps into a lake\"}, where \"path\" may name the file
and \"start\" and \"end\" the seconds that the caption is about; then moments are evaluated, too. Behind each figure stands
its interval of 95 %: Wilson's for shares, that of order statistics for the median rank.";

/// Captions that are searched together.
const TOGETHER: usize = 64;
/// Of the normal distribution, for intervals of 95 %.
const Z: f64 = 1.96;
/// How much of both a found moment and the true one must be in common.
const IOUS: [f64; 2] = [0.5, 0.7];

#[derive(Args)]
pub struct Options {
    /// Folder of the index.
    #[arg(value_name = "INDEX")]
    index: PathBuf,
    #[command(flatten)]
    model: ModelFlags,
    /// JSON lines of captions and their videos.
    #[arg(long, value_name = "FILE")]
    captions: PathBuf,
    /// Ranks are counted up to this one.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..))]
    depth: u32,
    /// Clips that are ranked again by their frames.
    #[arg(long, value_name = "N", default_value_t = 200)]
    candidates: usize,
    /// GPU memory for the index, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    budget: u64,
    /// Prints JSON of schema reelgrad.eval/1.
    #[arg(long)]
    json: bool,
}

/// A caption, the clips of its video, and what it is about of it.
struct Question {
    text: String,
    clips: std::ops::Range<usize>,
    stretch: Option<(f64, f64)>,
}

/// A figure with its interval.
#[derive(Clone, Copy)]
struct Figure {
    value: f64,
    low: f64,
    high: f64,
}

pub fn eval(options: &Options, open_gpu: impl FnOnce() -> Gpu) -> Result<ExitCode> {
    let index = Index::open(&options.index)?;
    let (questions, left_out) = questions(options, &index)?;
    left_out.iter().for_each(|problem| eprintln!("left out {problem}"));
    if questions.is_empty() {
        let why = format!("of {} name no video of the index", options.captions.display());
        return Err(Error::Argument { op: "eval", argument: "captions", why });
    }
    let gpu = open_gpu();
    let searcher = Searcher::new(&gpu, options.model.open(&gpu)?, index, options.budget << 20)?;
    let (ranks, overlaps) = ask(options, &searcher, &questions)?;
    tell(options, &searcher, &questions, &left_out, (&ranks, &overlaps));
    Ok(if left_out.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The captions of videos of the index, and what is wrong with those that are left out.
fn questions(options: &Options, index: &Index) -> Result<(Vec<Question>, Vec<String>)> {
    let split = read_jsonl(&options.captions, &mut Problems::strict())?;
    let (mut questions, mut left_out) = (Vec::new(), Vec::new());
    for about in split.videos {
        // By its name with or without folders and ending.
        let is_it = |id: &Path| id.ends_with(&about.file) || id.with_extension("").ends_with(&about.file);
        let found: Vec<&Video> = index.videos().filter(|video| is_it(Path::new(&video.id))).collect();
        let &[video] = found.as_slice() else {
            let captions = about.captions.len();
            left_out.push(match found.len() {
                0 => format!("{}: the index holds no such video ({captions} captions)", about.id),
                several => format!("{}: {several} videos of the index are called so ({captions} captions)", about.id),
            });
            continue;
        };
        let clips = index.clips_of(&video.id)?;
        let stretch = about.end.map(|end| (about.start - video.offset, end - video.offset));
        questions.extend(about.captions.into_iter().map(|text| Question { text, clips: clips.clone(), stretch }));
    }
    Ok((questions, left_out))
}

/// The rank of each caption's video, from 1, if it is found; and how much the moment that comes first has in common with
/// the true one, for captions that have one.
fn ask(options: &Options, searcher: &Searcher, questions: &[Question]) -> Result<(Vec<Option<usize>>, Vec<f64>)> {
    let (mut ranks, mut overlaps, mut bar) = (Vec::new(), Vec::new(), Bar::new("captions"));
    let top = (options.depth as usize).min(searcher.index().len());
    // What is not among the candidates is not found, as when somebody asks for the first few.
    let asked = SearchOptions { top: Some(top), candidates: options.candidates, widen: false, ..Default::default() };
    for group in questions.chunks(TOGETHER) {
        let queries: Vec<Query> = group.iter().map(|question| Query::Text(question.text.clone())).collect();
        let found = searcher.search(&queries, &asked)?.found;
        for (question, found) in group.iter().zip(&found) {
            ranks.push(found.iter().position(|found| question.clips.contains(&found.clip)).map(|at| at + 1));
        }
        let told = group.iter().zip(&found).filter_map(|(question, found)| Some((question, question.stretch?, found)));
        overlaps.extend(told.map(|(question, stretch, found)| {
            let own = found.first().filter(|found| question.clips.contains(&found.clip));
            own.map_or(0.0, |found| overlap((found.moment.start, found.moment.end), stretch))
        }));
        bar.step(ranks.len() as u64, questions.len() as u64, "");
    }
    Ok((ranks, overlaps))
}

/// What two stretches have in common, of what they cover together.
fn overlap((a, b): (f64, f64), (c, d): (f64, f64)) -> f64 {
    let common = (b.min(d) - a.max(c)).max(0.0);
    common / (b - a + d - c - common).max(f64::MIN_POSITIVE)
}

/// The share, in percent, of captions whose moment a clip of the index that is drawn by lot hits.
fn chance(index: &Index, questions: &[Question], iou: f64) -> f64 {
    let told: Vec<(&Question, (f64, f64))> = questions.iter().filter_map(|q| Some((q, q.stretch?))).collect();
    let hits = |(question, stretch): &(&Question, (f64, f64))| {
        let hit = |clip: Clip| overlap((clip.start, clip.end), *stretch) >= iou;
        question.clips.clone().filter(|&number| index.clip(number).is_ok_and(|found| hit(found.clip))).count()
    };
    100.0 * told.iter().map(hits).sum::<usize>() as f64 / (told.len() * index.len()).max(1) as f64
}

fn tell(
    options: &Options,
    searcher: &Searcher,
    questions: &[Question],
    left_out: &[String],
    (ranks, overlaps): (&[Option<usize>], &[f64]),
) {
    let index = searcher.index();
    let videos = index.videos().count();
    let recall = |k: usize| share(ranks.iter().filter(|rank| rank.is_some_and(|rank| rank <= k)).count(), ranks.len());
    let recalls = [1, 5, 10].map(|k| (k, recall(k)));
    let median = median(ranks);
    let moments = IOUS.map(|iou| {
        (iou, share(overlaps.iter().filter(|&&o| o >= iou).count(), overlaps.len()), chance(index, questions, iou))
    });
    if options.json {
        let figure = |f: &Figure| json!({ "value": f.value, "low": f.low, "high": f.high });
        let recall = |(k, f): &(usize, Figure)| json!({ "k": k, "percent": figure(f) });
        let moment =
            |(iou, f, chance): &(f64, Figure, f64)| json!({ "iou": iou, "percent": figure(f), "chance": chance });
        answer!(
            "{:#}",
            json!({
                "schema": "reelgrad.eval/1",
                "captions": ranks.len(),
                "left_out": left_out,
                "videos": videos,
                "clips": index.len(),
                "recall": recalls.iter().map(recall).collect::<Vec<_>>(),
                "median_rank": median.map(|m| figure(&m)),
                "moments": (!overlaps.is_empty()).then(|| moments.iter().map(moment).collect::<Vec<_>>()),
            })
        );
        return;
    }
    answer!("{} captions, {videos} videos, {} clips; in brackets the interval of 95 %", ranks.len(), index.len());
    answer!();
    for (k, Figure { value, low, high }) in recalls {
        let by_lot = 100.0 * (k as f64 / videos as f64).min(1.0);
        answer!("video   R@{k:<2}            {value:5.1} % ({low:.1} - {high:.1})   by lot {by_lot:.1} %");
    }
    match median {
        Some(Figure { value, low, high }) if high.is_finite() => {
            answer!("video   median rank     {value:5} ({low} - {high})");
        }
        Some(Figure { value, low, .. }) => {
            answer!("video   median rank     {value:5} ({low} - above {})", options.depth);
        }
        None => answer!("video   median rank     above {}", options.depth),
    }
    for (iou, Figure { value, low, high }, by_lot) in moments.iter().filter(|_| !overlaps.is_empty()) {
        answer!("moment  R@1, IoU {iou:.1}    {value:5.1} % ({low:.1} - {high:.1})   by lot {by_lot:.2} %");
    }
}

/// A share in percent, with Wilson's interval.
fn share(hits: usize, of: usize) -> Figure {
    let (n, p) = (of.max(1) as f64, hits as f64 / of.max(1) as f64);
    let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    Figure { value: 100.0 * p, low: 100.0 * (middle - half).max(0.0), high: 100.0 * (middle + half).min(1.0) }
}

/// The median rank, between the ranks that enclose it in 95 % of samples, of which the upper may be beyond all that were
/// found; `None` if it is so itself.
fn median(ranks: &[Option<usize>]) -> Option<Figure> {
    let mut sorted: Vec<usize> = ranks.iter().map(|rank| rank.unwrap_or(usize::MAX)).collect();
    sorted.sort_unstable();
    let (n, half) = (sorted.len(), Z * (sorted.len() as f64).sqrt() / 2.0);
    let at = |place: f64| sorted[(place.max(0.0) as usize).min(n - 1)];
    let middle = at((n as f64 - 1.0) / 2.0);
    let rank = |rank: usize| if rank == usize::MAX { f64::INFINITY } else { rank as f64 };
    let (low, high) = (rank(at(n as f64 / 2.0 - half)), rank(at(n as f64 / 2.0 + half)));
    (middle < usize::MAX).then_some(Figure { value: middle as f64, low, high })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_have_in_common_what_they_share() {
        assert_eq!(overlap((0.0, 4.0), (2.0, 6.0)), 2.0 / 6.0);
        assert_eq!(overlap((0.0, 4.0), (4.0, 6.0)), 0.0);
        assert_eq!(overlap((1.0, 3.0), (1.0, 3.0)), 1.0);
    }

    #[test]
    fn intervals_are_those_of_the_tables() {
        // Wilson's interval of 8 in 10: 0.4902 to 0.9433.
        let Figure { value, low, high } = share(8, 10);
        assert!(value == 80.0 && (low - 49.02).abs() < 0.01 && (high - 94.33).abs() < 0.01, "{low} {high}");
        assert_eq!(share(0, 5).low, 0.0);
        let ranks: Vec<Option<usize>> = (1..=100).map(Some).collect();
        let Figure { value, low, high } = median(&ranks).unwrap();
        assert_eq!((value, low, high), (50.0, 41.0, 60.0));
        assert!(median(&[Some(1), None, None]).is_none());
        let few = [1, 1, 2, 2, 2, 3, 3, 4].map(Some);
        let Figure { value, high, .. } = median(&[&few[..], &[None, None]].concat()).unwrap();
        assert_eq!((value, high), (2.0, f64::INFINITY));
    }
}
