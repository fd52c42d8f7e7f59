use super::*;
use crate::data::formats::hdf5_write;
use crate::data::moments::{MomentQuery, MomentVideo, write_tvr};
use crate::data::testing::Folder;

/// Values that tell dataset, row and column.
fn ramp(rows: usize, width: usize, start: f32) -> Array {
    let value = |i: usize| start + (i % 7) as f32 - 0.25 * (i / width) as f32;
    Array::new([rows, width], (0..rows * width).map(value).collect()).unwrap()
}

fn write_h5(path: &Path, sets: &[(&str, Array)]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    hdf5_write::write(path, |w| sets.iter().try_for_each(|(name, x)| w.dataset(name, x.shape(), x.data()))).unwrap();
}

/// Two videos, of 3 and 11 clips, and a query for each; with the published names.
fn world(folder: &Folder) -> TvrFiles {
    let video = |id: &str, duration, index| MomentVideo { id: id.into(), duration, index };
    let query = |id, video: &str, window| MomentQuery::new(id, "a", Some(video.into()), vec![window]);
    let split = MomentSplit {
        queries: vec![query(70, "b", [3.2, 7.6]), query(5, "a", [0.0, 1.0])],
        videos: vec![video("a", 4.5, 9), video("b", 16.0, 10)],
    };
    write_tvr(folder.root(), &[("val", &split)]).unwrap();
    let files = TvrFiles::in_folder(folder.root(), "val");
    write_h5(&files.video_features[0], &[("a", ramp(3, 4, 1.0)), ("b", ramp(11, 4, 2.0))]);
    write_h5(files.sub_features.as_ref().unwrap(), &[("a", ramp(3, 3, 3.0)), ("b", ramp(11, 3, 4.0))]);
    write_h5(&files.query_features, &[("5", ramp(2, 5, 5.0)), ("70", ramp(9, 5, 6.0))]);
    files
}

fn open(files: &TvrFiles) -> Result<TvrDataset> {
    TvrDataset::open(files, TvrOptions::default(), &mut Problems::strict())
}

fn normalized(mut x: Array) -> Array {
    l2_normalize_rows(&mut x);
    x
}

#[test]
fn features_are_resampled_then_normalized() {
    let folder = Folder::new();
    let files = world(&folder);
    let options = TvrOptions { max_clips: 4, max_tokens: 3, timing: Timing::Rescaled, ..TvrOptions::default() };
    let data = TvrDataset::open(&files, options, &mut Problems::strict()).unwrap();
    assert_eq!(data.widths(), Widths { query: 5, video: 4, sub: 3 });
    assert_eq!(data.videos()[1].index, 10);
    assert_eq!((data.video_of(0).unwrap(), data.video_of(1).unwrap()), (Some(1), Some(0)));
    let clips = data.clips(1).unwrap();
    assert_eq!(clips.video.unwrap(), normalized(resample(&ramp(11, 4, 2.0), 4).unwrap()));
    assert_eq!(clips.sub.unwrap(), normalized(resample(&ramp(11, 3, 4.0), 4).unwrap()));
    assert_eq!(clips.seconds_per_clip, 1.5 * 11.0 / 4.0);
    assert_eq!(data.clips(0).unwrap().seconds_per_clip, 1.5);
    let first = normalized(ramp(9, 5, 6.0)).data()[..15].to_vec();
    assert_eq!(data.tokens(0).unwrap(), Array::new([3, 5], first).unwrap());
    assert_eq!(data.tokens(1).unwrap().shape(), [2, 5]);

    let data = open(&files).unwrap();
    assert_eq!(data.clips(1).unwrap().len(), 11);
    assert_eq!(data.sample(0, 0).unwrap().span, [2, 6]);
    for result in [data.clips(2).map(drop), data.tokens(2).map(drop), data.video_of(2).map(drop)] {
        assert!(matches!(result, Err(Error::IndexOutOfRange { index: 2, len: 2, .. })));
    }
}

