//! Tests with videos that they make themselves, by ffmpeg.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::data::media::frames::{Note, Shown};
use crate::data::media::pixels::Image;
use crate::data::testing::Folder;

/// Frames of one colour, which says their number, with a stripe.
fn numbered(count: usize, width: usize, height: usize) -> Vec<Image> {
    let rgb = |frame: usize| -> Vec<u8> {
        let pixel = |i: usize| [frame as u8 * 2, 255 - frame as u8, if i % width == 1 { 255 } else { 0 }];
        (0..width * height).flat_map(pixel).collect()
    };
    (0..count).map(|frame| Image::new(width, height, rgb(frame)).unwrap()).collect()
}

/// The numbers of decoded frames of [`numbered`].
fn numbers(images: &[Image]) -> Vec<u8> {
    images.iter().map(|image| image.rgb()[0].div_ceil(2)).collect()
}

fn published(per_second: u32, start: u32, end: Option<u32>) -> Published {
    Published { per_second, start, end }
}

/// All frames of the published rule.
fn decode(ffmpeg: &Ffmpeg, path: &Path, published: Published) -> Result<Vec<Image>> {
    let selection = Selection::all(Sampling::Published(published), Reading::PUBLISHED);
    let found = ffmpeg.read(path, &selection, |_, image| Ok(image))?;
    Ok(found.kept.into_iter().map(|(_, image)| image).collect())
}

/// A file that ffmpeg makes by itself.
fn make(path: &Path, arguments: &[&str]) {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-loglevel", "error", "-y"]).args(arguments).arg(path);
    assert!(command.status().unwrap().success(), "{command:?}");
}

#[test]
fn sampled_frames_are_those_of_the_grid() {
    let ffmpeg = Ffmpeg::find().unwrap();
    let folder = Folder::new();
    let path = folder.path("a.mp4");
    let images = numbered(47, 15, 9);
    ffmpeg.encode(&path, &images, 10).unwrap();
    let info = ffmpeg.probe(&path).unwrap();
    assert_eq!((info.width, info.height, info.fps), (15, 9, Some(10.0)));
    assert!((info.duration.unwrap() - 4.7).abs() < 0.01, "{info:?}");
    for rule in [
        published(1, 0, None),
        published(3, 0, None),
        published(99, 0, None),
        published(1, 2, None),
        published(2, 1, Some(2)),
        published(1, 3, Some(900)),
    ] {
        let decoded = decode(&ffmpeg, &path, rule).unwrap();
        let grid = rule.grid(10.0).unwrap();
        let wanted: Vec<u8> = (0..47).filter(|&n| grid.contains(n.into())).collect();
        assert_eq!(numbers(&decoded), wanted, "{rule:?}");
        assert!(decoded.iter().zip(wanted).all(|(image, n)| image == &images[usize::from(n)]), "not the same bytes");
    }
    let none = decode(&ffmpeg, &path, published(1, 5, None));
    assert!(matches!(&none, Err(Error::Malformed { problem, .. }) if problem.contains("none is shown")), "{none:?}");
    assert_eq!(fs::read_dir(folder.root()).unwrap().count(), 1, "no temporary file is left");
}

/// More frames than fit into an argument of a program, not all in a row.
#[test]
fn many_frames_are_chosen_as_few_are() {
    let ffmpeg = Ffmpeg::find().unwrap();
    let folder = Folder::new();
    let path = folder.path("a.mkv");
    make(&path, &["-f", "lavfi", "-i", "testsrc=size=16x16:rate=50:duration=40", "-c:v", "mpeg4"]);
    let selection = Selection::all(Sampling::Shown(Shown::rate(20.0)), Reading::OWN);
    let found = ffmpeg.read(&path, &selection, |time, _| Ok(time)).unwrap();
    assert_eq!((found.kept.len(), found.notes), (800, vec![]));
    for (k, (time, seen)) in found.kept.iter().enumerate() {
        // Frames begin every 0.02 s; at 0.05 s the one of 0.04 s is there.
        let wanted = (k as f64 / 20.0 / 0.02 + 1e-6).floor() * 0.02;
        assert!((time - wanted).abs() < 1e-6 && time == seen, "{k}: {time}, not {wanted}");
    }
}

