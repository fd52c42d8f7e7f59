//! A world of clips as a folder in MSR-VTT's layout.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ClipWorld, ClipWorldConfig};
use crate::Result;
use crate::data::Part;
use crate::data::formats::atomic;
use crate::data::synthetic::write::{Info, Sentence, begin, create_folder, id, read_manifest, write_table};

/// What MSR-VTT's layout has no place for, from which all else follows.
#[derive(Deserialize, Serialize)]
struct Manifest {
    version: u32,
    config: ClipWorldConfig,
}

impl Manifest {
    const FILE: &str = "synthetic_clips.json";
    const VERSION: u32 = 1;
}

impl ClipWorld {
    /// Frames of a written video a second: one, so that sampling a frame a second, as is usual, finds each.
    pub const FRAMES_PER_SECOND: f64 = 1.0;

    /// Writes the world to `folder`, which is made if need be, as MSR-VTT comes:
    ///
    /// | file | content |
    /// |---|---|
    /// | `MSRVTT_train.9k.csv` | the ids of the training videos, column `video_id` |
    /// | `MSRVTT_data.json` | all captions of all videos |
    /// | `MSRVTT_JSFUSION_{val,test}.csv` | the first caption, a whole one, of each video to validate and test on |
    /// | `videos/` | the first `videos` of each split, as `save` leaves them |
    /// | `synthetic_clips.json` | what [`ClipWorld::read`] reads; written last, so a folder that has it is whole |
    ///
    /// Ids are `video0`, `video1` and so on. `save` gets the path `videos/<id>`, to add an extension to or to make a
    /// folder of; the frames, each RGB bytes (size, size, 3); and the frames of a second.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), and those of `save`.
    pub fn write(
        &self,
        folder: &Path,
        videos: usize,
        mut save: impl FnMut(&Path, &[&[u8]], f64) -> Result<()>,
    ) -> Result<()> {
        let manifest = begin(folder, Manifest::FILE)?;
        let saved = folder.join("videos");
        create_folder(&saved)?;

        let training = self.videos(Part::Train).map(|video| [id(video)]);
        write_table(&folder.join("MSRVTT_train.9k.csv"), ["video_id"], training)?;
        let mut sentences = Vec::new();
        for video in 0..self.len() {
            let captions = self.captions(video)?.into_iter();
            sentences.extend(captions.map(|caption| Sentence { video_id: id(video), caption: caption.text }));
        }
        let captions = self.config.whole_captions + self.config.partial_captions;
        for (part, name) in [(Part::Validation, "val"), (Part::Test, "test")] {
            let rows = self.videos(part).enumerate().map(|(row, video)| {
                let sentence = sentences[video * captions].caption.clone();
                [format!("ret{row}"), format!("msr{video}"), id(video), sentence]
            });
            let header = ["key", "vid_key", "video_id", "sentence"];
            write_table(&folder.join(format!("MSRVTT_JSFUSION_{name}.csv")), header, rows)?;
        }
        atomic::write_lines(&folder.join("MSRVTT_data.json"), [Info { sentences }])?;

        for video in Part::ALL.into_iter().flat_map(|s| self.videos(s).take(videos)) {
            let frames = self.frames(video)?;
            let frames: Vec<&[u8]> = frames.chunks_exact(self.config.size * self.config.size * 3).collect();
            save(&saved.join(id(video)), &frames, Self::FRAMES_PER_SECOND)?;
        }
        atomic::write_lines(&manifest, [Manifest { version: Manifest::VERSION, config: self.config }])
    }

    /// The world that was written to `folder`: it is made anew from its configuration.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io); [`Error::Malformed`](crate::Error::Malformed) for a `synthetic_clips.json` of
    /// another form or version; those of [`ClipWorld::new`].
    pub fn read(folder: &Path) -> Result<Self> {
        let found: Manifest = read_manifest(&folder.join(Manifest::FILE), Manifest::VERSION, |m: &Manifest| m.version)?;
        Self::new(found.config)
    }
}
