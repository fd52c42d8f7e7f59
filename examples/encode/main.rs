//! Videos, pictures and sentences to embeddings.
//!
//! ```text
//! cargo run --release --features full --example encode -- clip --model clip-vit-base-patch32 \
//!     --videos videos --text "a red square moves left" --out embeddings.safetensors
//! cargo run --release --features full --example encode -- bert --model bert-base-uncased --captions train.jsonl --out features
//! cargo run --release --features full --example encode -- frames video.mp4 --rate 1 --json
//! ```

mod bert;
mod clip;
#[path = "../common/mod.rs"]
mod common;
mod frames;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Turns videos, pictures and sentences into embeddings.
///
/// Files that cannot be read are named and counted; what could be read is written, and the program ends with 1. Other
/// errors end with 2 and write nothing.
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    command: Command,
    /// The adapter: fastest, low-power, its number, or a part of its name.
    #[arg(long, global = true, value_name = "ADAPTER")]
    adapter: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Embeddings of one space, by the towers of a CLIP, SigLIP or Chinese-CLIP.
    ///
    /// "text", "image" and the "frames" of videos are as the towers give them, before they are brought to unit length;
    /// "video" is the mean of its frames' directions, of unit length, as CLIP4Clip compares it. "mask" has a 1 for each
    /// frame and a 0 for padding; "times" are the frames' presentation times in seconds. What became of everything that was
    /// given is counted on standard error, and an interrupted run goes on with --resume.
    Clip(clip::Options),
    /// Token features for BiC-Net or ReLoCLNet, in the files that their loaders read.
    Bert(bert::Options),
    /// Lists the frames of a video that a model would see, with their times. Needs no GPU and no model.
    Frames(frames::Options),
}

fn main() -> ExitCode {
    common::main(|Options { command, adapter }| {
        let open_gpu = || {
            let gpu = common::open_gpu(adapter.as_deref());
            eprintln!("adapter  {}", gpu.report().line());
            gpu
        };
        match command {
            Command::Clip(options) => clip::encode(&options, open_gpu),
            Command::Bert(options) => bert::encode(&options, open_gpu),
            Command::Frames(options) => frames::list(&options),
        }
    })
}
