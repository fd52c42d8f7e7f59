//! Curves of a run as an SVG picture.

use std::error::Error as StdError;
use std::io;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::history::History;

const WIDTH: u32 = 960;
const PANEL_HEIGHT: u32 = 270;

/// Points of a series; more are averaged in groups, which also calms a noisy loss.
const MAX_POINTS: usize = 600;

/// Series of at most so many points, such as one an epoch, get dots.
const MAX_DOTS: usize = 60;

/// Okabe and Ito's colours, distinguishable with any colour vision.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

struct Series<'a> {
    name: &'a str,
    points: Vec<(f64, f64)>,
}

/// Title of a panel, and which columns belong there.
type Panel = (&'static str, fn(&str) -> bool);

const PANELS: [Panel; 4] = [
    ("Loss", |name| name.contains("loss")),
    ("Learning rate", |name| {
        name == "lr" || ["lr_", "lr/"].iter().any(|p| name.starts_with(p)) || name.ends_with("/lr")
    }),
    ("Recall (%)", |name| name.contains("R@")),
    ("Rank", |name| name.contains("MdR") || name.contains("MnR")),
];

/// The picture, or `None` when there is nothing to draw.
pub(super) fn render(history: &History) -> io::Result<Option<String>> {
    let panels: Vec<(&str, Vec<Series>)> = PANELS
        .iter()
        .map(|(title, belongs)| (*title, series(history, belongs)))
        .filter(|(_, series)| !series.is_empty())
        .collect();
    if panels.is_empty() {
        return Ok(None);
    }
    let last = history.records().last().map_or(0, |record| record.step);
    let mut svg = String::new();
    draw(&mut svg, &panels, last).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(Some(svg))
}

fn series<'a>(history: &'a History, belongs: &dyn Fn(&str) -> bool) -> Vec<Series<'a>> {
    let columns = history.columns().iter().enumerate().filter(|(_, name)| belongs(name));
    let all = columns.map(|(column, name)| Series { name, points: thin(history.series(column)) });
    all.filter(|series| !series.points.is_empty()).collect()
}

/// Finite points, averaged in groups of neighbours when there are too many.
fn thin(points: impl Iterator<Item = (u64, f64)>) -> Vec<(f64, f64)> {
    let finite: Vec<_> = points.filter(|(_, y)| y.is_finite()).map(|(x, y)| (x as f64, y)).collect();
    let group = finite.len().div_ceil(MAX_POINTS).max(1);
    let mean = |group: &[(f64, f64)]| {
        let n = group.len() as f64;
        (group.iter().map(|p| p.0 / n).sum(), group.iter().map(|p| p.1 / n).sum())
    };
    if group == 1 { finite } else { finite.chunks(group).map(mean).collect() }
}

fn draw(svg: &mut String, panels: &[(&str, Vec<Series>)], last: u64) -> Result<(), Box<dyn StdError>> {
    let root = SVGBackend::with_string(svg, (WIDTH, PANEL_HEIGHT * panels.len() as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, (title, series)) in root.split_evenly((panels.len(), 1)).iter().zip(panels) {
        draw_panel(area, title, series, 0.0..last.max(1) as f64)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel<'a, B: DrawingBackend + 'a>(
    area: &DrawingArea<B, Shift>,
    title: &str,
    series: &[Series],
    steps: Range<f64>,
) -> Result<(), Box<dyn StdError>>
where
    B::ErrorType: 'static,
{
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(8)
        .margin_right(24)
        .x_label_area_size(32)
        .y_label_area_size(72)
        .build_cartesian_2d(steps, value_range(series))?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_style(RGBColor(120, 120, 120))
        .x_desc("step")
        .x_labels(9)
        .y_labels(6)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|&y| label(y))
        .label_style(("sans-serif", 13))
        .draw()?;
    for (series, colour) in series.iter().zip(COLOURS.iter().cycle()) {
        let style = colour.stroke_width(2);
        let line = chart.draw_series(LineSeries::new(series.points.iter().copied(), style))?;
        line.label(series.name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        if series.points.len() <= MAX_DOTS {
            chart.draw_series(series.points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
        }
    }
    // Where the curves seldom are: losses fall, recalls rise.
    let rises = title.starts_with("Recall");
    let legend = if rises { SeriesLabelPosition::LowerRight } else { SeriesLabelPosition::UpperRight };
    chart
        .configure_series_labels()
        .position(legend)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}

/// The values' range with some air; never empty.
fn value_range(series: &[Series]) -> Range<f64> {
    let values = || series.iter().flat_map(|s| s.points.iter().map(|p| p.1));
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let air = (high - low) * 0.05;
    // A constant: the axis needs room that f64 can resolve at that size.
    let air = if air > high.abs() * 1e-9 { air } else { (high.abs() * 0.1).max(1e-9) };
    low - air..high + air
}

/// A tick label: plain where that is short, scientific where it is not.
fn label(y: f64) -> String {
    let size = y.abs();
    if size < 1e-12 {
        "0".into()
    } else if (1e-3..1e5).contains(&size) {
        let text = format!("{y:.4}");
        text.trim_end_matches('0').trim_end_matches('.').into()
    } else {
        format!("{y:.2e}")
    }
}
