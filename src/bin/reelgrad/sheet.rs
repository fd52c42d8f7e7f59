//! A sheet of pictures: what was found, to look at.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use font8x8::UnicodeFonts;
use image::{Rgb, RgbImage, imageops};
use reelgrad::data::formats::atomic;
use reelgrad::{Error, Result};

/// Results of a query that a sheet shows, at most.
pub const MOST: usize = 500;

/// Pixels of a cell: the picture's, and the text's below it.
const WIDTH: u32 = 192;
const HEIGHT: u32 = 144;
const LINE: u32 = 12;
const GAP: u32 = 10;
/// Pictures side by side.
const COLUMNS: u32 = 5;

const PAPER: Rgb<u8> = Rgb([250, 250, 248]);
const INK: Rgb<u8> = Rgb([25, 25, 25]);
const EMPTY: Rgb<u8> = Rgb([215, 215, 210]);

/// A picture and what is written below it.
pub struct Cell {
    /// May be empty.
    pub jpeg: Vec<u8>,
    pub lines: [String; 2],
}

/// That a sheet can have this name.
pub fn check(path: &Path) -> Result<()> {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    if ["png", "jpg", "jpeg", "html"].contains(&ending.as_str()) {
        return Ok(());
    }
    let why = format!("must end in .png, .jpg or .html; it is {}", path.display());
    Err(Error::Argument { op: "search", argument: "--sheet", why })
}

/// Writes the results of each query, under its name.
pub fn write(path: &Path, queries: &[(String, Vec<Cell>)]) -> Result<()> {
    if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("html")) {
        return atomic::write(path, |file| file.write_all(html(queries).as_bytes()));
    }
    let format = image::ImageFormat::from_path(path).map_err(|e| Error::malformed(path, "name", e))?;
    let mut bytes = std::io::Cursor::new(Vec::new());
    draw(queries).write_to(&mut bytes, format).map_err(|e| Error::malformed(path, "picture", e))?;
    atomic::write(path, |file| file.write_all(bytes.get_ref()))
}

fn draw(queries: &[(String, Vec<Cell>)]) -> RgbImage {
    let rows = |cells: &Vec<Cell>| (cells.len() as u32).div_ceil(COLUMNS).max(1);
    let cell_height = HEIGHT + 2 * LINE + GAP;
    let height: u32 = queries.iter().map(|(_, cells)| 2 * LINE + GAP + rows(cells) * cell_height).sum();
    let mut sheet = RgbImage::from_pixel(GAP + COLUMNS * (WIDTH + GAP), height + GAP, PAPER);
    let mut y = GAP;
    for (name, cells) in queries {
        text(&mut sheet, name, GAP, y, COLUMNS * (WIDTH + GAP) - GAP);
        y += 2 * LINE;
        for (number, cell) in cells.iter().enumerate() {
            let (column, row) = (number as u32 % COLUMNS, number as u32 / COLUMNS);
            place(&mut sheet, cell, GAP + column * (WIDTH + GAP), y + row * cell_height);
        }
        y += rows(cells) * cell_height + GAP;
    }
    sheet
}

fn place(sheet: &mut RgbImage, cell: &Cell, x: u32, y: u32) {
    // A small picture that was kept can be read, or the index would have said so.
    match image::load_from_memory_with_format(&cell.jpeg, image::ImageFormat::Jpeg) {
        Ok(picture) => {
            let picture = picture.resize(WIDTH, HEIGHT, imageops::FilterType::Triangle).into_rgb8();
            let (left, top) = ((WIDTH - picture.width()) / 2, (HEIGHT - picture.height()) / 2);
            imageops::overlay(sheet, &picture, (x + left).into(), (y + top).into());
        }
        Err(_) => imageops::overlay(sheet, &RgbImage::from_pixel(WIDTH, HEIGHT, EMPTY), x.into(), y.into()),
    }
    for (number, line) in cell.lines.iter().enumerate() {
        text(sheet, line, x, y + HEIGHT + 4 + number as u32 * LINE, WIDTH);
    }
}

/// Writes a line, as far as there is room; what the font lacks is a box.
fn text(sheet: &mut RgbImage, line: &str, x: u32, y: u32, room: u32) {
    for (number, character) in line.chars().take((room / 8) as usize).enumerate() {
        let fonts = [font8x8::BASIC_FONTS.get(character), font8x8::LATIN_FONTS.get(character)];
        let glyph = fonts.into_iter().flatten().next().unwrap_or([0xff, 0x81, 0x81, 0x81, 0x81, 0x81, 0xff, 0]);
        for (dy, bits) in glyph.into_iter().enumerate() {
            for dx in (0..8).filter(|dx| bits >> dx & 1 == 1) {
                sheet.put_pixel(x + 8 * number as u32 + dx, y + dy as u32, INK);
            }
        }
    }
}

fn html(queries: &[(String, Vec<Cell>)]) -> String {
    let mut page = String::from(
        "<!doctype html><meta charset=utf-8><title>reelgrad</title><style>body{font:15px sans-serif;margin:2em;\
         color-scheme:light dark}div{display:flex;flex-wrap:wrap;gap:1em}figure{margin:0;width:192px}img{width:192px;\
         height:144px;object-fit:contain;background:#8883}figcaption{overflow-wrap:anywhere}</style>\n",
    );
    for (name, cells) in queries {
        // Writing to a string cannot fail.
        let _ = write!(page, "<h2>{}</h2><div>", escaped(name));
        for Cell { jpeg, lines } in cells {
            let source = format!("data:image/jpeg;base64,{}", base64(jpeg));
            let [caption, name] = [&lines[0], &lines[1]].map(|line| escaped(line));
            let _ = writeln!(
                page,
                "<figure><img alt=\"\" src=\"{source}\"><figcaption>{caption}<br>{name}</figcaption></figure>"
            );
        }
        page.push_str("</div>\n");
    }
    page
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