#[test]
fn files_of_video_features_are_joined() {
    let folder = Folder::new();
    let mut files = world(&folder);
    let (wide, short) = (folder.path("wide.h5"), folder.path("short.h5"));
    write_h5(&wide, &[("a", ramp(3, 3001, 1.0)), ("b", ramp(11, 3001, 1.0))]);
    write_h5(&short, &[("a", ramp(2, 2, 7.0)), ("b", ramp(12, 2, 7.0))]);
    files.video_features = vec![wide, short];
    let data = open(&files).unwrap();
    assert_eq!(data.widths().video, 3003);
    // Video a is cut to the shortest stream; only the narrow file is normalised.
    let clips = data.clips(0).unwrap();
    assert_eq!(clips.sub.unwrap().shape(), [2, 3]);
    let video = clips.video.unwrap();
    assert_eq!(video.row(1)[..3001], *ramp(3, 3001, 1.0).row(1));
    assert_eq!(video.row(1)[3001..], *normalized(ramp(2, 2, 7.0)).row(1));
    assert_eq!(data.clips(1).unwrap().len(), 11);

    let options = TvrOptions { normalize_video: Some(true), ..TvrOptions::default() };
    let data = TvrDataset::open(&files, options, &mut Problems::strict()).unwrap();
    assert_eq!(data.clips(0).unwrap().video.unwrap().row(1)[..3001], *normalized(ramp(3, 3001, 1.0)).row(1));

    files.video_features.clear();
    let data = open(&files).unwrap();
    assert_eq!((data.widths().video, data.clips(0).unwrap().video), (0, None));
    files.sub_features = None;
    assert!(matches!(open(&files), Err(Error::Argument { argument: "files", .. })));
}

#[test]
fn features_that_do_not_fit_are_refused_or_left_out() {
    let folder = Folder::new();
    let files = world(&folder);
    let video = |sets: &[(&str, Array)]| write_h5(&files.video_features[0], sets);
    let good = ("a", ramp(3, 4, 1.0));
    for bad in [
        Some(ramp(11, 5, 0.0)),
        Some(ramp(9, 4, 0.0)),
        Some(Array::zeros([0, 4])),
        Some(Array::zeros([11])),
        Some(Array::zeros([1, 11, 4])),
        None,
    ] {
        let sets = [Some(good.clone()), bad.map(|b| ("b", b))];
        video(&sets.into_iter().flatten().collect::<Vec<_>>());
        let error = open(&files).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. } | Error::Missing { .. }), "{error}");
        assert!(error.to_string().contains("\"b\"") && error.to_string().contains(".h5"), "{error}");
        let mut lenient = Problems::lenient();
        let data = TvrDataset::open(&files, TvrOptions::default(), &mut lenient).unwrap();
        // The video and its query.
        assert_eq!(lenient.skipped().len(), 2);
        assert_eq!((data.videos()[0].id.as_str(), data.queries()[0].id), ("a", 5));
        assert_eq!((data.videos().len(), data.queries().len(), data.video_of(0).unwrap()), (1, 1, Some(0)));
    }
    let files = world(&folder);
    write_h5(&files.query_features, &[("70", ramp(2, 5, 0.0))]);
    assert!(matches!(open(&files), Err(Error::Missing { kind: "dataset", id, .. }) if id == "5"));
    let mut lenient = Problems::lenient();
    let data = TvrDataset::open(&files, TvrOptions::default(), &mut lenient).unwrap();
    assert_eq!((data.videos().len(), data.queries().len(), lenient.skipped().len()), (2, 1, 1));
    write_h5(&files.query_features, &[]);
    let all = open(&files).unwrap_err().to_string();
    assert!(all.contains("2 are missing: dataset \"70\", dataset \"5\""), "{all}");
    assert!(TvrDataset::open(&files, TvrOptions::default(), &mut Problems::lenient()).is_err());
}

