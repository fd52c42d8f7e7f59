//! `encode bert`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use reelgrad::retrieval::embed::TokenFeatureInput;
use reelgrad::{Gpu, Result};

#[derive(Args)]
pub struct Options {
    /// Folder of a BERT or RoBERTa in Hugging Face's layout, with its tokenizer.
    #[arg(long, value_name = "FOLDER")]
    model: PathBuf,
    /// For BiC-Net: a JSON line for each video, {"video_id": "..", "captions": ["..", ..]}.
    #[arg(long, value_name = "FILE", required_unless_present = "queries", conflicts_with = "queries")]
    captions: Option<PathBuf>,
    /// For ReLoCLNet: a JSON line for each query, {"desc_id": 1, "desc": ".."}, such as TVR's annotations.
    #[arg(long, value_name = "FILE")]
    queries: Option<PathBuf>,
    /// Tokens of a sentence, special ones among them.
    #[arg(long, value_name = "N", default_value_t = 32)]
    words: usize,
    /// For BiC-Net a folder, for ReLoCLNet an HDF5 file.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
}

pub fn encode(options: &Options, open_gpu: impl FnOnce() -> Gpu) -> Result<ExitCode> {
    let captions = options.captions.as_ref().map(TokenFeatureInput::captions);
    let queries = options.queries.as_ref().map(TokenFeatureInput::queries);
    // The argument parser lets through one of them.
    let Some(input) = captions.or(queries).transpose()? else { return Ok(ExitCode::from(2)) };
    let cut = input.encode(&open_gpu(), &options.model, options.words, &options.out)?;
    if cut > 0 {
        answer!("note     {cut} sentences cut to {} tokens", options.words);
    }
    answer!("written  {} sentences to {}", input.sentences(), options.out.display());
    Ok(ExitCode::SUCCESS)
}
