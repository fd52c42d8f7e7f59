//! Prediction files: TVR's submission and QVHighlights' lines.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};

use crate::data::formats::atomic;
use crate::data::formats::text::{Entries, for_each_line, parse_object, read_file, with_nulls};
use crate::{Error, Result};

/// Largest number up to which f64, and so every JSON library, holds all integers.
const MAX_INDEX: f64 = (1u64 << 53) as f64;

/// A moment that a system found. In files `[video, start, end, score]`; a row without a score gets 0, and what follows
/// the score is ignored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// The number of the video, as in [`Submission::video2idx`].
    pub video: u64,
    /// Seconds.
    pub start: f32,
    /// Seconds.
    pub end: f32,
    /// The higher, the better.
    pub score: f32,
}

impl Prediction {
    /// Start and end in seconds.
    pub fn window(&self) -> [f64; 2] {
        [f64::from(self.start), f64::from(self.end)]
    }
}

impl Serialize for Prediction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.video, self.start, self.end, self.score).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Prediction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let row: Vec<f64> = Vec::<Number>::deserialize(deserializer)?.into_iter().map(|Number(v)| v).collect();
        let &[video, start, end, ref rest @ ..] = row.as_slice() else {
            return Err(D::Error::invalid_length(row.len(), &"a row [video, start, end, score]"));
        };
        // Some systems write every number as a float.
        if video.fract() != 0.0 || !(0.0..=MAX_INDEX).contains(&video) {
            return Err(D::Error::custom(format_args!("{video} is not the number of a video")));
        }
        let score = rest.first().copied().unwrap_or(0.0);
        Ok(Self { video: video as u64, start: start as f32, end: end as f32, score: score as f32 })
    }
}

/// What a system found for one query, best first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryPredictions {
    /// The query's number.
    #[serde(rename = "desc_id")]
    pub id: u64,
    /// The sentence; may be empty.
    #[serde(rename = "desc", default)]
    pub text: String,
    /// Rows by falling score.
    pub predictions: Vec<Prediction>,
}

/// TVR's submission: for each task that the system solved, a list a query.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    /// The file that it was read from, to be named in errors.
    #[serde(skip)]
    pub origin: PathBuf,
    /// The number of each video by its name.
    #[serde(deserialize_with = "unique")]
    pub video2idx: BTreeMap<String, u64>,
    /// Moments in the whole corpus.
    #[serde(rename = "VCMR", default, skip_serializing_if = "Option::is_none")]
    pub vcmr: Option<Vec<QueryPredictions>>,
    /// Moments in the query's own video.
    #[serde(rename = "SVMR", default, skip_serializing_if = "Option::is_none")]
    pub svmr: Option<Vec<QueryPredictions>>,
    /// Videos; times are not looked at.
    #[serde(rename = "VR", default, skip_serializing_if = "Option::is_none")]
    pub vr: Option<Vec<QueryPredictions>>,
}

/// A number, or null for one that is none: what [`with_nulls`] makes of NaN and infinity.
struct Number(f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<f64>::deserialize(deserializer).map(|value| Self(value.unwrap_or(f64::NAN)))
    }
}

fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<f64>>, D::Error> {
    let list = Option::<Vec<Number>>::deserialize(deserializer)?;
    Ok(list.map(|list| list.into_iter().map(|Number(value)| value).collect()))
}

fn windows<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<[f64; 3]>>, D::Error> {
    let list = Option::<Vec<[Number; 3]>>::deserialize(deserializer)?;
    Ok(list.map(|list| list.into_iter().map(|row| row.map(|Number(value)| value)).collect()))
}

/// A map that refuses a name that is there twice, and a number: two videos would be one.
fn unique<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, u64>, D::Error> {
    let Entries(entries) = Entries::<u64>::deserialize(deserializer)?;
    let (mut map, mut names) = (BTreeMap::new(), HashMap::new());
    for (name, index) in entries {
        if map.contains_key(&name) {
            return Err(D::Error::custom(format_args!("duplicate video {name:?}")));
        }
        if let Some(other) = names.insert(index, name.clone()) {
            return Err(D::Error::custom(format_args!("the videos {other:?} and {name:?} have one number, {index}")));
        }
        map.insert(name, index);
    }
    Ok(map)
}

