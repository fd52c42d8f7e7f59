use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::*;
use crate::data::formats::hdf5::FeatureFile;
use crate::data::moments::{MomentSource, Problems, QueryKind, TvrDataset, TvrFiles, TvrOptions, clip_span};

fn small(seed: u64) -> MomentWorldConfig {
    MomentWorldConfig { seed, train: 41, validation: 9, test: 13, ..Default::default() }
}

fn world(config: MomentWorldConfig) -> MomentWorld {
    MomentWorld::new(config).unwrap()
}

fn events(video: &SimulatedVideo) -> Vec<Event> {
    video.events.iter().map(|&(event, _)| event).collect()
}

#[test]
fn videos_are_as_they_are_described() {
    let world = world(small(1));
    assert_eq!(world.len(), 63);
    let mut ids = 0;
    for (i, video) in world.videos.iter().enumerate() {
        let part = if i < 41 {
            Part::Train
        } else if i < 50 {
            Part::Validation
        } else {
            Part::Test
        };
        assert_eq!((video.part, video.id.as_str()), (part, format!("video{i:06}").as_str()));
        assert!((20..=40).contains(&video.clips));
        assert!((3..=5).contains(&video.events.len()));
        assert_eq!(events(video).iter().collect::<HashSet<_>>().len(), video.events.len());
        assert_eq!(video.lines.iter().map(|(line, _)| line).collect::<HashSet<_>>().len(), video.lines.len());
        assert!((4..=5).contains(&video.queries.len()));
        assert_eq!(video.queries.iter().map(|q| &q.text).collect::<HashSet<_>>().len(), video.queries.len());
        for query in &video.queries {
            assert_eq!((query.id, query.video.as_ref()), (ids, Some(&video.id)));
            ids += 1;
            let [[start, end]] = query.windows[..] else { panic!("{query:?}") };
            assert!(0.0 <= start && start < end && end <= video.duration(), "{query:?}");
            let [first, last] = clip_span([start, end], CLIP_SECONDS, video.clips);
            assert!(last > first, "{query:?}");
        }
    }
    let windows = || world.videos.iter().flat_map(|v| &v.queries).flat_map(|q| q.windows.concat());
    // Most labels are off the grid of clips.
    assert!(windows().filter(|t| t % CLIP_SECONDS == 0.0).count() * 10 < windows().count());
    let train = world.split(Part::Train);
    assert_eq!((train.videos.len(), train.videos[40].index), (41, 40));
    assert_eq!(train.queries.last().unwrap().video, Some("video000040".to_owned()));
}

#[test]
fn kinds_have_the_shares_of_tvr() {
    let world = world(MomentWorldConfig { train: 2000, ..small(0) });
    let kinds: Vec<_> = world.videos.iter().flat_map(|v| &v.queries).filter_map(|q| q.kind).collect();
    for (kind, percent) in [(QueryKind::Video, 74.0), (QueryKind::Text, 9.0), (QueryKind::Both, 17.0)] {
        let share = kinds.iter().filter(|&&k| k == kind).count() as f64 * 100.0 / kinds.len() as f64;
        println!("{kind:?}: {share:.1} %");
        assert!((share - percent).abs() < 3.0, "{kind:?}: {share}");
    }
    let per_video = kinds.len() as f64 / world.len() as f64;
    assert!((4.4..4.6).contains(&per_video), "{per_video}");
    let orders: usize = world.videos.iter().map(|v| v.order_queries.len()).sum();
    assert!(orders * 10 > kinds.len() && orders * 3 < kinds.len(), "{orders} of {}", kinds.len());
}

