use std::fs;

use serde_json::json;

use super::*;
use crate::data::testing::Folder;
use crate::kernels::testing::{gpus, noise};
use crate::retrieval::exact::ExactSearch;
use crate::tensor::DType;

const WIDTH: usize = 24;

fn spec() -> IndexSpec {
    let model = ModelIdentity { family: "CLIP".into(), name: "small".into(), sha256: "00".into() };
    IndexSpec {
        model,
        width: WIDTH,
        precision: DType::F32,
        bytes: false,
        patches: 0,
        clips: ClipPlan::default(),
        preprocess: json!({}),
    }
}

fn unit(values: &[f32]) -> Vec<f32> {
    let length = values.iter().map(|v| v * v).sum::<f32>().sqrt();
    values.iter().map(|v| v / length).collect()
}

/// A video of `seconds` whose numbers follow from its id.
fn video(id: &str, seconds: usize, spec: &IndexSpec) -> VideoVectors {
    let seed = id.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let times: Vec<f64> = (0..seconds).map(|second| second as f64).collect();
    let clips = spec.clips.clips(&times, seconds as f64, &[]);
    let coarse = noise(clips.len() * spec.width, seed).chunks_exact(spec.width).flat_map(unit).collect();
    let thumbnails = clips.iter().map(|clip| format!("{id} at {}", clip.start).into_bytes()).collect();
    let video = Video {
        id: id.into(),
        path: Some(format!("/videos/{id}")),
        size: 1000,
        modified: 5,
        duration: seconds as f64,
        offset: 0.0,
        notes: Vec::new(),
    };
    let frames = noise(seconds * spec.width, seed + 1);
    let patches = noise(seconds * spec.patches * spec.width, seed + 2);
    VideoVectors { video, clips, coarse, frames, times, patches, thumbnails }
}

fn ids(index: &Index) -> Vec<&str> {
    index.videos().map(|video| video.id.as_str()).collect()
}

/// Id, clip, its vector, its frames and its picture.
type Content = (String, Clip, Vec<f32>, Vec<f32>, Vec<u8>);

/// Everything that an index answers with, to be compared.
fn content(index: &Index) -> Vec<Content> {
    let one = |number| {
        let found = index.clip(number).unwrap();
        let (frames, _) = index.frames(number).unwrap();
        // The place of frames in a segment is nobody's business.
        let clip = Clip { first: 0, ..found.clip };
        (found.video.id.clone(), clip, index.coarse(number, 1).unwrap(), frames, index.thumbnail(number).unwrap())
    };
    (0..index.len()).map(one).collect()
}

#[test]
fn videos_come_back_as_they_were_added() {
    for (precision, bytes, patches) in [(DType::F32, false, 0), (DType::F32, true, 3), (DType::F16, true, 0)] {
        let folder = Folder::new();
        let spec = IndexSpec { precision, bytes, patches, ..spec() };
        let mut writer = IndexWriter::create(folder.path("i"), spec.clone()).unwrap();
        for (id, seconds) in [("a", 3), ("b", 20), ("c", 9)] {
            writer.add(video(id, seconds, &spec)).unwrap();
        }
        assert!(writer.contains("b") && Index::open(folder.path("i")).unwrap().is_empty());
        writer.commit().unwrap();
        let index = Index::open(folder.path("i")).unwrap();
        assert_eq!((ids(&index), index.len(), index.segments()), (vec!["a", "b", "c"], 1 + 4 + 2, 1));
        let kept = |values: Vec<f32>| match precision {
            DType::F16 => values.into_iter().map(|v| half::f16::from_f32(v).to_f32()).collect(),
            _ => values,
        };
        let b = video("b", 20, &spec);
        let second = index.clip(2).unwrap();
        assert_eq!((second.video, second.clip.start, second.clip.end), (&b.video, 4.0, 12.0));
        assert_eq!(index.coarse(1, 4).unwrap(), kept(b.coarse.clone()));
        let (frames, times) = index.frames(2).unwrap();
        assert_eq!((frames, times), (kept(b.frames[4 * WIDTH..12 * WIDTH].to_vec()), (4..12).map(f64::from).collect()));
        assert_eq!(index.patches(2).unwrap(), kept(b.patches[4 * patches * WIDTH..12 * patches * WIDTH].to_vec()));
        assert_eq!(index.thumbnail(2).unwrap(), b"b at 4");
        assert_eq!(index.verify().unwrap().segments, 1);
        assert!(matches!(index.clip(7), Err(Error::IndexOutOfRange { index: 7, len: 7, .. })));
        assert!(matches!(index.coarse(5, 3), Err(Error::IndexOutOfRange { index: 8, len: 7, .. })));
    }
}

