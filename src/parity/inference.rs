//! The `reloclnet-inference` golden cases: from cached encodings to the three lists of predictions, by the model, the index
//! and the search that users have.

use serde_json::Value;

use super::metrics::{array, key, malformed, number, numbers, tolerance};
use super::{Row, moment_metrics};
use crate::autograd::Tape;
use crate::models::Model;
use crate::models::reloclnet::{ClipLevels, Reloclnet, ReloclnetConfig};
use crate::retrieval::moments::{
    IndexedVideo, MomentIndex, MomentSearch, MomentSearchOptions, Prediction, QueryVectors,
};
use crate::tensor::{Array, DType, Tensor};
use crate::{Gpu, Result};

/// Computes scores, logits and the lists VR, VCMR and SVMR of a `reloclnet-inference-*.json` case and compares them;
/// then the metrics and the suppressed lists that the file's own lists give.
///
/// # Errors
/// [`crate::Error::Malformed`] when the case lacks a key or has something else there; what the search returns.
pub fn check(gpu: &Gpu, case: &Value) -> Result<Vec<Row>> {
    let (inputs, config, expected) = (key(case, "inputs")?, key(case, "config")?, key(case, "expected")?);
    let rtol = tolerance(case, "rtol")?;
    let size = |name: &str| Ok::<_, crate::Error>(number(key(config, name)?, name)? as usize);
    let options = MomentSearchOptions {
        alpha: number(key(config, "q2c_alpha")?, "q2c_alpha")? as f32,
        max_videos: size("max_vcmr_video")?,
        min_length: size("min_pred_l")?,
        max_length: size("max_pred_l")?,
        top: size("max_before_nms")?,
        keep: size("max_before_nms")?,
        ..MomentSearchOptions::default()
    };
    let model = model(gpu, config, key(inputs, "params")?)?;
    let queries = ["video_query", "sub_query"].map(|name| array(key(inputs, name)?));
    let queries: Vec<Tensor> = queries.into_iter().map(|q| Tensor::from_array(gpu, &q?)).collect::<Result<_>>()?;
    let streams = [array(key(inputs, "video_feat")?)?, array(key(inputs, "sub_feat")?)?];
    let mask = array(key(inputs, "mask")?)?;
    let (videos, targets) = videos(inputs, &mask, number(key(config, "clip_length")?, "clip_length")?)?;
    let encoded = videos.iter().enumerate().map(|(i, video)| {
        let rows = |s: &Array| Array::new(&s.shape()[1..], s.row(i).to_vec());
        Ok((video.clone(), streams.iter().map(rows).collect::<Result<_>>()?))
    });
    let index = MomentIndex::from_encodings(&model, encoded, DType::F32)?;
    let search = MomentSearch::new(&model, &index, options)?;
    let vectors = QueryVectors::new(&model, &queries)?;

    let tape = Tape::inference(gpu);
    let vars: Vec<_> = queries.iter().map(|q| tape.constant(q.clone())).collect();
    let levels = streams.iter().map(|s| {
        let clips = tape.constant(Tensor::from_array(gpu, s)?);
        Ok(ClipLevels { first: clips.clone(), mid: clips.clone(), last: clips })
    });
    let levels: Vec<ClipLevels> = levels.collect::<Result<_>>()?;
    let logits = model.cross_span_logits(&vars, &levels, &Tensor::from_array(gpu, &mask)?)?;
    let scores = search.video_scores(&vectors)?;
    let mut rows = Vec::new();
    let tensors = [("q2ctx_scores", &scores), ("st_logits", logits.start.value()), ("ed_logits", logits.end.value())];
    for (name, got) in tensors {
        let want = array(key(expected, name)?)?;
        let atol = 1e-5 * want.data().iter().filter(|v| **v > -1e9).fold(0.0f32, |top, v| top.max(v.abs()));
        let wide = |values: &[f32]| values.iter().map(|&v| v.into()).collect::<Vec<f64>>();
        rows.push(Row::compare(name, &wide(&got.to_vec()?), &wide(want.data()), rtol, atol.into()));
    }
    let found = search.search_vectors(&vectors)?;
    let own = search.localize_vectors(&vectors, &targets)?;
    for (name, got) in [("VR", &found.videos), ("VCMR", &found.moments), ("SVMR", &own)] {
        rows.extend(compare_lists(name, got, key(expected, name)?, rtol)?);
    }
    rows.extend(moment_metrics::check_inference_metrics(case)?);
    Ok(rows)
}