/// Only twins have the same events, in opposite orders; so no split knows the videos of another.
#[test]
fn twins_differ_in_order_and_others_in_events() {
    let world = world(MomentWorldConfig { twins: 0.5, train: 400, ..small(2) });
    let mut by_set: BTreeMap<Vec<Event>, Vec<usize>> = BTreeMap::new();
    for (i, video) in world.videos.iter().enumerate() {
        let mut set = events(video);
        set.sort_unstable();
        by_set.entry(set).or_default().push(i);
        let Some(twin) = video.twin else { continue };
        let other = world.video(twin).unwrap();
        assert_eq!((other.twin, other.part, other.clips), (Some(i), video.part, video.clips));
        assert_eq!(other.lines, video.lines);
        let mut reversed = events(other);
        reversed.reverse();
        assert_eq!(reversed, events(video));
        let lengths =
            |v: &SimulatedVideo| v.events.iter().map(|(e, s)| (*e, s.clips().len())).collect::<BTreeMap<_, _>>();
        assert_eq!(lengths(other), lengths(video));
        // Neither's order queries are the other's.
        assert!(!video.order_queries.is_empty());
        for query in video.queries.iter().filter(|q| video.order_queries.contains(&q.id)) {
            assert!(other.queries.iter().all(|q| q.text != query.text));
        }
    }
    for videos in by_set.values() {
        match videos[..] {
            [video] => assert_eq!(world.videos[video].twin, None),
            [video, twin] => assert_eq!(world.videos[video].twin, Some(twin)),
            _ => panic!("{videos:?}"),
        }
    }
    let twins = |from: usize, to| world.videos[from..to].iter().filter(|v| v.twin.is_some()).count();
    assert_eq!([twins(0, 400), twins(400, 409), twins(409, 422)], [200, 4, 6]);
    // The vocabulary is shared: every event of the test is seen in training.
    let seen: HashSet<_> = world.videos[..400].iter().flat_map(events).collect();
    assert_eq!(seen.len(), 144);
}

#[test]
fn clips_show_their_events_and_lines() {
    let config = MomentWorldConfig { noise: 0.3, speech_noise: 0.1, ..small(3) };
    let world = world(config);
    let all: Vec<_> = Event::all().map(|event| (event, world.encoder.event(event))).collect();
    let (mut right, mut shown) = (0, 0);
    for (i, video) in world.videos.iter().enumerate() {
        let clips = world.clips(i).unwrap();
        assert_eq!((clips.len(), clips.seconds_per_clip), (video.clips, 1.5));
        let [seen, said] = [clips.video.unwrap(), clips.sub.unwrap()];
        assert_eq!((seen.shape(), said.shape()), (&[video.clips, 64][..], &[video.clips, 48][..]));
        for &(event, stretch) in &video.events {
            for clip in stretch.clips() {
                let row = &seen.data()[clip * 64..][..64];
                let score = |vector: &[f32; 64]| vector.iter().zip(row).map(|(a, b)| a * b).sum::<f32>();
                let norm = |vector: &[f32; 64]| vector.iter().map(|x| x * x).sum::<f32>().sqrt();
                let cosine = |(_, vector): &&(Event, [f32; 64])| score(vector) / norm(vector);
                let best = all.iter().max_by(|a, b| cosine(a).total_cmp(&cosine(b))).unwrap();
                right += usize::from(best.0 == event);
                shown += 1;
            }
        }
        let mut spoken = vec![false; video.clips];
        for (line, stretch) in &video.lines {
            let words = world.encode_query(line).unwrap();
            for clip in stretch.clips() {
                spoken[clip] = true;
                for (d, x) in said.data()[clip * 48..][..48].iter().enumerate() {
                    let max = words.data().iter().skip(d).step_by(64).copied().fold(f32::NEG_INFINITY, f32::max);
                    assert!((x - max).abs() < 0.7, "{line}: {x} against {max}");
                }
            }
        }
        for (row, spoken) in said.data().chunks_exact(48).zip(spoken) {
            assert_eq!(row.iter().any(|&x| x != 0.0), spoken);
        }
    }
    assert!(right * 100 > shown * 97, "{right} of {shown}");
}