#[test]
fn deleting_replacing_and_compacting_keep_the_rest() {
    let folder = Folder::new();
    let (path, spec) = (folder.path("i"), spec());
    let mut writer = IndexWriter::create(&path, spec.clone()).unwrap();
    for id in ["a", "b", "c", "d"] {
        writer.add(video(id, 9, &spec)).unwrap();
        writer.commit().unwrap();
    }
    writer.add(video("e", 9, &spec)).unwrap();
    writer.add(video("f", 9, &spec)).unwrap();
    writer.commit().unwrap();
    let before = Index::open(&path).unwrap();
    writer.delete(&["e", "b"]).unwrap();
    let got = writer.delete(&["a", "b"]);
    assert!(matches!(&got, Err(Error::Missing { kind: "video", id, .. }) if id == "b"), "{got:?}");
    // Another one in the place of `c`.
    writer.add(video("c", 20, &spec)).unwrap();
    assert!(matches!(writer.add(video("c", 9, &spec)), Err(Error::Duplicate { .. })));
    writer.commit().unwrap();
    let index = Index::open(&path).unwrap();
    assert_eq!((ids(&index), index.segments()), (vec!["a", "c", "d", "f"], 4));
    assert_eq!(index.clip(2).unwrap().video.duration, 20.0);
    // Who opened it earlier sees what was there.
    assert_eq!(ids(&before), ["a", "b", "c", "d", "e", "f"]);
    let whole = content(&index);
    assert_eq!(writer.compact().unwrap(), Compacted { rewritten: 4, written: 1 });
    let index = Index::open(&path).unwrap();
    assert_eq!((ids(&index), index.segments()), (vec!["a", "c", "d", "f"], 1));
    assert_eq!(content(&index), whole);
    index.verify().unwrap();
    assert_eq!(writer.compact().unwrap(), Compacted::default());
    assert_eq!(fs::read_dir(path.join(SEGMENTS)).unwrap().count(), 1);
    writer.delete(&["a", "c", "d", "f"]).unwrap();
    writer.compact().unwrap();
    assert!(Index::open(&path).unwrap().is_empty());
    assert_eq!(fs::read_dir(path.join(SEGMENTS)).unwrap().count(), 0);
}

#[test]
fn what_a_dead_process_left_is_removed() {
    let folder = Folder::new();
    let (path, spec) = (folder.path("i"), spec());
    let mut writer = IndexWriter::create(&path, spec.clone()).unwrap();
    writer.add(video("a", 9, &spec)).unwrap();
    writer.commit().unwrap();
    drop(writer);
    // A segment that was written and never named; one in the making.
    fs::create_dir(path.join(SEGMENTS).join("00000002")).unwrap();
    fs::create_dir(path.join(SEGMENTS).join(".00000002.tmp")).unwrap();
    assert_eq!(ids(&Index::open(&path).unwrap()), ["a"]);
    let mut writer = IndexWriter::open(&path).unwrap();
    assert_eq!(fs::read_dir(path.join(SEGMENTS)).unwrap().count(), 1);
    writer.add(video("b", 9, &spec)).unwrap();
    writer.commit().unwrap();
    assert_eq!(ids(&writer.index().unwrap()), ["a", "b"]);
    // One that died before it had a manifest.
    fs::create_dir_all(folder.path("young").join(SEGMENTS)).unwrap();
    fs::write(folder.path("young").join("lock"), "7").unwrap();
    IndexWriter::create(folder.path("young"), spec).unwrap();
}

#[test]
fn one_process_writes() {
    let folder = Folder::new();
    let writer = IndexWriter::create(folder.path("i"), spec()).unwrap();
    let second = IndexWriter::open(folder.path("i")).map(drop);
    let Err(Error::Io { action: "lock", source, .. }) = &second else { panic!("{second:?}") };
    assert!(source.to_string().contains(&format!("this index (process {})", std::process::id())), "{source}");
    Index::open(folder.path("i")).unwrap();
    drop(writer);
    IndexWriter::open(folder.path("i")).unwrap();
}

