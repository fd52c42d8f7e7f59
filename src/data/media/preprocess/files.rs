//! The files that say how a model's pictures are made.

use std::path::Path;

use serde_json::Value;

use super::{CropOffset, Preprocess, Resize};
use crate::data::formats::text::read_json;
use crate::data::media::pixels::{Filter, MAX_PIXELS};
use crate::{Error, Result};

/// Keys with which a processor does more than is done here, unless they are false or absent.
const MORE: [&str; 6] =
    ["do_pad", "do_flip_channel_order", "do_thumbnail", "do_align_long_axis", "do_image_splitting", "do_crop_margin"];

impl Preprocess {
    /// Reads a Hugging Face `preprocessor_config.json`, or the part of a `processor_config.json` that is about images: `None`
    /// if there is no such part. What it leaves out, or has at `null`, is as in the class that it names; without a name, as
    /// in that of CLIP.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for another form, classes and filters that are not known, steps that are not done
    /// here, a crop that is not square, and numbers with which nothing can be computed.
    pub fn from_hugging_face(path: impl AsRef<Path>) -> Result<Option<Self>> {
        let path = path.as_ref();
        let whole: Value = read_json(path)?;
        if !whole.is_object() {
            return Err(Error::malformed(path, "JSON", "is no object"));
        }
        let json = if whole["image_processor"].is_object() { &whole["image_processor"] } else { &whole };
        // Before transformers 5 that file was about texts and pictures together, and told nothing of either.
        if path.ends_with("processor_config.json") && std::ptr::eq(json, &whole) {
            return Ok(None);
        }
        let read = File { path, json }.hugging_face()?;
        read.check().map_err(|e| Error::malformed(path, "values", e))?;
        Ok(Some(read))
    }

    /// From the content of an `open_clip_config.json`, whose `preprocess_cfg` may leave out everything; pictures are of
    /// `size` by `size` pixels unless it says otherwise.
    ///
    /// # Errors
    /// [`Error::Malformed`] as [`Preprocess::from_hugging_face`].
    pub fn from_open_clip(path: impl AsRef<Path>, json: &Value, size: usize) -> Result<Self> {
        let path = path.as_ref();
        let file = File { path, json: &json["preprocess_cfg"] };
        let crop = match &file.json["size"] {
            Value::Null => size,
            value => file.square("size", value)?,
        };
        let fill = file.number("fill_color", 0)?;
        let resize = match file.json["resize_mode"].as_str() {
            None | Some("shortest") => Resize::Shorter(crop),
            Some("squash") => Resize::Exact { width: crop, height: crop },
            Some("longest") => Resize::Longer { side: crop, fill: fill.min(255) as u8 },
            Some(other) => {
                let problem = format!("{other:?} is none of shortest, squash and longest");
                return Err(file.bad("resize_mode", problem));
            }
        };
        if !matches!(file.json["mode"].as_str(), None | Some("RGB")) {
            return Err(file.bad("mode", format_args!("is {}; only RGB is supported", file.json["mode"])));
        }
        let read = Self {
            resize,
            filter: file.filter("interpolation", Filter::Bicubic)?,
            crop,
            rounding: CropOffset::HalfEven,
            scale: 1.0 / 255.0,
            mean: file.colours("mean", Self::CLIP_MEAN)?,
            std: file.colours("std", Self::CLIP_STD)?,
        };
        read.check().map_err(|e| Error::malformed(path, "preprocess_cfg", e))?;
        Ok(read)
    }
}

/// A size as files have it.
enum Size {
    Side(usize),
    Shortest(usize),
    Sides { height: usize, width: usize },
}

/// A configuration that is being read.
struct File<'a> {
    path: &'a Path,
    json: &'a Value,
}

