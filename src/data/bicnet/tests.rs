use std::collections::BTreeMap;

use super::*;
#[cfg(feature = "datasets")]
use crate::data::Part;
use crate::data::captions::{Split, VideoCaptions};
use crate::data::formats::safetensors;
use crate::data::testing::{Folder, mutations};

fn filled(shape: impl Into<Vec<usize>>, start: f32) -> Array {
    let mut array = Array::zeros(shape);
    array.data_mut().iter_mut().enumerate().for_each(|(i, v)| *v = start + i as f32 * 0.5);
    array
}

fn sample(tokens: usize, frames: usize, start: f32) -> Sample {
    Sample {
        text: filled([tokens, 2], start),
        region: filled([frames, 2, 3], start),
        global: filled([frames, 4], start),
    }
}

fn is_malformed<T: std::fmt::Debug>(result: Result<T>, part: &str) {
    let Err(error @ Error::Malformed { .. }) = &result else { panic!("{part}: {result:?}") };
    assert!(error.to_string().contains(part), "{error}");
}

#[test]
fn batches_are_padded_and_masked() {
    let (a, b) = (sample(1, 3, 1.0), sample(2, 1, 50.0));
    let batch = collate(&[a.clone(), b.clone()]).unwrap();
    assert_eq!(batch.text.shape(), [2, 2, 2]);
    assert_eq!(batch.text.data(), [1.0, 1.5, 0.0, 0.0, 50.0, 50.5, 51.0, 51.5]);
    assert_eq!(batch.text_mask, Array::new([2, 2], vec![1.0, 0.0, 1.0, 1.0]).unwrap());
    assert_eq!(batch.region.shape(), [2, 3, 2, 3]);
    assert_eq!(batch.region.row(0), a.region.data());
    assert_eq!(batch.region.row(1)[..6], *b.region.data());
    assert!(batch.region.row(1)[6..].iter().all(|&v| v == 0.0));
    assert_eq!(batch.global.shape(), [2, 3, 4]);
    assert_eq!(batch.global_mask, Array::new([2, 3], vec![1.0; 6]).unwrap());
    assert_eq!(batch.frames, [3, 1]);
    assert_eq!(batch.frame_mask().data(), [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
}

#[test]
fn samples_that_do_not_fit_are_refused() {
    let good = sample(2, 3, 0.0);
    assert!(matches!(collate(&[]), Err(Error::Argument { .. })));
    let with = |change: &dyn Fn(&mut Sample)| {
        let mut other = good.clone();
        change(&mut other);
        collate(&[good.clone(), other])
    };
    assert!(matches!(with(&|s| s.text = Array::zeros([3])), Err(Error::Shape { argument: "text", .. })));
    assert!(matches!(with(&|s| s.text = Array::zeros([0, 2])), Err(Error::Shape { .. })));
    assert!(matches!(with(&|s| s.text = Array::zeros([])), Err(Error::Shape { .. })));
    assert!(matches!(with(&|s| s.text = Array::zeros([2, 3])), Err(Error::ShapeMismatch { .. })));
    assert!(matches!(with(&|s| s.region = Array::zeros([3, 1, 3])), Err(Error::ShapeMismatch { .. })));
    assert!(matches!(with(&|s| s.global = Array::zeros([2, 4])), Err(Error::ShapeMismatch { .. })));
}

fn write_neutral(folder: &Folder, change: impl FnOnce(&mut BTreeMap<String, Array>, &mut Split)) {
    let mut arrays = BTreeMap::new();
    let mut videos = Vec::new();
    for (id, frames, captions) in [("a", 2, 2), ("b.c", 3, 1)] {
        let item = sample(2, frames, frames as f32);
        arrays.insert(format!("region.{id}"), item.region);
        arrays.insert(format!("global.{id}"), item.global);
        for n in 0..captions {
            arrays.insert(format!("text.{id}.{n}"), filled([n + 1, 2], n as f32));
        }
        let captions = (0..captions).map(|n| format!("caption {n}")).collect();
        videos.push(VideoCaptions::new(id, captions));
    }
    let mut split = Split { videos };
    change(&mut arrays, &mut split);
    safetensors::write(folder.path("train.safetensors"), &arrays, &BTreeMap::new()).unwrap();
    split.write_jsonl(folder.path("train.jsonl")).unwrap();
}

fn open_neutral(change: impl FnOnce(&mut BTreeMap<String, Array>, &mut Split)) -> Result<NeutralDataset> {
    let folder = Folder::new();
    write_neutral(&folder, change);
    NeutralDataset::open(folder.root(), "train")
}

#[test]
fn the_neutral_layout_is_read() {
    let data: Box<dyn SampleSource> = Box::new(open_neutral(|_, _| {}).unwrap());
    assert_eq!((data.len(), data.is_empty()), (2, false));
    assert_eq!(data.dims(), Dims { text: 2, regions: 2, region: 3, global: 4 });
    assert_eq!((data.id(1).unwrap(), data.captions(0).unwrap()), ("b.c", 2));
    let got = data.sample(0, 1).unwrap();
    assert_eq!(got, Sample { text: filled([2, 2], 1.0), ..sample(2, 2, 2.0) });
    let other = data.sample(1, 0).unwrap();
    assert_eq!(collate(&[got, other]).unwrap().frames, [2, 3]);
    for (video, caption) in [(2, 0), (0, 2), (1, usize::MAX)] {
        assert!(matches!(data.sample(video, caption), Err(Error::IndexOutOfRange { .. })));
    }
    assert!(matches!(data.captions(2), Err(Error::IndexOutOfRange { .. })));
}

#[test]
fn an_incomplete_neutral_split_is_refused() {
    for name in ["region.a", "global.b.c", "text.a.1"] {
        let got = open_neutral(|arrays, _| drop(arrays.remove(name)));
        assert!(matches!(&got, Err(Error::Missing { id, .. }) if id == name), "{got:?}");
    }
    for (name, shape) in [
        ("text.a.0", &[2, 3][..]),
        ("text.b.c.0", &[2]),
        ("region.b.c", &[3, 1, 3]),
        ("region.b.c", &[3, 2, 1]),
        ("global.b.c", &[3, 1]),
        ("global.b.c", &[2, 4]),
        ("global.a", &[0, 4]),
        ("region.a", &[2, 3]),
    ] {
        is_malformed(open_neutral(|arrays, _| drop(arrays.insert(name.into(), Array::zeros(shape)))), "must be");
    }
    is_malformed(open_neutral(|_, split| drop(split.videos[0].captions.pop())), "text.a.1");
    let nan = open_neutral(|arrays, _| arrays.get_mut("global.a").unwrap().data_mut()[5] = f32::NAN).unwrap();
    let got = nan.sample(0, 0);
    assert!(matches!(&got, Err(Error::NonFinite { place, .. }) if place == "array \"global.a\", row 1"), "{got:?}");
    let folder = Folder::new();
    assert!(matches!(NeutralDataset::open(folder.root(), "train"), Err(Error::Missing { .. })));
}

#[test]
fn damaged_neutral_splits_never_panic() {
    let folder = Folder::new();
    write_neutral(&folder, |_, _| {});
    for name in ["train.safetensors", "train.jsonl"] {
        let good = std::fs::read(folder.path(name)).unwrap();
        for bytes in mutations(&good, 300) {
            folder.file(name, &bytes);
            let Ok(data) = NeutralDataset::open(folder.root(), "train") else { continue };
            let samples: Result<Vec<Sample>> = (0..data.len()).map(|video| data.sample(video, 0)).collect();
            let _ = samples.and_then(|samples| collate(&samples));
        }
        folder.file(name, &good);
    }
}

#[cfg(feature = "datasets")]
mod official {
    use super::*;
    use crate::data::testing::fixture;

    fn msrvtt() -> DatasetKind {
        DatasetKind::MsrVtt { split: "9000".to_owned() }
    }

    /// A copy of the committed folder, to be changed.
    fn copied() -> Folder {
        let folder = Folder::new();
        for entry in std::fs::read_dir(fixture("bicnet")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.root().join(entry.file_name())).unwrap();
        }
        folder
    }

    fn open(folder: &Folder) -> Result<BicnetDataset> {
        BicnetDataset::open(folder.root(), &msrvtt(), Part::Train)
    }

    fn with_file(name: &str, content: impl AsRef<[u8]>) -> Result<BicnetDataset> {
        let folder = copied();
        folder.file(name, content);
        open(&folder)
    }

    fn read(name: &str) -> Vec<u8> {
        std::fs::read(fixture(name)).unwrap()
    }

    #[test]
    fn the_msrvtt_folder_is_read() {
        let data = BicnetDataset::open(fixture("bicnet"), &msrvtt(), Part::Train).unwrap();
        assert_eq!((data.len(), data.frames()), (3, 3));
        assert_eq!(data.dims(), Dims { text: 6, regions: 2, region: 4, global: 5 });
        let ids: Vec<&str> = (0..3).map(|i| data.id(i).unwrap()).collect();
        assert_eq!(ids, ["video0", "video2", "video3"]);
        let counts: Vec<usize> = (0..3).map(|i| data.captions(i).unwrap()).collect();
        assert_eq!(counts, [2, 3, 2]);
        // The last of three captions with 4, 1 and 2 tokens of width 6, all a ramp of steps of 0.5 from 200.
        let got = data.sample(1, 2).unwrap();
        assert_eq!(got.text, filled([2, 6], 200.0 + 0.5 * 30.0));
        assert_eq!(got.region, filled([3, 2, 4], 0.5 * 48.0));
        assert_eq!(got.global, filled([3, 5], 0.5 * 30.0));
        let batch = collate(&[got, data.sample(0, 1).unwrap()]).unwrap();
        assert_eq!(batch.text_mask.data(), [1.0, 1.0, 0.0, 1.0, 1.0, 1.0]);
        assert_eq!(data.raw_captions().unwrap().videos[1].captions[2], "caption 2 of 2");
        for (video, caption) in [(3, 0), (0, 2), (usize::MAX, 0), (0, usize::MAX)] {
            assert!(matches!(data.sample(video, caption), Err(Error::IndexOutOfRange { .. })));
        }
        let test = BicnetDataset::open(fixture("bicnet"), &msrvtt(), Part::Test).unwrap();
        assert_eq!(test.id(0).unwrap(), "video4");
        assert!(matches!(BicnetDataset::open(fixture("bicnet"), &msrvtt(), Part::Validation), Err(Error::Io { .. })));
    }

    #[test]
    fn the_msvd_folder_is_read() {
        let data = BicnetDataset::open(fixture("bicnet_msvd"), &DatasetKind::Msvd, Part::Validation).unwrap();
        assert_eq!((data.len(), data.id(99).unwrap()), (100, "video1299"));
        let got = data.sample(99, 1).unwrap();
        assert_eq!((got.text.data(), got.global.data()), (&[2.0, 2.5][..], &[1299.0][..]));
        let train = BicnetDataset::open(fixture("bicnet_msvd"), &DatasetKind::Msvd, Part::Train);
        is_malformed(train, "1200 are missing: video \"video0\", video \"video1\"");
    }

    #[test]
    fn features_that_do_not_fit_are_refused() {
        is_malformed(with_file("msrvtt_region_feature.h5", read("wrong.h5")), "(N, T, R, Dr)");
        is_malformed(with_file("msr-vtt_features.h5", read("frames4.h5")), "the frames T must be 3, it is 4");
        is_malformed(with_file("msr-vtt_features.h5", "not HDF5"), "msr-vtt_features.h5");
        let missing = with_file("msr-vtt_features.h5", read("bicnet/msrvtt_region_feature.h5"));
        assert!(matches!(&missing, Err(Error::Missing { kind: "dataset", id, .. }) if id == "feats"), "{missing:?}");
        let nan = with_file("msr-vtt_features.h5", read("wrong.h5")).unwrap().sample(1, 0);
        assert!(matches!(&nan, Err(Error::NonFinite { place, .. }) if place == "dataset \"feats\", row 2"), "{nan:?}");
    }

    #[test]
    fn lists_and_token_counts_that_do_not_fit_are_refused() {
        let csv = |rows: &str| with_file("MSRVTT_9000_train.csv", format!("video_id\n{rows}"));
        for id in ["video", "video+1", "video-1", "clip1", "video1x", "video99999999999999999999"] {
            is_malformed(csv(id), "not \"video\" and a number");
        }
        assert!(matches!(csv("video5"), Err(Error::Missing { kind: "row of video", .. })));
        assert!(matches!(csv("video1\nvideo1"), Err(Error::Duplicate { .. })));
        is_malformed(csv(""), "no video ids");

        let lengths = |video0: &str| {
            let json = format!("{{\"video0\": {video0}, \"video2\": [4, 1, 2], \"video3\": [2, 2]}}");
            with_file("text_lens_default.json", json)
        };
        assert!(lengths("[2, 3]").is_ok());
        is_malformed(lengths("[2, 2]"), "must be 4, it is 5");
        is_malformed(lengths("[5, 0]"), "0 tokens");
        is_malformed(lengths("[-1, 6]"), "line 1");
        is_malformed(lengths("[2.5, 2.5]"), "line 1");
        is_malformed(lengths(&format!("[1, {}]", usize::MAX)), "tokens");
        assert!(matches!(lengths("[]"), Err(Error::Missing { kind: "caption of video", .. })));
        assert!(matches!(lengths("[5], \"video0\": [5]"), Err(Error::Duplicate { .. })));
        let missing = with_file("text_lens_default.json", "{}");
        is_malformed(missing, "3 are missing: video \"video0\", video \"video2\", video \"video3\"");
    }

    #[test]
    fn damaged_folders_never_panic() {
        let folder = copied();
        for name in [
            "text_default.h5",
            "msrvtt_region_feature.h5",
            "msr-vtt_features.h5",
            "text_lens_default.json",
            "MSRVTT_9000_train.csv",
        ] {
            let good = std::fs::read(folder.path(name)).unwrap();
            for bytes in mutations(&good, 150) {
                folder.file(name, &bytes);
                let Ok(data) = open(&folder) else { continue };
                let samples: Result<Vec<Sample>> = (0..data.len()).map(|video| data.sample(video, 0)).collect();
                let _ = samples.and_then(|samples| collate(&samples));
            }
            folder.file(name, &good);
        }
    }

    /// The npz form of the neutral layout.
    #[test]
    fn npz_splits_are_read() {
        let folder = Folder::new();
        write_neutral(&folder, |_, _| {});
        let tensors = folder.path("train.safetensors");
        let mut writer = zip::ZipWriter::new(std::fs::File::create(folder.path("train.npz")).unwrap());
        for (name, array) in safetensors::read(&tensors).unwrap() {
            let path = folder.path("one.npy");
            crate::data::formats::npy::write_npy(&path, &array).unwrap();
            writer.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
            std::io::Write::write_all(&mut writer, &std::fs::read(&path).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        let open = || NeutralDataset::open(folder.root(), "train");
        assert!(matches!(open(), Err(Error::Duplicate { .. })));
        let expected = sample(2, 3, 3.0);
        std::fs::remove_file(tensors).unwrap();
        assert_eq!(open().unwrap().sample(1, 0).unwrap(), Sample { text: filled([1, 2], 0.0), ..expected });
    }
}
