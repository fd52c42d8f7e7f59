//! A world of moments as a folder in TVR's layout.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{MomentWorld, MomentWorldConfig, SimulatedVideo, Stretch};
use crate::Result;
use crate::data::Part;
use crate::data::formats::{atomic, hdf5_write};
use crate::data::moments::write_tvr;
use crate::data::synthetic::captions::phrase;
use crate::data::synthetic::write::{begin, create_folder, read_manifest};
use crate::tensor::Array;

/// TVR's names of the splits. Unlike TVR's, the labels of the test are given.
const PARTS: [(Part, &str); 3] = [(Part::Train, "train"), (Part::Validation, "val"), (Part::Test, "test_public")];

const VIDEO_FILE: &str = "tvr_feature_release/video_feature/tvr_resnet152_rgb_max_i3d_rgb600_avg_cat_cl-1.5.h5";
const SUB_FILE: &str = "tvr_feature_release/bert_feature/sub_query/tvr_sub_pretrained_w_sub_query_max_cl-1.5.h5";
const QUERY_FILE: &str = "tvr_feature_release/bert_feature/sub_query/tvr_query_pretrained_w_sub_query.h5";

/// What TVR's layout has no place for: how the world was made, which videos are twins, and which queries ask for an
/// order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MomentManifest {
    /// The version of this file's format and of the world's recipe.
    pub version: u32,
    /// What the world was made from.
    pub config: MomentWorldConfig,
    /// One entry for each video, in the order of their numbers.
    pub videos: Vec<MomentRecord>,
}

/// One video in a [`MomentManifest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MomentRecord {
    /// The video's id.
    pub video_id: String,
    /// The id of the video with the same events in the opposite order.
    pub twin: Option<String>,
    /// What the video is for.
    #[serde(rename = "split")]
    pub part: Part,
    /// The events, in order, in words, with start and end in seconds.
    pub events: Vec<(String, [f64; 2])>,
    /// The numbers of the queries that ask for two events in order.
    pub order_queries: Vec<u64>,
}

impl MomentManifest {
    const FILE: &str = "synthetic_moments.json";
    const VERSION: u32 = 1;

    fn new(world: &MomentWorld) -> Self {
        let record = |video: &SimulatedVideo| MomentRecord {
            video_id: video.id.clone(),
            twin: video.twin.map(|twin| world.videos[twin].id.clone()),
            part: video.part,
            events: video.events.iter().map(|(event, stretch)| (phrase(*event, false), stretch.window())).collect(),
            order_queries: video.order_queries.clone(),
        };
        Self { version: Self::VERSION, config: world.config, videos: world.videos.iter().map(record).collect() }
    }

    /// Whether `folder` is the place of such a world.
    pub fn is_in(folder: &Path) -> bool {
        folder.join(Self::FILE).is_file()
    }

    /// Reads the manifest of the world in `folder`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io); [`Error::Malformed`](crate::Error::Malformed) if it is not JSON of this form
    /// and version.
    pub fn read(folder: &Path) -> Result<Self> {
        read_manifest(&folder.join(Self::FILE), Self::VERSION, |manifest: &Self| manifest.version)
    }
}

impl MomentWorld {
    /// Writes the world to `folder`, which is made if need be, in the layout that ReLoCLNet's code reads:
    ///
    /// | file | content |
    /// |---|---|
    /// | `video_feature/tvr_resnet152_rgb_max_i3d_rgb600_avg_cat_cl-1.5.h5` | for each video id a dataset (clips, 64) |
    /// | `bert_feature/sub_query/tvr_sub_pretrained_w_sub_query_max_cl-1.5.h5` | for each video id one (clips, 48) |
    /// | `bert_feature/sub_query/tvr_query_pretrained_w_sub_query.h5` | for each query's number one (words, 64) |
    /// | `tvr_{train,val,test_public}_release.jsonl` | the queries; those of the test have labels too |
    /// | `tvr_video2dur_idx.json` | for each split its videos with duration and number |
    /// | `tvqa_preprocessed_subtitles.jsonl` | what is said when |
    /// | `synthetic_moments.json` | the [`MomentManifest`]; written last, so a folder that has it is whole |
    ///
    /// The first three are in the folder `tvr_feature_release`; features are those of [`MomentWorld::clips`] and
    /// [`MomentWorld::encode_query`]. The default world of 400 videos takes 10 MB, one of 2,000 takes 50 MB; either is
    /// written within a second or so.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn write(&self, folder: &Path) -> Result<()> {
        let manifest = begin(folder, MomentManifest::FILE)?;
        create_folder(&folder.join("tvr_feature_release/video_feature"))?;
        create_folder(&folder.join("tvr_feature_release/bert_feature/sub_query"))?;

        let put = |path: &Path, features: &dyn Fn(usize, &SimulatedVideo) -> Array| {
            hdf5_write::write(path, |file| {
                self.videos.iter().enumerate().try_for_each(|(i, video)| {
                    let array = features(i, video);
                    file.dataset(&video.id, array.shape(), array.data())
                })
            })
        };
        put(&folder.join(VIDEO_FILE), &|i, video| self.encoder.seen(video, &self.config, i))?;
        put(&folder.join(SUB_FILE), &|i, video| self.encoder.said(video, &self.config, i))?;
        hdf5_write::write(&folder.join(QUERY_FILE), |file| {
            self.videos.iter().flat_map(|v| &v.queries).try_for_each(|query| {
                let tokens = self.encode_query(&query.text)?;
                file.dataset(&query.id.to_string(), tokens.shape(), tokens.data())
            })
        })?;
        let parts = PARTS.map(|(part, name)| (name, self.split(part)));
        write_tvr(folder, &parts.each_ref().map(|(name, part)| (*name, part)))?;
        let lines = self.videos.iter().map(|video| (&video.id, video.lines.iter().map(subtitle).collect()));
        let subtitles = lines.map(|(vid_name, sub)| Subtitles { vid_name, sub });
        atomic::write_lines(&folder.join("tvqa_preprocessed_subtitles.jsonl"), subtitles)?;
        atomic::write_lines(&manifest, [MomentManifest::new(self)])
    }
}

/// A row of `tvqa_preprocessed_subtitles.jsonl`.
#[derive(Serialize)]
struct Subtitles<'a> {
    vid_name: &'a str,
    sub: Vec<Subtitle<'a>>,
}

#[derive(Serialize)]
struct Subtitle<'a> {
    text: &'a str,
    start: f64,
    end: f64,
}

fn subtitle((text, stretch): &(String, Stretch)) -> Subtitle<'_> {
    let [start, end] = stretch.window();
    Subtitle { text, start, end }
}