impl Submission {
    /// Reads TVR's submission JSON. Rows are judged when they are evaluated; NaN and infinity, which Python writes, are
    /// read as NaN.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] naming line and column for other JSON, a video named twice, two videos of one number, rows with fewer
    /// than three numbers, a file without any task, and a file over 512 MiB.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let submission: Submission = parse_object(path, &with_nulls(&read_file(path)?))?;
        if submission.vcmr.is_none() && submission.svmr.is_none() && submission.vr.is_none() {
            return Err(Error::malformed(path, "top level", "none of the lists VCMR, SVMR and VR is there"));
        }
        Ok(Self { origin: path.to_path_buf(), ..submission })
    }

    /// Writes what [`Submission::read`] reads, atomically.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        atomic::write(path.as_ref(), |file| Ok(serde_json::to_writer(file, self)?))
    }
}

/// What a system found for one query of QVHighlights, or of another dataset in the same form.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HighlightPrediction {
    /// The query's number.
    #[serde(rename = "qid")]
    pub id: u64,
    /// The sentence; may be empty.
    #[serde(rename = "query", default)]
    pub text: String,
    /// The video's name; may be empty.
    #[serde(rename = "vid", default)]
    pub video: String,
    /// Start and end in seconds, and score; best first.
    #[serde(
        rename = "pred_relevant_windows",
        default,
        deserialize_with = "windows",
        skip_serializing_if = "Option::is_none"
    )]
    pub windows: Option<Vec<[f64; 3]>>,
    /// A score a clip of two seconds.
    #[serde(
        rename = "pred_saliency_scores",
        default,
        deserialize_with = "numbers",
        skip_serializing_if = "Option::is_none"
    )]
    pub saliency: Option<Vec<f64>>,
}

impl HighlightPrediction {
    /// Reads JSON lines, one query a line. Windows and scores are judged when they are evaluated.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] naming line and column: no such object, not UTF-8, over 1 MiB.
    pub fn read_jsonl(path: impl AsRef<Path>) -> Result<Vec<Self>> {
        let path = path.as_ref();
        let mut predictions = Vec::new();
        for_each_line(path, |number, line| {
            let line = with_nulls(line?.as_bytes()).into_owned();
            let at = |e: Error| match e {
                Error::Malformed { path, place, problem } => {
                    let column = place.strip_prefix("line 1").unwrap_or_default();
                    Error::malformed(path, format_args!("line {number}{column}"), problem)
                }
                e => e,
            };
            predictions.push(parse_object(path, &line).map_err(at)?);
            Ok(())
        })?;
        Ok(predictions)
    }

