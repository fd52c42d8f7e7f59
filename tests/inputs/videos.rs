//! Kinds of videos that went wrong once, a row each.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use reelgrad::Error;
use reelgrad::data::media::frames::{Choice, Note, Published, Reading, Sampling, Shown};
use reelgrad::data::media::pixels::Image;
use reelgrad::data::media::video::{Ffmpeg, Frames, Listing, Selection, Survey, VideoSource};

use crate::make::Folder;

/// What is right about a file at one frame a second.
struct Right {
    /// The second of each frame, rounded, counted from the first frame.
    seconds: Vec<u32>,
    /// Width and height of the first and the last picture.
    sizes: [(usize, usize); 2],
    /// Whether there is a note.
    noted: bool,
}

fn right(seconds: impl IntoIterator<Item = u32>) -> Right {
    Right { seconds: seconds.into_iter().collect(), sizes: [(160, 120); 2], noted: false }
}

fn read(path: &Path, sampling: Sampling, reading: Reading) -> reelgrad::Result<Frames<Image>> {
    Ffmpeg::find()?.read(path, &Selection::all(sampling, reading), |_, image| Ok(image))
}

fn size(image: &Image) -> (usize, usize) {
    (image.width(), image.height())
}

/// An mp4 whose attached picture comes before its video, as the box that holds it does; or whose only one it is.
fn with_cover(folder: &Folder, name: &str, sound: &str) -> PathBuf {
    folder.ffmpeg("-f lavfi -i testsrc2=s=32x32 -frames:v 1 cover.jpg");
    let streams = "-map 0 -map 1:v -c copy -c:v:1 mjpeg -disposition:v attached_pic -f mp4";
    let streams =
        if sound == "sound" { streams.into() } else { streams.replace("-disposition:v ", "-disposition:v:1 ") };
    let source = if sound == "sound" {
        folder.ffmpeg("-f lavfi -i sine=d=2 -c:a aac sound.m4a")
    } else {
        folder.video("10", 3, "-c:v libx264 plain.mp4")
    };
    let made = folder.ffmpeg(&format!("-i {} -i cover.jpg {streams} {name}", source.display()));
    let mut bytes = std::fs::read(&made).unwrap();
    let length = |at: usize, bytes: &[u8]| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut moov = 0;
    while &bytes[moov + 4..moov + 8] != b"moov" {
        moov += length(moov, &bytes);
    }
    let (mut boxes, mut at, end) = (Vec::new(), moov + 8, moov + length(moov, &bytes));
    while at < end {
        boxes.push(bytes[at..at + length(at, &bytes)].to_vec());
        at += length(at, &bytes);
    }
    // The sort is stable: mvhd, udta, and then the tracks.
    boxes.sort_by_key(|b| [&b"mvhd"[..], b"udta"].iter().position(|name| b[4..8] == **name).unwrap_or(2));
    bytes[moov + 8..end].copy_from_slice(&boxes.concat());
    folder.file(name, bytes)
}

/// Two videos of different sizes, one behind the other by copying.
fn size_change(folder: &Folder) -> PathBuf {
    for (name, size) in [("s1.webm", "160x120"), ("s2.webm", "96x128")] {
        folder.ffmpeg(&format!("-f lavfi -i testsrc2=s={size}:r=10:d=6 -c:v libvpx -b:v 300k {name}"));
    }
    folder.file("list.txt", "file s1.webm\nfile s2.webm\n");
    folder.ffmpeg("-f concat -i list.txt -c copy sizes.webm")
}

#[test]
fn every_kind_is_read_as_it_is_shown() {
    let folder = Folder::new();
    folder.video("10", 3, "-c:v libx264 upright.mp4");
    let rows = [
        (folder.edit_list(), right(0..12)),
        (folder.damaged(), Right { noted: true, ..right(0..12) }),
        (with_cover(&folder, "cover.mp4", "video"), right(0..3)),
        (folder.browser(), right(0..12)),
        (folder.variable(), right(0..10)),
        (
            folder.video("30000/1001", 240, "-vf scale=16:12 -c:v mpeg4 ntsc.mp4"),
            Right { sizes: [(16, 12); 2], ..right(0..241) },
        ),
        (folder.video("1/2", 60, "-c:v libx264 lapse.mp4"), right((0..60).step_by(2))),
        (
            folder.video("10", 3, "-vf scale=160:240,setsar=2 -c:v libx264 anamorphic.mp4"),
            Right { sizes: [(320, 240); 2], ..right(0..3) },
        ),
        (
            folder.ffmpeg("-i upright.mp4 -c copy -metadata:s:v:0 rotate=90 turned.mp4"),
            Right { sizes: [(120, 160); 2], ..right(0..3) },
        ),
        (size_change(&folder), Right { sizes: [(160, 120), (96, 128)], ..right(0..12) }),
    ];
    for (path, right) in rows {
        let name = path.display();
        let found = read(&path, Sampling::default(), Reading::OWN).unwrap();
        let first = found.kept[0].0;
        let seconds: Vec<u32> = found.kept.iter().map(|(time, _)| (time - first).round() as u32).collect();
        assert_eq!(seconds, right.seconds, "{name}");
        let sizes = [found.kept.first(), found.kept.last()].map(|frame| size(&frame.unwrap().1));
        assert_eq!((sizes, !found.notes.is_empty()), (right.sizes, right.noted), "{name}: {:?}", found.notes);
    }
}