#[test]
fn bad_values_are_found_when_they_are_read() {
    let folder = Folder::new();
    let files = world(&folder);
    let mut nan = ramp(11, 3, 0.0);
    nan.data_mut()[10] = f32::NAN;
    write_h5(files.sub_features.as_ref().unwrap(), &[("a", ramp(3, 3, 3.0)), ("b", nan)]);
    let data = open(&files).unwrap();
    assert!(data.clips(0).is_ok());
    let Err(Error::NonFinite { place, .. }) = data.clips(1) else { panic!() };
    assert_eq!(place, "dataset \"b\", row 3");
}

#[test]
fn bad_values_are_left_out_at_once_if_any_are() {
    let folder = Folder::new();
    let files = world(&folder);
    let (mut sub, mut query) = (ramp(12, 3, 4.0), ramp(9, 5, 6.0));
    // In the clip that the video stream lacks, and in a token that is cut: nobody reads them.
    sub.data_mut()[11 * 3] = f32::NAN;
    query.data_mut()[4 * 5] = f32::NAN;
    write_h5(files.sub_features.as_ref().unwrap(), &[("a", ramp(3, 3, 3.0)), ("b", sub.clone())]);
    write_h5(&files.query_features, &[("5", ramp(2, 5, 5.0)), ("70", query.clone())]);
    let options = TvrOptions { max_tokens: 4, ..TvrOptions::default() };
    let open = || {
        let mut lenient = Problems::lenient();
        let data = TvrDataset::open(&files, options, &mut lenient).unwrap();
        let read = |q| data.sample(q, 0).unwrap();
        (0..data.queries().len()).map(read).for_each(drop);
        let skipped: Vec<String> = lenient.skipped().iter().map(ToString::to_string).collect();
        (data.videos().len(), data.queries().len(), skipped)
    };
    assert_eq!(open(), (2, 2, vec![]));

    query.data_mut()[3 * 5 + 4] = f32::NEG_INFINITY;
    write_h5(&files.query_features, &[("5", ramp(2, 5, 5.0)), ("70", query)]);
    let (videos, queries, skipped) = open();
    assert_eq!((videos, queries, skipped.len()), (2, 1, 1));
    assert!(skipped[0].contains("tvr_query_pretrained") && skipped[0].contains("dataset \"70\", row 3"), "{skipped:?}");
    sub.data_mut()[2 * 3 + 1] = f32::INFINITY;
    write_h5(files.sub_features.as_ref().unwrap(), &[("a", ramp(3, 3, 3.0)), ("b", sub)]);
    // The video, and its query.
    let (videos, queries, skipped) = open();
    assert_eq!((videos, queries, skipped.len()), (1, 1, 2));
    assert!(skipped[0].contains("tvr_sub_pretrained") && skipped[0].contains("dataset \"b\", row 2"), "{skipped:?}");
    let mut strict = Problems::strict();
    let data = TvrDataset::open(&files, options, &mut strict).unwrap();
    assert!(matches!(data.tokens(0), Err(Error::NonFinite { place, .. }) if place == "dataset \"70\", row 3"));
}

#[test]
fn options_and_files_are_checked() {
    let folder = Folder::new();
    let files = world(&folder);
    for options in [
        TvrOptions { max_clips: 0, ..TvrOptions::default() },
        TvrOptions { max_tokens: 0, ..TvrOptions::default() },
        TvrOptions { clip_seconds: f64::NAN, ..TvrOptions::default() },
    ] {
        let got = TvrDataset::open(&files, options, &mut Problems::strict());
        assert!(matches!(got, Err(Error::Argument { .. })));
    }
    folder.file("tvr_feature_release/bert_feature/sub_query/tvr_query_pretrained_w_sub_query.h5", "no HDF5");
    assert!(matches!(open(&files), Err(Error::Malformed { .. })));
    let none = TvrFiles { query_features: folder.path("none.h5"), ..files };
    assert!(matches!(open(&none), Err(Error::Io { .. })));
}