#[test]
fn other_containers_and_odd_names_are_read() {
    let ffmpeg = Ffmpeg::find().unwrap();
    let folder = Folder::new();
    let source = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=30000/1001:duration=4"];
    for (name, encoder) in [("-y.mkv", "mpeg4"), ("a b'%d.avi", "mpeg4"), ("c.webm", "libvpx"), ("rot.mp4", "mpeg4")] {
        let path = folder.path(name);
        make(&path, &[&source[..], &["-c:v", encoder]].concat());
        assert_eq!(ffmpeg.probe(&path).unwrap().fps.unwrap() as u32, 29, "{name}");
        let decoded = decode(&ffmpeg, &path, Published::default()).unwrap();
        // 119 or 120 frames: 0, 29, 58, 87, 116.
        assert_eq!(decoded.len(), 5, "{name}");
        assert_eq!((decoded[0].width(), decoded[0].height()), (64, 48));
    }
}

#[test]
fn files_that_are_no_videos_are_errors() {
    let ffmpeg = Ffmpeg::find().unwrap();
    let folder = Folder::new();
    let strict = Selection::all(Sampling::default(), Reading { strict: true, ..Reading::OWN });
    let refused = |path: &Path| match ffmpeg.read(path, &strict, |_, image| Ok(image)) {
        Err(Error::Malformed { problem, .. }) => assert!(!problem.is_empty()),
        other => panic!("{}: {:?}", path.display(), other.map(|frames| frames.kept.len())),
    };
    refused(&folder.file("text.mp4", "just text"));
    refused(&folder.file("empty.mp4", ""));
    refused(&folder.file("list.mp4", "#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"));
    refused(&folder.file("concat.mkv", "ffconcat version 1.0\nfile 'a.mp4'\n"));
    let sound = folder.path("sound.mkv");
    make(&sound, &["-f", "lavfi", "-i", "sine=duration=1", "-c:a", "pcm_s16le"]);
    refused(&sound);
    assert!(matches!(ffmpeg.probe(folder.path("none.mp4")), Err(Error::Io { .. })));

    // Cut in the middle: with its index at the end, and at the start.
    let whole = folder.path("whole.mp4");
    ffmpeg.encode(&whole, &numbered(100, 64, 64), 10).unwrap();
    let bytes = fs::read(&whole).unwrap();
    refused(&folder.file("cut.mp4", &bytes[..bytes.len() / 2]));
    let fast = folder.path("fast.mp4");
    make(&fast, &["-i", whole.to_str().unwrap(), "-c", "copy", "-movflags", "faststart"]);
    let bytes = fs::read(&fast).unwrap();
    assert_eq!(ffmpeg.read(&fast, &strict, |_, _| Ok(())).unwrap().kept.len(), 10);
    let cut = folder.file("fast_cut.mp4", &bytes[..bytes.len() * 2 / 3]);
    refused(&cut);
    // Not strict, it is told.
    let told = Selection { reading: Reading::OWN, ..strict };
    let told = ffmpeg.read(&cut, &told, |_, _| Ok(())).unwrap();
    assert!((3..10).contains(&told.kept.len()), "{told:?}");
    let [Note::Damaged { decoded, stated: Some(stated), .. }] = told.notes[..] else { panic!("{told:?}") };
    assert!((stated - 10.0).abs() < 0.1 && decoded < 8.0, "{told:?}");
    let webm = folder.path("whole.webm");
    make(&webm, &["-i", whole.to_str().unwrap(), "-c:v", "libvpx", "-b:v", "1M"]);
    let bytes = fs::read(&webm).unwrap();
    refused(&folder.file("cut.webm", &bytes[..bytes.len() / 2]));
}

