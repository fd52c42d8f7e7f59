//! Evaluation of files that any system wrote: a matrix of scores, or embeddings of texts and videos.

use std::fmt;
use std::path::Path;

use serde_json::{Value, json};

use super::compat::{Compat, CompatMetrics};
use super::metrics::{RetrievalMetrics, Ties};
use super::ranking::{Source, Tiles};
use crate::data::formats::elements::first_overflow;
use crate::data::formats::text::read_json;
use crate::data::formats::{npy, safetensors};
use crate::gpu::Gpu;
use crate::progress::counted;
use crate::tensor::Array;
use crate::{Error, Result};

/// What is evaluated, read and checked.
#[derive(Clone, Debug)]
pub struct RankingInput {
    /// Scores, or embeddings of texts.
    matrix: Array,
    /// Embeddings of videos.
    videos: Option<Array>,
    /// The video of every text.
    owners: Vec<u32>,
    /// Whether the captions of every video were given.
    grouped: bool,
}

impl RankingInput {
    /// A similarity matrix, with a row for every text and a column for every video, from a file of [`read_matrix`].
    ///
    /// `captions` are those of every video: one number for all, a list such as `3,1,4`, or a `.json` file with a list. The
    /// captions of a video are consecutive rows; without, row i belongs to video i.
    ///
    /// # Errors
    /// As [`read_matrix`]; [`Error::NonFinite`]; [`Error::Malformed`] unless it has two dimensions, none of them 0;
    /// [`Error::Argument`] for counts that do not fit.
    ///
    /// Scores of more than 32 bits keep their order: only that counts.
    pub fn similarity(file: &str, captions: Option<&str>) -> Result<Self> {
        let (shape, values) = finite(file, read_wide(file)?)?;
        Self::new(Array::new(shape, in_order(values))?, None, captions)
    }

    /// Embeddings of texts and videos, a row each, whose scores are cosines.
    ///
    /// # Errors
    /// As [`RankingInput::similarity`]; [`Error::Malformed`] for a row of zeros.
    pub fn embeddings(texts: &str, videos: &str, captions: Option<&str>) -> Result<Self> {
        Self::new(unit_rows(texts)?, Some(unit_rows(videos)?), captions)
    }

    fn new(matrix: Array, videos: Option<Array>, captions: Option<&str>) -> Result<Self> {
        let count = videos.as_ref().map_or(matrix.shape()[1], |videos| videos.shape()[0]);
        let captions = captions.map(|counts| caption_counts(counts, count)).transpose()?;
        let owners = owners(captions.as_deref(), matrix.shape()[0], count)?;
        Ok(Self { matrix, videos, owners, grouped: captions.is_some() })
    }

    /// Counts ranks on the GPU, a tile of scores at a time. `compat` adds the numbers of a published script, which needs the
    /// whole matrix.
    ///
    /// # Errors
    /// As [`Tiles::ranks`], and [`Compat::text_to_video`].
    pub fn evaluate(&self, gpu: &Gpu, ties: Ties, compat: Option<Compat>) -> Result<Report> {
        let (source, videos) = match &self.videos {
            Some(videos) => (Source::Embeddings(&self.matrix, videos), videos.shape()[0]),
            None => (Source::Matrix(&self.matrix), self.matrix.shape()[1]),
        };
        let tiles = Tiles::new(gpu, source, &self.owners)?;
        let ranks = tiles.ranks()?;
        let captions = ranks.video_to_caption.metrics(ties)?;
        let mut metrics = vec![("text to video", ranks.text_to_video.metrics(ties)?)];
        if self.grouped {
            metrics.push(("video to text", tiles.video_to_text()?.metrics(ties)?));
            metrics.push(("video to caption", captions));
        } else {
            // With one caption a video both are one.
            metrics.push(("video to text", captions));
        }
        let script = |compat: Compat| -> Result<_> { Ok((compat, compat.both(&tiles.to_scores()?)?)) };
        Ok(Report { texts: self.owners.len(), videos, ties, metrics, script: compat.map(script).transpose()? })
    }
}

