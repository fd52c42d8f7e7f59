//! A model's weights: one safetensors file, or several in a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::safetensors::TensorFile;
use super::text::{Entries, read_json};
use crate::tensor::Array;
use crate::{Error, Result};

/// What a folder's single file is called, most often; open_clip's comes second.
const SINGLE: [&str; 2] = ["model.safetensors", "open_clip_model.safetensors"];
const INDEX: [&str; 2] = ["model.safetensors.index.json", "open_clip_model.safetensors.index.json"];
/// Endings of files that are run rather than read.
const PICKLES: [&str; 6] = ["pt", "pth", "bin", "ckpt", "pkl", "pickle"];

/// Where weights lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Files {
    /// All in one file.
    One(PathBuf),
    /// In the files that an index names.
    Indexed(PathBuf),
    /// In files that are numbered `-00001-of-00003` and so on, and that no index names.
    Numbered(Vec<PathBuf>),
}

/// The weights at `path`: a safetensors file, or in a folder `model.safetensors`, `open_clip_model.safetensors`, an index
/// of either, the only safetensors file that there is, or a whole set of numbered ones. `None` for a folder without any.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] for several files of which none is meant by its name, and for numbered files of
/// which some are missing; for pickled files (`.pt`, `.bin`, ..), because reading one runs whatever it holds: the error says
/// how to convert it; for Git LFS pointers and web pages in place of the file.
pub fn find(path: impl AsRef<Path>) -> Result<Option<Files>> {
    let path = path.as_ref();
    if !path.is_dir() {
        refuse_other(path)?;
        return Ok(Some(Files::One(path.to_path_buf())));
    }
    if let Some(file) = SINGLE.iter().map(|name| path.join(name)).find(|file| file.is_file()) {
        refuse_other(&file)?;
        return Ok(Some(Files::One(file)));
    }
    if let Some(index) = INDEX.iter().map(|name| path.join(name)).find(|file| file.is_file()) {
        return Ok(Some(Files::Indexed(index)));
    }
    let entries = std::fs::read_dir(path).map_err(|e| Error::io("list", path, e))?;
    let files = entries.map(|entry| entry.map(|e| e.path()).map_err(|e| Error::io("list", path, e)));
    let mut files: Vec<PathBuf> = files.collect::<Result<_>>()?;
    files.sort();
    let ends = |file: &PathBuf, endings: &[&str]| {
        file.is_file() && file.extension().and_then(|e| e.to_str()).is_some_and(|e| endings.contains(&e))
    };
    let found: Vec<PathBuf> = files.iter().filter(|file| ends(file, &["safetensors"])).cloned().collect();
    match found.as_slice() {
        [] => match files.iter().find(|file| ends(file, &PICKLES)) {
            // Where there is only a pickle, its error says more than that of a missing file.
            Some(pickle) => refuse_other(pickle).map(|()| None),
            None => Ok(None),
        },
        [file] => {
            refuse_other(file)?;
            Ok(Some(Files::One(file.clone())))
        }
        several => numbered(path, several).map(Some),
    }
}

/// A set of numbered files, if these are one and all are there.
fn numbered(folder: &Path, files: &[PathBuf]) -> Result<Files> {
    let name = |file: &PathBuf| file.file_name().unwrap_or_default().to_string_lossy().to_string();
    let place = |file: &PathBuf| -> Option<(usize, usize)> {
        let name = name(file);
        let (rest, total) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
        Some((rest.rsplit_once('-')?.1.parse().ok()?, total.parse().ok()?))
    };
    let places: Vec<(usize, usize)> = files.iter().filter_map(place).collect();
    let Some(&(_, total)) = places.first().filter(|_| places.len() == files.len()) else {
        let names: Vec<String> = files.iter().map(name).collect();
        let problem =
            format!("there are several ({}); give one of them, or name it model.safetensors", names.join(", "));
        return Err(Error::malformed(folder, "weights", problem));
    };
    let numbers: BTreeSet<usize> = places.iter().filter(|(_, t)| *t == total).map(|(number, _)| *number).collect();
    if numbers.len() == files.len() && numbers.iter().copied().eq(1..=total) {
        return Ok(Files::Numbered(files.to_vec()));
    }
    let problem = format!("are {} files of a set of {total}; download the others, too", files.len());
    Err(Error::malformed(folder, "weights", problem))
}

