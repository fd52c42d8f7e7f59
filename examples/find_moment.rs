//! Finds the video, and the moment in it, that a sentence describes.
//!
//! ```text
//! cargo run --release --features full --example find_moment -- --run runs/moments "a red square moves left"
//! cargo run --release --features full --example find_moment -- --run runs/tvr --part val --query 87175 --format json
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use reelgrad::Result;
use reelgrad::data::moments::{MomentSource, Problems};
use reelgrad::models::reloclnet::Reloclnet;
use reelgrad::retrieval::evaluation::read_matrix;
use reelgrad::retrieval::moments::{MomentIndex, MomentResults, MomentSearch, MomentSearchOptions, WantedMoment};
use reelgrad::run::moments::Settings;
use reelgrad::tensor::DType;
use reelgrad::train::Slot;

mod common;
use common::bar::Bar;

/// Finds the video, and the moment in it, that a sentence describes.
///
/// The videos of a part are encoded once and kept in an index; a search then takes milliseconds. Errors end with 2.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Sentences to search for. Only the synthetic corpora have features of them; else use --query or --features.
    #[arg(required_unless_present_any = ["query", "features"])]
    sentences: Vec<String>,
    /// Queries of the part, by number.
    #[arg(long, value_name = "ID")]
    query: Vec<u64>,
    /// A file of token features, .npy or .safetensors with one tensor, (tokens, width), as the model was trained on.
    #[arg(long, value_name = "FILE")]
    features: Vec<String>,
    /// Folder of a run of train_reloclnet.
    #[arg(long, value_name = "FOLDER", default_value = "runs/reloclnet")]
    run: PathBuf,
    /// A new place of the run's dataset.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// The part whose videos are searched [default: the run's validation part].
    #[arg(long, value_name = "PART")]
    part: Option<String>,
    /// The index; it is made if it is not there [default: <RUN>/index-<PART>].
    #[arg(long, value_name = "FOLDER")]
    index: Option<PathBuf>,
    /// How the index keeps the encodings [default: f16 for a new one].
    #[arg(long, value_parser = ["f32", "f16"])]
    precision: Option<String>,
    /// Moments to list.
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
    /// Leaves out moments that overlap a better one of their video by more than this IoU; 1 keeps all.
    #[arg(long, value_name = "IOU", default_value_t = 0.5)]
    nms: f64,
    /// How the moments are printed.
    #[arg(long, value_parser = ["table", "json"], default_value = "table")]
    format: String,
    /// Also writes a timeline of every query's moments here, an SVG file each.
    #[arg(long, value_name = "FOLDER")]
    svg: Option<PathBuf>,
    /// Leaves out videos and queries that cannot be read, and counts them.
    #[arg(long)]
    lenient: bool,
    /// The adapter: fastest, low-power, its number, or a part of its name.
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<String>,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(options: Options) -> Result<()> {
    let mut settings: Settings = reelgrad::run::stored(&options.run)?;
    options.data.iter().for_each(|root| settings.data.root.clone_from(root));
    let part = options.part.as_ref().unwrap_or(&settings.data.validation);
    let mut problems = if options.lenient { Problems::lenient() } else { Problems::strict() };
    let data = settings.open_part(part, &mut problems)?;
    let wanted = wanted(&options, &settings, &*data)?;
    let gpu = common::open_gpu(options.adapter.as_deref());
    let model: Reloclnet = reelgrad::train::open(&gpu, &options.run, Slot::Best)?;
    let folder = options.index.clone().unwrap_or_else(|| options.run.join(format!("index-{part}")));
    let precision = options.precision.as_deref().map(|p| if p == "f32" { DType::F32 } else { DType::F16 });
    let index = MomentIndex::open_or_build(&model, &*data, &folder, precision, &mut problems, &mut Bar::new("index"))?;
    eprintln!("index    {} videos in {}, {} MB", index.videos().len(), folder.display(), index.bytes() / 1_000_000);
    if let Some(first) = problems.skipped().first() {
        eprintln!("left out {}, the first: {first}", problems.skipped().len());
    }
    let (nms, top) = ((options.nms < 1.0).then_some(options.nms), settings.search.top.max(options.top));
    let search = MomentSearchOptions { nms, keep: options.top, top, ..settings.search };
    let search = MomentSearch::new(&model, &index, search)?;
    let (found, stages) = search.search_timed(&wanted.iter().map(|w| &w.features).collect::<Vec<_>>())?;
    let results = MomentResults { wanted: &wanted, found: &found.moments, stages: &stages, index: &index };
    let is_json = options.format == "json";
    print!("{}", if is_json { results.to_json_lines(&options.run) } else { results.to_string() });
    options.svg.as_deref().map_or(Ok(()), |folder| results.write_svgs(folder))
}

/// Features of everything that is searched for.
fn wanted(options: &Options, settings: &Settings, data: &dyn MomentSource) -> Result<Vec<WantedMoment>> {
    let mut wanted = Vec::new();
    let encode = (!options.sentences.is_empty()).then(|| settings.sentence_encoder()).transpose()?;
    for (text, encode) in options.sentences.iter().zip(encode.iter().cycle()) {
        wanted.push(WantedMoment::new(text, encode(text)?));
    }
    for &id in &options.query {
        wanted.push(WantedMoment::of_query(data, id)?);
    }
    for file in &options.features {
        wanted.push(WantedMoment::of_file(file, read_matrix(file)?, &settings.model)?);
    }
    Ok(wanted)
}
