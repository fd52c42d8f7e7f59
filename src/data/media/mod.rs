//! Videos and pictures: files that ffmpeg decodes, folders of frames, and what an image tower takes of them.

use std::path::Path;

use crate::{Error, Result};

pub mod frames;
pub mod pixels;
pub mod preprocess;
pub mod video;

/// The length of a regular file. Whatever else bears the name is refused before it is opened: a pipe would be waited for,
/// and a device read for ever.
fn regular_file(path: &Path) -> Result<u64> {
    let found = std::fs::metadata(path).map_err(|e| Error::io("open", path, e))?;
    if found.is_file() {
        return Ok(found.len());
    }
    let what = if found.is_dir() { "a folder" } else { "a pipe, a socket or a device" };
    Err(Error::malformed(path, "file", format_args!("is {what}; only regular files are read")))
}
