//! What a run has done so far, on the disk: a folder beside the output, with a file for every piece that is done.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Embeddings;
use crate::data::formats::safetensors::{self, TensorFile};
use crate::data::formats::{atomic, text};
use crate::tensor::Array;
use crate::{Error, Result};

const MANIFEST: &str = "run.json";
/// Where a piece's file says what it was made from.
const SOURCE: &str = "source";
/// Where it says what was wrong with that, with a number behind.
const NOTE: &str = "note";
const FORMAT: u64 = 1;

/// Rows by the name of their array.
pub(super) type Rows = Vec<(&'static str, Array)>;

/// What a piece is made from: a picture, a video, some sentences.
pub(super) struct Piece {
    /// `text`, `image` or `video`.
    pub kind: &'static str,
    /// Its path, or its number.
    pub id: String,
    /// Changes when the piece does: size and time of its file, or the sentences themselves.
    pub source: String,
}

/// The folder of a run that makes `out`.
pub(super) struct Work {
    folder: PathBuf,
    out: PathBuf,
}

impl Work {
    /// Makes the folder, or with `resume` opens it: then the run must be `about` the same, model and options.
    ///
    /// # Errors
    /// [`Error::Argument`] for an output that is there already, or work to go on with without `resume`;
    /// [`Error::ResumeChanges`]; [`Error::Missing`] with nothing to go on with; [`Error::Io`] where nothing can be written.
    pub fn open(out: &Path, about: &Value, resume: bool) -> Result<Self> {
        let bad = |why: String| Err(Error::argument("encode", "out", why));
        let name = out.file_name().map(|name| name.to_string_lossy().to_string()).unwrap_or_default();
        if name.is_empty() {
            return bad(format!("{:?} names no file or folder", out.display()));
        }
        let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
            return bad(format!("is in {}, which is not there", parent.display()));
        }
        if out.exists() {
            return bad(format!("{} is there already; choose another name, or remove it first", out.display()));
        }
        let work = Self { folder: out.with_file_name(format!("{name}.work")), out: out.to_path_buf() };
        let manifest = work.folder.join(MANIFEST);
        match (resume, work.holds_pieces()) {
            (true, false) => return Err(Error::missing(&work.folder, "unfinished run", name)),
            (false, true) => {
                let folder = work.folder.display();
                return bad(format!("has an unfinished run in {folder}: go on with --resume, or remove it"));
            }
            (true, true) => expect_same(about, &text::read_json::<Value>(&manifest)?["about"])?,
            (false, false) => {
                fs::create_dir_all(&work.folder).map_err(|e| Error::io("create", &work.folder, e))?;
                let content = json!({ "format": FORMAT, "about": about });
                atomic::write(&manifest, |file| writeln!(file, "{content:#}"))?;
            }
        }
        Ok(work)
    }

    /// Whether something is done. A run that ended before it did anything leaves nothing to go on with.
    fn holds_pieces(&self) -> bool {
        let mut entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.any(|entry| entry.path().extension().is_some_and(|e| e == "safetensors"))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn file(&self, piece: &Piece) -> PathBuf {
        let hash = Sha256::digest(piece.id.as_bytes());
        let short: String = hash.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(format!("{}-{short}.safetensors", piece.kind))
    }

    /// Whether the piece is done, and from what it is made from today.
    pub fn has(&self, piece: &Piece) -> bool {
        let file = TensorFile::open(self.file(piece));
        file.is_ok_and(|file| file.metadata().get(SOURCE) == Some(&piece.source))
    }

    /// Keeps what a piece gave, and what is to be said of it; it is there as a whole or not at all.
    pub fn put(&self, piece: &Piece, rows: Rows, notes: &[String]) -> Result<()> {
        let rows = rows.into_iter().map(|(name, array)| (name.to_string(), array)).collect();
        let notes = notes.iter().enumerate().map(|(i, note)| (format!("{NOTE}{i:04}"), note.clone()));
        let mut metadata: BTreeMap<String, String> = notes.collect();
        metadata.insert(SOURCE.to_string(), piece.source.clone());
        safetensors::write(self.file(piece), &rows, &metadata)
    }

    /// Adds what a piece gave to `all`; returns what is to be said of it.
    pub fn collect(&self, piece: &Piece, all: &mut Embeddings) -> Result<Vec<String>> {
        let file = TensorFile::open(self.file(piece))?;
        for name in file.names() {
            all.extend(name, file.array(name)?)?;
        }
        let notes = file.metadata().iter().filter(|(key, _)| key.starts_with(NOTE));
        Ok(notes.map(|(_, note)| note.clone()).collect())
    }

    /// Writes the output, unless it is empty, and removes the folder; returns the file with the ids.
    pub fn finish(&self, all: &Embeddings) -> Result<Option<PathBuf>> {
        let beside = if all.arrays.is_empty() { None } else { Some(all.write(&self.out)?) };
        fs::remove_dir_all(&self.folder).map_err(|e| Error::io("remove", &self.folder, e))?;
        Ok(beside)
    }
}

/// That a run which goes on is about what it was about.
fn expect_same(asked: &Value, stored: &Value) -> Result<()> {
    let known = asked.as_object().into_iter().flatten();
    match known.into_iter().find(|(name, value)| stored.get(*name) != Some(*value)) {
        None => Ok(()),
        Some((name, value)) => {
            let stored = stored.get(name).unwrap_or(&Value::Null);
            Err(Error::ResumeChanges { name: name.clone(), stored: stored.to_string(), asked: value.to_string() })
        }
    }
}

/// Size and time of a file, or of all that a folder holds.
pub(super) fn source_of(path: &Path) -> Result<String> {
    let failed = |e| Error::io("inspect", path, e);
    let about = fs::metadata(path).map_err(failed)?;
    if !about.is_dir() {
        let modified = about.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        return Ok(format!("{} bytes, {}", about.len(), modified.map_or(0, |t| t.as_nanos())));
    }
    let entries = fs::read_dir(path).map_err(failed)?;
    let mut files: Vec<PathBuf> =
        entries.map(|e| e.map(|e| e.path())).collect::<std::io::Result<_>>().map_err(failed)?;
    files.sort();
    let mut hash = Sha256::new();
    for file in files.iter().filter(|file| file.is_file()) {
        hash.update(format!("{} {}\n", file.display(), source_of(file)?));
    }
    Ok(format!("{:x}", hash.finalize()))
}
