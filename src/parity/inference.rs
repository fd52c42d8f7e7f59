//! The `reloclnet-inference` golden cases: from cached encodings to the three lists of predictions, by the model, the index
//! and the search that users have.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::json::{Golden, malformed, part, tolerance};
use super::{Row, moment_metrics};
use crate::autograd::Tape;
use crate::models::Model;
use crate::models::reloclnet::{ClipLevels, Reloclnet, ReloclnetConfig};
use crate::retrieval::moments::{
    IndexedVideo, MomentIndex, MomentSearch, MomentSearchOptions, Prediction, QueryVectors,
};
use crate::tensor::{Array, DType, Tensor};
use crate::{Gpu, Result};

#[derive(Deserialize)]
struct Config {
    hidden_size: usize,
    max_ctx_l: usize,
    conv_kernel_size: usize,
    q2c_alpha: f32,
    min_pred_l: usize,
    max_pred_l: usize,
    max_before_nms: usize,
    max_vcmr_video: usize,
    clip_length: f64,
}

#[derive(Deserialize)]
struct Inputs {
    params: BTreeMap<String, Golden>,
    video_query: Golden,
    sub_query: Golden,
    video_feat: Golden,
    sub_feat: Golden,
    mask: Golden,
    video_names: Vec<String>,
    video2idx: BTreeMap<String, u64>,
    queries: Vec<Query>,
}

#[derive(Deserialize)]
struct Query {
    vid_name: String,
}

/// The list of a query.
#[derive(Deserialize)]
struct Found {
    /// Video, start, end and score.
    predictions: Vec<[f64; 4]>,
    /// 1 where scores are far enough apart.
    stable: Vec<f64>,
}

/// Computes scores, logits and the lists VR, VCMR and SVMR of a `reloclnet-inference-*.json` case and compares them;
/// then the metrics and the suppressed lists that the file's own lists give.
///
/// # Errors
/// [`crate::Error::Malformed`] when the case lacks a key or has something else there; what the search returns.
pub fn check(gpu: &Gpu, case: &Value) -> Result<Vec<Row>> {
    let inputs: Inputs = part(case, "inputs")?;
    let config: Config = part(case, "config")?;
    let expected: Value = part(case, "expected")?;
    let rtol = tolerance(case, "rtol")?;
    let options = MomentSearchOptions {
        alpha: config.q2c_alpha,
        max_videos: config.max_vcmr_video,
        min_length: config.min_pred_l,
        max_length: config.max_pred_l,
        top: config.max_before_nms,
        keep: config.max_before_nms,
        ..MomentSearchOptions::default()
    };
    let model = model(gpu, &config, &inputs.params)?;
    let upload = |Golden(array): &Golden| Tensor::from_array(gpu, array);
    let queries = [upload(&inputs.video_query)?, upload(&inputs.sub_query)?];
    let streams = [&inputs.video_feat.0, &inputs.sub_feat.0];
    let (videos, targets) = videos(&inputs, config.clip_length)?;
    let encoded = videos.iter().enumerate().map(|(i, video)| {
        let rows = |s: &&Array| Array::new(&s.shape()[1..], s.row(i).to_vec());
        Ok((video.clone(), streams.iter().map(rows).collect::<Result<_>>()?))
    });
    let index = MomentIndex::from_encodings(&model, encoded, DType::F32)?;
    let search = MomentSearch::new(&model, &index, options)?;
    let vectors = QueryVectors::new(&model, &queries)?;

    let tape = Tape::inference(gpu);
    let vars = queries.map(|q| tape.constant(q));
    let levels = streams.iter().map(|s| {
        let clips = tape.constant(Tensor::from_array(gpu, s)?);
        Ok(ClipLevels { first: clips.clone(), mid: clips.clone(), last: clips })
    });
    let levels: Vec<ClipLevels> = levels.collect::<Result<_>>()?;
    let logits = model.cross_span_logits(&vars, &levels, &upload(&inputs.mask)?)?;
    let scores = search.video_scores(&vectors)?;
    let mut rows = Vec::new();
    let tensors = [("q2ctx_scores", &scores), ("st_logits", logits.start.value()), ("ed_logits", logits.end.value())];
    for (name, got) in tensors {
        let Golden(want) = part(&expected, name)?;
        let atol = 1e-5 * want.data().iter().filter(|v| **v > -1e9).fold(0.0f32, |top, v| top.max(v.abs()));
        rows.push(Row::compare(name, &got.to_vec()?, want.data(), rtol, atol.into()));
    }
    let found = search.search_vectors(&vectors)?;
    let own = search.localize_vectors(&vectors, &targets)?;
    for (name, got) in [("VR", &found.videos), ("VCMR", &found.moments), ("SVMR", &own)] {
        rows.extend(compare_lists(name, got, &part::<Vec<Found>>(&expected, name)?, rtol));
    }
    rows.extend(moment_metrics::check_inference_metrics(case)?);
    Ok(rows)
}

