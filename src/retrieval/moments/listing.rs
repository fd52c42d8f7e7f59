//! What a search found, to be shown: a table, JSON, and a picture of where moments lie in their videos.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::{MomentIndex, Prediction, Stage};
use crate::data::find_non_finite;
use crate::data::formats::atomic;
use crate::data::moments::{MomentQuery, MomentSource};
use crate::models::reloclnet::ReloclnetConfig;
use crate::progress::counted;
use crate::retrieval::moments::search::{expected_query, is_query};
use crate::tensor::Array;
use crate::{Error, Result};

const WIDTH: f64 = 720.0;
const LEFT: f64 = 190.0;
const ROW: f64 = 26.0;
const TOP: f64 = 44.0;

/// What is searched for.
#[derive(Clone, Debug)]
pub struct WantedMoment {
    /// In words.
    pub title: String,
    /// Token features, (tokens, width).
    pub features: Array,
    /// The labels, where they are known.
    pub truth: Option<MomentQuery>,
}

impl WantedMoment {
    /// Something without labels.
    pub fn new(title: impl Into<String>, features: Array) -> Self {
        Self { title: title.into(), features, truth: None }
    }

    /// Token features that were read from `file`, for a model of `config`.
    ///
    /// # Errors
    /// [`Error::Malformed`] for another shape than the model takes; [`Error::NonFinite`].
    pub fn of_file(file: &str, features: Array, config: &ReloclnetConfig) -> Result<Self> {
        if !is_query(config, features.shape()) {
            let problem = format!("must be {}, it is {:?}", expected_query(config), features.shape());
            return Err(Error::malformed(file, "shape", problem));
        }
        find_non_finite(Path::new(file), "token features", 0, &features)?;
        Ok(Self::new(file, features))
    }

    /// The query of `source` with this number.
    ///
    /// # Errors
    /// [`Error::Missing`]; what `source` returns.
    pub fn of_query(source: &dyn MomentSource, id: u64) -> Result<Self> {
        let number = source.queries().iter().position(|q| q.id == id);
        let number = number.ok_or_else(|| Error::missing("the part", "query", id))?;
        let truth = source.queries()[number].clone();
        Ok(Self { title: truth.text.clone(), features: source.tokens(number)?, truth: Some(truth) })
    }
}

/// What a search came to; displayed as a table for each query, and the time of the stages.
#[derive(Clone, Copy)]
pub struct MomentResults<'a> {
    /// What was searched for.
    pub wanted: &'a [WantedMoment],
    /// The moments of each, the best first.
    pub found: &'a [Vec<Prediction>],
    /// The time of the stages.
    pub stages: &'a [Stage],
    /// The index that was searched.
    pub index: &'a MomentIndex,
}

impl MomentResults<'_> {
    fn video(&self, moment: &Prediction) -> &str {
        self.index.video(moment.video).map_or("?", |v| v.id.as_str())
    }

    /// A line of JSON for each query, of the schema `reelgrad.find_moment/1`; `model` names the model's file or run.
    pub fn to_json_lines(&self, model: &Path) -> String {
        let ms = |s: &Stage| json!({ "name": s.name, "ms": 1e3 * s.time.as_secs_f64() });
        let row = |(rank, m): (usize, &Prediction)| json!({ "rank": rank + 1, "video_id": self.video(m), "score": m.score, "start": m.start, "end": m.end });
        let line = |(wanted, moments): (&WantedMoment, &Vec<Prediction>)| {
            let line = json!({
                "schema": "reelgrad.find_moment/1",
                "query": wanted.title,
                "model": model.display().to_string(),
                "index": { "videos": self.index.videos().len(), "precision": self.index.precision() },
                "stages": self.stages.iter().map(ms).collect::<Vec<_>>(),
                "results": moments.iter().enumerate().map(row).collect::<Vec<_>>(),
            });
            format!("{line}\n")
        };
        self.wanted.iter().zip(self.found).map(line).collect()
    }

    /// Writes a timeline of every query's moments to `folder`, `000.svg` and so on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_svgs(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        for (number, (wanted, moments)) in self.wanted.iter().zip(self.found).enumerate() {
            let path = folder.join(format!("{number:03}.svg"));
            atomic::write(&path, |file| file.write_all(timeline(wanted, moments, self.index).as_bytes()))?;
        }
        Ok(())
    }
}

