//! `reelgrad`: a folder of videos and a sentence in, the video and the second out.

#[macro_use]
mod program;

mod bar;
mod demo;
mod doctor;
mod encode_bert;
mod encode_clip;
mod encode_frames;
mod eval;
#[cfg(feature = "hub")]
mod fetch;
mod index;
mod limits;
mod manage;
mod model;
mod search;
mod serve;
mod sheet;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use reelgrad::{Error, Gpu, Result};

/// Finds the video, and the moment in it, that a sentence describes; on any GPU with Vulkan, Metal or DirectX 12.
///
/// Answers go to standard output, everything else to standard error.
///
/// Exit codes: 0 when all went well; 1 when something that was given could not be read, and was named; 2 when an error ended
/// it, without an answer; 130 after Ctrl-C, when what is done is kept; 141 when who read the answer stopped reading.
#[derive(Parser)]
#[command(version, name = "reelgrad")]
struct Options {
    #[command(subcommand)]
    command: Command,
    /// The adapter: fastest, low-power, its number, or a part of its name [default: REELGRAD_ADAPTER, else fastest].
    #[arg(long, global = true, value_name = "ADAPTER")]
    adapter: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Makes videos, a model and an index of its own, asks three questions, and says how to go on.
    #[command(after_help = demo::EXAMPLE)]
    Demo(demo::Options),
    /// Makes an index of folders of videos, or brings it up to date.
    #[command(after_help = index::EXAMPLE)]
    Index(index::Options),
    /// Searches an index by sentences, pictures or clips.
    #[command(after_help = search::EXAMPLE)]
    Search(search::Options),
    /// Says how well the captions of a file find their videos, and moments in them.
    #[command(after_help = eval::EXAMPLE)]
    Eval(eval::Options),
    /// Serves an index over HTTP: a page to search and to look, an API, and the protocol of Immich's machine learning server.
    #[command(after_help = serve::EXAMPLE)]
    Serve(serve::Options),
    /// Brings a model from a hub, by its name, into a folder that --model takes.
    #[cfg(feature = "hub")]
    #[command(after_help = fetch::EXAMPLE)]
    Fetch(fetch::Options),
    /// Lists the GPU adapters with their limits and features, tests one of them, and says what to expect of it.
    #[command(after_help = doctor::EXAMPLE)]
    Doctor(doctor::Options),
    /// Says what an index holds.
    #[command(after_help = manage::INFO_EXAMPLE)]
    Info(manage::InfoOptions),
    /// Reads every byte of an index and compares it with its sum.
    #[command(after_help = manage::VERIFY_EXAMPLE)]
    Verify(manage::VerifyOptions),
    /// Takes videos out of an index.
    #[command(after_help = manage::DELETE_EXAMPLE)]
    Delete(manage::DeleteOptions),
    /// Gives back the room of deleted videos and joins small parts of an index. Answers stay the same.
    #[command(after_help = manage::COMPACT_EXAMPLE)]
    Compact(manage::CompactOptions),
    /// Turns videos, pictures and sentences into files of embeddings, and lists the frames that a model would see.
    Encode {
        #[command(subcommand)]
        what: Encode,
    },
    /// Prints the completions of a shell.
    #[command(after_help = "Example: reelgrad completions bash > ~/.local/share/bash-completion/completions/reelgrad")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Writes man pages into a folder.
    #[command(after_help = "Example: reelgrad man ~/.local/share/man/man1")]
    Man {
        /// The folder; it must be there.
        folder: std::path::PathBuf,
    },
}

#[derive(Subcommand)]
enum Encode {
    /// Embeddings of one space, by the towers of a CLIP, SigLIP or Chinese-CLIP.
    ///
    /// "text", "image" and the "frames" of videos are as the towers give them, before they are brought to unit length;
    /// "video" is the mean of its frames' directions, of unit length, as CLIP4Clip compares it. "mask" has a 1 for each
    /// frame and a 0 for padding; "times" are the frames' presentation times in seconds. What became of everything that was
    /// given is counted on standard error, and an interrupted run goes on with --resume.
    #[command(
        after_help = "Example: reelgrad encode clip --model clip-vit-base-patch32 --videos videos --text \"a red square\" --out embeddings.safetensors"
    )]
    Clip(encode_clip::Options),
    /// Token features for BiC-Net or ReLoCLNet, in the files that their loaders read.
    #[command(
        after_help = "Example: reelgrad encode bert --model bert-base-uncased --captions train.jsonl --out features"
    )]
    Bert(encode_bert::Options),
    /// Lists the frames of a video that a model would see, with their times. Needs no GPU and no model.
    #[command(after_help = "Example: reelgrad encode frames holiday.mp4 --rate 0.5 --json")]
    Frames(encode_frames::Options),
}

fn main() -> ExitCode {
    program::init_log();
    let options = Options::parse();
    match run(options) {
        Ok(code) => code,
        Err(Error::Interrupted { saved: Some(folder) }) => {
            eprintln!("stopped  what is done is kept in {}; the same command goes on", folder.display());
            ExitCode::from(130)
        }
        Err(error) => program::failed(&error),
    }
}

fn run(Options { command, adapter }: Options) -> Result<ExitCode> {
    let open_gpu = || {
        let builder = Gpu::builder().adapter(program::choice(adapter.as_deref()));
        // Compiled pipelines are kept in the user's own folder for such things: the next start is a quick one.
        let gpu = program::open(match dirs::cache_dir() {
            Some(folder) => builder.pipeline_cache(folder.join("reelgrad")),
            None => builder,
        });
        eprintln!("adapter  {}", gpu.report().line());
        gpu
    };
    match command {
        Command::Index(options) => index::index(&options, open_gpu),
        Command::Search(options) => search::search(&options, open_gpu),
        Command::Demo(options) => demo::demo(&options, open_gpu),
        Command::Eval(options) => eval::eval(&options, open_gpu),
        Command::Serve(options) => serve::serve(&options, open_gpu),
        #[cfg(feature = "hub")]
        Command::Fetch(options) => fetch::fetch(&options),
        Command::Doctor(options) => doctor::doctor(&options, adapter.as_deref()),
        Command::Info(options) => manage::info(&options),
        Command::Verify(options) => manage::verify(&options),
        Command::Delete(options) => manage::delete(&options),
        Command::Compact(options) => manage::compact(&options),
        Command::Encode { what: Encode::Clip(options) } => encode_clip::encode(&options, open_gpu),
        Command::Encode { what: Encode::Bert(options) } => encode_bert::encode(&options, open_gpu),
        Command::Encode { what: Encode::Frames(options) } => encode_frames::list(&options),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Options::command(), "reelgrad", &mut script);
            answer!("{}", String::from_utf8_lossy(&script).trim_end());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { folder } => {
            let written = clap_mangen::generate_to(Options::command(), &folder);
            written.map_err(|e| Error::io("write", &folder, e))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