    /// Writes what [`HighlightPrediction::read_jsonl`] reads, atomically.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_jsonl(predictions: &[Self], path: impl AsRef<Path>) -> Result<()> {
        atomic::write_lines(path.as_ref(), predictions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::{Folder, mutations};

    const TVR: &str = r#"{"video2idx": {"a": 7, "b": 19614}, "VCMR": [{"desc_id": 3, "desc": "x",
        "predictions": [[7, 1.5, 4.5, 0.25], [19614.0, 0, 3, 1e-9, 5]]}],
        "VR": [{"desc_id": 3, "predictions": [[7, 0, 0]]}]}"#;

    #[test]
    fn submissions_survive_writing_and_reading() {
        let folder = Folder::new();
        let path = folder.file("a.json", TVR);
        let submission = Submission::read(&path).unwrap();
        assert_eq!(submission.origin, path);
        assert!(submission.svmr.is_none());
        let rows = &submission.vcmr.as_ref().unwrap()[0].predictions;
        assert_eq!(rows[1], Prediction { video: 19614, start: 0.0, end: 3.0, score: 1e-9 });
        submission.write(&path).unwrap();
        assert_eq!(Submission::read(&path).unwrap(), submission);
    }

    #[test]
    fn damaged_submissions_are_errors() {
        let folder = Folder::new();
        let cases = [
            r#"{"video2idx": {"a": 7, "a": 8}, "VR": []}"#,
            r#"{"video2idx": {"a": -1}, "VR": []}"#,
            r#"{"video2idx": {"a": 7}}"#,
            r#"{"VR": []}"#,
            r#"{"video2idx": {}, "VR": [{"desc_id": 1, "predictions": [[1, 2]]}]}"#,
            r#"{"video2idx": {}, "VR": [{"desc_id": 1, "predictions": [[1.5, 2, 3, 4]]}]}"#,
            r#"{"video2idx": {}, "VR": [{"desc_id": 1, "predictions": [[-1, 2, 3, 4]]}]}"#,
            r#"{"video2idx": {}, "VR": [{"desc_id": 1, "predictions": [[NaN, 2, 3, 4]]}]}"#,
            r#"{"video2idx": {"x": 3, "y": 3}, "VR": []}"#,
            r#"["a", {"a": 7}, [], [], []]"#,
            r#"{"video2idx": {}, "VR": [{"desc_id": 1}]}"#,
        ];
        for text in cases {
            let path = folder.file("a.json", text);
            assert!(matches!(Submission::read(&path), Err(Error::Malformed { .. })), "{text}");
        }
        assert!(matches!(Submission::read(folder.path("none")), Err(Error::Io { .. })));
        for bytes in mutations(TVR.as_bytes(), 400) {
            let _ = Submission::read(folder.file("b.json", bytes));
        }
    }

    #[test]
    fn numbers_of_python_are_left_to_the_evaluation() {
        let folder = Folder::new();
        let text =
            r#"{"video2idx": {"NaN": 1}, "VR": [{"desc_id": 1, "predictions": [[1, NaN, Infinity, -Infinity]]}]}"#;
        let read = Submission::read(folder.file("a.json", text)).unwrap();
        let row = read.vr.unwrap()[0].predictions[0];
        assert!(row.start.is_nan() && row.end.is_nan() && row.score.is_nan() && read.video2idx["NaN"] == 1);
        let text = r#"{"qid": 9, "pred_relevant_windows": [[0, 1, NaN]], "pred_saliency_scores": [NaN, 1]}"#;
        let read = &HighlightPrediction::read_jsonl(folder.file("a.jsonl", text)).unwrap()[0];
        assert!(read.windows.as_ref().unwrap()[0][2].is_nan() && read.saliency.as_ref().unwrap()[0].is_nan());
    }

    #[test]
    fn highlight_lines_survive_writing_and_reading() {
        let folder = Folder::new();
        let text = "{\"qid\": 9, \"query\": \"x\", \"vid\": \"v_0.0_150.0\", \
            \"pred_relevant_windows\": [[0, 12.5, 0.7]], \
            \"pred_saliency_scores\": [0.5, -1]}\n\n{\"qid\": 10, \"extra\": [1]}\n";
        let path = folder.file("a.jsonl", text);
        let read = HighlightPrediction::read_jsonl(&path).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].windows, Some(vec![[0.0, 12.5, 0.7]]));
        assert_eq!((read[1].id, &read[1].windows, &read[1].saliency), (10, &None, &None));
        HighlightPrediction::write_jsonl(&read, &path).unwrap();
        assert_eq!(HighlightPrediction::read_jsonl(&path).unwrap(), read);
        let path = folder.file("b.jsonl", "{\"qid\": 9}\n{\"qid\": 9, \"pred_relevant_windows\": [[0, 1]]}\n");
        match HighlightPrediction::read_jsonl(&path) {
            Err(Error::Malformed { place, .. }) => assert!(place.starts_with("line 2"), "{place}"),
            other => panic!("{other:?}"),
        }
    }
}