#[test]
fn queries_become_words_with_positions() {
    let world = world(small(4));
    let tokens = world.encode_query("A red square moves left, then a blue circle goes up").unwrap();
    assert_eq!(tokens.shape(), [11, 64]);
    assert_eq!(tokens, world.encode_query("a RED square moves left then a blue circle goes up.").unwrap());
    let token = |i: usize| &tokens.data()[i * 64..][..64];
    // "a" twice: the same word at another position.
    assert_eq!(token(0)[..48], token(6)[..48]);
    assert_ne!(token(0)[48..], token(6)[48..]);
    for query in world.videos.iter().flat_map(|v| &v.queries) {
        let tokens = world.encode_query(&query.text).unwrap();
        assert!((4..=30).contains(&tokens.shape()[0]), "{}", query.text);
    }
    for (text, words) in [("a pink square", "\"pink\""), (" ?! ", "no words")] {
        let Err(Error::Argument { why, .. }) = world.encode_query(text) else { panic!("{text}") };
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn worlds_are_functions_of_their_configuration() {
    let (one, again, other) = (world(small(5)), world(small(5)), world(small(6)));
    assert_eq!(one.videos, again.videos);
    assert_eq!(one.clips(60).unwrap(), again.clips(60).unwrap());
    assert_ne!(one.videos, other.videos);
    let quiet = world(MomentWorldConfig { noise: 1.0, ..small(5) });
    assert_eq!(one.videos, quiet.videos);
    assert_ne!(one.clips(3).unwrap().video, quiet.clips(3).unwrap().video);

    // Fixed: a change of platform or code that alters the world shows here.
    let checksum = |array: &Array| {
        let bytes = array.data().iter().flat_map(|x| x.to_le_bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
    };
    let query = &one.videos[20].queries[0];
    let clips = one.clips(20).unwrap();
    let arrays = [clips.video.unwrap(), clips.sub.unwrap(), one.encode_query(&query.text).unwrap()];
    let sums: Vec<_> = arrays.iter().map(checksum).collect();
    assert_eq!(
        (query.text.as_str(), query.windows[0]),
        ("a white square gets bigger while someone says your brother calls before dark", [21.37, 25.19])
    );
    assert_eq!(sums, [0xb406_71e0_e5f6_d608, 0xe2b2_f7c5_7635_fecc, 0x4bf6_34be_1388_07dd], "{sums:#018x?}");
}

#[test]
fn bad_configurations_are_errors() {
    for config in [
        MomentWorldConfig { train: 0, validation: 0, test: 0, ..small(0) },
        MomentWorldConfig { train: usize::MAX, ..small(0) },
        MomentWorldConfig { train: 1_000_000, ..small(0) },
        MomentWorldConfig { clips: [18, 30], ..small(0) },
        MomentWorldConfig { clips: [30, 29], ..small(0) },
        MomentWorldConfig { clips: [30, 1001], ..small(0) },
        MomentWorldConfig { noise: f32::INFINITY, ..small(0) },
        MomentWorldConfig { speech_noise: -1.0, ..small(0) },
        MomentWorldConfig { twins: f64::NAN, ..small(0) },
        MomentWorldConfig { twins: 1.1, ..small(0) },
    ] {
        assert!(matches!(MomentWorld::new(config), Err(Error::Argument { .. })), "{config:?}");
    }
    let extreme = MomentWorldConfig { train: 3, validation: 0, test: 1, clips: [19, 1000], twins: 1.0, ..small(0) };
    let extreme = world(extreme);
    assert_eq!(extreme.videos.iter().filter(|v| v.twin.is_some()).count(), 2);
    let beyond = extreme.len();
    assert!(matches!(extreme.video(beyond), Err(Error::IndexOutOfRange { .. })));
    assert!(matches!(extreme.clips(beyond), Err(Error::IndexOutOfRange { .. })));
}

fn json_lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_folder_holds_the_world() {
    let world = world(small(7));
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("a/b");
    world.write(&folder).unwrap();

    let open = |name: &str| FeatureFile::open(folder.join(name)).unwrap();
    let seen = open("tvr_feature_release/video_feature/tvr_resnet152_rgb_max_i3d_rgb600_avg_cat_cl-1.5.h5");
    let said = open("tvr_feature_release/bert_feature/sub_query/tvr_sub_pretrained_w_sub_query_max_cl-1.5.h5");
    let asked = open("tvr_feature_release/bert_feature/sub_query/tvr_query_pretrained_w_sub_query.h5");
    let subtitles = json_lines(&folder.join("tvqa_preprocessed_subtitles.jsonl"));
    assert_eq!((seen.names().unwrap().len(), said.names().unwrap().len(), subtitles.len()), (63, 63, 63));
    let durations: Value = serde_json::from_slice(&fs::read(folder.join("tvr_video2dur_idx.json")).unwrap()).unwrap();
    let rows: Vec<_> = ["train", "val", "test_public"]
        .iter()
        .flat_map(|split| {
            let videos = durations[split].as_object().unwrap();
            let rows = json_lines(&folder.join(format!("tvr_{split}_release.jsonl")));
            assert!(rows.iter().all(|row| videos.contains_key(row["vid_name"].as_str().unwrap())));
            rows
        })
        .collect();
    assert_eq!(asked.names().unwrap().len(), rows.len());

    let mut rows = rows.iter();
    for (i, video) in world.videos.iter().enumerate() {
        let clips = world.clips(i).unwrap();
        assert_eq!(seen.dataset(&video.id).unwrap().read().unwrap(), clips.video.unwrap());
        assert_eq!(said.dataset(&video.id).unwrap().read().unwrap(), clips.sub.unwrap());
        let split = ["train", "val", "test_public"][video.part as usize];
        assert_eq!(durations[split][&video.id], serde_json::json!([video.duration(), i]));
        assert_eq!(subtitles[i]["vid_name"], video.id);
        let lines = subtitles[i]["sub"].as_array().unwrap();
        assert_eq!(lines.len(), video.lines.len());
        for (line, (text, stretch)) in lines.iter().zip(&video.lines) {
            let [start, end] = stretch.window();
            assert_eq!(*line, serde_json::json!({"text": text, "start": start, "end": end}));
        }
        for query in &video.queries {
            let expected = serde_json::json!({
                "vid_name": video.id,
                "duration": video.duration(),
                "ts": query.windows[0],
                "desc": query.text,
                "type": query.kind.unwrap().code(),
                "desc_id": query.id,
            });
            assert_eq!(*rows.next().unwrap(), expected);
            let tokens = asked.dataset(&query.id.to_string()).unwrap().read().unwrap();
            assert_eq!(tokens, world.encode_query(&query.text).unwrap());
        }
    }
    assert!(rows.next().is_none());

    // The reader of the real files reads it, and finds nothing to mend.
    for (part, name) in [(Part::Train, "train"), (Part::Validation, "val"), (Part::Test, "test_public")] {
        let files = TvrFiles::in_folder(&folder, name);
        let dataset = TvrDataset::open(&files, TvrOptions::default(), &mut Problems::strict()).unwrap();
        assert_eq!((dataset.split(), dataset.widths()), (&world.split(part), MomentWorld::WIDTHS));
        let last = dataset.queries().len() - 1;
        let sample = dataset.sample(last, 0).unwrap();
        assert_eq!(sample.clips.len(), world.videos[dataset.videos().last().unwrap().index as usize].clips);
    }

    let manifest = MomentManifest::read(&folder).unwrap();
    assert_eq!((manifest.config, manifest.videos.len()), (*world.config(), 63));
    assert_eq!(manifest.videos[0].twin, Some("video000001".to_owned()));
    assert_eq!(manifest.videos[0].order_queries[0], 0);
    let path = folder.join("synthetic_moments.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"version\":1", "\"version\":2", 1)).unwrap();
    assert!(matches!(MomentManifest::read(&folder), Err(Error::Malformed { .. })));
    // A file where the folder should be.
    assert!(matches!(world.write(&path), Err(Error::Io { .. })));
}

#[test]
fn configurations_may_leave_out_what_is_usual() {
    let config: MomentWorldConfig = serde_json::from_str(r#"{"train": 7, "clips": [25, 30]}"#).unwrap();
    assert_eq!(config, MomentWorldConfig { train: 7, clips: [25, 30], ..Default::default() });
    assert!(serde_json::from_str::<MomentWorldConfig>(r#"{"trian": 7}"#).is_err());
}
