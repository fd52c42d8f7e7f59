//! The `reloclnet-inference` golden cases: from cached encodings to the three lists of predictions.

use serde_json::Value;

use super::metrics::{array, key, malformed, number, numbers, tolerance};
use super::{Row, moment_metrics};
use crate::kernels::l2_normalize::{self, Divisor};
use crate::kernels::pooling::{self, Masked};
use crate::kernels::spans::{self, Predictor, Search, Stream};
use crate::kernels::{binary, matmul, permute, topk};
use crate::tensor::Tensor;
use crate::{Gpu, Result};

/// Computes scores, logits and the lists VR, VCMR and SVMR of a `reloclnet-inference-*.json` case and compares them;
/// then the metrics and the suppressed lists that the file's own lists give.
///
/// # Errors
/// [`crate::Error::Malformed`] when the case lacks a key or has something else there; what the kernels return.
pub fn check(gpu: &Gpu, case: &Value) -> Result<Vec<Row>> {
    let inputs = Inputs::new(gpu, case)?;
    let expected = key(case, "expected")?;
    let rtol = tolerance(case, "rtol")?;
    let scores = inputs.scores()?;
    let all: Vec<u32> = (0..inputs.queries()).flat_map(|_| 0..inputs.videos() as u32).collect();
    let (starts, ends) = inputs.search(&all, spans::logits)?;
    let mut rows = Vec::new();
    for (name, got) in [("q2ctx_scores", &scores), ("st_logits", &starts), ("ed_logits", &ends)] {
        let want = array(key(expected, name)?)?;
        let atol = 1e-5 * want.data().iter().filter(|v| **v > -1e9).fold(0.0f32, |top, v| top.max(v.abs()));
        let wide = |values: &[f32]| values.iter().map(|&v| v.into()).collect::<Vec<f64>>();
        rows.push(Row::compare(name, &wide(&got.to_vec()?), &wide(want.data()), rtol, atol.into()));
    }
    let (best, weights) = inputs.best_videos(&scores)?;
    for (name, got) in [
        ("VR", inputs.videos_found(&best, &weights)),
        ("VCMR", inputs.moments(&best, &weights)?),
        ("SVMR", inputs.moments(&inputs.targets, &vec![1.0; inputs.queries()])?),
    ] {
        rows.extend(compare_lists(name, &got, key(expected, name)?, rtol)?);
    }
    rows.extend(moment_metrics::check_inference_metrics(case)?);
    Ok(rows)
}

/// A video's index, start and end in seconds, and the score.
type Prediction = [f64; 4];

struct Inputs<'a> {
    gpu: &'a Gpu,
    config: &'a Value,
    /// Clips of both streams, (videos, length, width).
    clips: [Tensor; 2],
    mask: Tensor,
    /// What each stream is asked for, (queries, width); and the same for spans.
    queries: [Tensor; 2],
    span_queries: [Tensor; 2],
    taps: [Tensor; 2],
    /// The index of each video in predictions.
    indices: Vec<f64>,
    /// The place of each query's video.
    targets: Vec<u32>,
}

impl<'a> Inputs<'a> {
    fn new(gpu: &'a Gpu, case: &'a Value) -> Result<Self> {
        let inputs = key(case, "inputs")?;
        let params = key(inputs, "params")?;
        let tensor = |from: &Value, name: &str| Tensor::from_array(gpu, &array(key(from, name)?)?);
        let queries = [tensor(inputs, "video_query")?, tensor(inputs, "sub_query")?];
        let linear = |x: &Tensor, name: &str| {
            let bias = tensor(params, &format!("{name}.bias"))?;
            let weight = tensor(params, &format!("{name}.weight"))?;
            let options = matmul::Options { transpose_b: true, bias: Some(&bias), ..Default::default() };
            Ok::<_, crate::Error>(matmul::forward(x, &weight, &options)?.y)
        };
        let taps = |name: &str| {
            let taps = tensor(params, name)?;
            taps.reshape([taps.len()])
        };
        let list = |name: &str| key(inputs, name)?.as_array().ok_or_else(|| malformed(name, "is not a list"));
        let names = list("video_names")?;
        let numbers = key(inputs, "video2idx")?;
        let index = |name: &Value| number(key(numbers, name.as_str().unwrap_or(""))?, "video2idx");
        let target = |query: &Value| {
            let name = key(query, "vid_name")?;
            let place = names.iter().position(|n| n == name);
            place.map(|p| p as u32).ok_or_else(|| malformed("vid_name", "is no video of the case"))
        };
        Ok(Self {
            gpu,
            config: key(case, "config")?,
            clips: [tensor(inputs, "video_feat")?, tensor(inputs, "sub_feat")?],
            mask: tensor(inputs, "mask")?,
            span_queries: [linear(&queries[0], "video_query_linear")?, linear(&queries[1], "sub_query_linear")?],
            queries,
            taps: [taps("merged_st_predictor.weight")?, taps("merged_ed_predictor.weight")?],
            indices: names.iter().map(index).collect::<Result<_>>()?,
            targets: list("queries")?.iter().map(target).collect::<Result<_>>()?,
        })
    }

