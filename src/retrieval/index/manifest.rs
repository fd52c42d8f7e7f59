//! The one file that says what belongs to an index. Whatever changes an index writes new files first and then this one
//! anew, by a rename: before it nothing has changed, after it everything has.

use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::spec::IndexSpec;
use crate::data::formats::atomic;
use crate::data::formats::text::read_at_most;
use crate::{Error, Result};

pub(super) const FILE: &str = "index.json";
/// What the file begins with; the hash of all that follows the line comes next.
const FORMAT: &str = "reelgrad-index/1";
const MAX_BYTES: u64 = 1 << 30;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub spec: IndexSpec,
    /// The number of the next segment: none is given twice.
    pub next: u64,
    pub segments: Vec<SegmentEntry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SegmentEntry {
    pub number: u64,
    /// Of its description.
    pub sha256: String,
    pub videos: usize,
    pub clips: usize,
    /// Which of its videos are no longer there, ascending.
    pub deleted: Vec<usize>,
}

impl Manifest {
    /// Reads that of the index in `folder`.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is no index; [`Error::Malformed`] for damage and for other versions; [`Error::Io`].
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        if !path.is_file() {
            return Err(Error::missing(folder, "index", folder.file_name().unwrap_or_default().display()));
        }
        let bytes = read_at_most(&path, MAX_BYTES)?;
        let bad = |place: &str, problem: String| Error::malformed(&path, place, problem);
        let end = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
        let (line, rest) = (String::from_utf8_lossy(&bytes[..end]), bytes.get(end + 1..).unwrap_or_default());
        match line.split_once(' ') {
            Some((FORMAT, hash)) if hash == hash_of(rest) => {}
            Some((FORMAT, _)) => return Err(bad("hash", "the file is not what was written; it is damaged".into())),
            Some((format, _)) if format.starts_with("reelgrad-index/") => {
                let why = format!("is {format}, and this version of reelgrad reads {FORMAT}; make the index anew");
                return Err(bad("format", why));
            }
            _ => return Err(bad("line 1", format!("does not begin with {FORMAT} and a hash; this is no index"))),
        }
        let manifest: Self = serde_json::from_slice(rest).map_err(|e| bad("content", e.to_string()))?;
        manifest.check().map_err(|problem| bad("content", problem))?;
        Ok(manifest)
    }

    /// What no hash can say.
    fn check(&self) -> std::result::Result<(), String> {
        for entry in &self.segments {
            let ascending = entry.deleted.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascending || entry.deleted.last().is_some_and(|&last| last >= entry.videos) {
                return Err(format!("segment {}: impossible list of deleted videos", entry.number));
            }
            if entry.number >= self.next {
                return Err(format!("segment {} is not below the next number, {}", entry.number, self.next));
            }
        }
        Ok(())
    }

    /// Makes it that of the index in `folder`.
    ///
    /// # Errors
    /// [`Error::Io`]: then the one before still holds.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let body = serde_json::to_vec_pretty(self).map_err(|e| Error::malformed(&path, "content", e))?;
        atomic::write(&path, |file| {
            writeln!(file, "{FORMAT} {}", hash_of(&body))?;
            file.write_all(&body)
        })
    }
}

fn hash_of(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
