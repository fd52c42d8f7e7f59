//! Helpers of this folder's tests: scratch files and damaged copies of good ones.

use std::path::{Path, PathBuf};

/// A scratch folder that is removed at the end.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file and gives its path.
    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// A committed file of `tests/data`.
#[cfg(feature = "datasets")]
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A file or folder of others (annotations, a vocabulary), whose licences keep it out of this repository. The tests that
/// read them are ignored unless asked for.
pub(crate) fn outside(name: &str) -> PathBuf {
    let folder =
        std::env::var_os("REELGRAD_DATA").expect("REELGRAD_DATA names the folder that CONTRIBUTING.md describes");
    let path = Path::new(&folder).join(name);
    assert!(path.exists(), "REELGRAD_DATA lacks {}", path.display());
    path
}

/// A small deterministic generator (SplitMix64).
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// `count` damaged copies of `good`: one byte changed, cut short, or replaced by noise behind the first bytes.
pub(crate) fn mutations(good: &[u8], count: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut rng = Rng(42);
    (0..count).map(move |i| {
        let mut bytes = good.to_vec();
        match i % 8 {
            0 => bytes.truncate(rng.below(good.len())),
            1 => {
                let from = rng.below(good.len());
                bytes[from..].fill_with(|| rng.below(256) as u8);
            }
            _ => bytes[rng.below(good.len())] ^= 1 + rng.below(255) as u8,
        }
        bytes
    })
}
