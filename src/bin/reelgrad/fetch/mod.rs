//! `reelgrad fetch`: a model of a hub, by its name, as a folder that `--model` takes.

mod cache;
mod choice;
mod hub;
mod part;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, exit};

use clap::Args;
use reelgrad::{Error, Result};
use serde::Serialize;
use serde_json::{Value, json};

use cache::Cache;
use choice::{Names, decides};
use hub::Hub;
use part::{Meter, Part, Wanted};

pub const EXAMPLE: &str = "\
Example: reelgrad fetch openai/clip-vit-base-patch16

The same command again fetches only what is missing; a run that was stopped goes on where it was.

Environment: HF_ENDPOINT is the address of another hub. HF_TOKEN opens models that are not open to everybody. With
HF_HUB_OFFLINE=1 nothing is asked of the network, and the model comes from the cache in HF_HOME. HTTPS_PROXY and NO_PROXY are
heeded.";

#[derive(Args)]
pub struct Options {
    /// Name of the model on the hub, such as openai/clip-vit-base-patch16.
    #[arg(value_name = "NAME")]
    name: String,
    /// Folder that it is put in [default: the last part of NAME, in the current folder].
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Branch, tag or commit.
    #[arg(long, value_name = "REV", default_value = "main")]
    revision: String,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Which model it is.
struct Model {
    name: String,
    revision: String,
}

/// What there is of a model.
struct Listing {
    /// The commit that the revision stands for.
    commit: String,
    /// All files that it has.
    names: Names,
    /// Those that a model's folder needs.
    files: Vec<Wanted>,
}

/// Where a file is from.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Source {
    Hub,
    Cache,
    Here,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Source::Hub => "hub",
            Source::Cache => "cache",
            Source::Here => "here",
        }
    }
}

impl Model {
    /// Both go into addresses and paths, and must be harmless there.
    ///
    /// # Errors
    /// [`Error::Argument`] for what is no name, or no revision.
    fn new(name: &str, revision: &str) -> Result<Self> {
        let refuse = |argument, why: String| Err(Error::Argument { op: "fetch", argument, why });
        let plain = |part: &str| {
            let known = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            known && !part.is_empty() && !part.starts_with(['.', '-']) && !part.contains("..")
        };
        if name.split('/').count() > 2 || !name.split('/').all(plain) {
            let why = format!("{name:?} is no name of a model on a hub; those are like openai/clip-vit-base-patch16");
            return refuse("NAME", why);
        }
        let odd = |c: char| c.is_control() || c.is_whitespace() || "\\~^:?*[".contains(c);
        if revision.contains(odd) || choice::hostile(revision).is_some() {
            return refuse("--revision", format!("{revision:?} is no branch, tag or commit"));
        }
        Ok(Self { name: name.into(), revision: revision.into() })
    }

    /// The folder that it goes to by itself.
    fn folder(&self) -> PathBuf {
        self.name.rsplit('/').next().unwrap_or(&self.name).into()
    }
}

pub fn fetch(options: &Options) -> Result<ExitCode> {
    let model = Model::new(&options.name, &options.revision)?;
    let folder = options.out.clone().unwrap_or_else(|| model.folder());
    go_on_after_ctrl_c(&folder);
    let cache = Cache::of_environment();
    let hub = if is_offline() { None } else { Some(Hub::of_environment()?) };
    let listing = match &hub {
        Some(hub) => hub.list(&model)?,
        None => cache.list(&model)?,
    };
    expect_no_other(&folder, &model, &listing.names)?;
    fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
    let done = bring(&model, &listing, &folder, &cache, hub.as_ref())?;
    tell(options, &listing, &folder, &done);
    Ok(ExitCode::SUCCESS)
}

/// Ctrl-C ends it at once: at every moment a part is a beginning of its file, and all other files are whole.
fn go_on_after_ctrl_c(folder: &Path) {
    let folder = folder.to_path_buf();
    let set = ctrlc::set_handler(move || {
        eprintln!("\nstopped  what is done is kept in {}; the same command goes on", folder.display());
        exit(130)
    });
    if let Err(error) = set {
        log::warn!("Ctrl-C will end the program without a word: {error}");
    }
}

