//! The model of an index, as flags.

use std::path::{Path, PathBuf};

use clap::Args;
use reelgrad::models::text_image::OpenOptions;
use reelgrad::retrieval::index::{IndexModel, PlainModel};
use reelgrad::run::clip::open_trained;
use reelgrad::{Gpu, Result};

#[derive(Args)]
pub struct ModelFlags {
    /// Folder of the model, in Hugging Face's layout or in open_clip's, with its tokenizer: a CLIP, SigLIP, SigLIP 2 or
    /// Chinese-CLIP. Or a file of weights; or the folder of a training run of EERCF or GLCCL.
    #[arg(long, value_name = "PATH")]
    pub model: PathBuf,
    /// Of weights without a configuration, their architecture by open_clip's name, such as ViT-B-32.
    #[arg(long, value_name = "NAME")]
    architecture: Option<String>,
    /// Holds the matrices of affine maps in half precision: half of the memory.
    #[arg(long)]
    half: bool,
}

impl ModelFlags {
    /// Opens it, and says what it is.
    pub fn open(&self, gpu: &Gpu) -> Result<Box<dyn IndexModel>> {
        let path: &Path = &self.model;
        eprintln!("loading  {}", path.display());
        let how = OpenOptions { half: self.half, architecture: self.architecture.as_deref() };
        let model: Box<dyn IndexModel> = match path.join("checkpoints").is_dir() {
            true => open_trained(gpu, path)?,
            false => Box::new(PlainModel::open(gpu, path, how)?),
        };
        let (description, notes) = model.description();
        eprintln!("model    {description}");
        notes.iter().for_each(|note| eprintln!("note     {note}"));
        Ok(model)
    }
}
