//! Checkpoints that are either whole or not there.
//!
//! A checkpoint is a folder of `model.safetensors`, `optimizer.safetensors`, `state.json` and `MANIFEST.json`, which
//! holds size and SHA-256 of the others. It is written as `NAME.tmp-PID` beside its place, flushed file by file, the
//! manifest last, and renamed into place. An older checkpoint of that name is first renamed to `NAME.old-PID` and removed
//! at the end. Whenever the process or the machine stops, one whole checkpoint is left, and [`load`] finds it.
//!
//! A checkpoint has one writer at a time; a run folder sees to that with its lock.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::formats::digest::Digest;
use crate::data::formats::text::read_json;
use crate::data::formats::{atomic, safetensors};
use crate::tensor::Array;
use crate::{Error, Result};

const FORMAT: &str = "reelgrad-checkpoint/1";
const MANIFEST: &str = "MANIFEST.json";
const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
const FILES: [&str; 3] = [MODEL, OPTIMIZER, STATE];

/// Everything that a run needs to continue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// Parameters by their official names.
    pub model: BTreeMap<String, Array>,
    /// The optimiser's tensors, such as moments, by name.
    pub optimizer: BTreeMap<String, Array>,
    /// The rest: step, epoch, seed, scheduler, best metric. Floats survive exactly, but NaN and infinity become null.
    pub state: serde_json::Value,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: String,
    files: BTreeMap<String, Digest>,
}

/// Writes `checkpoint` to the folder `dir`, whose parent must exist, and replaces a checkpoint that is there.
///
/// # Errors
/// [`Error::Io`], [`Error::Argument`] for a tensor name the format forbids; the older checkpoint is then still in place.
/// [`Error::Checkpoint`] when `dir` is something else than a checkpoint.
pub fn save(dir: impl AsRef<Path>, checkpoint: &Checkpoint) -> Result<()> {
    let dir = dir.as_ref();
    let saved = save_in_steps(dir, checkpoint, &mut |_| Ok(()));
    if saved.is_err() {
        // The first error is the one to report.
        let _ = settle(dir);
    }
    saved
}

/// Reads the checkpoint in the folder `dir` and verifies every byte of it.
///
/// When a crash hit the moment of replacement, `dir` itself is missing and the newest whole copy beside it is read.
///
/// # Errors
/// [`Error::Checkpoint`] naming the file that is missing, damaged, truncated or not listed; [`Error::Io`].
pub fn load(dir: impl AsRef<Path>) -> Result<Checkpoint> {
    newest(dir.as_ref(), load_exactly)
}

/// The parameters alone, by their official names; verifies every byte as [`load`] does.
///
/// # Errors
/// As [`load`].
pub fn load_model(dir: impl AsRef<Path>) -> Result<BTreeMap<String, Array>> {
    newest(dir.as_ref(), |dir| {
        verify(dir)?;
        safetensors::read(dir.join(MODEL))
    })
}

/// What `read` returns for `dir`, or where that is missing for the newest whole copy beside it.
fn newest<T>(dir: &Path, read: impl Fn(&Path) -> Result<T>) -> Result<T> {
    if !exists(dir)? {
        for candidate in leftovers(dir)? {
            if let Ok(value) = read(&candidate) {
                return Ok(value);
            }
        }
    }
    read(dir)
}

/// Finishes or undoes a save that a crash interrupted, and removes what it left behind. [`save`] does this by itself.
///
/// # Errors
/// [`Error::Io`].
pub fn settle(dir: impl AsRef<Path>) -> Result<()> {
    let dir = dir.as_ref();
    if !exists(dir)? {
        for candidate in leftovers(dir)? {
            if load_exactly(&candidate).is_ok() {
                fs::rename(&candidate, dir).map_err(|e| Error::io("rename", &candidate, e))?;
                sync_parent(dir)?;
                break;
            }
        }
    }
    for leftover in leftovers(dir)? {
        remove(&leftover)?;
    }
    Ok(())
}

/// Calls `at` after every step; an error from it stops there and leaves everything as a crash would.
fn save_in_steps(dir: &Path, checkpoint: &Checkpoint, at: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    settle(dir)?;
    if exists(dir)? && !dir.join(MANIFEST).is_file() {
        let problem = "it is not a checkpoint; nothing was written".to_string();
        return Err(Error::Checkpoint { path: dir.to_path_buf(), problem });
    }
    let pid = std::process::id();
    let (temporary, old) = (beside(dir, &format!(".tmp-{pid}"))?, beside(dir, &format!(".old-{pid}"))?);

    fs::create_dir(&temporary).map_err(|e| Error::io("create", &temporary, e))?;
    at("create")?;
    let none = BTreeMap::new();
    safetensors::write(temporary.join(MODEL), &checkpoint.model, &none)?;
    at(MODEL)?;
    safetensors::write(temporary.join(OPTIMIZER), &checkpoint.optimizer, &none)?;
    at(OPTIMIZER)?;
    write_json(&temporary.join(STATE), &checkpoint.state)?;
    at(STATE)?;
    let files = FILES.iter().map(|name| Ok((name.to_string(), Digest::of_file(&temporary.join(name))?)));
    let manifest = Manifest { format: FORMAT.into(), files: files.collect::<Result<_>>()? };
    // Flushes the folder too.
    write_json(&temporary.join(MANIFEST), &manifest)?;
    at(MANIFEST)?;

    let replaces = exists(dir)?;
    if replaces {
        fs::rename(dir, &old).map_err(|e| Error::io("rename", dir, e))?;
        at("set aside")?;
    }
    fs::rename(&temporary, dir).map_err(|e| Error::io("rename", &temporary, e))?;
    at("rename")?;
    sync_parent(dir)?;
    if replaces {
        remove(&old)?;
        at("remove")?;
    }
    Ok(())
}

