//! Settings by name: laid over one another, checked, compared, listed.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::data::formats::text::read_json;
use crate::{Error, Result};

/// Width of the lines of [`list`].
const WIDTH: usize = 110;
/// Sections of which no number has a sense below zero.
const NOT_NEGATIVE: [&str; 2] = ["data", "fit"];
/// Where the data are; a run that goes on may find them in another folder.
const PLACE: &str = "data.root";

/// Sections whose numbers are sizes and weights of a network.
const MODEL: &str = "model";
/// The largest size that a network can be given: more fits no device, and much less may not.
const MAX_SIZE: f64 = 1_048_576.0;

/// A setting by its name in `config.json`, such as `fit.lr`, and a value as a user writes it: JSON, or plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The name: sections and key, with dots between.
    pub name: String,
    /// The value.
    pub text: String,
}

impl Setting {
    /// A setting.
    pub fn new(name: impl Into<String>, value: impl ToString) -> Self {
        Self { name: name.into(), text: value.to_string() }
    }

    /// The value as JSON; what is not JSON is text.
    pub(super) fn value(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| json!(self.text))
    }
}

impl FromStr for Setting {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let why = || format!("must be NAME=VALUE, such as fit.lr=2e-4, got {text:?}");
        let (name, value) =
            text.split_once('=').ok_or_else(|| Error::Argument { op: "settings", argument: "set", why: why() })?;
        Ok(Self::new(name, value))
    }
}

/// `settings` with one of them changed.
///
/// # Errors
/// [`Error::UnknownSetting`], with the nearest name; [`Error::Setting`] for a value that it cannot have.
pub fn with<S: Serialize + DeserializeOwned>(settings: &S, name: &str, value: impl Into<Value>) -> Result<S> {
    let value = value.into();
    let (all, fail) = (to_json(settings)?, |why: String| refused(name, &value, why));
    if NOT_NEGATIVE.contains(&name.split('.').next().unwrap_or_default()) && value.as_f64().is_some_and(|v| v < 0.0) {
        return Err(fail("it must not be negative".into()));
    }
    let mut changed = all.clone();
    let place = changed.pointer_mut(&pointer(name)).ok_or_else(|| unknown(name, &all))?;
    *place = value.clone();
    let settings: S = serde_json::from_value(changed).map_err(|e| fail(e.to_string()))?;
    let kept = to_json(&settings)?;
    expect_ranges(&kept, name)?;
    match lost(name, &value, kept.pointer(&pointer(name)).unwrap_or(&Value::Null)) {
        None => Ok(settings),
        Some((name, Value::Number(_))) => Err(refused(&name, &value, "it is too large".into())),
        Some((name, _)) => Err(unknown(&name, &kept)),
    }
}

/// Refuses a number, among the settings `all` at and below `name`, that its setting cannot have.
pub(super) fn expect_ranges(all: &Value, name: &str) -> Result<()> {
    let below = if name.is_empty() { Some(all) } else { all.pointer(&pointer(name)) }.unwrap_or(&Value::Null);
    for leaf in leaves(below) {
        let dot = if name.is_empty() || leaf.is_empty() { "" } else { "." };
        let leaf = format!("{name}{dot}{leaf}");
        let value = all.pointer(&pointer(&leaf)).unwrap_or(&Value::Null);
        if let Some(why) = value.as_f64().and_then(|number| out_of_range(&leaf, number, value.is_f64())) {
            return Err(refused(&leaf, value, why));
        }
    }
    Ok(())
}

/// What is wrong with a number of the setting `name`; known settings have ranges of their own, in every section.
fn out_of_range(name: &str, number: f64, is_float: bool) -> Option<String> {
    let (section, key) = (name.split('.').next().unwrap_or_default(), name.rsplit('.').next().unwrap_or_default());
    let (is_in, why) = match key {
        "dropout" | "input_dropout" | "attn_drop" | "beta1" | "beta2" => {
            ((0.0..1.0).contains(&number), "it must be from 0 to less than 1")
        }
        "warmup" => ((0.0..=1.0).contains(&number), "it is a share of the steps, from 0 to 1"),
        "nms" => ((0.0..=1.0).contains(&number), "it is an overlap, from 0 to 1"),
        "factor" => (number > 0.0 && number < 1.0, "it must be between 0 and 1"),
        "init_std" => (number > 0.0 && number <= 1.0, "it must be above 0 and at most 1"),
        "lr" | "weight_decay" => ((0.0..=100.0).contains(&number), "it must be from 0 to 100"),
        "clip_seconds" => ((0.01..=86_400.0).contains(&number), "it must be from 0.01 to 86400"),
        "mlp_ratio" => (number > 0.0 && number <= 1024.0, "it must be above 0 and at most 1024"),
        "steps" | "batch" | "max_videos" | "keep" | "top" | "per_second" => (number >= 1.0, "it must be at least 1"),
        key if key.contains("temperature") => (number > 0.0 && number <= 1e6, "it must be above 0 and at most 1e6"),
        _ if section == MODEL && !is_float => ((0.0..=MAX_SIZE).contains(&number), "it must be from 0 to 1048576"),
        _ if section == MODEL => (number.abs() <= 1e6, "it must be from -1e6 to 1e6"),
        _ if NOT_NEGATIVE.contains(&section) => (number >= 0.0, "it must not be negative"),
        _ => (true, ""),
    };
    (!is_in).then(|| why.into())
}

/// The first part of `value` that is not in `kept`, what became of it.
fn lost(name: &str, value: &Value, kept: &Value) -> Option<(String, Value)> {
    match (value, kept) {
        (Value::Object(value), Value::Object(kept)) => value.iter().find_map(|(key, value)| {
            let name = format!("{name}.{key}");
            kept.get(key).map_or_else(|| Some((name.clone(), Value::Null)), |kept| lost(&name, value, kept))
        }),
        // What does not fit f32 becomes infinite, which JSON has no number for.
        (Value::Number(_), Value::Null) => Some((name.into(), value.clone())),
        _ => None,
    }
}

