//! A folder of one's own videos: into an index, brought up to date, and searched.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::gpu;
use reelgrad::autograd::Tape;
use reelgrad::data::media::frames::Reading;
use reelgrad::data::media::pixels::Image;
use reelgrad::data::media::video::Ffmpeg;
use reelgrad::models::Model;
use reelgrad::models::eercf::EercfConfig;
use reelgrad::models::glccl::GlcclConfig;
use reelgrad::models::text_image::OpenOptions;
use reelgrad::models::towers::TowerModel;
use reelgrad::random::Random;
use reelgrad::retrieval::index::{ClipPlan, Index, IndexModel, IndexRun, IndexWriter, Indexed, PlainModel};
use reelgrad::retrieval::search::{Query, SearchOptions, Searcher};
use reelgrad::run::clip::{Config, Settings, open_trained};
use reelgrad::tensor::{DType, Tensor};
use reelgrad::train::{Checkpoint, RunFolder, Silent, Slot, StopFlag};
use reelgrad::{Error, Result};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/clip-tiny-hf");

fn model() -> PlainModel {
    PlainModel::open(&gpu(), MODEL, OpenOptions::default()).unwrap()
}

/// Large random squares: picture `number`.
fn picture(number: u64) -> Image {
    let mut random = Random::new(number, 1);
    let colours: Vec<[u8; 3]> = (0..16).map(|_| std::array::from_fn(|_| (random.uniform() * 255.0) as u8)).collect();
    let pixel = |i: usize| colours[i % 64 / 16 + i / 64 / 12 * 4];
    Image::new(64, 48, (0..64 * 48).flat_map(pixel).collect()).unwrap()
}

/// A video of two frames a second that shows each picture for so many seconds.
fn video(path: &Path, shots: &[(u64, usize)]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let frames: Vec<Image> = shots.iter().flat_map(|&(n, seconds)| vec![picture(n); 2 * seconds]).collect();
    Ffmpeg::find().unwrap().encode(path, &frames, 2).unwrap();
}

fn run(folder: &Path, writer: &mut IndexWriter, prune: bool) -> Result<Indexed> {
    let roots = vec![folder.to_path_buf()];
    let run = IndexRun { roots, prune, reading: Reading::OWN, thumbnails: true, decoders: 2 };
    run.run(&model(), writer, &Ffmpeg::find().unwrap(), &mut Silent, &StopFlag::new())
}

fn create(path: &Path) -> IndexWriter {
    IndexWriter::create(path, model().spec(ClipPlan::default(), DType::F16, false)).unwrap()
}

/// Folders of five videos, and of what is none.
fn folder(root: &Path) -> PathBuf {
    let videos = root.join("videos");
    video(&videos.join("one.mp4"), &[(1, 12)]);
    video(&videos.join("deep/er/-rf two.mp4"), &[(2, 3)]);
    video(&videos.join("deep/$(three) '\"\n.mp4"), &[(3, 9)]);
    video(&videos.join("ÄÖ.MP4"), &[(4, 1)]);
    video(&videos.join("long.mp4"), &[(5, 30), (6, 12), (5, 30)]);
    fs::write(videos.join("corrupt.mp4"), "no video at all").unwrap();
    fs::write(videos.join("empty.mp4"), "").unwrap();
    fs::write(videos.join("notes.txt"), "of a video").unwrap();
    fs::write(videos.join(".hidden.mp4"), "x").unwrap();
    videos
}

fn name(id: &str) -> &str {
    id.rsplit('/').next().unwrap()
}

