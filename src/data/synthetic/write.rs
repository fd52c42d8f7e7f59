//! A world as a folder in the layout of BiC-Net's MSR-VTT files.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::captions::TOKEN_DIMS;
use super::world::{World, WorldConfig};
use crate::data::Part;
use crate::data::bicnet::SampleSource;
use crate::data::formats::text::read_json;
use crate::data::formats::{atomic, hdf5_write};
use crate::{Error, Result};

/// What the published layout has no place for: how the world was made, and which videos are twins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this file's format and of the world's recipe.
    pub version: u32,
    /// What the world was made from.
    pub config: WorldConfig,
    /// One entry for each video, in the order of rows in the feature files.
    pub videos: Vec<ClipRecord>,
}

/// One video in a [`Manifest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClipRecord {
    /// "video" and its row.
    pub video_id: String,
    /// The id of the video with the same events in the other order.
    pub twin: String,
    /// What the video is for.
    #[serde(rename = "split")]
    pub part: Part,
    /// The events, in order, in words.
    pub events: [String; 2],
}

impl Manifest {
    const FILE: &str = "synthetic.json";
    const VERSION: u32 = 1;

    fn new(world: &World) -> Result<Self> {
        let video = |video| {
            Ok(ClipRecord {
                video_id: id(video),
                twin: id(world.twin(video)?),
                part: world.part(video)?,
                events: world
                    .events(video)?
                    .map(|e| format!("{} {} {}", e.colour.word(), e.shape.word(), e.action.word())),
            })
        };
        let videos = (0..world.len()).map(video).collect::<Result<_>>()?;
        Ok(Self { version: Self::VERSION, config: *world.config(), videos })
    }

    /// Reads the manifest of the world in `folder`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] if it is not JSON of this form and version.
    pub fn read(folder: &Path) -> Result<Self> {
        read_manifest(&folder.join(Self::FILE), Self::VERSION, |manifest: &Self| manifest.version)
    }

    /// For each video of a part of the world, the number of its twin there.
    ///
    /// # Errors
    /// [`Error::Missing`] for a video that is not of this world, or whose twin is not of the part.
    pub fn twins(&self, part: &dyn SampleSource) -> Result<Vec<usize>> {
        let ids = (0..part.len()).map(|i| part.id(i)).collect::<Result<Vec<_>>>()?;
        let number: BTreeMap<&str, usize> = ids.iter().enumerate().map(|(i, id)| (*id, i)).collect();
        let twin: BTreeMap<&str, &str> = self.videos.iter().map(|v| (v.video_id.as_str(), v.twin.as_str())).collect();
        let found = |id: &&str| twin.get(id).and_then(|twin| number.get(twin)).copied();
        ids.iter().map(|id| found(id).ok_or_else(|| Error::missing(Self::FILE, "twin of video", id))).collect()
    }
}

impl World {
    /// Writes the world to `folder`, which is made if need be, in the layout that BiC-Net's code reads:
    ///
    /// | file | content |
    /// |---|---|
    /// | `msr-vtt_features.h5` | dataset `feats`, (videos, 8, 128) |
    /// | `msrvtt_region_feature.h5` | dataset `vfeats`, (videos, 8, 4, 64) |
    /// | `text_default.h5` | for each video id a dataset (tokens of its captions, 80) |
    /// | `text_lens_default.json` | for each video id the number of tokens of each caption |
    /// | `datainfo.json` | the captions themselves |
    /// | `MSRVTT_synthetic_{train,validate,test}.csv` | the ids of each split's videos, column `video_id` |
    /// | `synthetic.json` | the [`Manifest`]; written last, so a folder that has it is whole |
    ///
    /// Ids are `video0`, `video1` and so on, where the number is the row in the feature files. Each video has four
    /// captions, of which BiC-Net never trains on the last.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        let manifest = begin(folder, Manifest::FILE)?;
        let features = self.features()?;
        for (file, dataset, array) in [
            ("msr-vtt_features.h5", "feats", &features.frames),
            ("msrvtt_region_feature.h5", "vfeats", &features.regions),
        ] {
            hdf5_write::write(&folder.join(file), |w| w.dataset(dataset, array.shape(), array.data()))?;
        }
        self.write_captions(folder)?;
        for (part, name) in [(Part::Train, "train"), (Part::Validation, "validate"), (Part::Test, "test")] {
            let path = folder.join(format!("MSRVTT_synthetic_{name}.csv"));
            write_table(&path, ["video_id"], self.videos(part).map(|video| [id(video)]))?;
        }
        atomic::write_lines(&manifest, [Manifest::new(self)?])
    }

    fn write_captions(&self, folder: &Path) -> Result<()> {
        let mut sentences = Vec::new();
        let mut lengths = BTreeMap::new();
        hdf5_write::write(&folder.join("text_default.h5"), |w| {
            for video in 0..self.len() {
                let mut tokens = Vec::new();
                let mut counts = Vec::new();
                for caption in self.captions(video)? {
                    let features = self.encode_caption(&caption)?;
                    counts.push(features.shape()[0]);
                    tokens.extend_from_slice(features.data());
                    sentences.push(Sentence { video_id: id(video), caption });
                }
                w.dataset(&id(video), &[tokens.len() / TOKEN_DIMS, TOKEN_DIMS], &tokens)?;
                lengths.insert(id(video), counts);
            }
            Ok(())
        })?;
        atomic::write_lines(&folder.join("text_lens_default.json"), [lengths])?;
        atomic::write_lines(&folder.join("datainfo.json"), [Info { sentences }])
    }
}

/// MSR-VTT's file of captions.
#[derive(Serialize)]
pub(super) struct Info {
    pub sentences: Vec<Sentence>,
}