#[test]
fn the_published_rule_stays_for_parity() {
    let folder = Folder::new();
    let published = |path: &Path| read(path, Sampling::Published(Published::default()), Reading::PUBLISHED);
    let path = folder.video("30000/1001", 240, "-vf scale=16:12 -c:v mpeg4 ntsc.mp4");
    let found = published(&path).unwrap();
    assert!((found.kept[200].0 - 193.526667).abs() < 1e-5, "{}", found.kept[200].0);
    // The bytes are those of a plain call of ffmpeg.
    let path = folder.video("10", 3, "-c:v libx264 plain.mp4");
    let raw = std::fs::read(folder.ffmpeg("-i plain.mp4 -pix_fmt rgb24 -f rawvideo plain.rgb")).unwrap();
    let seconds: Vec<&[u8]> = raw.chunks(160 * 120 * 3).step_by(10).collect();
    let found = published(&path).unwrap();
    assert!(found.kept.iter().map(|(_, image)| image.rgb()).eq(seconds), "other bytes");
    // Squeezed as it is stored, and slower than a frame a second refused.
    let path = folder.video("10", 2, "-vf scale=160:240,setsar=2 -c:v libx264 anamorphic.mp4");
    assert_eq!(size(&published(&path).unwrap().kept[0].1), (160, 240));
    let path = folder.video("1/2", 20, "-c:v libx264 lapse.mp4");
    assert!(matches!(published(&path), Err(Error::Argument { argument: "fps", .. })));
}

#[test]
fn damage_is_counted_and_strict_reading_refuses_it() {
    let folder = Folder::new();
    let path = folder.damaged();
    let found = read(&path, Sampling::default(), Reading::OWN).unwrap();
    let [Note::Damaged { complaints: 1.., stated: None, decoded, .. }] = found.notes[..] else { panic!("{found:?}") };
    assert!((decoded - 12.0).abs() < 0.05 && found.notes[0].to_string().contains("complained"), "{:?}", found.notes);
    let strict = Reading { strict: true, ..Reading::OWN };
    assert!(matches!(read(&path, Sampling::default(), strict), Err(Error::Malformed { .. })));
    // Cut: how much is there of how much.
    let whole = folder.video("10", 30, "-c:v libx264 -movflags faststart cut_me.mp4");
    let bytes = std::fs::read(whole).unwrap();
    let cut = folder.file("cut.mp4", &bytes[..bytes.len() * 2 / 3]);
    let note = read(&cut, Sampling::default(), Reading::OWN).unwrap().notes[0].to_string();
    assert!(note.starts_with("decoded ") && note.contains(" of about 30.0 s"), "{note}");
}

#[test]
fn times_that_go_back_are_told() {
    let folder = Folder::new();
    let part = std::fs::read(folder.video("10", 2, "-c:v mpeg2video part.ts")).unwrap();
    let joined = folder.file("joined.ts", [&part[..], &part].concat());
    let found = read(&joined, Sampling::default(), Reading::OWN).unwrap();
    assert_eq!(found.notes, [Note::Unordered { count: 20 }]);
    let strict = Reading { strict: true, ..Reading::OWN };
    assert!(matches!(read(&joined, Sampling::default(), strict), Err(Error::Malformed { .. })));
}

#[test]
fn only_an_attached_picture_is_no_video() {
    let folder = Folder::new();
    let path = with_cover(&folder, "song.mp4", "sound");
    let refused = read(&path, Sampling::default(), Reading::OWN).map(drop);
    assert!(matches!(&refused, Err(Error::Malformed { problem, .. }) if problem.contains("attached")), "{refused:?}");
}

#[test]
fn containers_are_known_by_their_content() {
    let folder = Folder::new();
    let kinds = "ts:mpeg2video mts:libx264 m2ts:libx264 flv:libx264 mpg:mpeg2video wmv:wmv2 ogv:libtheora gif:gif \
                 apng:apng m4v:libx264 3gp:libx264 mov:libx264 mkv:libx264 avi:mpeg4";
    let mut names = Vec::new();
    for (number, kind) in kinds.split_ascii_whitespace().enumerate() {
        let (ending, encoder) = kind.split_once(':').unwrap();
        let made = folder.video("10", 2, &format!("-c:v {encoder} made.{ending}"));
        // In capitals, and without any ending.
        for name in [format!("{number}.{}", ending.to_uppercase()), format!("{number}_{ending}")] {
            std::fs::copy(&made, folder.path(&name)).unwrap();
            let found = read(&folder.path(&name), Sampling::default(), Reading::OWN).unwrap();
            assert_eq!((found.kept.len(), found.notes.len()), (2, 0), "{name}: {:?}", found.notes);
            names.push(name);
        }
        std::fs::remove_file(made).unwrap();
    }
    folder.file("notes.txt", "no video");
    folder.file("empty", "");
    std::fs::create_dir(folder.path("frames")).unwrap();
    let listing = Listing::of(folder.root()).unwrap();
    let mut found: Vec<String> = listing.videos.iter().map(|(name, _)| name.clone()).collect();
    names.push("frames".into());
    names.sort();
    found.sort();
    assert_eq!((found, listing.others), (names, vec!["empty".to_string(), "notes.txt".into()]));
    assert!(listing.videos.contains(&("frames".into(), VideoSource::Frames(folder.path("frames")))));
}

