//! Datasets: annotations, feature files, and the synthetic world.

mod batch;
pub mod bicnet;
pub mod captions;
pub mod formats;
pub mod media;
pub mod moments;
pub mod pairs;
#[cfg(feature = "datasets")]
pub mod synthetic;
#[cfg(feature = "text")]
pub mod tokenizer;

#[cfg(test)]
pub(crate) mod testing;

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::tensor::Array;
use crate::{Error, Result};

/// A part of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// For training.
    Train,
    /// For choosing among settings and checkpoints.
    Validation,
    /// For the final figures.
    Test,
}

impl Part {
    /// Every part.
    pub const ALL: [Part; 3] = [Part::Train, Part::Validation, Part::Test];

    /// What most datasets call it in their files' names: `train`, `val` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Validation => "val",
            Part::Test => "test",
        }
    }
}

/// Names of what is missing that are listed.
const NAMED: usize = 10;

/// Whether `path` leads into a folder and nowhere else: names with slashes between.
pub(crate) fn is_inside(path: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    path.split('/').all(plain) && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}

/// What is missing, collected so that all of it is named at once.
#[derive(Default)]
pub(crate) struct Gone(Vec<Error>);

impl Gone {
    /// As [`Problems::check`](moments::Problems::check); where that is strict, an [`Error::Missing`] waits for
    /// [`Gone::finish`].
    pub(crate) fn check<T>(&mut self, result: Result<T>, problems: &mut moments::Problems) -> Result<Option<T>> {
        match result {
            Err(missing @ Error::Missing { .. }) if !problems.is_lenient() => {
                self.0.push(missing);
                Ok(None)
            }
            result => problems.check(result),
        }
    }

    /// Fails if anything was missing: one by itself, several with the names of the first.
    pub(crate) fn finish(mut self) -> Result<()> {
        if self.0.len() < 2 {
            return self.0.pop().map_or(Ok(()), Err);
        }
        let count = self.0.len();
        let mut named = Vec::new();
        let mut first = None;
        for error in self.0 {
            if let Error::Missing { path, kind, id } = error {
                named.push(format!("{kind} {id:?}"));
                first.get_or_insert(path);
            }
        }
        let more = if count > NAMED { ", .." } else { "" };
        named.truncate(NAMED);
        let problem = format!("{}{more}", named.join(", "));
        Err(Error::malformed(first.unwrap_or_default(), format_args!("{count} are missing"), problem))
    }
}

/// Refuses NaN and infinity in `array`, which is `place` of the file `path`. Its rows are counted from `first`.
pub(crate) fn find_non_finite(path: &Path, place: &str, first: usize, array: &Array) -> Result<()> {
    let Some((count, index)) = array.non_finite() else { return Ok(()) };
    let width: usize = array.shape().iter().skip(1).product();
    let place = format!("{place}, row {}", first + index / width);
    Err(Error::NonFinite { origin: path.display().to_string(), place, count })
}

/// `shape` as N extents, none of them 0. `name` is the dataset or array of `path` that has it.
fn extents<const N: usize>(path: &Path, name: &str, shape: &[usize], form: &str) -> Result<[usize; N]> {
    let found = shape.try_into().ok().filter(|found: &[usize; N]| !found.contains(&0));
    found.ok_or_else(|| {
        Error::malformed(path, name, format_args!("the shape must be {form} without 0, it is {shape:?}"))
    })
}

/// Refuses a size of `name` in `path` that is not what another array needs.
fn require(path: &Path, name: &str, what: &str, needed: usize, got: usize) -> Result<()> {
    if got == needed {
        return Ok(());
    }
    Err(Error::malformed(path, name, format_args!("{what} must be {needed}, it is {got}")))
}

fn checked_index(op: &'static str, index: usize, len: usize) -> Result<usize> {
    if index < len { Ok(index) } else { Err(Error::IndexOutOfRange { op, index: index as u64, len: len as u64 }) }
}
