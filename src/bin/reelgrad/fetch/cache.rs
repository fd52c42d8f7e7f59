//! Models that other programs have downloaded, as Hugging Face's libraries keep them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use reelgrad::{Error, Result};

use super::choice::{Names, choose};
use super::part::{Sum, Wanted};
use super::{Listing, Model, is_commit};

/// The folder of that cache, if there is a place for it.
pub struct Cache(Option<PathBuf>);

/// `HF_HOME`, else its usual place.
pub fn home() -> Option<PathBuf> {
    let given = env::var_os("HF_HOME").filter(|home| !home.is_empty());
    given.map(PathBuf::from).or_else(|| env::home_dir().map(|home| home.join(".cache").join("huggingface")))
}

impl Cache {
    /// The cache in `HF_HUB_CACHE`, else in [`home`].
    pub fn of_environment() -> Self {
        let given = env::var_os("HF_HUB_CACHE").filter(|hub| !hub.is_empty());
        Self(given.map(PathBuf::from).or_else(|| home().map(|home| home.join("hub"))))
    }

    /// What the cache has of a model.
    ///
    /// # Errors
    /// [`Error::Argument`] for a model or revision that is not there, not as a whole, or no model; [`Error::Io`].
    pub fn list(&self, model: &Model) -> Result<Listing> {
        let argument = |why| Error::Argument { op: "fetch", argument: "model", why };
        let missing = || {
            let Model { name, revision } = model;
            let hub = self.0.clone().unwrap_or_default();
            argument(format!(
                "{name} with revision {revision} is not in the cache {}, and HF_HUB_OFFLINE keeps it from the hub; unset that",
                hub.display()
            ))
        };
        let root = self.root(model).ok_or_else(missing)?;
        let written = fs::read_to_string(root.join("refs").join(&model.revision)).ok();
        let commit = written.map_or_else(|| model.revision.clone(), |commit| commit.trim().to_string());
        let snapshot = root.join("snapshots").join(&commit);
        if !is_commit(&commit) || !snapshot.is_dir() {
            return Err(missing());
        }
        let entries = fs::read_dir(&snapshot).map_err(|e| Error::io("list", &snapshot, e))?;
        let names: Names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        let files = choose(&names)
            .map_err(|why| argument(format!("{} in the cache, {}, {why}", model.name, snapshot.display())))?;
        let files = files.into_iter().map(|name| wanted(&snapshot, name)).collect::<Result<_>>()?;
        Ok(Listing { commit, names, files })
    }

    /// A file of the cache that has the wanted one's size; whether it has its content, too, is to be seen.
    pub fn find(&self, model: &Model, commit: &str, wanted: &Wanted) -> Option<PathBuf> {
        let root = self.root(model)?;
        let blob = root.join("blobs").join(wanted.sum.digits());
        let copy = root.join("snapshots").join(commit).join(&wanted.name);
        let fits =
            |path: &PathBuf| fs::metadata(path).is_ok_and(|about| about.is_file() && about.len() == wanted.bytes);
        [blob, copy].into_iter().find(fits)
    }

    fn root(&self, model: &Model) -> Option<PathBuf> {
        Some(self.0.as_ref()?.join(format!("models--{}", model.name.replace('/', "--"))))
    }
}

/// A file of a snapshot: a link to a blob whose name is its sum, or, where there are no links, the file itself.
fn wanted(snapshot: &Path, name: &str) -> Result<Wanted> {
    let path = snapshot.join(name);
    let bytes = fs::metadata(&path).map_err(|e| Error::io("read", &path, e))?.len();
    let blob = fs::read_link(&path).ok();
    let named = blob.as_ref().and_then(|blob| Sum::of_digits(blob.file_name()?.to_str()?));
    let sum = match named {
        Some(sum) => sum,
        None => Sum::of_file(&path).map_err(|e| Error::io("read", &path, e))?,
    };
    Ok(Wanted { name: name.into(), bytes, sum })
}
