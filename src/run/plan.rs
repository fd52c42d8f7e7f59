//! From what a user asks for to a run that can start.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::settings::{Setting, expect_kept, expect_ranges, expect_same, lay, lay_setting, read, to_json};
use super::{Task, Trained, train};
use crate::data::moments::Problems;
use crate::gpu::Gpu;
use crate::train::{Progress, RunFolder, Slot, StopFlag};
use crate::{Error, Result};

/// What a user asks for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The run's folder; by default a new one in `runs`.
    pub run: Option<PathBuf>,
    /// A JSON file of settings, such as another run's `config.json`.
    pub config: Option<PathBuf>,
    /// Settings by name, which win over the file's.
    pub set: Vec<Setting>,
    /// Starts from the recipe for small networks.
    pub small: bool,
    /// Goes on with the run in the folder, from this checkpoint.
    pub resume: Option<Slot>,
}

/// Which settings a user chose, as opposed to those of the recipe.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Settings of the file and of the request.
    names: BTreeSet<String>,
    /// Those of the request alone.
    by_name: BTreeSet<String>,
    /// The recipe is the one for small networks.
    pub small: bool,
    /// The run goes on: everything was chosen when it started.
    pub resumed: bool,
}

impl Asked {
    /// All settings are chosen: the data decide their own widths and sizes alone.
    pub fn everything() -> Self {
        Self { resumed: true, ..Self::default() }
    }

    /// Whether the user chose this setting.
    pub fn has(&self, name: &str) -> bool {
        self.resumed || self.names.contains(name)
    }

    /// Gives a setting that the user did not choose its value.
    pub fn decide(&self, name: &str, setting: &mut u64, value: u64) {
        if !self.has(name) {
            *setting = value;
        }
    }
}

/// A run that is about to start, or to go on.
#[derive(Debug)]
pub struct Plan<S> {
    /// Its settings, resolved.
    pub settings: S,
    /// Its folder; that of all of them, where several runs are made of it.
    pub folder: PathBuf,
    asked: Asked,
    /// The checkpoint to go on from, and the settings that the run was started with.
    resumed: Option<(Slot, S)>,
}

impl<S: Task> Plan<S> {
    /// Resolves the settings: the recipe's or the run's, then the file's, then those by name. Nothing is written, and no
    /// data are read.
    ///
    /// # Errors
    /// [`Error::UnknownSetting`]; [`Error::Setting`]; [`Error::ResumeChanges`] for settings that a run which goes on does
    /// not have; [`Error::Argument`] for a folder that holds a run already; [`Error::Io`] and [`Error::Malformed`] for
    /// files.
    pub fn new(request: &Request) -> Result<Self> {
        let refuse = |argument, why: String| Err(Error::Argument { op: S::NAME, argument, why });
        let (small, resumed) = (request.small, request.resume.is_some());
        let mut asked = Asked { small, resumed, ..Asked::default() };
        if let Some(slot) = request.resume {
            let Some(folder) = request.run.clone() else {
                return refuse("resume", "needs the folder of the run".into());
            };
            if small {
                return refuse("small", "is for new runs; one that goes on keeps its settings".into());
            }
            let started: S = stored(&folder)?;
            expect_ranges(&to_json(&started)?, "")?;
            let settings = request.lay_over(started.clone(), &mut asked)?;
            expect_same(&started, &settings)?;
            return Ok(Self { settings, folder, asked, resumed: Some((slot, started)) });
        }
        let folder = request.run.clone().unwrap_or_else(|| free_folder(Path::new("runs"), &S::NAME.to_lowercase()));
        if folder.join("config.json").exists() {
            let why = format!("{} holds a run already: resume it, or choose another folder", folder.display());
            return refuse("run", why);
        }
        let settings = request.lay_over(S::recipe(&request.unchecked()?, small)?, &mut asked)?;
        Ok(Self { settings, folder, asked, resumed: None })
    }

    /// Opens the data, and sets what they decide; with what was left out.
    ///
    /// # Errors
    /// Those of [`Task::open`] and [`Task::adapt`]; [`Error::ResumeChanges`] when the data are not the run's;
    /// [`Error::Setting`] when they contradict what was asked for.
    pub fn open(&mut self) -> Result<(S::Data, Problems)> {
        let mut problems = if self.settings.is_lenient() { Problems::lenient() } else { Problems::strict() };
        let data = self.settings.open(&mut problems)?;
        let before = self.settings.clone();
        self.settings.adapt(&data, &self.asked)?;
        match &self.resumed {
            Some((_, started)) => expect_same(started, &self.settings)?,
            None => expect_kept(&before, &self.settings, &self.asked.by_name)?,
        }
        Ok((data, problems))
    }

    /// Trains in the run's folder, or goes on with what is there.
    pub fn train(&self, gpu: &Gpu, data: &S::Data, progress: &mut dyn Progress, stop: &StopFlag) -> Result<Trained<S>> {
        let (folder, checkpoint) = match &self.resumed {
            Some((slot, _)) => {
                let resumed = RunFolder::resume(&self.folder, *slot)?;
                (resumed.folder, resumed.checkpoint)
            }
            None => (RunFolder::create(&self.folder, &self.settings)?, None),
        };
        train(gpu, &self.settings, data, folder, checkpoint, progress, stop)
    }
}

impl Request {
    /// `settings` with those of the file and the named ones over them.
    ///
    /// # Errors
    /// [`Error::UnknownSetting`]; [`Error::Setting`]; [`Error::Io`] and [`Error::Malformed`] for the file.
    pub fn changed<S: Task>(&self, settings: S) -> Result<S> {
        self.lay_over(settings, &mut Asked::default())
    }

    /// As [`Request::changed`]; `asked` takes note of what was set.
    fn lay_over<S: Task>(&self, settings: S, asked: &mut Asked) -> Result<S> {
        let settings = lay(settings, "", &self.file()?, &mut asked.names)?;
        let by_name = &mut asked.by_name;
        let settings = self.set.iter().try_fold(settings, |settings, set| lay_setting(settings, set, by_name))?;
        asked.names.extend(asked.by_name.iter().cloned());
        Ok(settings)
    }

    fn file(&self) -> Result<Value> {
        self.config.as_deref().map_or_else(|| Ok(json!({})), read)
    }

    /// What is asked for, as JSON that nobody has looked at.
    fn unchecked(&self) -> Result<Value> {
        let mut all = self.file()?;
        for setting in &self.set {
            let mut place = &mut all;
            for key in setting.name.split('.') {
                if !place.is_object() {
                    *place = Value::Object(Map::new());
                }
                place = &mut place[key];
            }
            *place = setting.value();
        }
        Ok(all)
    }
}

/// The settings that the run in `folder` was started with.
///
/// # Errors
/// [`Error::Io`] when there is no run; [`Error::Malformed`].
pub fn stored<S: DeserializeOwned>(folder: impl AsRef<Path>) -> Result<S> {
    let folder = folder.as_ref();
    let config = RunFolder::config(folder)?;
    serde_json::from_value(config).map_err(|e| Error::malformed(folder.join("config.json"), "settings", e))
}

/// `{folder}/{name}-1`, or the first number that is not taken.
pub fn free_folder(folder: &Path, name: &str) -> PathBuf {
    let name = name.replace(' ', "-");
    (1..).map(|n| folder.join(format!("{name}-{n}"))).find(|p| !p.exists()).unwrap_or_else(|| folder.join(name))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