#[test]
fn limits_hold() {
    let ffmpeg = Ffmpeg::find().unwrap();
    let folder = Folder::new();
    let path = folder.path("a.mp4");
    ffmpeg.encode(&path, &numbered(30, 16, 16), 10).unwrap();
    let all = Selection::all(Sampling::Shown(Shown::rate(10.0)), Reading::OWN);
    let (frames, bytes) = (Limit::fixed(30.0), Limit::fixed(30.0 * 768.0));
    let exact = Limits { frame_pixels: 256, frames, bytes, ..Limits::default() };
    assert_eq!(ffmpeg.clone().with_limits(exact).read(&path, &all, |_, _| Ok(())).unwrap().kept.len(), 30);
    for limits in [
        Limits { frame_pixels: 255, ..exact },
        Limits { frames: Limit::fixed(29.0), ..exact },
        Limits { bytes: Limit::fixed(30.0 * 768.0 - 1.0), ..exact },
        Limits { seconds: Limit::fixed(0.0), ..exact },
    ] {
        let decoded = ffmpeg.clone().with_limits(limits).read(&path, &all, |_, _| Ok(()));
        assert!(matches!(decoded, Err(Error::Malformed { .. })), "{limits:?}");
    }
    // They grow with the video: an hour may take hours.
    assert_eq!(Limits::default().seconds.of(3600.0), 300.0 + 4.0 * 3600.0);
    // What goes wrong in the caller ends it.
    let stopped = ffmpeg.read(&path, &all, |_, _| Err::<(), _>(Error::Interrupted { saved: None }));
    assert!(matches!(stopped, Err(Error::Interrupted { .. })));
}

/// Programs of the shell's that stand for ffmpeg and ffprobe.
#[cfg(unix)]
fn scripts(folder: &Folder, ffmpeg: &str, ffprobe: &str) -> Ffmpeg {
    use std::os::unix::fs::PermissionsExt;

    for (name, script) in [("ffmpeg", ffmpeg), ("ffprobe", ffprobe)] {
        let program = folder.file(name, format!("#!/bin/sh\n[ \"$1\" = -version ] && exit 0\n{script}\n"));
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    Ffmpeg::in_folder(folder.root()).unwrap()
}

/// What a prober answers of a video of one frame of one pixel.
#[cfg(unix)]
const ANSWER: &str = r#"case "$*" in *packet=*) echo 0,0,1,K_;; *)
    echo '{"streams": [{"width": 1, "height": 1, "time_base": "1/1"}]}';; esac"#;

/// What a decoder tells of it.
#[cfg(unix)]
const TOLD: &str =
    "echo '[showinfo@all @ 0x1] [info] n: 0 pts: 0' >&2; echo '[showinfo@out @ 0x1] [info] pts: 0 s:1x1' >&2";

#[cfg(unix)]
#[test]
fn programs_that_hang_or_are_missing_are_errors() {
    let folder = Folder::new();
    assert!(matches!(Ffmpeg::in_folder(folder.root()), Err(Error::NoProgram { .. })));
    let limits = Limits { seconds: Limit::fixed(0.2), ..Limits::default() };
    let hanging = scripts(&folder, "exec sleep 60", "exec sleep 60").with_limits(limits);
    let start = Instant::now();
    let probed = hanging.probe(folder.file("a.mp4", "x"));
    assert!(
        matches!(&probed, Err(Error::Malformed { problem, .. }) if problem.contains("not done within")),
        "{probed:?}"
    );
    assert!(start.elapsed() < Duration::from_secs(20));
}

/// A decoder that somebody ended leaves half of a video, which is no video, whether it dies of it or says so. Not by SIGINT:
/// what runs in the background of a shell may have to ignore that.
#[cfg(target_os = "linux")]
#[test]
fn programs_that_somebody_ended_are_errors() {
    for end in ["exit 255", "kill -TERM $$; sleep 5"] {
        for (decoder, prober) in
            [(format!("{TOLD}; printf abc; {end}"), ANSWER.to_string()), ("exit 0".into(), end.into())]
        {
            let folder = Folder::new();
            let path = folder.file("a.mp4", "x");
            let all = Selection::all(Sampling::default(), Reading::OWN);
            let got = scripts(&folder, &decoder, &prober).read(&path, &all, |_, _| Ok(()));
            let Err(Error::Malformed { problem, .. }) = &got else { panic!("{end}: {got:?}") };
            assert!(problem.contains("stopped from outside"), "{problem}");
        }
    }
    // A program is in a group of its own, so that the terminal's Ctrl-C does not reach it.
    let folder = Folder::new();
    let script = "cut -d' ' -f5 /proc/$$/stat >&2; echo $$ >&2; exit 1";
    let probed = scripts(&folder, "exit 0", script).probe(folder.file("a.mp4", "x"));
    let Err(Error::Malformed { problem, .. }) = &probed else { panic!("{probed:?}") };
    let numbers: Vec<&str> = problem.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty()).collect();
    assert!(numbers.len() == 2 && numbers[0] == numbers[1], "{problem}");
}