#[test]
fn a_folder_is_indexed_once_and_brought_up_to_date() {
    let root = tempfile::tempdir().unwrap();
    let (videos, path) = (folder(root.path()), root.path().join("index"));
    let mut writer = create(&path);
    let done = run(&videos, &mut writer, false).unwrap();
    assert_eq!(done.summary.line(), "5 read, 2 skipped (1 hidden, 1 no video), 2 failed");
    let mut failed: Vec<&str> = done.summary.failed.iter().map(|f| name(&f.id)).collect();
    failed.sort_unstable();
    assert_eq!(failed, ["corrupt.mp4", "empty.mp4"]);
    assert_eq!(done.seconds, 12.0 + 3.0 + 9.0 + 1.0 + 72.0);
    let first: Vec<_> = writer.index().unwrap().videos().cloned().collect();
    assert_eq!(first.len(), 5);
    // An index among the videos is none of them.
    fs::rename(&path, videos.join("index")).unwrap();
    drop(writer);
    let path = videos.join("index");
    let mut writer = IndexWriter::open(&path).unwrap();
    let again = run(&videos, &mut writer, false).unwrap();
    assert_eq!(again.summary.line(), "5 read (5 before), 3 skipped (1 hidden, 1 index, 1 no video), 2 failed");
    assert_eq!((again.seconds, again.clips), (0.0, 0));

    // One changes, one goes, one comes.
    video(&videos.join("one.mp4"), &[(7, 5)]);
    fs::remove_file(videos.join("deep/er/-rf two.mp4")).unwrap();
    video(&videos.join("new.mp4"), &[(8, 2)]);
    let changed = run(&videos, &mut writer, false).unwrap();
    assert_eq!((changed.seconds, changed.summary.resumed), (7.0, 3));
    assert_eq!(changed.vanished.iter().map(|id| name(id)).collect::<Vec<_>>(), ["-rf two.mp4"]);
    assert_eq!(writer.index().unwrap().videos().count(), 6);
    assert_eq!(run(&videos, &mut writer, true).unwrap().vanished.len(), 1);
    let index = writer.index().unwrap();
    let mut names: Vec<&str> = index.videos().map(|video| name(&video.id)).collect();
    names.sort_unstable();
    assert_eq!(names, ["$(three) '\"\n.mp4", "long.mp4", "new.mp4", "one.mp4", "ÄÖ.MP4"]);
    assert!(run(&videos, &mut writer, true).unwrap().vanished.is_empty());
    let jpeg = index.thumbnail(0).unwrap();
    assert!(jpeg.starts_with(&[0xff, 0xd8]) && image::load_from_memory(&jpeg).is_ok());
    index.verify().unwrap();
}

#[test]
fn what_is_done_when_a_run_is_stopped_stays() {
    let root = tempfile::tempdir().unwrap();
    let (videos, whole, part) = (folder(root.path()), root.path().join("whole"), root.path().join("part"));
    run(&videos, &mut create(&whole), false).unwrap();
    let mut writer = create(&part);
    let stop = StopFlag::new();
    let (flag, mut steps) = (stop.clone(), 0);
    let mut progress = |_, _, _: &str| {
        steps += 1;
        if steps == 3 {
            flag.stop();
        }
    };
    let roots = vec![videos.clone()];
    let first = IndexRun { roots, prune: false, reading: Reading::OWN, thumbnails: true, decoders: 1 };
    let stopped = first.run(&model(), &mut writer, &Ffmpeg::find().unwrap(), &mut progress, &stop);
    assert!(matches!(&stopped, Err(Error::Interrupted { saved: Some(path) }) if *path == part), "{stopped:?}");
    let kept = writer.index().unwrap().videos().count();
    assert!((1..5).contains(&kept), "{kept}");
    let rest = run(&videos, &mut writer, false).unwrap();
    assert_eq!((rest.summary.read, rest.summary.resumed), (5, kept));
    // The same clips with the same vectors, whatever was decoded side by side.
    let of = |path: &Path| {
        let index = Index::open(path).unwrap();
        let clip = |number| (index.clip(number).unwrap().video.id.clone(), index.coarse(number, 1).unwrap());
        (0..index.len()).map(clip).collect::<Vec<(String, Vec<f32>)>>()
    };
    assert_eq!(of(&whole), of(&part));
}

