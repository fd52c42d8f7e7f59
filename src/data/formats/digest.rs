//! What tells whether a file is still what was written.

use std::fs::File;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

/// Size and SHA-256 of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Digest {
    pub size: u64,
    pub sha256: String,
}

impl Digest {
    /// Reads the whole file.
    pub fn of_file(path: &Path) -> Result<Self> {
        let failed = |e| Error::io("read", path, e);
        let mut hash = Sha256::new();
        let size = io::copy(&mut File::open(path).map_err(failed)?, &mut hash).map_err(failed)?;
        Ok(Self { size, sha256: format!("{:x}", hash.finalize()) })
    }
}

/// The hash of a text and of named numbers, in their order.
pub(crate) fn of_values<'a>(text: &str, values: impl Iterator<Item = (&'a str, &'a [f32])>) -> String {
    let mut hash = Sha256::new();
    let name = |hash: &mut Sha256, name: &str| {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
    };
    name(&mut hash, text);
    for (key, numbers) in values {
        name(&mut hash, key);
        hash.update((numbers.len() as u64).to_le_bytes());
        numbers.iter().for_each(|v| hash.update(v.to_le_bytes()));
    }
    format!("{:x}", hash.finalize())
}