/// A decoder that hangs after its first frame is ended as soon as nobody wants another one.
#[cfg(unix)]
#[test]
fn a_reader_that_fails_or_panics_ends_the_program() {
    let folder = Folder::new();
    let hanging = scripts(&folder, &format!("{TOLD}; printf abc; exec sleep 60"), ANSWER);
    let path = folder.file("a.mp4", "x");
    let start = Instant::now();
    let all = Selection::all(Sampling::default(), Reading::OWN);
    let stopped = hanging.read(&path, &all, |_, _| Err::<(), _>(Error::Interrupted { saved: None }));
    assert!(matches!(stopped, Err(Error::Interrupted { .. })), "{stopped:?}");
    let panicked = std::panic::catch_unwind(|| {
        let _ = hanging.read(&path, &all, |_, _| -> Result<()> { panic!("on purpose") });
    });
    assert!(panicked.is_err() && start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

/// A decoder that has other frames each time, and one that dies in the middle of a picture.
#[cfg(unix)]
#[test]
fn a_decoder_that_does_not_keep_its_word_is_an_error() {
    let folder = Folder::new();
    let path = folder.file("a.mp4", "x");
    let all = Selection::all(Sampling::default(), Reading::OWN);
    let told = r#"n=$(date +%N | sed 's/^0*//'); echo "[showinfo@all @ 0x1] [info] n: 0 pts: $n" >&2"#;
    let other = scripts(&folder, told, ANSWER).read(&path, &all, |_, _| Ok(()));
    assert!(matches!(&other, Err(Error::Malformed { problem, .. }) if problem.contains("each time")), "{other:?}");
    let cut = "echo '[showinfo@out @ 0x1] [info] pts: 0 s:1x1' >&2; printf a; exit 1";
    let cut = scripts(&folder, cut, ANSWER).read(&path, &all, |_, _| Ok(()));
    assert!(
        matches!(&cut, Err(Error::Malformed { problem, .. }) if problem.contains("ended with an error")),
        "{cut:?}"
    );
}

#[test]
fn what_cannot_be_encoded_is_an_error() {
    let ffmpeg = Ffmpeg::find().unwrap();
    let folder = Folder::new();
    let path = folder.path("a.mp4");
    let images = numbered(2, 8, 8);
    let mixed = [images[0].clone(), numbered(1, 8, 9)[0].clone()];
    assert!(matches!(ffmpeg.encode(&path, &[], 5), Err(Error::Argument { .. })));
    assert!(matches!(ffmpeg.encode(&path, &images, 0), Err(Error::Argument { .. })));
    assert!(matches!(ffmpeg.encode(&path, &mixed, 5), Err(Error::Shape { .. })));
    assert!(matches!(ffmpeg.encode(folder.path("no/a.mp4"), &images, 5), Err(Error::Io { .. })));
    assert_eq!(fs::read_dir(folder.root()).unwrap().count(), 0);
}

#[test]
fn videos_are_found_by_their_ids() {
    let folder = Folder::new();
    fs::create_dir(folder.path("frames")).unwrap();
    for name in ["a.webm", "a.avi", "b.xyz", "c.MP4", "didemo.mov", "dot."] {
        folder.file(name, "");
    }
    let find = |id: &str| VideoSource::find(folder.root(), id);
    assert_eq!(find("a").unwrap(), VideoSource::File(folder.path("a.webm")));
    assert_eq!(find("c").unwrap(), VideoSource::File(folder.path("c.MP4")));
    assert_eq!(find("frames").unwrap(), VideoSource::Frames(folder.path("frames")));
    for name in ["didemo.mov", "dot."] {
        assert_eq!(find(name).unwrap(), VideoSource::File(folder.path(name)));
    }
    assert!(matches!(find("b"), Err(Error::Missing { kind: "video", .. })));
    for id in ["", ".", "..", "../a", "x/../../a", "/etc/passwd", "a/"] {
        assert!(matches!(find(id), Err(Error::Argument { .. })), "{id:?}");
    }
}

#[test]
fn videos_load_as_the_network_takes_them() {
    let ffmpeg = Ffmpeg::find().unwrap();
    let folder = Folder::new();
    ffmpeg.encode(folder.path("v.mp4"), &numbered(50, 20, 16), 10).unwrap();
    let preprocess = Preprocess { scale: 1.0, mean: [0.0; 3], std: [1.0; 3], ..Preprocess::clip(8) };
    let input = VideoInput::own(3, preprocess);
    let load = |input: &VideoInput| VideoSource::find(folder.root(), "v").unwrap().load(Some(&ffmpeg), input).unwrap();
    let set = load(&input);
    // Five seconds, of which the first, the third and the last are used; red is twice the frame's number.
    let reds: Vec<f32> = set.pixels.chunks(3 * 64).map(|frame| frame[10]).collect();
    assert_eq!((set.valid, reds, &set.times[..]), (3, vec![0.0, 40.0, 80.0], &[0.0, 2.0, 4.0][..]));
    let by_number = VideoInput::published(Published::default(), Choice::Uniform, 3, input.preprocess.clone());
    assert_eq!(load(&by_number), set);
    let padded = load(&VideoInput { max_frames: 7, ..input.clone() });
    assert_eq!((padded.valid, padded.mask), (5, vec![1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]));
    assert!(padded.pixels[5 * 192..].iter().all(|&v| v == 0.0));
    let without = VideoSource::File(folder.path("v.mp4")).load(None, &input);
    assert!(matches!(without, Err(Error::Argument { argument: "ffmpeg", .. })));
}

#[test]
fn loading_goes_on_after_a_failure() {
    let ids: Vec<String> = (0..23).map(|i| format!("v{i}")).collect();
    let load = |id: &str| match id {
        "v3" | "v17" => Err(Error::Missing { path: "videos".into(), kind: "video", id: id.to_owned() }),
        _ => Ok(id.len()),
    };
    for threads in [0, 1, 4, 99] {
        let mut taken = Vec::new();
        let failed = load_all(&ids, threads, load, |number, length| {
            assert_eq!(length, ids[number].len());
            taken.push(number);
            Ok(())
        });
        let failed: Vec<String> = failed.unwrap().into_iter().map(|failure| failure.id).collect();
        assert_eq!(failed, ["v3", "v17"]);
        taken.sort_unstable();
        assert_eq!(taken, (0..23).filter(|n| ![3, 17].contains(n)).collect::<Vec<_>>());
    }
    let stopped = load_all(&ids, 3, load, |_, _| Err(Error::Interrupted { saved: None }));
    assert!(matches!(stopped, Err(Error::Interrupted { .. })));
    assert!(load_all(&[], 3, load, |_, _| Ok(())).unwrap().is_empty());
}
