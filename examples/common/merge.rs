//! Settings as JSON: laid over each other, and compared.

use std::path::Path;

use reelgrad::{Error, Result};
use serde_json::Value;

/// The JSON object in a file.
pub fn read_object(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let value: Value =
        serde_json::from_slice(&text).map_err(|e| Error::malformed(path, format!("line {}", e.line()), e))?;
    if value.is_object() { Ok(value) } else { Err(Error::malformed(path, "top level", "is not an object")) }
}

/// Lays `patch` over `base`, which names all the keys there are; `Err` is the place and what is wrong there.
pub fn merge(base: &mut Value, patch: Value, place: &str) -> Result<(), (String, String)> {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            for (key, value) in patch {
                let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                match base.get_mut(&key) {
                    Some(below) => merge(below, value, &place)?,
                    None => return Err((place, "is not a setting".into())),
                }
            }
        }
        (base @ Value::Object(_), patch) if place != "fit.plateau" => {
            return Err((place.into(), format!("must be an object like {base}, got {patch}")));
        }
        (base, patch) => *base = patch,
    }
    Ok(())
}

/// Where two settings differ, except in the place of the data.
pub fn differ(stored: &Value, now: &Value, place: &str, found: &mut Vec<String>) {
    match (stored, now) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, stored) in a {
                let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                if place != "data.root" {
                    differ(stored, b.get(key).unwrap_or(&Value::Null), &place, found);
                }
            }
        }
        _ if stored != now => found.push(format!("{place} is {now} instead of {stored}")),
        _ => {}
    }
}