/// A network of the case's sizes with the parameters that the file has; the others have no part in a search.
fn model(gpu: &Gpu, config: &Value, params: &Value) -> Result<Reloclnet> {
    let size = |name: &str| Ok::<_, crate::Error>(number(key(config, name)?, name)? as usize);
    let config = ReloclnetConfig {
        hidden_size: size("hidden_size")?,
        num_heads: 1,
        video_dim: 1,
        sub_dim: 1,
        query_dim: 1,
        max_clips: size("max_ctx_l")?,
        max_tokens: 1,
        conv_kernel: size("conv_kernel_size")?,
        ..ReloclnetConfig::default()
    };
    let model = Reloclnet::new(gpu, config, 0)?;
    let mut arrays = model.store().to_arrays()?;
    for (name, value) in params.as_object().ok_or_else(|| malformed("params", "is not an object"))? {
        arrays.insert(name.clone(), array(value)?);
    }
    model.store().load("the golden file", &arrays)?;
    Ok(model)
}

/// The videos, and the place of each query's own.
fn videos(inputs: &Value, mask: &Array, seconds_per_clip: f64) -> Result<(Vec<IndexedVideo>, Vec<usize>)> {
    let list = |name: &str| key(inputs, name)?.as_array().ok_or_else(|| malformed(name, "is not a list"));
    let (names, numbers) = (list("video_names")?, key(inputs, "video2idx")?);
    if mask.shape().len() != 2 || mask.shape()[0] != names.len() {
        return Err(malformed("mask", "has not a row a video"));
    }
    let video = |(row, name): (usize, &Value)| {
        let id = name.as_str().unwrap_or("").to_string();
        let index = number(key(numbers, &id)?, "video2idx")? as u64;
        let clips = mask.row(row).iter().filter(|m| **m > 0.5).count();
        Ok(IndexedVideo { id, index, duration: clips as f64 * seconds_per_clip, clips, seconds_per_clip })
    };
    let videos = names.iter().enumerate().map(video).collect::<Result<_>>()?;
    let target = |query: &Value| {
        let name = key(query, "vid_name")?;
        names.iter().position(|n| n == name).ok_or_else(|| malformed("vid_name", "is no video of the case"))
    };
    Ok((videos, list("queries")?.iter().map(target).collect::<Result<_>>()?))
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
            let want: [f64; 4] =
                numbers(want, name)?.try_into().map_err(|_| malformed(name, "has a row that is not four numbers"))?;
            let got = got
                .get(i)
                .and_then(|list| list.get(rank))
                .map_or([f64::NAN; 4], |p| [p.video as f64, p.start.into(), p.end.into(), p.score.into()]);
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
    use super::*;
    use crate::Error;
    use crate::kernels::testing::gpus;
    use crate::parity::golden;

    #[test]
    fn the_golden_cases_pass() {
        for name in ["reloclnet-inference-tiny", "reloclnet-inference-short-video"] {
            for gpu in gpus() {
                golden::assert_passed(name, &check(&gpu, &golden::json(name)).unwrap(), 13);
            }
        }
    }

    #[test]
    fn damaged_cases_are_errors_and_wrong_values_fail() {
        let whole = golden::json("reloclnet-inference-tiny");
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
        // The suppressed lists are computed from the file's own, which are wrong now.
        assert_eq!(failed, ["VCMR.found", "SVMR.scores", "nms_0.5.VCMR.0", "nms_0.5.SVMR.1"]);
    }
}