    fn queries(&self) -> usize {
        self.targets.len()
    }

    fn videos(&self) -> usize {
        self.indices.len()
    }

    fn size(&self, name: &str) -> Result<usize> {
        Ok(number(key(self.config, name)?, name)? as usize)
    }

    /// The cosine with the best clip, mean of both streams: (queries, videos).
    fn scores(&self) -> Result<Tensor> {
        let divisor = Divisor::Clamped { eps: 1e-12 };
        let half = |stream: usize| {
            let (clips, _) = l2_normalize::forward(&self.clips[stream], divisor)?;
            let (queries, _) = l2_normalize::forward(&self.queries[stream], divisor)?;
            let options = matmul::Options { transpose_b: true, alpha: 0.5, ..Default::default() };
            let cosines = matmul::forward(&clips, &queries, &options)?.y;
            Ok::<_, crate::Error>(pooling::max(&cosines, Some(&self.mask), Masked::Fill(-0.5e10))?.0)
        };
        let scores = half(0)?;
        binary::add_assign(&scores, &half(1)?)?;
        permute::transpose(&scores)
    }

    /// What `f` makes of the queries' candidates, as many for each.
    fn search<T>(&self, candidates: &[u32], f: impl Fn(&Search, &Predictor) -> Result<T>) -> Result<T> {
        let each = candidates.len() / self.queries().max(1);
        let candidates = Tensor::from_u32(self.gpu, [self.queries(), each], candidates)?;
        let stream = |s: usize| Stream { queries: &self.span_queries[s], clips: &self.clips[s] };
        let search = Search { first: stream(0), second: Some(stream(1)), mask: &self.mask, candidates: &candidates };
        f(&search, &Predictor { start: &self.taps[0], end: &self.taps[1], mask_similarity: false })
    }

    /// The places of the best videos of each query, and exp(alpha score) of each.
    fn best_videos(&self, scores: &Tensor) -> Result<(Vec<u32>, Vec<f32>)> {
        let (values, places) = topk::forward(scores, self.size("max_vcmr_video")?)?;
        let alpha = number(key(self.config, "q2c_alpha")?, "q2c_alpha")? as f32;
        Ok((places.to_u32()?, values.to_vec()?.iter().map(|v| (alpha * v).exp()).collect()))
    }

    fn videos_found(&self, best: &[u32], weights: &[f32]) -> Vec<Vec<Prediction>> {
        let each = best.len() / self.queries().max(1);
        let all: Vec<Prediction> =
            best.iter().zip(weights).map(|(&v, &w)| [self.indices[v as usize], 0.0, 0.0, w.into()]).collect();
        all.chunks(each.max(1)).map(<[_]>::to_vec).collect()
    }