impl File<'_> {
    fn bad(&self, place: &str, problem: impl ToString) -> Error {
        Error::malformed(self.path, place, problem)
    }

    fn hugging_face(&self) -> Result<Preprocess> {
        let named = ["image_processor_type", "feature_extractor_type"].iter().find_map(|key| self.json[key].as_str());
        let class = named.unwrap_or("CLIPImageProcessor");
        let base = ["ImageProcessor", "FeatureExtractor"].iter().find_map(|end| Some(class.split_once(end)?.0));
        // Whether a single number means a square, whether there is a crop, and mean and deviation.
        let (square, crops, standard) = match base.unwrap_or(class) {
            "CLIP" => (false, true, Preprocess::clip(224)),
            "ChineseCLIP" => (false, true, Preprocess::clip(224)),
            "Siglip" => (true, false, Preprocess::siglip(224, Filter::Bicubic)),
            "ViT" => (true, false, Preprocess::siglip(224, Filter::Bilinear)),
            _ => {
                let problem = format!("{class} is not known; those of CLIP, SigLIP, Chinese-CLIP and ViT are");
                return Err(self.bad("image_processor_type", problem));
            }
        };
        if let Some(key) = MORE.iter().find(|key| self.json[**key] == Value::Bool(true)) {
            return Err(self.bad(key, "asks for a step that is not done here"));
        }
        let size = match self.size("size")? {
            None if square => Size::Sides { height: 224, width: 224 },
            None => Size::Shortest(224),
            Some(Size::Side(side)) if square => Size::Sides { height: side, width: side },
            Some(size) => size,
        };
        let resize = match size {
            _ if !self.flag("do_resize", true)? => Resize::Keep,
            Size::Side(side) | Size::Shortest(side) => Resize::Shorter(side),
            Size::Sides { height, width } => Resize::Exact { width, height },
        };
        // A file whose crop and its size are null means none, where the size is a square already.
        let null = |key: &str| self.json.get(key).is_some_and(Value::is_null);
        let exact = matches!(resize, Resize::Exact { .. });
        let crops = crops && !(exact && null("do_center_crop") && self.json["crop_size"].is_null());
        let crop = match (self.flag("do_center_crop", crops)?, self.size("crop_size")?, resize) {
            (true, None, _) => 224,
            (true, Some(Size::Side(side) | Size::Shortest(side)), _) => side,
            (true, Some(Size::Sides { height, width }), _) if height == width => height,
            (false, _, Resize::Exact { width, height }) if height == width => height,
            _ => return Err(self.bad("crop_size", "the result must be a square of a fixed size")),
        };
        let scale = if self.flag("do_rescale", true)? { self.json["rescale_factor"].as_f64() } else { Some(1.0) };
        let (mean, std) = if self.flag("do_normalize", true)? {
            (self.colours("image_mean", standard.mean)?, self.colours("image_std", standard.std)?)
        } else {
            ([0.0; 3], [1.0; 3])
        };
        let filter = if resize == Resize::Keep { standard.filter } else { self.filter("resample", standard.filter)? };
        let scale = scale.unwrap_or(standard.scale);
        Ok(Preprocess { resize, filter, crop, rounding: CropOffset::Floor, scale, mean, std })
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match &self.json[key] {
            Value::Null => Ok(default),
            Value::Bool(flag) => Ok(*flag),
            other => Err(self.bad(key, format_args!("is {other}, neither true nor false"))),
        }
    }

    fn number(&self, key: &str, default: usize) -> Result<usize> {
        match &self.json[key] {
            Value::Null => Ok(default),
            value => self.pixels(key, value),
        }
    }

    fn pixels(&self, key: &str, value: &Value) -> Result<usize> {
        let fits = value.as_u64().filter(|&n| n <= MAX_PIXELS as u64);
        fits.map(|n| n as usize).ok_or_else(|| self.bad(key, format_args!("is {value}, not a number of pixels")))
    }

    /// The side of a size that must be square.
    fn square(&self, key: &str, value: &Value) -> Result<usize> {
        match value.as_array().map(Vec::as_slice) {
            Some([height, width]) if height == width => self.pixels(key, height),
            Some(_) => Err(self.bad(key, format_args!("is {value}; pictures must be square"))),
            None => self.pixels(key, value),
        }
    }

    fn size(&self, key: &str) -> Result<Option<Size>> {
        let value = &self.json[key];
        let side = |name: &str| self.pixels(&format!("{key}.{name}"), &value[name]);
        let has = |name: &str| !value[name].is_null();
        Ok(match value {
            Value::Null => None,
            Value::Object(_) if has("height") && has("width") => {
                Some(Size::Sides { height: side("height")?, width: side("width")? })
            }
            Value::Object(_) if has("shortest_edge") && !has("longest_edge") => {
                Some(Size::Shortest(side("shortest_edge")?))
            }
            Value::Object(_) => {
                let problem = format!("is {value}; it must have height and width, or shortest_edge alone");
                return Err(self.bad(key, problem));
            }
            Value::Array(_) => Some(Size::Side(self.square(key, value)?)),
            value => Some(Size::Side(self.pixels(key, value)?)),
        })
    }

    /// The filter, by PIL's number for it or by its name.
    fn filter(&self, key: &str, default: Filter) -> Result<Filter> {
        let value = &self.json[key];
        match (value.as_u64(), value.as_str().map(str::to_ascii_lowercase).as_deref()) {
            (Some(2), _) | (_, Some("bilinear")) => Ok(Filter::Bilinear),
            (Some(3), _) | (_, Some("bicubic")) => Ok(Filter::Bicubic),
            _ if value.is_null() => Ok(default),
            _ => {
                let problem = format!("is {value}; supported are 2 or \"bilinear\", and 3 or \"bicubic\"");
                Err(self.bad(key, problem))
            }
        }
    }

    /// Red, green and blue; one number counts for all.
    fn colours(&self, key: &str, default: [f32; 3]) -> Result<[f32; 3]> {
        let value = &self.json[key];
        let numbers: Option<Vec<f32>> =
            value.as_array().map(|list| list.iter().filter_map(Value::as_f64).map(|v| v as f32).collect());
        match (value.as_f64(), numbers.as_deref()) {
            _ if value.is_null() => Ok(default),
            (Some(all), _) => Ok([all as f32; 3]),
            (None, Some(&[red, green, blue])) => Ok([red, green, blue]),
            _ => Err(self.bad(key, format_args!("is {value}, not three numbers"))),
        }
    }
}