/// Every array of `path` as `f32`, by name, but for what `unused` names: see [`find`]. A choice of files that their names
/// do not make plain is told in `notes`.
///
/// # Errors
/// Those of [`find`]; [`Error::Missing`] without weights; [`Error::Malformed`] for files that are no safetensors, integers
/// among the weights, and an index that names a file outside its folder; [`Error::Missing`] for a tensor of the index that
/// no file holds; [`Error::Duplicate`] for one in two files.
pub fn read(
    path: impl AsRef<Path>,
    unused: impl Fn(&str) -> bool,
    notes: &mut Vec<String>,
) -> Result<BTreeMap<String, Array>> {
    let path = path.as_ref();
    match find(path)? {
        None => Err(Error::missing(path, "file", SINGLE[0])),
        Some(Files::One(file)) => {
            let known = file == path || SINGLE.iter().any(|name| file.ends_with(name));
            if !known {
                notes.push(format!("the weights are those of {}, the only file of weights there", file.display()));
            }
            read_file(&file, &unused)
        }
        Some(Files::Indexed(index)) => read_shards(path, &index, &unused),
        Some(Files::Numbered(files)) => {
            notes.push(format!("{} files of weights were read without an index", files.len()));
            read_all(&files, &unused)
        }
    }
}

fn read_file(path: &Path, unused: &impl Fn(&str) -> bool) -> Result<BTreeMap<String, Array>> {
    let file = TensorFile::open(path)?;
    file.names().filter(|name| !unused(name)).map(|name| Ok((name.to_owned(), file.floats(name)?))).collect()
}

/// The arrays of several files.
fn read_all(files: &[PathBuf], unused: &impl Fn(&str) -> bool) -> Result<BTreeMap<String, Array>> {
    let mut arrays = BTreeMap::new();
    for file in files {
        refuse_other(file)?;
        for (tensor, array) in read_file(file, unused)? {
            if arrays.insert(tensor.clone(), array).is_some() {
                return Err(Error::duplicate(file, "header", "tensor", tensor));
            }
        }
    }
    Ok(arrays)
}

/// Files that hold a part of the arrays each.
fn read_shards(folder: &Path, index: &Path, unused: &impl Fn(&str) -> bool) -> Result<BTreeMap<String, Array>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: Entries<String>,
    }

    let Index { weight_map: Entries(map) } = read_json(index)?;
    let names: BTreeSet<&str> = map.iter().map(|(_, file)| file.as_str()).collect();
    if let Some(name) = names.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
        return Err(Error::malformed(index, "weight_map", format_args!("{name:?} is not the name of a file")));
    }
    let files: Vec<PathBuf> = names.into_iter().map(|name| folder.join(name)).collect();
    let arrays = read_all(&files, unused)?;
    if let Some((tensor, file)) = map.iter().find(|(tensor, _)| !unused(tensor) && !arrays.contains_key(tensor)) {
        return Err(Error::missing(folder.join(file), "tensor", tensor));
    }
    Ok(arrays)
}

/// An error for a file that is no safetensors file: what stands in for one until it is downloaded, and what its ending or
/// first bytes tell to be a pickle, or the archive that PyTorch puts it in.
fn refuse_other(path: &Path) -> Result<()> {
    let ending = path.extension().and_then(|e| e.to_str()).is_some_and(|e| PICKLES.contains(&e));
    let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut start = Vec::new();
    file.by_ref().take(64).read_to_end(&mut start).map_err(|e| Error::io("read", path, e))?;
    // A safetensors file has its header's length there, and then the header.
    if start.get(8) == Some(&b'{') {
        return Ok(());
    }
    let bad = |problem: &str| Err(Error::malformed(path, "start", problem));
    if start.starts_with(b"version https://git-lfs") {
        return bad(
            "this is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder, or download the file",
        );
    }
    if start.is_empty() {
        return bad("the file is empty; download it again");
    }
    let text = start.trim_ascii_start().to_ascii_lowercase();
    if text.starts_with(b"<!doctype") || text.starts_with(b"<html") || text.starts_with(b"<?xml") {
        return bad("this is a web page, as a server sends one in place of a file; download the file itself");
    }
    let magic = start.starts_with(b"PK") || (start[0] == 0x80 && start.get(1).is_some_and(|b| (2..=5).contains(b)));
    if !(ending || magic) {
        return Ok(());
    }
    let name = path.display();
    let recipe = format!(
        "a pickle, which could run anything. Convert it where you trust it: python -c \"import torch, \
         safetensors.torch as s; p = '{name}'; m = torch.load(p, map_location='cpu', weights_only=True); \
         s.save_file({{k: v.contiguous() for k, v in m.items()}}, 'model.safetensors')\" (OpenAI's archives: \
         m = torch.jit.load(p).state_dict())"
    );
    Err(Error::malformed(path, "start", recipe))
}