#[test]
fn queries_find_their_clips_and_moments() {
    let root = tempfile::tempdir().unwrap();
    let (videos, path) = (folder(root.path()), root.path().join("index"));
    let mut writer = create(&path);
    run(&videos, &mut writer, false).unwrap();
    let searcher = Searcher::new(&gpu(), Box::new(model()), writer.index().unwrap(), 1 << 30).unwrap();
    let index = searcher.index();
    let options = SearchOptions { top: Some(3), timed: true, ..SearchOptions::default() };
    let queries = [1, 3, 6].map(|number| Query::Picture(picture(number)));
    let answers = searcher.search(&queries, &options).unwrap();
    let best = |q: usize| &answers.found[q][0];
    assert_eq!(name(&index.clip(best(0).clip).unwrap().video.id), "one.mp4");
    assert!(best(0).score > 0.999 && answers.times.is_some() && answers.cut.is_empty());
    assert_eq!(name(&index.clip(best(1).clip).unwrap().video.id), "$(three) '\"\n.mp4");
    assert_eq!(name(&index.clip(best(2).clip).unwrap().video.id), "long.mp4");
    assert_eq!((best(2).moment.start, best(2).moment.end), (30.0, 42.0), "{:?}", best(2));
    // One of a video, unless more are asked for.
    for found in &answers.found {
        let mut ids: Vec<&str> = found.iter().map(|f| index.clip(f.clip).unwrap().video.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 3);
        assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score));
    }
    let many = SearchOptions { per_video: 9, ..options };
    let of_long = |f: &reelgrad::retrieval::search::Found| name(&index.clip(f.clip).unwrap().video.id) == "long.mp4";
    assert!(searcher.search(&queries[2..], &many).unwrap().found[0].iter().all(of_long));
    // More than there are videos: what there is.
    let all = SearchOptions { top: Some(index.len()), ..options };
    assert_eq!(searcher.search(&queries, &all).unwrap().found[0].len(), 5);
    // Like a clip, and not that clip.
    let like = searcher.search(&[Query::Clip(best(2).clip)], &many).unwrap();
    assert!(like.found[0].len() == 3);
    let own = index.clip(best(2).clip).unwrap();
    for other in like.found[0].iter().map(|f| index.clip(f.clip).unwrap()) {
        let apart = own.clip.start >= other.clip.end || other.clip.start >= own.clip.end;
        assert!(own.video.id != other.video.id || apart, "{other:?} overlaps {own:?}");
    }
    // Together and one by one: the same.
    let texts = ["a red square", "two dogs", "a red square"].map(|text| Query::Text(text.into()));
    let together = searcher.search(&texts, &many).unwrap().found;
    assert_eq!(together[0], together[2]);
    for (text, found) in texts.iter().zip(&together) {
        assert_eq!(&searcher.search(std::slice::from_ref(text), &many).unwrap().found[0], found);
    }
    let long = Query::Text("word ".repeat(200));
    assert_eq!(searcher.search(&[texts[0].clone(), long], &many).unwrap().cut, [1]);
}

/// The scores of two sentences and a clip of each video, as the model itself gives them to the videos' pictures; then those
/// of an index that was made of the videos.
fn scores<C: Config>() -> [Vec<f32>; 2]
where
    C::Model: Model<Config = C>,
{
    const TEXTS: [&str; 2] = ["a red square moves left then a blue circle rises", "a green star falls"];
    let (gpu, settings) = (gpu(), Settings::<C>::small());
    let (base, frames) = (settings.model.base().clone(), settings.model.base().frames);
    let model = C::Model::new(&gpu, settings.model.clone(), 5).unwrap();
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("run");
    let arrays = model.store().to_arrays().unwrap();
    let checkpoint = Checkpoint { model: arrays, state: serde_json::json!({ "step": 1 }), ..Checkpoint::default() };
    RunFolder::create(&run, &settings).unwrap().save(Slot::Best, &checkpoint).unwrap();

    // Of 8, 4 and 2 frames, where the model reads 6.
    let shots = [[(1, 2), (2, 2)], [(3, 1), (4, 1)], [(5, 1), (5, 0)]];
    let clips = ClipPlan { rate: 2.0, seconds: 8.0, step: 8.0, cut_below: None };
    let trained = open_trained(&gpu, &run).unwrap();
    let preprocess = trained.processor().preprocess.clone();
    let (mut pixels, mut mask) = (Vec::new(), Vec::new());
    for (number, shots) in shots.iter().enumerate() {
        video(&root.path().join(format!("videos/{number}.mp4")), shots);
        let shown: Vec<u64> = shots.iter().flat_map(|&(picture, seconds)| vec![picture; 2 * seconds]).collect();
        let taken: Vec<u64> = match shown.len() {
            8 => [0, 1, 3, 4, 6, 7].map(|at| shown[at]).to_vec(),
            _ => shown,
        };
        mask.extend((0..frames).map(|i| if i < taken.len() { 1.0 } else { 0.0 }));
        taken.iter().for_each(|&n| pixels.extend(preprocess.apply(&picture(n)).unwrap()));
        pixels.resize((number + 1) * frames * 3 * preprocess.crop.pow(2), 0.0);
    }
    let tape = Tape::inference(&gpu);
    let mask = Tensor::from_slice(&gpu, [3, frames], &mask).unwrap();
    let pixels = tape.constant(model.base().upload(&gpu, &pixels).unwrap());
    let features = model.base().encode_frames(&pixels, &mask, model.needs().patches).unwrap();
    let ids = trained.processor().tokenizer.encode(&TEXTS, base.words).unwrap().ids;
    let texts = model.base().encode_texts(&tape, &ids, model.needs().words).unwrap();
    let (texts, videos) = (model.prepare_texts(&texts).unwrap(), model.prepare_videos(&features).unwrap());
    let heads = model.compare(&texts, &videos).unwrap();
    let own = model.similarity(&heads).unwrap().value().to_vec().unwrap();

    let mut writer = IndexWriter::create(root.path().join("index"), trained.spec(clips, DType::F32, false)).unwrap();
    let filling = IndexRun {
        roots: vec![root.path().join("videos")],
        prune: false,
        reading: Reading::OWN,
        thumbnails: false,
        decoders: 1,
    };
    filling.run(&*trained, &mut writer, &Ffmpeg::find().unwrap(), &mut Silent, &StopFlag::new()).unwrap();
    let searcher = Searcher::new(&gpu, trained, writer.index().unwrap(), 1 << 30).unwrap();
    let options = SearchOptions { top: Some(3), ..SearchOptions::default() };
    let mut found = vec![0.0; 6];
    let queries = TEXTS.map(|text| Query::Text(text.into()));
    for (query, answers) in searcher.search(&queries, &options).unwrap().found.into_iter().enumerate() {
        answers.iter().for_each(|answer| found[query * 3 + answer.clip] = answer.score as f32);
    }
    // Pictures and clips are compared by their frames.
    let like = searcher.search(&[Query::Picture(picture(4)), Query::Clip(0)], &options).unwrap().found;
    assert_eq!(like[0][0].clip, 1, "{like:?}");
    assert_eq!(like[1].len(), 2);
    [own, found]
}

