//! Which files of folders are videos, and which of these an index has already.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::{Index, Video};
use crate::data::media::video::{Listing, LoadFailure, VideoSource};
use crate::{Error, Result};

/// A video file on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VideoFile {
    /// Its absolute path, which is its id.
    pub id: String,
    pub path: PathBuf,
    pub size: u64,
    pub modified: u64,
}

impl VideoFile {
    fn is(&self, video: &Video) -> bool {
        (self.size, self.modified) == (video.size, video.modified)
    }
}

/// What the folders hold, compared with what an index has of them.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Videos that are new, or changed since they were indexed; in the order of their paths.
    pub wanted: Vec<VideoFile>,
    /// How many are as they were when they were indexed.
    pub known: usize,
    /// Ids of videos of these folders that the index has and the disk has not.
    pub vanished: Vec<String>,
    /// Files that are no videos, by kind.
    pub skipped: BTreeMap<String, usize>,
    /// What could not be looked at.
    pub failed: Vec<LoadFailure>,
}

impl Found {
    /// Looks through files and folders, and the folders in these. Links to files are followed, those to folders are not.
    ///
    /// # Errors
    /// [`Error::Io`] for a path that is not there.
    pub fn of(roots: &[PathBuf], index: &Index) -> Result<Self> {
        let (mut found, mut files) = (Self::default(), BTreeMap::new());
        let mut absolute = Vec::new();
        for root in roots {
            let root = std::path::absolute(root).map_err(|e| Error::io("find", root, e))?;
            match fs::metadata(&root).map_err(|e| Error::io("open", &root, e))?.is_dir() {
                true => found.walk(&root, &mut files)?,
                false => found.take(&root, &mut files),
            }
            absolute.push(root);
        }
        let indexed: BTreeMap<&str, &Video> = index.videos().map(|video| (video.id.as_str(), video)).collect();
        let there: BTreeSet<&str> = files.keys().map(String::as_str).collect();
        let of_roots = |id: &&str| absolute.iter().any(|root| Path::new(id).starts_with(root));
        let gone = indexed.keys().copied().filter(|id| !there.contains(id)).filter(of_roots);
        // What could not be looked at has not vanished.
        found.vanished = gone.filter(|id| !Path::new(id).exists()).map(String::from).collect();
        let (known, wanted) = files.into_values().partition(|f| indexed.get(f.id.as_str()).is_some_and(|v| f.is(v)));
        let known: Vec<VideoFile> = known;
        found.known = known.len();
        found.wanted = wanted;
        Ok(found)
    }

    fn skip(&mut self, kind: &str, count: usize) {
        if count > 0 {
            *self.skipped.entry(kind.into()).or_default() += count;
        }
    }

    fn walk(&mut self, root: &Path, files: &mut BTreeMap<String, VideoFile>) -> Result<()> {
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            if folder.join(super::manifest::FILE).is_file() && folder.join(super::SEGMENTS).is_dir() {
                self.skip("index", 1);
                continue;
            }
            let listing = match Listing::of(&folder) {
                Ok(listing) => listing,
                Err(error) if folder == root => return Err(error),
                Err(error) => {
                    self.failed.push(LoadFailure { id: folder.display().to_string(), error });
                    continue;
                }
            };
            let hidden = listing.others.iter().filter(|name| name.starts_with('.')).count();
            self.skip("hidden", hidden);
            self.skip("no video", listing.others.len() - hidden);
            for (_, source) in listing.videos {
                match source {
                    VideoSource::File(path) => self.take(&path, files),
                    VideoSource::Frames(path) if path.is_symlink() => self.skip("link to a folder", 1),
                    VideoSource::Frames(path) => folders.push(path),
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, path: &Path, files: &mut BTreeMap<String, VideoFile>) {
        let about = || -> Result<VideoFile> {
            let why = "its name is no UTF-8; rename it";
            let id = path.to_str().ok_or_else(|| Error::malformed(path, "name", why))?.to_string();
            let about = fs::metadata(path).map_err(|e| Error::io("inspect", path, e))?;
            let since = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let modified = since.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
            Ok(VideoFile { id, path: path.to_path_buf(), size: about.len(), modified })
        };
        match about() {
            Ok(file) => drop(files.insert(file.id.clone(), file)),
            Err(error) => self.failed.push(LoadFailure { id: path.display().to_string(), error }),
        }
    }
}