#[test]
fn what_could_reach_other_files_is_refused_by_name() {
    let folder = Folder::new();
    folder.video("10", 1, "-c:v libx264 a.mp4");
    let animated = folder.video("10", 1, "-c:v libwebp_anim a.webp");
    for (path, words) in [
        (folder.file("a.m3u8", "#EXTM3U\n#EXTINF:1,\na.mp4\n"), "playlist"),
        (folder.file("a.ffconcat", "ffconcat version 1.0\nfile a.mp4\n"), "playlist"),
        (folder.file("plain.txt", "file a.mp4\n"), ""),
        (folder.file("empty.mp4", ""), "empty"),
        (animated, "WebP"),
        (folder.root().to_path_buf(), "folder"),
        ("/dev/zero".into(), "device"),
    ] {
        let refused = read(&path, Sampling::default(), Reading::OWN).map(drop);
        let Err(Error::Malformed { problem, .. }) = &refused else { panic!("{}: {refused:?}", path.display()) };
        assert!(problem.contains(words), "{problem}");
    }
    let address = read(Path::new("http://127.0.0.1/a.mp4"), Sampling::default(), Reading::OWN).map(drop);
    assert!(matches!(address, Err(Error::Io { .. })), "{address:?}");
}

#[test]
fn a_pipe_is_refused_at_once() {
    let folder = Folder::new();
    let path = folder.path("pipe.mp4");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let start = Instant::now();
    let refused = read(&path, Sampling::default(), Reading::OWN).map(drop);
    assert!(matches!(&refused, Err(Error::Malformed { problem, .. }) if problem.contains("pipe")), "{refused:?}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn long_videos_take_only_what_is_used() {
    let folder = Folder::new();
    // Three hours at a frame a second: more than 4096.
    let path = folder.ffmpeg("-f lavfi -i color=s=16x16:r=1:d=10800 -c:v mpeg4 long.mkv");
    let ffmpeg = Ffmpeg::find().unwrap();
    let all = Selection::all(Sampling::default(), Reading::OWN);
    let mut handed = 0;
    let found = ffmpeg.read(&path, &all, |time, _| Ok(time)).unwrap();
    assert_eq!((found.sampled.len(), found.kept.len()), (10_800, 10_800));
    // Of as many, twelve are decoded to pictures and handed over: memory does not grow with the length.
    let twelve = Selection { choice: Choice::Uniform, max_frames: 12, ..all };
    let found = ffmpeg.read(&path, &twelve, |time, _| Ok((time, handed += 1))).unwrap();
    assert_eq!((found.sampled.len(), found.kept.len(), handed), (10_800, 12, 12));
    assert_eq!((found.kept[0].0, found.kept[11].0), (0.0, 10_799.0));
}

#[test]
fn pictures_are_written_by_number_and_time() {
    let folder = Folder::new();
    let path = folder.video("10", 3, "-c:v libx264 a.mp4");
    let out = folder.path("out");
    let ffmpeg = Ffmpeg::find().unwrap();
    let selection = Selection::all(Sampling::Shown(Shown::rate(2.0)), Reading::OWN);
    let survey = Survey::of(&ffmpeg, &path, &selection, Some(&out)).unwrap();
    assert_eq!((survey.width, survey.height, survey.rotation, survey.duration), (160, 120, 0, 3.0));
    let mut names: Vec<String> =
        std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let wanted = (0..6).map(|k| format!("t{:010.3}_{:04}.png", f64::from(k) / 2.0, k + 1));
    assert_eq!(names, wanted.collect::<Vec<_>>());
    assert_eq!(image::open(out.join(&names[5])).unwrap().width(), 160);
    let again = Survey::of(&ffmpeg, &path, &selection, Some(&out));
    assert!(matches!(again, Err(Error::Argument { argument: "out", .. })), "{again:?}");
    // Of what a model takes, the rest is listed and not kept.
    let two = Selection { choice: Choice::Uniform, max_frames: 2, ..selection };
    let survey = Survey::of(&ffmpeg, &path, &two, None).unwrap();
    let kept: Vec<bool> = survey.frames.iter().map(|frame| frame.kept).collect();
    assert_eq!(kept, [true, false, false, false, false, true]);
}