#[test]
fn trained_models_rank_in_an_index_as_they_do_themselves() {
    for [own, found] in [scores::<EercfConfig>(), scores::<GlcclConfig>()] {
        for (own, found) in own.iter().zip(&found) {
            assert!((own - found).abs() < 1e-3 * own.abs().max(1.0), "{own} {found}");
        }
    }
}

#[test]
fn what_cannot_be_searched_is_an_error() {
    fn shared<T: Send + Sync>(_: &T) {}
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("index");
    video(&root.path().join("videos/one.mp4"), &[(1, 12)]);
    let mut writer = create(&path);
    run(&root.path().join("videos"), &mut writer, false).unwrap();
    let searcher = Searcher::new(&gpu(), Box::new(model()), writer.index().unwrap(), 1 << 30).unwrap();
    shared(&searcher);
    let search = |query: Query, change: fn(&mut SearchOptions)| {
        let mut options = SearchOptions::default();
        change(&mut options);
        searcher.search(&[query], &options).unwrap_err()
    };
    let text = || Query::Text("a dog".into());
    assert!(matches!(search(text(), |o| o.top = Some(0)), Error::Argument { argument: "top", .. }));
    assert!(matches!(search(text(), |o| o.top = Some(3)), Error::Argument { argument: "top", .. }));
    assert!(matches!(search(text(), |o| o.per_video = 0), Error::Argument { argument: "per_video", .. }));
    for bad in [String::new(), " \n".into(), "x".repeat(1_000_000)] {
        assert!(matches!(search(Query::Text(bad), |_| ()), Error::Argument { argument: "query", .. }));
    }
    assert!(matches!(search(Query::Clip(2), |_| ()), Error::IndexOutOfRange { index: 2, len: 2, .. }));
    assert!(searcher.search(&[], &SearchOptions::default()).unwrap().found.is_empty());

    // Another model, of the same shape: its weights were changed.
    let other = root.path().join("other");
    fs::create_dir(&other).unwrap();
    for entry in fs::read_dir(MODEL).unwrap().map(|e| e.unwrap()).filter(|e| e.file_name() != "expected.safetensors") {
        fs::copy(entry.path(), other.join(entry.file_name())).unwrap();
    }
    let mut weights = fs::read(other.join("model.safetensors")).unwrap();
    *weights.last_mut().unwrap() ^= 1;
    fs::write(other.join("model.safetensors"), weights).unwrap();
    let foreign = PlainModel::open(&gpu(), &other, OpenOptions::default()).unwrap();
    let got = Searcher::new(&gpu(), Box::new(foreign), writer.index().unwrap(), 1 << 30).map(drop);
    let Err(Error::Argument { argument: "model", why, .. }) = &got else { panic!("{got:?}") };
    assert!(why.contains("other (CLIP ") && why.contains("clip-tiny-hf (CLIP "), "{why}");
    // An index of nothing answers with nothing.
    let empty = create(&root.path().join("empty"));
    let searcher = Searcher::new(&gpu(), Box::new(model()), empty.index().unwrap(), 1 << 30).unwrap();
    assert!(searcher.search(&[text()], &SearchOptions::default()).unwrap().found[0].is_empty());
}
