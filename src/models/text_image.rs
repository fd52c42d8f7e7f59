//! A text-image model as a user takes it from a hub: both towers, with the tokenizer and the preprocessing that they were
//! trained with.

use std::path::{Path, PathBuf};

use crate::autograd::{Tape, Var};
use crate::data::formats::text::read_json;
use crate::data::media::pixels::{Filter, Image};
use crate::data::media::preprocess::Preprocess;
use crate::data::tokenizer::{Cleaning, Padding, Tokenizer, Tokens};
use crate::gpu::Gpu;
use crate::models::Model;
use crate::models::clip::{Clip, ClipConfig, Family, ImageFeatures, Pretrained, TextFeatures};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// How texts and pictures become what the towers take.
#[derive(Clone, Debug)]
pub struct Processor {
    /// Texts to ids.
    pub tokenizer: Tokenizer,
    /// Pictures to pixels.
    pub preprocess: Preprocess,
    /// Positions of the text tower, and whether all are used by every text.
    positions: (usize, bool),
}

impl Processor {
    /// These, for a text tower of so many positions, all of which a text takes only with SigLIP.
    pub fn new(tokenizer: Tokenizer, preprocess: Preprocess, config: &ClipConfig) -> Self {
        Self { tokenizer, preprocess, positions: (config.positions, config.family == Family::Siglip) }
    }

    /// Reads tokenizer and preprocessing of a model's folder. Where it does not say how pictures are made, the published
    /// values of the model's family stand in, and `notes` say so.
    ///
    /// # Errors
    /// Those of [`Tokenizer::open`] and [`Preprocess::from_hugging_face`]; [`Error::IndexOutOfRange`] for a vocabulary with
    /// more ids than the model's table has rows; [`Error::Malformed`] for pictures of another size than the model takes.
    pub fn open(folder: &Path, config: &ClipConfig, notes: &mut Vec<String>) -> Result<Self> {
        let tokenizer = match config.family {
            Family::Clip => Tokenizer::open(folder)?.with_cleaning(Cleaning::Official),
            Family::Siglip => Tokenizer::open_siglip(folder)?,
            Family::ChineseClip { .. } => Tokenizer::open(folder)?.padded_with(Padding::Special),
        };
        tokenizer.expect_below(config.vocabulary)?;
        let (preprocess, file) = preprocess_of(folder, config)?;
        match &file {
            None => notes.push(format!(
                "{} does not say how pictures are made: they are made as published for {}, {} x {} pixels",
                folder.display(),
                name_of(config.family),
                preprocess.crop,
                preprocess.crop
            )),
            Some(file) if preprocess.crop != config.image_size => {
                let problem =
                    format!("make pictures of {}, the model takes those of {}", preprocess.crop, config.image_size);
                return Err(Error::malformed(file, "size and crop_size", problem));
            }
            Some(_) => {}
        }
        Ok(Self::new(tokenizer, preprocess, config))
    }

    /// Tokens of a text, start and end among them: at most `wanted`, if the model leaves a choice. Every text of a SigLIP
    /// takes all positions.
    ///
    /// # Errors
    /// [`Error::Argument`] for more than the model has positions.
    pub fn text_length(&self, wanted: Option<usize>) -> Result<usize> {
        let (positions, all) = self.positions;
        match wanted {
            Some(wanted) if wanted > positions => {
                let why = format!("of {wanted} are more than the {positions} positions of the model; ask for fewer");
                Err(Error::argument("text", "words", why))
            }
            Some(wanted) if !all => Ok(wanted),
            _ => Ok(positions),
        }
    }

    /// Texts as ids, of [`Processor::text_length`].
    ///
    /// # Errors
    /// As [`Processor::text_length`] and [`Tokenizer::encode`].
    pub fn tokens(&self, texts: &[&str], wanted: Option<usize>) -> Result<Tokens> {
        self.tokenizer.encode(texts, self.text_length(wanted)?)
    }

    /// Pictures as normalised pixels (n, 3, H, H).
    ///
    /// # Errors
    /// As [`Preprocess::apply`].
    pub fn pixels(&self, gpu: &Gpu, images: &[Image]) -> Result<Tensor> {
        let mut pixels = Vec::new();
        for image in images {
            pixels.extend(self.preprocess.apply(image)?);
        }
        let side = self.preprocess.crop;
        Tensor::from_slice(gpu, [images.len(), 3, side, side], &pixels)
    }
}

/// How pictures are made, and the file that says so; `None` for what is published.
fn preprocess_of(folder: &Path, config: &ClipConfig) -> Result<(Preprocess, Option<PathBuf>)> {
    let size = config.image_size;
    if let Some(open) = Pretrained::open_clip_file(folder) {
        return Ok((Preprocess::from_open_clip(&open, &read_json(&open)?, size)?, Some(open)));
    }
    let files = ["preprocessor_config.json", "processor_config.json"].map(|name| folder.join(name));
    for file in files.into_iter().filter(|file| file.is_file()) {
        if let Some(found) = Preprocess::from_hugging_face(&file)? {
            return Ok((found, Some(file)));
        }
    }
    let published = match config.family {
        Family::Clip => Preprocess::clip(size),
        Family::Siglip => Preprocess::siglip(size, Filter::Bicubic),
        Family::ChineseClip { .. } => Preprocess::chinese_clip(size),
    };
    Ok((published, None))
}

