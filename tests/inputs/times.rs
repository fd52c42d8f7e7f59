//! The times of frames are those that ffprobe tells.

use std::path::Path;
use std::process::Command;

use reelgrad::data::media::frames::{Reading, Sampling, Shown};
use reelgrad::data::media::video::{Ffmpeg, Selection, Survey};
use serde_json::Value;

use crate::make::Folder;

/// When ffprobe's frames are shown, and the end of the last one.
fn presentation(path: &Path) -> (Vec<f64>, f64) {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "quiet", "-select_streams", "v:0", "-of", "json", "-show_entries"]);
    command.arg("frame=best_effort_timestamp_time,pkt_duration_time,duration_time").arg(path);
    let answer: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    let frames = answer["frames"].as_array().unwrap();
    let number = |frame: &Value, name: &str| frame[name].as_str().and_then(|text| text.parse::<f64>().ok());
    let times: Vec<f64> = frames.iter().filter_map(|f| number(f, "best_effort_timestamp_time")).collect();
    assert!(times.is_sorted(), "{}", path.display());
    let last = frames.last().unwrap();
    let length = number(last, "pkt_duration_time").or_else(|| number(last, "duration_time")).unwrap();
    (times.clone(), times.last().unwrap() + length)
}

/// What is shown at `targets`, word for word: the frame with the largest time that is not after the target.
fn shown(times: &[f64], targets: impl Iterator<Item = f64>) -> Vec<f64> {
    let at = |target: f64| times.iter().copied().filter(|&time| time <= target + 1e-6).fold(times[0], f64::max);
    let mut found: Vec<f64> = targets.map(at).collect();
    found.dedup();
    found
}

fn expected(times: &[f64], end: f64, shown_at: &Shown) -> Vec<f64> {
    use reelgrad::data::media::frames::Density;
    let (first, last) = (times[0], times[times.len() - 1]);
    match shown_at.density {
        Density::Rate(rate) => {
            let targets = (0..).map(|k| first + f64::from(k) / rate);
            shown(times, targets.take_while(|&target| target < end - 1e-6))
        }
        Density::Count(count) if times.len() <= count => times.to_vec(),
        Density::Count(1) => shown(times, std::iter::once((first + last) / 2.0)),
        Density::Count(n) => shown(times, (0..n).map(|i| first + (last - first) * i as f64 / (n - 1) as f64)),
    }
}

#[test]
fn frames_are_those_that_are_shown() {
    let (folder, ffmpeg) = (Folder::new(), Ffmpeg::find().unwrap());
    let files = [
        folder.variable(),
        folder.video("30000/1001", 12, "-c:v libx264 -bf 2 ntsc.mp4"),
        folder.browser(),
        folder.edit_list(),
        folder.offset(),
        folder.damaged(),
    ];
    for path in files {
        let (times, end) = presentation(&path);
        assert!(times.len() > 64, "{}", path.display());
        let rates = [0.2, 1.0, 7.0].map(Shown::rate);
        for wanted in rates.into_iter().chain([1, 12, 64].map(Shown::count)) {
            let selection = Selection::all(Sampling::Shown(wanted), Reading::OWN);
            let survey = Survey::of(&ffmpeg, &path, &selection, None).unwrap();
            // As it is printed.
            let json: Value = serde_json::from_str(&serde_json::to_string(&survey).unwrap()).unwrap();
            let frames = json["frames"].as_array().unwrap();
            assert!(frames.iter().all(|frame| frame["kept"] == true));
            let got: Vec<f64> = frames.iter().map(|frame| frame["time"].as_f64().unwrap()).collect();
            let right = expected(&times, end, &wanted);
            let equal = got.len() == right.len() && got.iter().zip(&right).all(|(g, r)| (g - r).abs() < 1.5e-6);
            assert!(equal, "{}, {wanted:?}:\n{got:?} instead of\n{right:?}", path.display());
        }
    }
}
