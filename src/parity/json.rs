//! The parts of golden cases in JSON.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::tensor::Array;
use crate::{Error, Result};

/// A tensor, as the files have it.
#[derive(Deserialize)]
#[serde(try_from = "Parts")]
pub(super) struct Golden(pub(super) Array);

#[derive(Deserialize)]
struct Parts {
    shape: Vec<usize>,
    data: Vec<f32>,
}

impl TryFrom<Parts> for Golden {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Self> {
        Array::new(parts.shape, parts.data).map(Self)
    }
}

/// A tolerance; the files hold them as text.
pub(super) fn tolerance(case: &Value, name: &str) -> Result<f64> {
    part::<String>(case, name)?.parse().map_err(|e| malformed(name, e))
}

/// What stands under `name`.
pub(super) fn part<T: DeserializeOwned>(value: &Value, name: &str) -> Result<T> {
    parse(value.get(name).ok_or_else(|| malformed(name, "is missing"))?, name)
}

/// `value`, which stands under `name`.
pub(super) fn parse<T: DeserializeOwned>(value: &Value, name: &str) -> Result<T> {
    T::deserialize(value).map_err(|e| malformed(name, e))
}

pub(super) fn malformed(place: &str, problem: impl std::fmt::Display) -> Error {
    Error::malformed("golden case", place, problem)
}
