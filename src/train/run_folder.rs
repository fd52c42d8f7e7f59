//! The folder of a run: what was asked for, what came of it, and where to go on.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::checkpoint::{self, Checkpoint};
use super::history::History;
use crate::data::formats::text::read_json;
use crate::data::formats::{atomic, lock};
use crate::{Error, Result};

pub(super) const CONFIG: &str = "config.json";
const JSONL: &str = "metrics.jsonl";
const CSV: &str = "metrics.csv";
const LOCK: &str = ".lock";

/// Which of a run's two checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The most recent one: where an interrupted run goes on.
    Last,
    /// The one with the best metric.
    Best,
}

impl Slot {
    fn name(self) -> &'static str {
        match self {
            Slot::Last => "last",
            Slot::Best => "best",
        }
    }
}

impl std::str::FromStr for Slot {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let slot = [Slot::Last, Slot::Best].into_iter().find(|slot| slot.name() == name);
        let why = || format!("must be last or best, got {name:?}");
        slot.ok_or_else(|| Error::Argument { op: "Slot", argument: "name", why: why() })
    }
}

/// An open run folder, locked against other processes for as long as this value lives.
///
/// | file | content |
/// |---|---|
/// | `config.json` | the resolved configuration |
/// | `metrics.jsonl` | one JSON object a line, with `step` |
/// | `metrics.csv` | the same as a table; columns in the order of their first appearance |
/// | `curves.svg` | loss, learning rate, recalls (feature `plot`) |
/// | `checkpoints/last`, `checkpoints/best` | see [`checkpoint`] |
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    history: History,
    jsonl: File,
    csv: File,
    /// The operating system releases the lock when the process ends, however it ends: no lock is ever stale.
    _lock: File,
}

/// A run that was opened to go on.
#[derive(Debug)]
pub struct Resumed {
    /// The folder, with its metrics cut back to the checkpoint's step.
    pub folder: RunFolder,
    /// The configuration that the run was started with.
    pub config: Value,
    /// Where to go on; `None` when the run stopped before its first checkpoint.
    pub checkpoint: Option<Checkpoint>,
}

