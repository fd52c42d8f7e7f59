//! One file of arrays and one of captions for each split.

use std::path::{Path, PathBuf};

use super::{Dims, Sample, SampleSource};
use crate::data::captions::{self, Split, VideoCaptions};
#[cfg(feature = "datasets")]
use crate::data::formats::npy::NpzFile;
use crate::data::formats::safetensors::TensorFile;
use crate::data::moments::Problems;
use crate::data::{Gone, checked_index, extents, find_non_finite, require};
use crate::tensor::Array;
use crate::{Error, Result};

/// A split in the neutral layout: `<split>.jsonl` (see [`captions::read_jsonl`]) lists the videos and their captions, and
/// `<split>.safetensors` or, with the feature `datasets`, `<split>.npz` holds for each of them
///
/// * `region.<id>` (T, R, Dr) and `global.<id>` (T, Dg); T may differ between videos;
/// * `text.<id>.<n>` (L, Dt) for caption n, counted from 0.
///
/// Opening checks all shapes and that every listed video is complete; the values are read with each sample.
#[derive(Debug)]
pub struct NeutralDataset {
    arrays: Arrays,
    split: Split,
    dims: Dims,
}

impl NeutralDataset {
    /// Opens the split named `split` in the folder `root`.
    ///
    /// # Errors
    /// Those of [`captions::read_jsonl`] and [`TensorFile::open`]; [`Error::Missing`] for a listed video or caption
    /// without its array, or if there is no file of arrays; [`Error::Duplicate`] if there are both kinds;
    /// [`Error::Malformed`] for shapes that do not fit each other and for more texts than captions.
    pub fn open(root: impl AsRef<Path>, split: &str) -> Result<Self> {
        let root = root.as_ref();
        let arrays = Arrays::open(root, split)?;
        let split = captions::read_jsonl(root.join(format!("{split}.jsonl")), &mut Problems::strict())?;
        let (mut dims, mut gone) = (None, Gone::default());
        for video in &split.videos {
            gone.check(check(&arrays, video, &mut dims), &mut Problems::strict())?;
        }
        gone.finish()?;
        let dims = dims.ok_or_else(|| Error::malformed(root, "split", "no videos"))?;
        Ok(Self { arrays, split, dims })
    }

    /// The videos and their captions' words.
    pub fn split(&self) -> &Split {
        &self.split
    }

    fn video(&self, op: &'static str, video: usize) -> Result<&VideoCaptions> {
        Ok(&self.split.videos[checked_index(op, video, self.split.videos.len())?])
    }
}

impl SampleSource for NeutralDataset {
    fn len(&self) -> usize {
        self.split.videos.len()
    }

    fn dims(&self) -> Dims {
        self.dims
    }

    fn id(&self, video: usize) -> Result<&str> {
        Ok(&self.video("NeutralDataset::id", video)?.id)
    }

    fn captions(&self, video: usize) -> Result<usize> {
        Ok(self.video("NeutralDataset::captions", video)?.captions.len())
    }

    fn sample(&self, video: usize, caption: usize) -> Result<Sample> {
        let op = "NeutralDataset::sample";
        let VideoCaptions { id, captions, .. } = self.video(op, video)?;
        let caption = checked_index(op, caption, captions.len())?;
        Ok(Sample {
            text: self.arrays.array(&text_key(id, caption))?,
            region: self.arrays.array(&format!("region.{id}"))?,
            global: self.arrays.array(&format!("global.{id}"))?,
        })
    }
}

fn text_key(id: &str, caption: usize) -> String {
    format!("text.{id}.{caption}")
}

/// Checks the shapes of a video's arrays against each other and against `dims`, which the first video sets.
fn check(arrays: &Arrays, video: &VideoCaptions, dims: &mut Option<Dims>) -> Result<()> {
    let (path, id) = (arrays.path(), &video.id);
    let (region_name, global_name) = (format!("region.{id}"), format!("global.{id}"));
    let [frames, regions, region] = extents(path, &region_name, &arrays.shape(&region_name)?, "(T, R, Dr)")?;
    let [global_frames, global] = extents(path, &global_name, &arrays.shape(&global_name)?, "(T, Dg)")?;
    require(path, &global_name, "the frames T", frames, global_frames)?;
    for caption in 0..video.captions.len() {
        let name = text_key(id, caption);
        let [_, text] = extents(path, &name, &arrays.shape(&name)?, "(L, Dt)")?;
        let dims = dims.get_or_insert(Dims { text, regions, region, global });
        require(path, &name, "the width Dt", dims.text, text)?;
        require(path, &region_name, "the regions R", dims.regions, regions)?;
        require(path, &region_name, "the width Dr", dims.region, region)?;
        require(path, &global_name, "the width Dg", dims.global, global)?;
    }
    let surplus = text_key(id, video.captions.len());
    if arrays.contains(&surplus) {
        return Err(Error::malformed(path, surplus, "no caption belongs to it"));
    }
    Ok(())
}

/// A file of named arrays.
#[derive(Debug)]
enum Arrays {
    Safetensors(TensorFile),
    #[cfg(feature = "datasets")]
    Npz(NpzFile),
}

impl Arrays {
    /// Opens the one file of arrays that belongs to `split`.
    fn open(root: &Path, split: &str) -> Result<Self> {
        let tensors: PathBuf = root.join(format!("{split}.safetensors"));
        #[cfg(feature = "datasets")]
        {
            let npz = root.join(format!("{split}.npz"));
            if npz.exists() && tensors.exists() {
                return Err(Error::duplicate(root, "folder", "safetensors or npz file of split", split));
            }
            if npz.exists() {
                return Ok(Arrays::Npz(NpzFile::open(npz)?));
            }
        }
        if !tensors.exists() {
            return Err(Error::missing(root, "safetensors or npz file of split", split));
        }
        Ok(Arrays::Safetensors(TensorFile::open(tensors)?))
    }

    fn path(&self) -> &Path {
        match self {
            Arrays::Safetensors(file) => file.path(),
            #[cfg(feature = "datasets")]
            Arrays::Npz(file) => file.path(),
        }
    }

    fn contains(&self, name: &str) -> bool {
        match self {
            Arrays::Safetensors(file) => file.contains(name),
            #[cfg(feature = "datasets")]
            Arrays::Npz(file) => file.contains(name),
        }
    }

    fn shape(&self, name: &str) -> Result<Vec<usize>> {
        match self {
            Arrays::Safetensors(file) => Ok(file.shape(name)?.to_vec()),
            #[cfg(feature = "datasets")]
            Arrays::Npz(file) => file.shape(name),
        }
    }

    fn array(&self, name: &str) -> Result<Array> {
        let array = match self {
            Arrays::Safetensors(file) => file.array(name)?,
            #[cfg(feature = "datasets")]
            Arrays::Npz(file) => file.array(name)?,
        };
        find_non_finite(self.path(), &format!("array {name:?}"), 0, &array)?;
        Ok(array)
    }
}
