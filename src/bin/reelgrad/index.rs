//! `reelgrad index`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use reelgrad::data::media::frames::Reading;
use reelgrad::data::media::video::Ffmpeg;
use reelgrad::retrieval::index::{ClipPlan, IndexModel, IndexRun, IndexWriter, Indexed};
use reelgrad::retrieval::search::Searcher;
use reelgrad::tensor::DType;
use reelgrad::{Error, Gpu, Result};

use crate::bar::Bar;
use crate::limits::LimitFlags;
use crate::model::ModelFlags;
use crate::program::stop_on_ctrl_c;

pub const EXAMPLE: &str = "\
Example: reelgrad index ~/Videos --model clip-vit-base-patch32 --out videos.index

The same command again reads only what is new or changed. A run that was stopped goes on in the same way.";

/// GPU memory for measuring what bytes lose.
const BUDGET: u64 = 1 << 30;

/// How vectors are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Precision {
    F16,
    F32,
}

#[derive(Args)]
pub struct Options {
    /// Folders, which are looked through with all that they hold, and video files.
    #[arg(required = true, value_name = "FOLDER")]
    roots: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelFlags,
    /// Folder of the index; a new one is made.
    #[arg(long, value_name = "INDEX")]
    out: PathBuf,
    /// Takes videos out of the index that are no longer in these folders.
    #[arg(long)]
    prune: bool,
    /// Frames a second that are encoded [default: 1]. This, and what else says how videos are cut and kept, is for new
    /// indexes.
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// Seconds of a clip [default: 8].
    #[arg(long, value_name = "S")]
    clip: Option<f64>,
    /// Seconds from the start of a clip to that of the next one [default: half a clip].
    #[arg(long, value_name = "S")]
    step: Option<f64>,
    /// Ends clips where neighbouring frames are less alike than this cosine, such as 0.6: a change of shot.
    #[arg(long, value_name = "COSINE", allow_hyphen_values = true)]
    cut_below: Option<f32>,
    /// How vectors are kept [default: f16].
    #[arg(long, value_name = "TYPE")]
    precision: Option<Precision>,
    /// Lets the first stage of search read a byte a number, for large indexes. Answers stay exact.
    #[arg(long)]
    bytes: bool,
    /// Keeps no small pictures.
    #[arg(long)]
    no_thumbnails: bool,
    /// Counts damaged videos as failed; otherwise what of them can be decoded is used, with a note.
    #[arg(long)]
    strict: bool,
    /// Videos that are decoded side by side [default: one a processor].
    #[arg(long, value_name = "N")]
    decoders: Option<usize>,
    #[command(flatten)]
    limits: LimitFlags,
}

impl Options {
    fn plan(&self) -> ClipPlan {
        let known = ClipPlan::default();
        let seconds = self.clip.unwrap_or(known.seconds);
        let step = self.step.unwrap_or(seconds / 2.0);
        ClipPlan { rate: self.rate.unwrap_or(known.rate), seconds, step, cut_below: self.cut_below }
    }

    fn precision(&self) -> DType {
        if self.precision == Some(Precision::F32) { DType::F32 } else { DType::F16 }
    }

    /// The index that is there already; without one, the room for it is tried.
    fn existing(&self) -> Result<Option<IndexWriter>> {
        match self.out.join("index.json").exists() {
            true => IndexWriter::open(&self.out).map(Some),
            false => IndexWriter::expect_room(&self.out).map(|()| None),
        }
    }

    /// The index, made unless it is there.
    fn writer(&self, existing: Option<IndexWriter>, model: &dyn IndexModel) -> Result<IndexWriter> {
        let Some(writer) = existing else {
            return IndexWriter::create(&self.out, model.spec(self.plan(), self.precision(), self.bytes));
        };
        let (asked, spec) = (model.spec(self.plan(), self.precision(), self.bytes), writer.spec());
        let differs = |given: bool, same: bool, name: &'static str| if given && !same { Some(name) } else { None };
        let (plan, held) = (asked.clips, spec.clips);
        let changed = [
            differs(self.rate.is_some(), plan.rate == held.rate, "--rate"),
            differs(self.clip.is_some(), plan.seconds == held.seconds, "--clip"),
            differs(self.step.is_some(), plan.step == held.step, "--step"),
            differs(self.cut_below.is_some(), plan.cut_below == held.cut_below, "--cut-below"),
            differs(self.precision.is_some(), asked.precision == spec.precision, "--precision"),
            differs(self.bytes, spec.bytes, "--bytes"),
        ];
        match changed.into_iter().flatten().next() {
            None => Ok(writer),
            Some(argument) => {
                let why = "differs from what the index was made with; leave it out, or make a new index";
                Err(Error::Argument { op: "index", argument, why: why.into() })
            }
        }
    }
}

pub fn index(options: &Options, open_gpu: impl FnOnce() -> Gpu) -> Result<ExitCode> {
    // Before the minutes that a model takes, and the hours that videos do.
    options.plan().check()?;
    for root in &options.roots {
        std::fs::metadata(root).map_err(|e| Error::io("open", root, e))?;
    }
    let ffmpeg = Ffmpeg::find()?.with_limits(options.limits.limits());
    let existing = options.existing()?;
    let gpu = open_gpu();
    let model = options.model.open(&gpu)?;
    let mut writer = options.writer(existing, &*model)?;
    let run = IndexRun {
        roots: options.roots.clone(),
        prune: options.prune,
        reading: Reading { strict: options.strict, ..Reading::OWN },
        thumbnails: !options.no_thumbnails,
        decoders: options.decoders.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
    };
    let done = run.run(&*model, &mut writer, &ffmpeg, &mut Bar::new("videos"), &stop_on_ctrl_c())?;
    writer.compact()?;
    let index = writer.index()?;
    tell(&done, options.prune);
    let (videos, clips) = (index.videos().count(), index.len());
    if index.spec().bytes {
        let searcher = Searcher::new(&gpu, model, index, BUDGET)?;
        if let Some(recall) = searcher.scanned_recall()? {
            eprintln!("bytes    alone find {:.1} % of the 10 nearest clips; search finds all", 100.0 * recall);
        }
    }
    answer!("index    {}: {videos} videos, {clips} clips", options.out.display());
    Ok(if done.summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(done: &Indexed, pruned: bool) {
    let Indexed { summary, vanished, seconds, clips } = done;
    summary.notes.iter().for_each(|(id, note)| eprintln!("note     {id}: {note}"));
    summary.failed.iter().for_each(|failure| eprintln!("failed   {failure}"));
    let what = if pruned { "pruned  " } else { "vanished" };
    vanished.iter().for_each(|id| eprintln!("{what} {id}"));
    if !vanished.is_empty() && !pruned {
        eprintln!("note     {} videos are no longer there; --prune takes them out", vanished.len());
    }
    eprintln!("{}; {:.2} h of video, {clips} clips added", summary.line(), seconds / 3600.0);
}