/// Reads `dir` itself, without a look beside it.
fn load_exactly(dir: &Path) -> Result<Checkpoint> {
    verify(dir)?;
    Ok(Checkpoint {
        model: safetensors::read(dir.join(MODEL))?,
        optimizer: safetensors::read(dir.join(OPTIMIZER))?,
        state: read_json(&dir.join(STATE))?,
    })
}

/// Compares the files of `dir` with its manifest.
fn verify(dir: &Path) -> Result<()> {
    let manifest = read_manifest(dir)?;
    for entry in fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))? {
        let name = entry.map_err(|e| Error::io("list", dir, e))?.file_name();
        if name != MANIFEST && !FILES.iter().any(|listed| name == *listed) {
            return Err(broken(dir.join(name), "the file is not in the manifest"));
        }
    }
    for (name, listed) in &manifest.files {
        let path = dir.join(name);
        let size = match fs::metadata(&path) {
            Ok(found) if found.is_file() => found.len(),
            Ok(_) => return Err(broken(path, "it is not a file")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(broken(path, "the file is missing")),
            Err(e) => return Err(Error::io("inspect", path, e)),
        };
        if size != listed.size {
            return Err(broken(path, format!("{size} bytes, the manifest says {}", listed.size)));
        }
        if Digest::of_file(&path)? != *listed {
            return Err(broken(path, "SHA-256 does not match the manifest"));
        }
    }
    Ok(())
}

fn read_manifest(dir: &Path) -> Result<Manifest> {
    /// Ours has some 400 bytes.
    const MAX_BYTES: u64 = 1 << 16;
    let path = dir.join(MANIFEST);
    match fs::metadata(&path) {
        Ok(found) if found.len() > MAX_BYTES => return Err(broken(path, "too large for a manifest")),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(broken(path, if dir.is_dir() { "the file is missing" } else { "there is no checkpoint" }));
        }
        Err(e) => return Err(Error::io("inspect", path, e)),
    }
    let text = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| broken(path.clone(), e))?;
    if manifest.format != FORMAT {
        return Err(broken(path, format!("format {:?}, this version reads {FORMAT:?}", manifest.format)));
    }
    if !manifest.files.keys().eq(FILES) {
        return Err(broken(path, format!("must list {}", FILES.join(", "))));
    }
    // One way to write it: then a changed byte that means nothing is found too.
    if to_json(&manifest).map_err(|e| Error::io("read", &path, e))? != text {
        return Err(broken(path, "the file was changed"));
    }
    Ok(manifest)
}

fn to_json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    atomic::write(path, |file| file.write_all(&to_json(value)?))
}

fn broken(path: PathBuf, problem: impl ToString) -> Error {
    Error::Checkpoint { path, problem: problem.to_string() }
}

fn exists(dir: &Path) -> Result<bool> {
    dir.try_exists().map_err(|e| Error::io("inspect", dir, e))
}

/// `dir` with `suffix` added to its name.
fn beside(dir: &Path, suffix: &str) -> Result<PathBuf> {
    let mut name = file_name(dir)?;
    name.push(suffix);
    Ok(dir.with_file_name(name))
}

fn file_name(dir: &Path) -> Result<OsString> {
    let named = dir.file_name().map(OsString::from);
    named.ok_or_else(|| broken(dir.to_path_buf(), "the path names no folder"))
}

fn parent(dir: &Path) -> &Path {
    dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The `.tmp-` and `.old-` folders beside `dir`; the new ones first, as a complete one of them is the newest state.
fn leftovers(dir: &Path) -> Result<Vec<PathBuf>> {
    let name = file_name(dir)?;
    let Some(name) = name.to_str() else { return Err(broken(dir.to_path_buf(), "the name is not UTF-8")) };
    let parent = parent(dir);
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list", parent, e)),
    };
    let mut found = [Vec::new(), Vec::new()];
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list", parent, e))?;
        let sibling = entry.file_name();
        let Some(rest) = sibling.to_str().and_then(|s| s.strip_prefix(name)) else { continue };
        for (kind, found) in [".tmp-", ".old-"].iter().zip(&mut found) {
            let ours = |pid: &str| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit());
            if rest.strip_prefix(kind).is_some_and(ours) {
                found.push(entry.path());
            }
        }
    }
    Ok(found.concat())
}

fn remove(dir: &Path) -> Result<()> {
    fs::remove_dir_all(dir).map_err(|e| Error::io("remove", dir, e))
}

fn sync_parent(dir: &Path) -> Result<()> {
    atomic::sync_folder(dir).map_err(|e| Error::io("flush", parent(dir), e))
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