/// Metrics of every direction; displayed as a table.
#[derive(Clone, Debug)]
pub struct Report {
    /// Number of texts.
    pub texts: usize,
    /// Number of videos.
    pub videos: usize,
    /// How tied scores rank.
    pub ties: Ties,
    /// Directions, such as "text to video", with their metrics.
    pub metrics: Vec<(&'static str, RetrievalMetrics)>,
    /// The numbers of a published script.
    pub script: Option<(Compat, [(&'static str, CompatMetrics); 2])>,
}

impl Report {
    /// The report as JSON, of the schema `reelgrad.evaluate/1`.
    pub fn to_json(&self) -> Value {
        let key = |direction: &str| direction.replace(' ', "_");
        let mut report = json!({
            "schema": "reelgrad.evaluate/1",
            "texts": self.texts,
            "videos": self.videos,
            "ties": self.ties,
            "metrics": self.metrics.iter().map(|(name, m)| (key(name), json!(m))).collect::<Value>(),
        });
        if let Some((compat, directions)) = &self.script {
            let metrics: Value = directions.iter().map(|(name, m)| (key(name), json!(m))).collect();
            report["compat"] = json!({"script": format!("{compat:?}").to_lowercase(), "metrics": metrics});
        }
        report
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (texts, videos) = (counted(self.texts, "text", "texts"), counted(self.videos, "video", "videos"));
        let ties = format!("{:?}", self.ties).to_lowercase();
        writeln!(f, "{texts}, {videos}; ties: {ties}; recalls in percent, ranks from 1\n")?;
        let names = ["R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "RSum", "queries"];
        write!(f, "{:<18}{}", "", names.map(|name| format!("{name:>9}")).concat())?;
        for (title, m) in &self.metrics {
            let values = [m.r1, m.r5, m.r10, m.r50, m.mdr, m.mnr, m.rsum].map(|value| format!("{value:>9.2}"));
            write!(f, "\n{title:<18}{}{:>9}", values.concat(), m.queries)?;
        }
        if let Some((compat, directions)) = &self.script {
            write!(f, "\n\nas {compat:?}'s script prints it")?;
            directions.iter().try_for_each(|(title, m)| write!(f, "\n{title:<18}{m}"))?;
        }
        Ok(())
    }
}

/// Reads a matrix from a `.npy` file, a `.safetensors` file (`FILE`, or `FILE:NAME` where it holds several tensors), or a
/// `.json` file: a list of rows, or an object with "shape" and "data", also below the key "similarity".
///
/// # Errors
/// [`Error::Argument`] for another ending; [`Error::Io`]; [`Error::Malformed`] for what the file does not hold.
pub fn read_matrix(source: &str) -> Result<Array> {
    let (file, name) = match source.rsplit_once(':') {
        Some((file, name)) if file.ends_with(".safetensors") => (file, Some(name)),
        _ => (source, None),
    };
    let path = Path::new(file);
    match path.extension().and_then(|e| e.to_str()) {
        Some("npy") => npy::read(path),
        Some("json") => {
            let (shape, values) = from_json(path)?;
            if let Some((number, value)) = first_overflow(&values) {
                let problem = format!("number {number} is {value:e}, which does not fit 32 bits");
                return Err(Error::malformed(path, "matrix", problem));
            }
            Array::new(shape, values.into_iter().map(|v| v as f32).collect::<Vec<_>>())
        }
        Some("safetensors") => {
            let tensors = safetensors::TensorFile::open(path)?;
            let mut names = tensors.names();
            match (name, names.next(), names.next()) {
                (Some(name), ..) | (None, Some(name), None) => tensors.array(name),
                _ => {
                    let all = tensors.names().collect::<Vec<_>>().join(", ");
                    Err(Error::malformed(path, "header", format!("choose a tensor with {file}:NAME; it holds: {all}")))
                }
            }
        }
        _ => Err(wrong("file", format!("{file:?} must end in .npy, .safetensors or .json"))),
    }
}

/// As [`read_matrix`], without rounding what `.npy` and `.json` hold.
fn read_wide(source: &str) -> Result<(Vec<usize>, Vec<f64>)> {
    let path = Path::new(source);
    match path.extension().and_then(|e| e.to_str()) {
        Some("npy") => npy::read_f64(path),
        Some("json") => from_json(path),
        _ => {
            let matrix = read_matrix(source)?;
            Ok((matrix.shape().to_vec(), matrix.data().iter().copied().map(f64::from).collect()))
        }
    }
}

fn from_json(path: &Path) -> Result<(Vec<usize>, Vec<f64>)> {
    let bad = |problem: String| Error::malformed(path, "matrix", problem);
    let value: Value = read_json(path)?;
    let value = value.get("similarity").unwrap_or(&value);
    if let (Some(shape), Some(data)) = (value.get("shape"), value.get("data")) {
        let shape: Vec<usize> = serde_json::from_value(shape.clone()).map_err(|e| bad(e.to_string()))?;
        let data: Vec<f64> = serde_json::from_value(data.clone()).map_err(|e| bad(e.to_string()))?;
        if shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) != Some(data.len()) {
            return Err(bad(format!("the shape {shape:?} does not fit the {} numbers of data", data.len())));
        }
        return Ok((shape, data));
    }
    let rows: Vec<Vec<f64>> =
        serde_json::from_value(value.clone()).map_err(|e| bad(format!("no list of rows: {e}")))?;
    let width = rows.first().map_or(0, Vec::len);
    if let Some(row) = rows.iter().position(|row| row.len() != width) {
        return Err(bad(format!("row {row} has {} columns, row 0 has {width}", rows[row].len())));
    }
    Ok((vec![rows.len(), width], rows.concat()))
}

/// The matrix, if it has two dimensions, none of them 0, and no NaN or infinity.
fn finite(name: &str, (shape, values): (Vec<usize>, Vec<f64>)) -> Result<(Vec<usize>, Vec<f64>)> {
    let &[_, columns] = &shape[..] else {
        return Err(Error::malformed(name, "shape", format_args!("must be [rows, columns], it is {shape:?}")));
    };
    if values.is_empty() {
        return Err(Error::malformed(name, "shape", format_args!("{shape:?} holds nothing to evaluate")));
    }
    let count = values.iter().filter(|v| !v.is_finite()).count() as u64;
    if let Some(first) = values.iter().position(|v| !v.is_finite()) {
        let place = format!("row {}, column {}", first / columns, first % columns);
        return Err(Error::NonFinite { origin: name.into(), place, count });
    }
    Ok((shape, values))
}

/// Finite scores as `f32`. Where rounding would make some equal, their places in the order of all stand for them: ranks
/// come out the same.
fn in_order(scores: Vec<f64>) -> Vec<f32> {
    if scores.iter().all(|&v| f64::from(v as f32) == v) {
        return scores.into_iter().map(|v| v as f32).collect();
    }
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    order.sort_unstable_by(|&a, &b| scores[a as usize].total_cmp(&scores[b as usize]));
    let (mut places, mut place, mut last) = (vec![0.0; scores.len()], 0, None);
    for at in order {
        let score = scores[at as usize];
        place += u32::from(last.is_some_and(|last| last != score));
        last = Some(score);
        // The normal numbers in their order: two billion of them, which no device takes for 0.
        places[at as usize] = f32::from_bits(f32::MIN_POSITIVE.to_bits() + place);
    }
    places
}

/// Rows of length 1, by f64 sums: the products of two are cosines.
fn unit_rows(name: &str) -> Result<Array> {
    let (shape, mut values) = finite(name, read_wide(name)?)?;
    for (i, row) in values.chunks_exact_mut(shape[1]).enumerate() {
        // Squares of large and of small numbers leave the range of f64.
        let largest = row.iter().fold(0.0, |largest, v| v.abs().max(largest));
        if largest == 0.0 {
            return Err(Error::malformed(name, format_args!("row {i}"), "all zeros have no direction"));
        }
        row.iter_mut().for_each(|v| *v /= largest);
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
    Array::new(shape, values.into_iter().map(|v| v as f32).collect::<Vec<_>>())
}

/// One number for all videos, a list, or a JSON file with a list.
fn caption_counts(counts: &str, videos: usize) -> Result<Vec<usize>> {
    if counts.ends_with(".json") {
        return read_json(Path::new(counts));
    }
    let count = |text: &str| text.trim().parse().ok();
    let list: Option<Vec<usize>> = counts.split(',').map(count).collect();
    let list = list.ok_or_else(|| wrong(CAPTIONS, "must be counts, such as 20 or 3,1,4".into()))?;
    Ok(if let [count] = list[..] { vec![count; videos] } else { list })
}

/// The video of every text, whose captions are consecutive.
fn owners(captions: Option<&[usize]>, texts: usize, videos: usize) -> Result<Vec<u32>> {
    let Some(captions) = captions else {
        if texts != videos {
            return Err(wrong(CAPTIONS, format!("must be given for {texts} texts and {videos} videos")));
        }
        return Ok((0..videos as u32).collect());
    };
    let sum = captions.iter().try_fold(0usize, |sum, &n| sum.checked_add(n));
    if captions.len() != videos || sum != Some(texts) {
        let sum = sum.map_or("too many".into(), |n| n.to_string());
        let got = format!("got {} with a sum of {sum}", captions.len());
        return Err(wrong(CAPTIONS, format!("must be {videos} counts with a sum of {texts}, {got}")));
    }
    if let Some(video) = captions.iter().position(|&n| n == 0) {
        return Err(wrong(CAPTIONS, format!("gives video {video} no caption")));
    }
    Ok(captions.iter().zip(0..).flat_map(|(&n, video)| std::iter::repeat_n(video, n)).collect())
}

const CAPTIONS: &str = "captions_per_video";

fn wrong(argument: &'static str, why: String) -> Error {
    Error::Argument { op: "evaluate", argument, why }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::data::testing::Folder;
    use crate::kernels::testing::gpus;

    fn name(path: std::path::PathBuf) -> String {
        path.display().to_string()
    }

    #[test]
    fn matrices_are_read_from_every_form() {
        let folder = Folder::new();
        let array = Array::new([2, 2], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        let several = name(folder.path("a.safetensors"));
        let tensors = BTreeMap::from([("s".to_string(), array.clone()), ("t".to_string(), Array::zeros([1]))]);
        safetensors::write(&several, &tensors, &BTreeMap::new()).unwrap();
        let npy_file = name(folder.path("a.npy"));
        npy::write_npy(&npy_file, &array).unwrap();
        let rows = name(folder.file("a.json", "[[1, 2], [3, 4]]"));
        let object = name(folder.file("b.json", r#"{"similarity": {"shape": [2, 2], "data": [1, 2, 3, 4]}}"#));
        for file in [npy_file, format!("{several}:s"), rows, object] {
            assert_eq!(read_matrix(&file).unwrap(), array, "{file}");
        }
        let unnamed = read_matrix(&several).unwrap_err().to_string();
        assert!(unnamed.contains("it holds: s, t"), "{unnamed}");
        assert!(matches!(read_matrix("a.txt"), Err(Error::Argument { argument: "file", .. })));
        for text in ["[[1, 2], [3]]", "[1, 2", r#"{"rows": 3}"#] {
            let file = name(folder.file("c.json", text));
            assert!(matches!(read_matrix(&file), Err(Error::Malformed { .. })), "{text}");
        }
    }

    #[test]
    fn scores_of_64_bits_keep_their_order() {
        let folder = Folder::new();
        let f8 = |shape: &str, values: &[f64]| {
            let header = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}");
            let length = (header.len() as u16).to_le_bytes();
            let values: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let bytes = [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &values].concat();
            name(folder.file("a.npy", bytes))
        };
        let r1 = |file: &str| {
            let input = RankingInput::similarity(file, None).unwrap();
            input.evaluate(&gpus()[0], Ties::Expected, None).unwrap().metrics[0].1.r1
        };
        let just_more = 1.0 + 1e-9;
        assert_eq!(r1(&f8("(2, 2)", &[just_more, 1.0, 1.0, just_more])), 100.0);
        assert_eq!(r1(&f8("(2, 2)", &[1.0, just_more, 1.0, just_more])), 50.0);
        assert_eq!(r1(&f8("(2, 2)", &[1e300, -1e300, 0.0, 1e-300])), 100.0);
        assert_eq!(r1(&name(folder.file("a.json", "[[16777217, 16777216], [16777216, 16777217]]"))), 100.0);
        // Ties stay ties, also of the two zeros.
        let tied = in_order(vec![0.1, -0.0, 0.0, 0.1]);
        assert!(tied[0] == tied[3] && tied[1] == tied[2] && tied[1] < tied[0]);
        let large = f8("(2, 2)", &[1e300, 0.0, 0.0, 1e300]);
        assert_eq!(unit_rows(&large).unwrap().data(), [1.0, 0.0, 0.0, 1.0]);
        let infinite = RankingInput::similarity(&f8("(2, 2)", &[1.0, f64::INFINITY, 0.0, f64::NAN]), None);
        assert!(matches!(infinite, Err(Error::NonFinite { count: 2, place, .. }) if place == "row 0, column 1"));
    }

    #[test]
    fn nothing_to_evaluate_is_an_error() {
        let folder = Folder::new();
        let none = name(folder.file("a.json", r#"{"shape": [6, 0], "data": []}"#));
        let error = RankingInput::embeddings(&none, &none, None).unwrap_err().to_string();
        assert!(error.contains("shape: [6, 0] holds nothing to evaluate"), "{error}");
        assert!(RankingInput::similarity(&none, None).is_err());
        let short = name(folder.file("b.json", r#"{"shape": [2, 2], "data": [1]}"#));
        assert!(matches!(read_matrix(&short), Err(Error::Malformed { .. })));
        let marked = name(folder.file("c.json", "\u{feff}[[1]]"));
        assert_eq!(read_matrix(&marked).unwrap().data(), [1.0]);
    }

    #[test]
    fn captions_say_whose_rows_are_whose() {
        let folder = Folder::new();
        let counts = name(folder.file("counts.json", "[1, 3]"));
        for (given, texts, expected) in
            [("2", 4, vec![0, 0, 1, 1]), ("3,1", 4, vec![0, 0, 0, 1]), (&counts, 4, vec![0, 1, 1, 1])]
        {
            let captions = caption_counts(given, 2).unwrap();
            assert_eq!(owners(Some(&captions), texts, 2).unwrap(), expected);
        }
        assert_eq!(owners(None, 2, 2).unwrap(), [0, 1]);
        let refused = |result: Result<Vec<u32>>, part: &str| {
            let Err(Error::Argument { argument: "captions_per_video", why, .. }) = result else { panic!("{part}") };
            assert!(why.contains(part), "{why}");
        };
        refused(owners(None, 3, 2), "must be given for 3 texts");
        refused(owners(Some(&[1, 1]), 3, 2), "a sum of 3, got 2 with a sum of 2");
        refused(owners(Some(&[usize::MAX, 2]), 3, 2), "too many");
        refused(owners(Some(&[3, 0]), 3, 2), "gives video 1 no caption");
        assert!(matches!(caption_counts("1,x", 2), Err(Error::Argument { .. })));
    }

    #[test]
    fn embeddings_and_their_scores_have_one_report() {
        let folder = Folder::new();
        let texts = name(folder.file("t.json", "[[2, 0], [0, 3], [1, 1]]"));
        let videos = name(folder.file("v.json", "[[1, 0], [1, 5]]"));
        let input = RankingInput::embeddings(&texts, &videos, Some("1,2")).unwrap();
        let report = input.evaluate(&gpus()[0], Ties::Expected, Some(Compat::Clip4Clip)).unwrap();
        let rows: Vec<(&str, f64)> = report.metrics.iter().map(|(name, m)| (*name, m.r1)).collect();
        assert_eq!(rows, [("text to video", 100.0), ("video to text", 100.0), ("video to caption", 100.0)]);
        let json = report.to_json();
        assert_eq!((&json["texts"], &json["ties"]), (&json!(3), &json!("expected")));
        assert_eq!(json["metrics"]["video_to_caption"]["r1"], 100.0);
        assert_eq!(json["compat"]["metrics"]["text_to_video"]["R1"], 100.0);
        let text = report.to_string();
        assert!(text.starts_with("3 texts, 2 videos; ties: expected;"), "{text}");
        assert!(text.contains("\nvideo to caption     100.00") && text.contains("as Clip4Clip's script"), "{text}");

        let zero = name(folder.file("z.json", "[[1, 0], [0, 0]]"));
        assert!(matches!(RankingInput::embeddings(&zero, &videos, None), Err(Error::Malformed { .. })));
        let square = RankingInput::similarity(&zero, None).unwrap().evaluate(&gpus()[0], Ties::Expected, None).unwrap();
        assert_eq!((square.metrics.len(), square.metrics[0].1.r1), (2, 75.0));
        let flat = name(folder.file("f.json", r#"{"shape": [2], "data": [1, 2]}"#));
        assert!(matches!(RankingInput::similarity(&flat, None), Err(Error::Malformed { .. })));
    }
}