/// A network of the case's sizes with the parameters that the file has; the others have no part in a search.
fn model(gpu: &Gpu, config: &Config, params: &BTreeMap<String, Golden>) -> Result<Reloclnet> {
    let config = ReloclnetConfig {
        hidden_size: config.hidden_size,
        num_heads: 1,
        video_dim: 1,
        sub_dim: 1,
        query_dim: 1,
        max_clips: config.max_ctx_l,
        max_tokens: 1,
        conv_kernel: config.conv_kernel_size,
        ..ReloclnetConfig::default()
    };
    let model = Reloclnet::new(gpu, config, 0)?;
    let mut arrays = model.store().to_arrays()?;
    arrays.extend(params.iter().map(|(name, Golden(array))| (name.clone(), array.clone())));
    model.store().load("the golden file", &arrays)?;
    Ok(model)
}

/// The videos, and the place of each query's own.
fn videos(inputs: &Inputs, seconds_per_clip: f64) -> Result<(Vec<IndexedVideo>, Vec<usize>)> {
    let (names, Golden(mask)) = (&inputs.video_names, &inputs.mask);
    if mask.shape().len() != 2 || mask.shape()[0] != names.len() {
        return Err(malformed("mask", "has not a row a video"));
    }
    let video = |(row, id): (usize, &String)| {
        let index = *inputs.video2idx.get(id).ok_or_else(|| malformed(id, "is missing"))?;
        let clips = mask.row(row).iter().filter(|m| **m > 0.5).count();
        Ok(IndexedVideo { id: id.clone(), index, duration: clips as f64 * seconds_per_clip, clips, seconds_per_clip })
    };
    let videos = names.iter().enumerate().map(video).collect::<Result<_>>()?;
    let target = |query: &Query| {
        let place = names.iter().position(|name| *name == query.vid_name);
        place.ok_or_else(|| malformed("vid_name", "is no video of the case"))
    };
    Ok((videos, inputs.queries.iter().map(target).collect::<Result<_>>()?))
}

/// Compares how long lists are, their scores, and what was found where scores are far enough apart.
fn compare_lists(name: &str, got: &[Vec<Prediction>], expected: &[Found], rtol: f64) -> [Row; 3] {
    let lengths = [
        got.iter().map(|list| list.len() as f64).collect::<Vec<_>>(),
        expected.iter().map(|list| list.predictions.len() as f64).collect(),
    ];
    let (mut scores, mut found) = ((vec![], vec![]), (Vec::<f64>::new(), Vec::<f64>::new()));
    for (i, list) in expected.iter().enumerate() {
        for (rank, want) in list.predictions.iter().enumerate() {
            let got = got
                .get(i)
                .and_then(|list| list.get(rank))
                .map_or([f64::NAN; 4], |p| [p.video as f64, p.start.into(), p.end.into(), p.score.into()]);
            scores.0.push(got[3]);
            scores.1.push(want[3]);
            if list.stable.get(rank) == Some(&1.0) {
                found.0.extend(&got[..3]);
                found.1.extend(&want[..3]);
            }
        }
    }
    [
        Row::compare(format!("{name}.lengths"), &lengths[0], &lengths[1], 0.0, 0.0),
        Row::compare(format!("{name}.scores"), &scores.0, &scores.1, rtol, 0.0),
        Row::compare(format!("{name}.found"), &found.0, &found.1, 0.0, 0.0),
    ]
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