/// Every bit of every file, one after the other: opening or verifying must notice.
#[test]
fn no_flipped_bit_passes() {
    let folder = Folder::new();
    let spec = IndexSpec { width: 4, bytes: true, ..spec() };
    let path = folder.path("i");
    let mut writer = IndexWriter::create(&path, spec.clone()).unwrap();
    writer.add(video("a", 2, &spec)).unwrap();
    writer.commit().unwrap();
    drop(writer);
    let segment = path.join(SEGMENTS).join("00000001");
    let mut files: Vec<PathBuf> = fs::read_dir(&segment).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 8, "{files:?}");
    files.push(path.join("index.json"));
    for file in files {
        let whole = fs::read(&file).unwrap();
        for bit in 0..8 * whole.len() {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, &damaged).unwrap();
            let noticed = Index::open(&path).and_then(|index| index.verify());
            assert!(matches!(&noticed, Err(Error::Malformed { .. })), "{} bit {bit}: {noticed:?}", file.display());
        }
        for length in [0, whole.len() / 2, whole.len() - 1] {
            fs::write(&file, &whole[..length]).unwrap();
            let noticed = Index::open(&path).and_then(|index| index.verify());
            assert!(matches!(&noticed, Err(Error::Malformed { .. })), "{} {length}: {noticed:?}", file.display());
        }
        fs::remove_file(&file).unwrap();
        let noticed = Index::open(&path).map(drop);
        assert!(matches!(&noticed, Err(Error::Io { .. } | Error::Missing { .. })), "{}: {noticed:?}", file.display());
        fs::write(&file, &whole).unwrap();
    }
    Index::open(&path).unwrap().verify().unwrap();
}

#[test]
fn other_versions_and_what_is_no_index_are_told_apart() {
    let folder = Folder::new();
    let path = folder.path("i");
    assert!(matches!(Index::open(&path).map(drop), Err(Error::Missing { kind: "index", .. })));
    assert!(matches!(IndexWriter::open(&path).map(drop), Err(Error::Missing { kind: "index", .. })));
    assert!(!path.exists());
    IndexWriter::create(&path, spec()).unwrap();
    let place = |text: &[u8]| {
        fs::write(path.join("index.json"), text).unwrap();
        match Index::open(&path).map(drop) {
            Err(Error::Malformed { place, problem, .. }) => (place, problem),
            other => panic!("{other:?}"),
        }
    };
    assert!(place(b"reelgrad-index/2 00\n{}").1.contains("reads reelgrad-index/1"));
    assert_eq!(place(b"{\"format\": 1}").0, "line 1");
    assert_eq!(place(b"").0, "line 1");
    // A folder of something else stays as it is.
    fs::create_dir(folder.path("other")).unwrap();
    fs::write(folder.path("other/letter.txt"), "dear").unwrap();
    for taken in [&path, &folder.path("other")] {
        let got = IndexWriter::create(taken, spec()).map(drop);
        assert!(matches!(got, Err(Error::Argument { argument: "folder", .. })), "{got:?}");
    }
    assert_eq!(fs::read_dir(folder.path("other")).unwrap().count(), 1);
}

#[test]
fn vectors_that_do_not_fit_are_errors_and_leave_no_trace() {
    let folder = Folder::new();
    let spec = spec();
    let mut writer = IndexWriter::create(folder.path("i"), spec.clone()).unwrap();
    let good = video("a", 9, &spec);
    let mut add = |change: fn(&mut VideoVectors)| {
        let mut bad = good.clone();
        change(&mut bad);
        writer.add(bad).unwrap_err()
    };
    assert!(matches!(add(|v| v.clips.clear()), Error::Argument { argument: "clips", .. }));
    assert!(matches!(add(|v| v.clips[1].count = 99), Error::Argument { argument: "clips", .. }));
    assert!(matches!(add(|v| v.coarse.push(0.0)), Error::Shape { argument: "coarse", .. }));
    assert!(matches!(add(|v| v.frames.truncate(5)), Error::Shape { argument: "frames", .. }));
    assert!(matches!(add(|v| v.patches.push(1.0)), Error::Shape { argument: "patches", .. }));
    assert!(matches!(add(|v| v.thumbnails.truncate(1)), Error::Argument { argument: "thumbnails", .. }));
    assert!(matches!(add(|v| v.frames[30] = f32::NAN), Error::NonFinite { place, .. } if place == "frames, row 1"));
    assert!(matches!(add(|v| v.coarse[0] += 1.0), Error::Argument { argument: "coarse", .. }));
    assert_eq!(writer.pending(), 0);
    writer.add(good).unwrap();
    writer.commit().unwrap();
    let halves = IndexSpec { precision: DType::F16, ..spec.clone() };
    let mut writer = IndexWriter::create(folder.path("h"), halves.clone()).unwrap();
    let mut large = video("b", 9, &halves);
    large.frames[3] = 1e6;
    assert!(
        matches!(writer.add(large), Err(Error::HalfOverflow { origin, name, .. }) if origin == "b" && name == "frames")
    );
    for (bad, argument) in [
        (IndexSpec { width: 0, ..spec.clone() }, "width"),
        (IndexSpec { clips: ClipPlan { step: 0.0, ..spec.clips }, ..spec.clone() }, "step"),
    ] {
        let got = IndexWriter::create(folder.path("x"), bad).map(drop);
        assert!(matches!(got, Err(Error::Argument { argument: a, .. }) if a == argument));
    }
}