/// Whether these are the digits of a commit.
fn is_commit(digits: &str) -> bool {
    matches!(digits.len(), 40 | 64) && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_offline() -> bool {
    let value = env::var("HF_HUB_OFFLINE").unwrap_or_default();
    ["1", "true", "yes", "on"].contains(&value.to_ascii_lowercase().as_str())
}

/// An error for a folder that holds another model, of which files would stay and be read with those of this one.
fn expect_no_other(folder: &Path, model: &Model, names: &Names) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    let held = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    match held.filter(|held| decides(held)).find(|held| !names.contains(held)) {
        None => Ok(()),
        Some(other) => {
            let why = format!("{} holds {other}, which {} has not; name another folder", folder.display(), model.name);
            Err(Error::Argument { op: "fetch", argument: "--out", why })
        }
    }
}

/// Brings what is missing, and says where each file is from.
fn bring(model: &Model, listing: &Listing, folder: &Path, cache: &Cache, hub: Option<&Hub>) -> Result<Vec<Source>> {
    let here: Vec<bool> = listing.files.iter().map(|file| file.is_in(folder)).collect::<Result<_>>()?;
    let missing = || listing.files.iter().zip(&here).filter(|(_, here)| !**here).map(|(file, _)| file);
    let total: u64 = missing().map(|file| file.bytes).sum();
    let mut meter = Meter::new(missing().map(|file| file.left_in(folder)).sum(), total);
    let mut done = Vec::new();
    for (file, here) in listing.files.iter().zip(&here) {
        if *here {
            done.push(Source::Here);
            continue;
        }
        meter.show(0, &file.name);
        let mut part = Part::open(folder, file, &mut meter)?;
        let cached = cache.find(model, &listing.commit, file);
        let from = match (cached, hub) {
            (Some(path), _) if part.copy(&path)? => Source::Cache,
            (_, Some(hub)) => {
                hub.download(model, &listing.commit, &mut part)?;
                Source::Hub
            }
            (path, None) => {
                let path = path.unwrap_or_else(|| PathBuf::from(&file.name));
                let problem = format!("is not {}: the cache is damaged; download the model again", file.sum.digits());
                return Err(Error::malformed(path, file.sum.kind(), problem));
            }
        };
        part.finish()?;
        done.push(from);
    }
    sync(folder).map_err(|e| Error::io("write", folder, e))?;
    Ok(done)
}

/// Makes the new names last.
#[cfg(unix)]
fn sync(folder: &Path) -> std::io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

/// Folders cannot be flushed here; the file system keeps a journal of renames.
#[cfg(not(unix))]
fn sync(_folder: &Path) -> std::io::Result<()> {
    Ok(())
}

/// Tells what there is now, and what to do with it.
fn tell(options: &Options, listing: &Listing, folder: &Path, done: &[Source]) {
    if options.json {
        let file = |(file, from): (&Wanted, &Source)| {
            let mut about = json!({ "name": file.name, "bytes": file.bytes, "from": from });
            about[file.sum.kind()] = file.sum.digits().into();
            about
        };
        let about = json!({
            "schema": "reelgrad.fetch/1",
            "name": options.name,
            "revision": options.revision,
            "commit": listing.commit,
            "folder": folder,
            "files": listing.files.iter().zip(done).map(file).collect::<Vec<Value>>(),
        });
        answer!("{about:#}");
    } else {
        answer!("folder   {}", folder.display());
        listing.files.iter().zip(done).for_each(|(f, from)| answer!("{:<8} {:>12}  {}", from.name(), f.bytes, f.name));
    }
    let count = |from| done.iter().filter(|done| **done == from).count();
    let (hub, cache, kept) = (count(Source::Hub), count(Source::Cache), count(Source::Here));
    eprintln!("files    {hub} from the hub, {cache} from the cache, {kept} kept");
    eprintln!("next     reelgrad index FOLDER --model {} --out videos.index", folder.display());
}