    /// The best moments of each query in its candidates.
    fn moments(&self, candidates: &[u32], weights: &[f32]) -> Result<Vec<Vec<Prediction>>> {
        let each = candidates.len() / self.queries().max(1);
        let (starts, ends) = self.search(candidates, spans::probabilities)?;
        let weights = Tensor::from_slice(self.gpu, [self.queries(), each], weights)?;
        let lengths = self.size("min_pred_l")?..self.size("max_pred_l")?;
        let top = self.size("max_before_nms")?;
        let (scores, spans) = spans::decode(&starts, &ends, &weights, lengths, top)?;
        let (scores, spans) = (scores.to_vec()?, spans.to_u32()?);
        let seconds = number(key(self.config, "clip_length")?, "clip_length")?;
        let list = |query: usize| {
            let places = query * top..(query + 1) * top;
            let rows = places.filter(|&at| scores[at] > 0.0).map(|at| {
                let video = candidates[query * each + spans[3 * at] as usize];
                let [start, end] = [1, 2].map(|c| f64::from(spans[3 * at + c]) * seconds);
                [self.indices[video as usize], start, end, scores[at].into()]
            });
            rows.collect()
        };
        Ok((0..self.queries()).map(list).collect())
    }
}

/// Compares how long lists are, their scores, and what was found where scores are far enough apart.
fn compare_lists(name: &str, got: &[Vec<Prediction>], expected: &Value, rtol: f64) -> Result<Vec<Row>> {
    let lists = expected.as_array().ok_or_else(|| malformed(name, "is not a list"))?;
    let (mut lengths, mut scores, mut found) = ((vec![], vec![]), (vec![], vec![]), (vec![], vec![]));
    lengths.0.extend(got.iter().map(|list| list.len() as f64));
    for (i, list) in lists.iter().enumerate() {
        let predictions =
            key(list, "predictions")?.as_array().ok_or_else(|| malformed("predictions", "is not a list"))?;
        let stable = numbers(key(list, "stable")?, "stable")?;
        lengths.1.push(predictions.len() as f64);
        for (rank, want) in predictions.iter().enumerate() {
            let want: Prediction =
                numbers(want, name)?.try_into().map_err(|_| malformed(name, "has a row that is not four numbers"))?;
            let got = got.get(i).and_then(|list| list.get(rank)).unwrap_or(&[f64::NAN; 4]);
            scores.0.push(got[3]);
            scores.1.push(want[3]);
            if stable.get(rank) == Some(&1.0) {
                found.0.extend(&got[..3]);
                found.1.extend(&want[..3]);
            }
        }
    }
    Ok(vec![
        Row::compare(format!("{name}.lengths"), &lengths.0, &lengths.1, 0.0, 0.0),
        Row::compare(format!("{name}.scores"), &scores.0, &scores.1, rtol, 0.0),
        Row::compare(format!("{name}.found"), &found.0, &found.1, 0.0, 0.0),
    ])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Error;
    use crate::kernels::testing::gpus;

    fn case(name: &str) -> Option<Value> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/goldens").join(name);
        let Ok(bytes) = std::fs::read(&path) else {
            eprintln!("skipped: {} is not at hand", path.display());
            return None;
        };
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    #[test]
    fn cases_of_the_shared_folder() {
        for name in ["reloclnet-inference-tiny.json", "reloclnet-inference-short-video.json"] {
            let Some(case) = case(name) else { return };
            for gpu in gpus() {
                let rows = check(&gpu, &case).unwrap();
                assert_eq!(rows.len(), 12);
                let failed: Vec<_> = rows.iter().filter(|r| !r.passed).collect();
                assert!(failed.is_empty(), "{name}, {}: {failed:#?}", gpu.family());
            }
        }
    }

    #[test]
    fn damaged_cases_are_errors_and_wrong_values_fail() {
        let Some(whole) = case("reloclnet-inference-tiny.json") else { return };
        let gpu = &gpus()[0];
        for place in ["/inputs/mask", "/inputs/params", "/inputs/video2idx/vid_03", "/config/q2c_alpha", "/expected/VR"]
        {
            let mut case = whole.clone();
            *case.pointer_mut(place).unwrap() = Value::Null;
            assert!(matches!(check(gpu, &case), Err(Error::Malformed { .. })), "{place}");
        }
        let mut case = whole;
        *case.pointer_mut("/expected/VCMR/0/predictions/0/1").unwrap() = 3.0.into();
        *case.pointer_mut("/expected/SVMR/1/predictions/2/3").unwrap() = 1.0.into();
        let failed: Vec<String> =
            check(gpu, &case).unwrap().into_iter().filter(|r| !r.passed).map(|r| r.name).collect();
        assert_eq!(failed, ["VCMR.found", "SVMR.scores"]);
    }
}