/// The first stage over an index: in every precision the answer of scoring all clips, deleted ones apart.
#[test]
fn clips_are_found_exactly() {
    for gpu in gpus() {
        for (precision, bytes) in [(DType::F32, false), (DType::F16, false), (DType::F32, true), (DType::F16, true)] {
            let folder = Folder::new();
            let spec = IndexSpec { width: 20, precision, bytes, ..spec() };
            let mut writer = IndexWriter::create(folder.path("i"), spec.clone()).unwrap();
            for number in 0..40 {
                writer.add(video(&number.to_string(), 4 * 40, &spec)).unwrap();
                if number % 15 == 14 {
                    writer.commit().unwrap();
                }
            }
            writer.commit().unwrap();
            writer.delete(&["3", "4", "39"]).unwrap();
            let index = writer.index().unwrap();
            let (count, queries) = (index.len(), noise(2 * 20, 4));
            assert_eq!(count, 37 * 39);
            let rows = index.coarse(0, count).unwrap();
            let budget = (2048 * index.scanned_bytes()) as u64;
            let search = ExactSearch::new(&gpu, index, budget).unwrap();
            for (query, hits) in queries.chunks_exact(20).zip(search.search(&queries, 10).unwrap()) {
                let score = |number: &usize| crate::retrieval::exact::dot(query, &rows[20 * number..20 * (number + 1)]);
                let mut order: Vec<usize> = (0..count).collect();
                order.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
                assert_eq!(hits.iter().map(|hit| hit.number).collect::<Vec<_>>(), order[..10]);
                assert!(hits.iter().all(|hit| hit.score == score(&hit.number)));
            }
        }
    }
}

/// What bytes lose, and that nothing is lost in the end.
#[test]
fn bytes_find_nearly_all_and_rescoring_the_rest() {
    struct Random(Vec<f32>, quick::Bytes);
    const WIDTH: usize = 64;
    impl Vectors for Random {
        fn count(&self) -> usize {
            self.0.len() / WIDTH
        }

        fn width(&self) -> usize {
            WIDTH
        }

        fn exact(&self, first: usize, count: usize) -> Result<Vec<f32>> {
            Ok(self.0[first * WIDTH..][..count * WIDTH].to_vec())
        }

        fn scanned_bytes(&self) -> usize {
            quick::stored_bytes(WIDTH)
        }

        fn scanned(&self, first: usize, count: usize) -> Result<Scanned> {
            Ok(Scanned { values: self.1.scanned(first, count), longest: LONGEST, residual: self.1.residual })
        }
    }
    let mut random = crate::random::Random::new(5, 0);
    let mut normal = |n: usize| (0..n * WIDTH).map(|_| random.normal()).collect::<Vec<f32>>();
    let units = |values: Vec<f32>| values.chunks_exact(WIDTH).flat_map(unit).collect::<Vec<f32>>();
    let (rows, queries) = (units(normal(100_000)), units(normal(200)));
    let bytes = quick::Bytes::of(&rows, WIDTH, DType::F32);
    let gpu = &gpus()[0];
    let plain = crate::retrieval::exact::InMemory::new(WIDTH, rows.clone()).unwrap();
    let expected = ExactSearch::new(gpu, plain, 1 << 30).unwrap().search(&queries, 10).unwrap();
    let search = ExactSearch::new(gpu, Random(rows, bytes), 1 << 30).unwrap();
    let recall = search.scanned_recall(&queries, 10).unwrap();
    assert!((0.99..1.0).contains(&recall), "{recall}");
    assert_eq!(search.search(&queries, 10).unwrap(), expected);
}
