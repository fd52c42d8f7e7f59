//! What a run is given.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::data::media::video::{Listing, VideoSource};
use crate::{Error, Result};

/// Sentences, pictures and videos, and what of the folders and files that were named is none.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Sentences.
    pub texts: Vec<String>,
    /// Files of pictures.
    pub images: Vec<PathBuf>,
    /// Videos, each under its id.
    pub videos: Vec<(String, VideoSource)>,
    /// What was left out, by its kind.
    pub skipped: BTreeMap<String, usize>,
}

impl Inputs {
    /// Adds the sentences of a file, one a line. Blank lines are skipped.
    ///
    /// # Errors
    /// [`Error::Io`], for a file that is not UTF-8, too.
    pub fn add_text_file(&mut self, path: &Path) -> Result<()> {
        let text = fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        for line in text.strip_prefix('\u{feff}').unwrap_or(&text).lines().map(str::trim) {
            if line.is_empty() {
                self.skip("blank");
            } else {
                self.texts.push(line.to_string());
            }
        }
        Ok(())
    }

    /// Adds a video file, or a folder of frames, under its path.
    pub fn add_video(&mut self, path: &Path) {
        let source = if path.is_dir() { VideoSource::Frames } else { VideoSource::File };
        self.videos.push((path.display().to_string(), source(path.to_path_buf())));
    }

    /// Adds the video files and folders of frames in `folder`, by their names. What else there is is skipped.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn add_folder(&mut self, folder: &Path) -> Result<()> {
        let Listing { videos, others } = Listing::of(folder)?;
        others.iter().for_each(|name| self.skip(if name.starts_with('.') { "hidden" } else { "no video" }));
        self.videos.extend(videos);
        Ok(())
    }

    fn skip(&mut self, kind: &str) {
        *self.skipped.entry(kind.to_string()).or_default() += 1;
    }

    /// That there is something to do, and that every row gets a name of its own.
    ///
    /// # Errors
    /// [`Error::Argument`].
    pub(super) fn check(&self) -> Result<()> {
        let bad = |why: String| Err(Error::argument("encode", "inputs", why));
        if self.texts.is_empty() && self.images.is_empty() && self.videos.is_empty() {
            let skipped: usize = self.skipped.values().sum();
            return bad(format!("hold no sentence, picture or video ({skipped} files and lines are none)"));
        }
        let images = self.images.iter().map(|path| path.display().to_string());
        for ids in [images.collect::<Vec<_>>(), self.videos.iter().map(|(id, _)| id.clone()).collect()] {
            let mut seen = BTreeSet::new();
            if let Some(twice) = ids.iter().find(|id| !seen.insert(id.as_str())) {
                return bad(format!("name {twice} twice, or two of that name"));
            }
        }
        Ok(())
    }
}