impl fmt::Display for MomentResults<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (wanted, moments) in self.wanted.iter().zip(self.found) {
            writeln!(f, "\n\"{}\"", wanted.title)?;
            if let Some(truth) = &wanted.truth {
                let windows: Vec<String> = truth.windows.iter().map(|[s, e]| format!("{s:.1} to {e:.1} s")).collect();
                writeln!(f, "  labelled  {} {}", truth.video.as_deref().unwrap_or("?"), windows.join(", "))?;
            }
            writeln!(f, "  rank   start     end  video                             score")?;
            for (rank, m) in moments.iter().enumerate() {
                let video = self.video(m);
                writeln!(f, "  {:4}  {:6.1}  {:6.1}  {video:<30} {:8.3e}", rank + 1, m.start, m.end, m.score)?;
            }
        }
        let ms = |time: Duration| 1e3 * time.as_secs_f64();
        let queries = counted(self.wanted.len(), "query", "queries");
        let videos = counted(self.index.videos().len(), "video", "videos");
        let total = ms(self.stages.iter().map(|s| s.time).sum());
        writeln!(f, "\n{queries} in {videos}: {total:.1} ms")?;
        self.stages.iter().try_for_each(|s| writeln!(f, "  {:<16} {:8.1} ms", s.name, ms(s.time)))
    }
}

/// An SVG with a bar for every moment: its video's length, the moment in it, and the labelled one.
fn timeline(wanted: &WantedMoment, moments: &[Prediction], index: &MomentIndex) -> String {
    let height = TOP + ROW * moments.len() as f64 + 28.0;
    let videos: Vec<_> = moments.iter().filter_map(|m| Some((m, index.video(m.video)?))).collect();
    let longest = videos.iter().map(|(_, v)| v.duration).fold(1.0, f64::max);
    let x = |seconds: f64| LEFT + (WIDTH - LEFT - 20.0) * (seconds / longest).clamp(0.0, 1.0);
    let bar = |[from, to]: [f64; 2], y: f64, height: f64, colour: &str| {
        let (from, width) = (x(from), (x(to) - x(from)).max(1.0));
        format!(r#"<rect x="{from:.1}" y="{y:.1}" width="{width:.1}" height="{height}" fill="{colour}"/>"#)
    };
    let size = format!(r#"width="{WIDTH}" height="{height}""#);
    let mut lines = vec![
        format!(r#"<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">"#),
        format!(r#"<rect {size} fill="white"/>"#),
        format!(r#"<text x="10" y="22" font-size="14">{}</text>"#, escape(&wanted.title)),
    ];
    for (row, (moment, video)) in videos.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        lines.push(format!(r#"<text x="10" y="{}">{}. {}</text>"#, y + 12.0, row + 1, escape(&video.id)));
        lines.push(bar([0.0, video.duration], y, 16.0, "#e4e4e4"));
        let title = format!("{:.1} to {:.1} s, score {:.3e}", moment.start, moment.end, moment.score);
        let found = bar(moment.window(), y, 16.0, "#2b6cb0");
        lines.push(format!("<g><title>{title}</title>{found}</g>"));
        let truth = wanted.truth.as_ref().filter(|t| t.video.as_ref() == Some(&video.id));
        let windows = truth.iter().flat_map(|t| &t.windows);
        lines.extend(windows.map(|&window| bar(window, y + 17.0, 3.0, "#dd6b20")));
    }
    let y = TOP + ROW * videos.len() as f64 + 14.0;
    lines.push(format!(r#"<text x="{LEFT}" y="{y}">0 s</text>"#));
    lines.push(format!(r#"<text x="{}" y="{y}" text-anchor="end">{longest:.0} s</text>"#, WIDTH - 20.0));
    lines.push("</svg>\n".into());
    lines.join("\n")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_of_another_shape_are_named_by_their_file() {
        let config = ReloclnetConfig { query_dim: 4, max_tokens: 3, ..ReloclnetConfig::default() };
        let read = |array: Array| WantedMoment::of_file("q.npy", array, &config);
        assert_eq!(read(Array::zeros([3, 4])).unwrap().title, "q.npy");
        for shape in [&[3, 5][..], &[0, 4], &[1000, 4], &[4], &[]] {
            let error = read(Array::zeros(shape)).unwrap_err().to_string();
            let wanted = format!("q.npy: shape: must be (tokens, 4) with 1 to 3 tokens, it is {shape:?}");
            assert_eq!(error, wanted);
        }
        let nan = Array::new([1, 4], vec![0.0, f32::NAN, 0.0, 0.0]).unwrap();
        assert!(matches!(read(nan), Err(Error::NonFinite { origin, .. }) if origin == "q.npy"));
    }
}