fn name_of(family: Family) -> &'static str {
    match family {
        Family::Clip => "CLIP",
        Family::Siglip => "SigLIP",
        Family::ChineseClip { .. } => "Chinese-CLIP",
    }
}

/// How a model is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions<'a> {
    /// Holds matrices in half precision where that is possible.
    pub half: bool,
    /// Of weights without a configuration: one of [`architectures`](crate::models::clip::architectures).
    pub architecture: Option<&'a str>,
}

/// Both towers, tokenizer and preprocessing: sentences and pictures in, vectors and similarities out.
pub struct TextImageModel {
    clip: Clip,
    processor: Processor,
    notes: Vec<String>,
}

impl TextImageModel {
    /// The model of a folder, for inference: a CLIP, SigLIP, SigLIP 2 of fixed resolution or Chinese-CLIP in Hugging Face's
    /// layout, or one of open_clip's vision transformers in its own. Its configuration is read first and says which.
    ///
    /// # Errors
    /// As [`Pretrained::read`] and [`Processor::open`]; [`Error::HalfOverflow`]; device errors.
    pub fn open(gpu: &Gpu, path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(gpu, path, OpenOptions::default())
    }

    /// As [`TextImageModel::open`], with options.
    ///
    /// # Errors
    /// As [`TextImageModel::open`].
    pub fn open_with(gpu: &Gpu, path: impl AsRef<Path>, options: OpenOptions<'_>) -> Result<Self> {
        // What is small is read first, and fails first.
        let (path, mut notes) = (path.as_ref(), Vec::new());
        let config = Pretrained::configuration(path, options.architecture)?;
        let processor = Processor::open(Pretrained::folder(path), &config, &mut notes)?;
        let mut read = Pretrained::read(path, options.architecture)?;
        notes.append(&mut read.notes);
        let clip = if options.half { read.build_half(gpu)? } else { read.build(gpu, |_| true)? };
        Ok(Self { clip, processor, notes })
    }

    /// The towers.
    pub fn clip(&self) -> &Clip {
        &self.clip
    }

    /// Tokenizer and preprocessing.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// What stands in for what the files do not say, a sentence each; to be shown to the user.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What kind of model it is: CLIP, SigLIP or Chinese-CLIP.
    pub fn family(&self) -> &'static str {
        name_of(self.clip.config().family)
    }

    /// What the model is, in a line.
    pub fn description(&self) -> String {
        let ClipConfig { family, image_size, patch_size, vision, text, positions, joint, .. } = self.clip.config();
        format!(
            "{}: pictures of {image_size} in patches of {patch_size}, {} layers of {}; texts of {positions} tokens, {} layers \
             of {}; vectors of {joint}",
            name_of(*family),
            vision.layers,
            vision.width,
            text.layers,
            text.width
        )
    }

    /// Texts to vectors (B, D) of unit length. What is longer than the model's texts is cut.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`]; device errors.
    pub fn encode_texts(&self, tape: &Tape, texts: &[&str]) -> Result<Var> {
        self.text_features(tape, &self.processor.tokens(texts, None)?, false)?.sentence.l2_normalize(UNIT_EPS)
    }

    /// Features of tokenised texts, before they are brought to unit length; `words` says whether those are wanted, too.
    ///
    /// # Errors
    /// As [`TextTower::encode`](crate::models::clip::TextTower::encode).
    pub fn text_features(&self, tape: &Tape, tokens: &Tokens, words: bool) -> Result<TextFeatures> {
        self.clip.towers().text.encode(tape, &tokens.ids, tokens.length, None, words)
    }

    /// Pictures to vectors (N, D) of unit length.
    ///
    /// # Errors
    /// As [`Preprocess::apply`]; device errors.
    pub fn encode_images(&self, tape: &Tape, images: &[Image]) -> Result<Var> {
        let pixels = self.processor.pixels(self.clip.store().gpu(), images)?;
        self.image_features(&tape.constant(pixels), false)?.image.l2_normalize(UNIT_EPS)
    }

    /// Features of normalised pixels (n, 3, H, H), before they are brought to unit length; `patches` says whether those are
    /// wanted, too.
    ///
    /// # Errors
    /// [`Error::Shape`] for pixels of another size; device errors.
    pub fn image_features(&self, pixels: &Var, patches: bool) -> Result<ImageFeatures> {
        self.clip.towers().image.encode(pixels, patches)
    }

    /// What the model says of every text (B, D) and picture (N, D): (B, N). With CLIP and Chinese-CLIP their scaled cosine,
    /// of which a softmax over pictures gives shares; with SigLIP a logit of its own for each pair, of which the sigmoid is
    /// a probability.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    pub fn similarity(&self, texts: &Var, images: &Var) -> Result<Var> {
        self.clip.logits_per_text(texts, images)
    }
}

/// A norm that is not divided by.
const UNIT_EPS: f32 = 1e-12;
