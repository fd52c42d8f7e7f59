//! `reelgrad info`, `verify`, `delete` and `compact`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use reelgrad::Result;
use reelgrad::retrieval::index::{ClipPlan, Index, IndexWriter};
use serde_json::json;

use crate::program::shown;

pub const INFO_EXAMPLE: &str = "Example: reelgrad info videos.index --videos";
pub const VERIFY_EXAMPLE: &str = "Example: reelgrad verify videos.index";
pub const DELETE_EXAMPLE: &str = "Example: reelgrad delete videos.index /home/me/Videos/old.mp4";
pub const COMPACT_EXAMPLE: &str = "Example: reelgrad compact videos.index";

#[derive(Args)]
pub struct InfoOptions {
    /// Folder of the index.
    #[arg(value_name = "INDEX")]
    index: PathBuf,
    /// Lists all videos.
    #[arg(long)]
    videos: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct VerifyOptions {
    /// Folder of the index.
    #[arg(value_name = "INDEX")]
    index: PathBuf,
}

#[derive(Args)]
pub struct DeleteOptions {
    /// Folder of the index.
    #[arg(value_name = "INDEX")]
    index: PathBuf,
    /// Videos, by the names that `reelgrad info --videos` lists: their absolute paths.
    #[arg(required = true, value_name = "VIDEO")]
    videos: Vec<String>,
}

#[derive(Args)]
pub struct CompactOptions {
    /// Folder of the index.
    #[arg(value_name = "INDEX")]
    index: PathBuf,
}

pub fn info(options: &InfoOptions) -> Result<ExitCode> {
    let index = Index::open(&options.index)?;
    let spec = index.spec();
    let seconds: f64 = index.videos().map(|video| video.duration).sum();
    if options.json {
        let mut about = json!({
            "schema": "reelgrad.info/1",
            "index": index.folder(),
            "spec": spec,
            "videos": index.videos().count(),
            "clips": index.len(),
            "seconds": seconds,
            "segments": index.segments(),
        });
        if options.videos {
            about["list"] = json!(index.videos().collect::<Vec<_>>());
        }
        answer!("{about:#}");
        return Ok(ExitCode::SUCCESS);
    }
    let ClipPlan { rate, seconds: clip, step, cut_below } = spec.clips;
    let cuts = cut_below.map_or(String::new(), |cosine| format!(", cut below {cosine}"));
    let bytes = if spec.bytes { ", and bytes for the first stage" } else { "" };
    answer!("index    {}", index.folder().display());
    answer!("model    {} {} ({:.12})", spec.model.family, spec.model.name, spec.model.sha256);
    answer!("vectors  {} numbers in {}{bytes}", spec.width, spec.precision.name());
    answer!("cut      {rate} frames a second, clips of {clip} s every {step} s{cuts}");
    answer!("holds    {} videos of {:.2} h, {} clips", index.videos().count(), seconds / 3600.0, index.len());
    answer!("segments {}", index.segments());
    if options.videos {
        answer!();
        for video in index.videos() {
            answer!("{:>9.1} s  {}", video.duration, shown(&video.id));
            video.notes.iter().for_each(|note| answer!("{:>11}  {note}", ""));
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub fn verify(options: &VerifyOptions) -> Result<ExitCode> {
    let index = Index::open(&options.index)?;
    let done = index.verify()?;
    answer!("whole    {} segments, {} bytes, {} videos", done.segments, done.bytes, index.videos().count());
    Ok(ExitCode::SUCCESS)
}

pub fn delete(options: &DeleteOptions) -> Result<ExitCode> {
    let mut writer = IndexWriter::open(&options.index)?;
    writer.delete(&options.videos.iter().map(String::as_str).collect::<Vec<_>>())?;
    answer!("deleted  {} videos; {} are left", options.videos.len(), writer.index()?.videos().count());
    Ok(ExitCode::SUCCESS)
}

pub fn compact(options: &CompactOptions) -> Result<ExitCode> {
    let done = IndexWriter::open(&options.index)?.compact()?;
    answer!("compact  {} segments became {}", done.rewritten, done.written);
    Ok(ExitCode::SUCCESS)
}
