//! A picture of where moments lie in their videos.

use std::fmt::Write;

use reelgrad::data::moments::MomentQuery;
use reelgrad::retrieval::moments::{MomentIndex, Prediction};

const WIDTH: f64 = 720.0;
const LEFT: f64 = 190.0;
const ROW: f64 = 26.0;
const TOP: f64 = 44.0;

/// An SVG with a bar for every moment: its video's length, the moment in it, and the labelled one where it is known.
pub fn svg(title: &str, moments: &[Prediction], index: &MomentIndex, truth: Option<&MomentQuery>) -> String {
    let height = TOP + ROW * moments.len() as f64 + 28.0;
    let videos: Vec<_> = moments.iter().filter_map(|m| Some((m, index.video(m.video)?))).collect();
    let longest = videos.iter().map(|(_, v)| v.duration).fold(1.0, f64::max);
    let x = |seconds: f64| LEFT + (WIDTH - LEFT - 20.0) * (seconds / longest).clamp(0.0, 1.0);
    let mut out = String::new();
    let mut put = |line: String| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{line}");
    };
    put(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">"#
    ));
    put(format!(r#"<rect width="{WIDTH}" height="{height}" fill="white"/>"#));
    put(format!(r#"<text x="10" y="22" font-size="14">{}</text>"#, escape(title)));
    for (row, (moment, video)) in videos.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        put(format!(r#"<text x="10" y="{}">{}. {}</text>"#, y + 12.0, row + 1, escape(&video.id)));
        let bar = |from: f64, to: f64, y: f64, height: f64, colour: &str| {
            let (from, to) = (x(from), x(to));
            let width = (to - from).max(1.0);
            format!(r#"<rect x="{from:.1}" y="{y:.1}" width="{width:.1}" height="{height}" fill="{colour}"/>"#)
        };
        put(bar(0.0, video.duration, y, 16.0, "#e4e4e4"));
        let found = bar(moment.start.into(), moment.end.into(), y, 16.0, "#2b6cb0");
        let title = format!("{:.1} to {:.1} s, score {:.3e}", moment.start, moment.end, moment.score);
        put(format!("<g><title>{title}</title>{found}</g>"));
        for &[start, end] in truth.filter(|t| t.video.as_ref() == Some(&video.id)).iter().flat_map(|t| &t.windows) {
            put(bar(start, end, y + 17.0, 3.0, "#dd6b20"));
        }
    }
    let y = TOP + ROW * videos.len() as f64 + 14.0;
    put(format!(r#"<text x="{LEFT}" y="{y}">0 s</text>"#));
    put(format!(r#"<text x="{}" y="{y}" text-anchor="end">{longest:.0} s</text>"#, WIDTH - 20.0));
    put("</svg>".into());
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