/// One of its captions.
#[derive(Serialize)]
pub(super) struct Sentence {
    pub video_id: String,
    pub caption: String,
}

/// A video's id in MSR-VTT's files.
pub(super) fn id(video: usize) -> String {
    format!("video{video}")
}

pub(super) fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Error::io("create the folder", folder, e))
}

/// Reads a manifest and checks its version.
pub(super) fn read_manifest<M: DeserializeOwned>(path: &Path, version: u32, found: fn(&M) -> u32) -> Result<M> {
    let manifest = read_json(path)?;
    if found(&manifest) != version {
        let problem = format!("is {}, but must be {version}", found(&manifest));
        return Err(Error::malformed(path, "version", problem));
    }
    Ok(manifest)
}

/// Makes `folder` and gives the path of its manifest. An old one is removed: it must not vouch for new files.
pub(super) fn begin(folder: &Path, manifest: &str) -> Result<PathBuf> {
    create_folder(folder)?;
    let path = folder.join(manifest);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(path),
    }
}

/// Writes a CSV file with a header.
pub(super) fn write_table<const N: usize>(
    path: &Path,
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> Result<()> {
    atomic::write(path, |file| {
        let mut table = csv::Writer::from_writer(file);
        table.write_record(header)?;
        for row in rows {
            table.write_record(row)?;
        }
        table.flush()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdf5_reader::Hdf5File;
    use serde_json::Value;

    fn read_dataset(path: &Path, name: &str) -> (Vec<u64>, Vec<f32>) {
        let file = Hdf5File::open(path).unwrap();
        let dataset = file.dataset(name).unwrap();
        let shape = dataset.shape().to_vec();
        (shape, dataset.read_array::<f32>().unwrap().into_raw_vec_and_offset().0)
    }

    #[test]
    fn the_folder_holds_the_world() {
        let world = World::new(WorldConfig { seed: 4, train: 9, validation: 2, test: 3 }).unwrap();
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("a/b");
        world.write(&folder).unwrap();

        let features = world.features().unwrap();
        assert_eq!(
            read_dataset(&folder.join("msr-vtt_features.h5"), "feats"),
            (vec![28, 8, 128], features.frames.into_data())
        );
        assert_eq!(
            read_dataset(&folder.join("msrvtt_region_feature.h5"), "vfeats"),
            (vec![28, 8, 4, 64], features.regions.into_data())
        );

        let json = |name: &str| -> Value { serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap() };
        let (lengths, info) = (json("text_lens_default.json"), json("datainfo.json"));
        let sentences = info["sentences"].as_array().unwrap();
        assert_eq!(sentences.len(), 4 * world.len());
        for video in 0..world.len() {
            let captions = world.captions(video).unwrap();
            let tokens: Vec<_> = captions.iter().map(|c| world.encode_caption(c).unwrap()).collect();
            let counts: Vec<u64> = tokens.iter().map(|t| t.shape()[0] as u64).collect();
            assert_eq!(lengths[id(video)], Value::from(counts.clone()));
            let all: Vec<f32> = tokens.into_iter().flat_map(|t| t.into_data()).collect();
            let written = read_dataset(&folder.join("text_default.h5"), &id(video));
            assert_eq!(written, (vec![counts.iter().sum(), 80], all));
            for (sentence, caption) in sentences[4 * video..].iter().zip(captions) {
                assert_eq!((&sentence["video_id"], &sentence["caption"]), (&id(video).into(), &caption.into()));
            }
        }

        let mut listed = Vec::new();
        for (name, count) in [("train", 18), ("validate", 4), ("test", 6)] {
            let text = fs::read_to_string(folder.join(format!("MSRVTT_synthetic_{name}.csv"))).unwrap();
            let mut lines = text.lines();
            assert_eq!(lines.next(), Some("video_id"));
            let before = listed.len();
            listed.extend(lines.map(str::to_owned));
            assert_eq!(listed.len() - before, count);
        }
        assert_eq!(listed, (0..28).map(id).collect::<Vec<_>>());

        let manifest = Manifest::read(&folder).unwrap();
        assert_eq!(manifest, Manifest::new(&world).unwrap());
        assert_eq!((&*manifest.videos[6].twin, manifest.videos[18].part), ("video7", Part::Validation));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 9);
    }

    #[test]
    fn writing_again_gives_the_same_bytes() {
        let world = World::new(WorldConfig { seed: 4, train: 2, validation: 1, test: 1 }).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let bytes = || -> BTreeMap<_, _> {
            world.write(folder.path()).unwrap();
            fs::read_dir(folder.path())
                .unwrap()
                .map(|f| f.unwrap().path())
                .map(|p| (p.clone(), fs::read(p).unwrap()))
                .collect()
        };
        let first = bytes();
        assert!(first == bytes());
    }

    #[test]
    fn damaged_manifests_and_bad_folders_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Manifest::read(folder.path()), Err(Error::Io { .. })));
        let path = folder.path().join(Manifest::FILE);
        fs::write(&path, "{").unwrap();
        assert!(matches!(Manifest::read(folder.path()), Err(Error::Malformed { .. })));
        fs::write(&path, r#"{"version":2,"config":{"seed":0,"train":1,"validation":0,"test":0},"videos":[]}"#).unwrap();
        assert!(matches!(Manifest::read(folder.path()), Err(Error::Malformed { .. })));
        // A file where the folder should be.
        let world = World::new(WorldConfig { seed: 0, train: 1, validation: 0, test: 0 }).unwrap();
        assert!(matches!(world.write(&path), Err(Error::Io { .. })));
    }
}