impl RunFolder {
    /// Makes the folder `path` of a new run and writes its configuration.
    ///
    /// # Errors
    /// [`Error::Argument`] when it holds a run already; [`Error::Io`], also when another process uses it.
    pub fn create(path: impl AsRef<Path>, config: &impl Serialize) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let checkpoints = path.join("checkpoints");
        fs::create_dir_all(&checkpoints).map_err(|e| Error::io("create", &checkpoints, e))?;
        let lock = lock::exclusive(&path.join(LOCK), "run folder")?;
        let config_path = path.join(CONFIG);
        if config_path.try_exists().map_err(|e| Error::io("inspect", &config_path, e))? {
            let why = format!("{} holds a run already: resume it or choose another folder", path.display());
            return Err(Error::Argument { op: "RunFolder::create", argument: "path", why });
        }
        let text = serde_json::to_vec_pretty(config).map_err(|e| Error::Argument {
            op: "RunFolder::create",
            argument: "config",
            why: format!("cannot be written as JSON: {e}"),
        })?;
        Self::write_tables(&path, &History::default(), 0)?;
        // Last: a folder with a configuration is complete.
        atomic::write(&config_path, |file| file.write_all(&[&text[..], b"\n"].concat()))?;
        Self::open(path, lock, History::default())
    }

    /// Opens the run in the folder `path` to go on from one of its checkpoints.
    ///
    /// Metrics logged after the checkpoint's step are removed, as the run will log them again.
    ///
    /// # Errors
    /// [`Error::Io`], also when there is no run or another process uses it; [`Error::Checkpoint`] when the checkpoint is
    /// damaged, or has no `step`; [`Error::Malformed`] for files that were edited by hand.
    pub fn resume(path: impl AsRef<Path>, slot: Slot) -> Result<Resumed> {
        let path = path.as_ref().to_path_buf();
        let config = Self::config(&path)?;
        let lock = lock::exclusive(&path.join(LOCK), "run folder")?;
        for slot in [Slot::Last, Slot::Best] {
            checkpoint::settle(slot_path(&path, slot))?;
        }
        let dir = slot_path(&path, slot);
        let found = dir.try_exists().map_err(|e| Error::io("inspect", &dir, e))?;
        let checkpoint = if found { Some(checkpoint::load(&dir)?) } else { None };

        let mut history = History::default();
        let mut length = 0;
        if let Some(checkpoint) = &checkpoint {
            let step = step_of(checkpoint)
                .ok_or_else(|| Error::Checkpoint { path: dir, problem: "the state has no step".into() })?;
            let jsonl = path.join(JSONL);
            let text = fs::read(&jsonl).map_err(|e| Error::io("read", &jsonl, e))?;
            (history, length) = History::parse(&jsonl, &text, step)?;
        }
        Self::write_tables(&path, &history, length)?;
        Ok(Resumed { folder: Self::open(path, lock, history)?, config, checkpoint })
    }

    /// The configuration of the run in the folder `path`, which may be in use.
    ///
    /// # Errors
    /// [`Error::Io`] when there is no run; [`Error::Malformed`].
    pub fn config(path: impl AsRef<Path>) -> Result<Value> {
        read_json(&path.as_ref().join(CONFIG))
    }

    /// Cuts the JSON lines to `length` and writes the CSV anew.
    fn write_tables(path: &Path, history: &History, length: u64) -> Result<()> {
        let jsonl = path.join(JSONL);
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(&jsonl);
        file.and_then(|file| file.set_len(length)).map_err(|e| Error::io("truncate", &jsonl, e))?;
        atomic::write(&path.join(CSV), |file| file.write_all(history.to_csv().as_bytes()))
    }

    fn open(path: PathBuf, lock: File, history: History) -> Result<Self> {
        let (jsonl, csv) = (append(&path.join(JSONL))?, append(&path.join(CSV))?);
        Ok(Self { path, history, jsonl, csv, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All metrics of the run so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Logs metrics after `step` complete steps, in both files. Log before saving the checkpoint of the same step.
    ///
    /// Values that are not finite become null in the JSON and NaN in the CSV.
    ///
    /// # Errors
    /// [`Error::Argument`] for a step before the last one, a name used twice, and a name that is empty or `step`;
    /// [`Error::Io`].
    pub fn log(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let widened = self.history.push(step, values)?;
        let jsonl = self.history.last_json();
        self.jsonl.write_all(jsonl.as_bytes()).map_err(|e| Error::io("write", self.path.join(JSONL), e))?;
        let csv = self.path.join(CSV);
        if widened {
            atomic::write(&csv, |file| file.write_all(self.history.to_csv().as_bytes()))?;
            self.csv = append(&csv)?;
            return Ok(());
        }
        self.csv.write_all(self.history.last_csv().as_bytes()).map_err(|e| Error::io("write", csv, e))
    }

    /// Where a checkpoint is.
    pub fn checkpoint_path(&self, slot: Slot) -> PathBuf {
        slot_path(&self.path, slot)
    }

    /// Saves a checkpoint; its state must hold `step`, the number of complete steps.
    ///
    /// # Errors
    /// [`Error::Argument`] without a step; those of [`checkpoint::save`].
    pub fn save(&mut self, slot: Slot, checkpoint: &Checkpoint) -> Result<()> {
        if step_of(checkpoint).is_none() {
            let why = "must be an object with an integer step".to_string();
            return Err(Error::Argument { op: "RunFolder::save", argument: "state", why });
        }
        // The metrics up to a checkpoint are as safe as the checkpoint.
        self.jsonl.sync_data().map_err(|e| Error::io("flush", self.path.join(JSONL), e))?;
        checkpoint::save(self.checkpoint_path(slot), checkpoint)
    }

    /// Draws `curves.svg` from the metrics so far; nothing when there is nothing to draw.
    ///
    /// Columns are taken by name: those with `loss`; `lr` and those that begin with `lr_`, `lr/` or end in `/lr`; those
    /// with `R@`; those with `MdR` or `MnR`; each in a panel of its own.
    ///
    /// # Errors
    /// [`Error::Io`].
    #[cfg(feature = "plot")]
    pub fn plot(&self) -> Result<()> {
        let path = self.path.join("curves.svg");
        match super::curves::render(&self.history).map_err(|e| Error::io("draw", &path, e))? {
            Some(svg) => atomic::write(&path, |file| file.write_all(svg.as_bytes())),
            None => Ok(()),
        }
    }
}

pub(crate) fn slot_path(path: &Path, slot: Slot) -> PathBuf {
    path.join("checkpoints").join(slot.name())
}

fn step_of(checkpoint: &Checkpoint) -> Option<u64> {
    checkpoint.state.get("step")?.as_u64()
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new().append(true).open(path).map_err(|e| Error::io("open", path, e))
}

#[cfg(test)]
#[path = "run_folder_tests.rs"]
mod tests;
