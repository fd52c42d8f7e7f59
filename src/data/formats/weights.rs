//! A model's weights: one safetensors file, or a folder with one or several.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::safetensors::TensorFile;
use super::text::{Entries, read_json};
use crate::tensor::Array;
use crate::{Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Endings of files that are run rather than read.
const PICKLES: [&str; 6] = ["pt", "pth", "bin", "ckpt", "pkl", "pickle"];

/// Every array of `path` as `f32`, by name: a safetensors file, or a folder with `model.safetensors` or with
/// `model.safetensors.index.json` and the files that it names. What `unused` names is left out.
///
/// Pickled files (`.pt`, `.bin`, ..) are refused, because reading one runs whatever it holds; the error says how to
/// convert it.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] for pickled files, files that are no safetensors, integers among the weights, and
/// an index that names a file outside its folder; [`Error::Missing`] for a tensor of the index that no file holds;
/// [`Error::Duplicate`] for one in two files.
pub fn read(path: impl AsRef<Path>, unused: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Array>> {
    let path = path.as_ref();
    if !path.is_dir() {
        refuse_pickle(path)?;
        return read_file(path, &unused);
    }
    let (single, index) = (path.join(SINGLE), path.join(INDEX));
    if single.is_file() {
        return read_file(&single, &unused);
    }
    if index.is_file() {
        return read_shards(path, &index, &unused);
    }
    // Where there is only a pickle, its error says more than that of the missing file.
    let pickles = ["pytorch_model.bin", "model.pt"].map(|name| path.join(name));
    pickles.iter().filter(|pickle| pickle.is_file()).try_for_each(|pickle| refuse_pickle(pickle))?;
    read_file(&single, &unused)
}

fn read_file(path: &Path, unused: &impl Fn(&str) -> bool) -> Result<BTreeMap<String, Array>> {
    let file = TensorFile::open(path)?;
    file.names().filter(|name| !unused(name)).map(|name| Ok((name.to_owned(), file.floats(name)?))).collect()
}

/// Files that hold a part of the arrays each.
fn read_shards(folder: &Path, index: &Path, unused: &impl Fn(&str) -> bool) -> Result<BTreeMap<String, Array>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: Entries<String>,
    }

    let Index { weight_map: Entries(map) } = read_json(index)?;
    let files: BTreeSet<&str> = map.iter().map(|(_, file)| file.as_str()).collect();
    let mut arrays = BTreeMap::new();
    for name in files {
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(Error::malformed(index, "weight_map", format_args!("{name:?} is not the name of a file")));
        }
        let file = folder.join(name);
        refuse_pickle(&file)?;
        for (tensor, array) in read_file(&file, unused)? {
            if arrays.insert(tensor.clone(), array).is_some() {
                return Err(Error::duplicate(file, "header", "tensor", tensor));
            }
        }
    }
    if let Some((tensor, file)) = map.iter().find(|(tensor, _)| !unused(tensor) && !arrays.contains_key(tensor)) {
        return Err(Error::missing(folder.join(file), "tensor", tensor));
    }
    Ok(arrays)
}

/// An error for a file whose ending or first bytes are those of a pickle or of the archive that PyTorch puts it in.
fn refuse_pickle(path: &Path) -> Result<()> {
    let ending = path.extension().and_then(|e| e.to_str()).is_some_and(|e| PICKLES.contains(&e));
    let mut start = [0u8; 9];
    let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let read = file.read(&mut start).map_err(|e| Error::io("read", path, e))?;
    let magic = start.starts_with(b"PK") || (start[0] == 0x80 && (2..=5).contains(&start[1]));
    // A safetensors file has its header's length there, and then the header.
    if (read == 9 && start[8] == b'{') || !(ending || magic) {
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
