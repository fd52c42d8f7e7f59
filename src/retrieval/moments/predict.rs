//! Predictions for a whole split, as a submission.

use std::collections::{BTreeMap, HashMap};

use super::search::{MomentSearch, Stage, Watch};
use super::submission::{HighlightPrediction, Prediction, QueryPredictions, Submission};
use crate::data::moments::{MomentSource, Problems};
use crate::tensor::Array;
use crate::{Progress, Result};

/// A submission and what it took.
#[derive(Clone, Debug)]
pub struct Predicted {
    /// VCMR and VR for every query, SVMR for those whose video is known and in the index.
    pub submission: Submission,
    /// Time by stage of the search in the whole index.
    pub stages: Vec<Stage>,
}

impl Predicted {
    /// The moments of each query's own video as QVHighlights' lines have them.
    pub fn highlights(&self, source: &dyn MomentSource) -> Vec<HighlightPrediction> {
        let videos: HashMap<u64, Option<&String>> = source.queries().iter().map(|q| (q.id, q.video.as_ref())).collect();
        let line = |list: &QueryPredictions| HighlightPrediction {
            id: list.id,
            text: list.text.clone(),
            video: videos.get(&list.id).copied().flatten().cloned().unwrap_or_default(),
            windows: Some(list.predictions.iter().map(|p| [p.start, p.end, p.score].map(f64::from)).collect()),
            saliency: None,
        };
        self.submission.svmr.iter().flatten().map(line).collect()
    }
}

impl MomentSearch<'_> {
    /// Searches for all queries of `source`, and measures the stages. Queries that cannot be read go to `problems`;
    /// `progress` counts queries.
    ///
    /// # Errors
    /// What `source`, `problems` and [`MomentSearch::search`] return.
    pub fn predict(
        &self,
        source: &dyn MomentSource,
        problems: &mut Problems,
        progress: &mut dyn Progress,
    ) -> Result<Predicted> {
        let queries: Vec<usize> = (0..source.queries().len()).collect();
        let videos = self.index.videos();
        let places: HashMap<&str, usize> = videos.iter().enumerate().map(|(i, v)| (v.id.as_str(), i)).collect();
        let (mut vcmr, mut vr, mut svmr) = (Vec::new(), Vec::new(), Vec::new());
        let mut watch = Watch::of(&self.index.gpu);
        let batch = self.options.batch.max(1);
        for (number, chunk) in queries.chunks(batch).enumerate() {
            let mut tokens: Vec<(usize, Array)> = Vec::with_capacity(chunk.len());
            for &query in chunk {
                tokens.extend(problems.check(source.tokens(query))?.map(|tokens| (query, tokens)));
            }
            let list = |query: usize, predictions: Vec<Prediction>| {
                let q = &source.queries()[query];
                QueryPredictions { id: q.id, text: q.text.clone(), predictions }
            };
            let features: Vec<&Array> = tokens.iter().map(|(_, t)| t).collect();
            if features.is_empty() {
                continue;
            }
            let found = self.search_with(&features, &mut watch)?;
            for ((&(query, _), moments), videos) in tokens.iter().zip(found.moments).zip(found.videos) {
                vcmr.push(list(query, moments));
                vr.push(list(query, videos));
            }
            let mut known = Vec::new();
            for (query, features) in &tokens {
                let video = source.video_of(*query)?.and_then(|v| places.get(source.videos()[v].id.as_str()));
                known.extend(video.map(|&place| (*query, features, place)));
            }
            if !known.is_empty() {
                let features: Vec<&Array> = known.iter().map(|(_, f, _)| *f).collect();
                let own: Vec<usize> = known.iter().map(|(_, _, place)| *place).collect();
                let moments = self.localize(&features, &own)?;
                svmr.extend(known.iter().zip(moments).map(|((query, _, _), m)| list(*query, m)));
            }
            progress.step((number * batch + chunk.len()) as u64, queries.len() as u64, "queries");
        }
        let video2idx: BTreeMap<String, u64> = videos.iter().map(|v| (v.id.clone(), v.index)).collect();
        let svmr = (!svmr.is_empty()).then_some(svmr);
        let submission = Submission { video2idx, vcmr: Some(vcmr), svmr, vr: Some(vr), ..Submission::default() };
        Ok(Predicted { submission, stages: watch.stages })
    }
}