/// Lays `value` over the setting or the section `name`, key by key, and notes the names of what was set.
pub(super) fn lay<S>(settings: S, name: &str, value: &Value, set: &mut BTreeSet<String>) -> Result<S>
where
    S: Serialize + DeserializeOwned,
{
    let all = to_json(&settings)?;
    let here = if name.is_empty() { Some(&all) } else { all.pointer(&pointer(name)) };
    match (here, value) {
        (Some(Value::Object(_)), Value::Object(values)) => {
            values.iter().try_fold(settings, |settings, (key, value)| {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                lay(settings, &name, value, set)
            })
        }
        _ => {
            set.insert(name.into());
            with(&settings, name, value.clone())
        }
    }
}

/// As [`lay`], of what a user wrote: text that is JSON, too, may be meant as text.
pub(super) fn lay_setting<S>(settings: S, setting: &Setting, set: &mut BTreeSet<String>) -> Result<S>
where
    S: Clone + Serialize + DeserializeOwned,
{
    let result = lay(settings.clone(), &setting.name, &setting.value(), set);
    match result {
        Err(Error::Setting { .. }) => with(&settings, &setting.name, setting.text.clone()).or(result),
        result => result,
    }
}

/// The JSON object in the file `path`.
pub(super) fn read(path: &Path) -> Result<Value> {
    let value: Value = read_json(path)?;
    if value.is_object() { Ok(value) } else { Err(Error::malformed(path, "top level", "is not an object")) }
}

/// Refuses settings of a run that goes on which are not the stored ones; the place of the data apart.
pub(super) fn expect_same(stored: &impl Serialize, asked: &impl Serialize) -> Result<()> {
    let (stored, asked) = (to_json(stored)?, to_json(asked)?);
    let value = |of: &Value, name: &str| of.pointer(&pointer(name)).cloned().unwrap_or_default();
    let names: BTreeSet<String> = leaves(&stored).into_iter().chain(leaves(&asked)).collect();
    for name in names {
        let (stored, asked) = (value(&stored, &name), value(&asked, &name));
        let moved = name == PLACE && stored.is_string() && asked.is_string();
        if stored != asked && !moved {
            return Err(Error::ResumeChanges { name, stored: show(&stored), asked: show(&asked) });
        }
    }
    Ok(())
}

/// Refuses what was asked for in so many words and would not be so.
pub(super) fn expect_kept(asked: &impl Serialize, got: &impl Serialize, set: &BTreeSet<String>) -> Result<()> {
    let (asked, got) = (to_json(asked)?, to_json(got)?);
    for name in set {
        let (asked, got) = (asked.pointer(&pointer(name)), got.pointer(&pointer(name)));
        if let (Some(asked), Some(got)) = (asked, got)
            && asked != got
        {
            return Err(refused(name, asked, format!("by the data it is {}; leave it out", show(got))));
        }
    }
    Ok(())
}

/// All settings, a paragraph a section.
///
/// # Errors
/// [`Error::Argument`] if they cannot be written as JSON.
pub fn list(settings: &impl Serialize) -> Result<String> {
    let all = to_json(settings)?;
    let (mut text, mut section, mut column) = (String::new(), "", 0);
    let names = leaves(&all);
    for name in &names {
        let (own, key) = name.split_once('.').unwrap_or(("", name));
        let entry = format!("{key}={}", show(all.pointer(&pointer(name)).unwrap_or(&Value::Null)));
        if own != section || column + 1 + entry.len() > WIDTH {
            let title = if own == section { "" } else { own };
            let _ = write!(text, "{}{title:<8}", if text.is_empty() { "" } else { "\n" });
            (section, column) = (own, 8);
        }
        let _ = write!(text, " {entry}");
        column += 1 + entry.len();
    }
    Ok(text)
}

pub(super) fn to_json(settings: &impl Serialize) -> Result<Value> {
    let why = |e: serde_json::Error| format!("cannot be written as JSON: {e}");
    serde_json::to_value(settings).map_err(|e| Error::Argument { op: "settings", argument: "settings", why: why(e) })
}

fn pointer(name: &str) -> String {
    format!("/{}", name.replace('.', "/"))
}

fn refused(name: &str, value: &Value, why: String) -> Error {
    Error::Setting { name: name.into(), value: show(value), why }
}

/// A value as JSON; what came from `f32` as short as it is.
fn show(value: &Value) -> String {
    let number = value.as_f64().filter(|v| value.is_f64() && f64::from(*v as f32) == *v);
    number.map_or_else(|| value.to_string(), |number| (number as f32).to_string())
}

/// The names of all values, in the order of the JSON.
fn leaves(all: &Value) -> Vec<String> {
    let Value::Object(values) = all else { return vec![String::new()] };
    let below = |(key, value): (&String, &Value)| -> Vec<String> {
        let names = leaves(value).into_iter();
        names.map(|name| if name.is_empty() { key.clone() } else { format!("{key}.{name}") }).collect()
    };
    values.iter().flat_map(below).collect()
}

fn unknown(name: &str, all: &Value) -> Error {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_string();
    // A key without its section is near, too.
    let near = |known: &String| distance(name, known).min(1 + distance(&last(name), &last(known)));
    let nearest = leaves(all).into_iter().min_by_key(|known| (near(known), distance(name, known)));
    Error::UnknownSetting { name: name.into(), nearest: nearest.unwrap_or_default() }
}

/// Letters to put in, take out or change (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != *y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
