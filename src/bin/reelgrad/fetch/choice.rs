//! Which files of a repository make a model's folder.

use std::collections::BTreeSet;

/// Configurations with the name that their weights have without its ending. Where a repository has both layouts, the first
/// one is taken.
const LAYOUTS: [(&str, &str); 2] = [("config.json", "model"), ("open_clip_config.json", "open_clip_model")];

/// What tells how texts and pictures are made; taken where it is there.
const BESIDE: [&str; 9] = [
    "added_tokens.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// Endings of weights that are run rather than read.
const PICKLES: [&str; 6] = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"];

/// The names of a repository.
pub type Names = BTreeSet<String>;

/// The files that a model's folder needs, of a repository that has files of these `names`: configuration, weights, tokenizer
/// and preprocessing. Only what lies at the repository's root is looked at.
///
/// # Errors
/// What is missing, and what to do about it; it goes on from the name of the model.
pub fn choose(names: &Names) -> Result<Vec<&str>, String> {
    let (configuration, mut files) = weights(names)?;
    files.push(configuration);
    files.extend(BESIDE.into_iter().filter(|name| names.contains(*name)));
    if !names.contains("tokenizer.json") && names.contains("spiece.model") {
        // Not read, but what a tokenizer.json is made from.
        files.push("spiece.model");
    }
    files.sort_unstable();
    Ok(files)
}

/// Whether a file of this name decides which model a folder holds.
pub fn decides(name: &str) -> bool {
    let configures = LAYOUTS.iter().any(|(configuration, _)| *configuration == name);
    configures || name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")
}

/// Why a repository that holds a file of this name is not touched, if that could be written elsewhere than in the folder.
pub fn hostile(name: &str) -> Option<&'static str> {
    let bytes = name.as_bytes();
    if name.is_empty() || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        // An absolute path begins with an empty part.
        return Some("is no path inside of a folder");
    }
    if name.contains(['\\', '\0']) {
        return Some("has a backslash or NUL");
    }
    (bytes.get(1) == Some(&b':') && bytes[0].is_ascii_alphabetic()).then_some("begins with a drive's letter")
}

/// The configuration, and the weights that belong to it.
fn weights(names: &Names) -> Result<(&'static str, Vec<&str>), String> {
    let present: Vec<_> = LAYOUTS.into_iter().filter(|(configuration, _)| names.contains(*configuration)).collect();
    let Some(&(configuration, _)) = present.first() else { return Err(no_configuration(names)) };
    for (configuration, stem) in present {
        if let Some(files) = named(names, stem)? {
            return Ok((configuration, files));
        }
    }
    let others: Vec<&str> = at_root(names).filter(|name| name.ends_with(".safetensors")).collect();
    match others.as_slice() {
        [] => Err(no_weights(names)),
        [_] => Ok((configuration, others)),
        several if is_whole(several) => Ok((configuration, others)),
        several => Err(format!(
            "has several files of weights ({}), and none has the name model.safetensors; download the one that you mean by \
             hand, with {configuration} and the tokenizer",
            several.join(", ")
        )),
    }
}

/// The weights whose names begin with `stem`, if there are any: one file, or the shards with their index.
fn named<'a>(names: &'a Names, stem: &str) -> Result<Option<Vec<&'a str>>, String> {
    let get = |name: String| names.get(&name).map(String::as_str);
    if let Some(single) = get(format!("{stem}.safetensors")) {
        return Ok(Some(vec![single]));
    }
    let Some(index) = get(format!("{stem}.safetensors.index.json")) else { return Ok(None) };
    let is_shard = |name: &&str| name.strip_prefix(stem).is_some_and(|rest| rest.starts_with('-'));
    let mut files: Vec<&str> = at_root(names).filter(is_shard).filter(|name| name.ends_with(".safetensors")).collect();
    if !is_whole(&files) {
        return Err(format!("has {index}, and {} of the files that it names: some are missing", files.len()));
    }
    files.push(index);
    Ok(Some(files))
}

/// Whether these are all files of a set, `-00001-of-00003` and so on.
fn is_whole(files: &[&str]) -> bool {
    let place = |name: &&str| -> Option<(usize, usize)> {
        let (rest, total) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
        Some((rest.rsplit_once('-')?.1.parse().ok()?, total.parse().ok()?))
    };
    let places: BTreeSet<_> = files.iter().filter_map(place).collect();
    !files.is_empty() && places.into_iter().eq((1..=files.len()).map(|number| (number, files.len())))
}

/// Names that are plain on every system, and in no folder.
fn at_root(names: &Names) -> impl Iterator<Item = &str> {
    let plain = |name: &&str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b));
    names.iter().map(String::as_str).filter(plain).filter(|name| !name.starts_with('.'))
}

fn no_configuration(names: &Names) -> String {
    let inner = names.iter().find_map(|name| name.strip_suffix("/config.json"));
    match inner.filter(|_| names.contains("modules.json")) {
        Some(inner) => format!(
            "is a sentence-transformers model, whose parts lie in folders such as {inner}; take the model that it was made \
             from"
        ),
        None => "has neither config.json nor open_clip_config.json, so that it is no model that could be opened".into(),
    }
}

fn no_weights(names: &Names) -> String {
    let is_pickle = |name: &&str| PICKLES.iter().any(|ending| name.ends_with(ending));
    let Some(pickle) = at_root(names).find(is_pickle) else {
        return "has no weights: there is no file whose name ends in .safetensors".into();
    };
    format!(
        "has its weights in {pickle} only, a pickle, which could run anything. If a pull request there adds \
         model.safetensors, name it: --revision refs/pr/NUMBER. Or download the files by hand, and convert that one where you \
         trust it: python -c \"import torch, safetensors.torch as s; p = '{pickle}'; m = torch.load(p, map_location='cpu', \
         weights_only=True); s.save_file({{k: v.contiguous() for k, v in m.items()}}, 'model.safetensors')\" (OpenAI's \
         archives: m = torch.jit.load(p).state_dict())"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is chosen of these names, between blanks; or why nothing is.
    fn chosen(names: &str) -> Result<String, String> {
        choose(&names.split_ascii_whitespace().map(String::from).collect()).map(|files| files.join(" "))
    }

    #[test]
    fn one_layout_is_taken_with_all_it_needs() {
        let both = "README.md config.json open_clip_config.json model.safetensors open_clip_model.safetensors \
                    pytorch_model.bin merges.txt vocab.json tokenizer.json spiece.model onnx/model.onnx";
        for (names, want) in [
            (both, "config.json merges.txt model.safetensors tokenizer.json vocab.json"),
            (
                "config.json open_clip_config.json pytorch_model.bin open_clip_model.safetensors",
                "open_clip_config.json open_clip_model.safetensors",
            ),
            ("open_clip_config.json model.safetensors", "model.safetensors open_clip_config.json"),
            ("config.json clip.safetensors sub/model.safetensors", "clip.safetensors config.json"),
            ("config.json model.safetensors spiece.model", "config.json model.safetensors spiece.model"),
            (
                "config.json model.safetensors.index.json model-00001-of-00002.safetensors \
                 model-00002-of-00002.safetensors other.safetensors",
                "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors \
                 model.safetensors.index.json",
            ),
            (
                "config.json x-1-of-2.safetensors x-2-of-2.safetensors",
                "config.json x-1-of-2.safetensors x-2-of-2.safetensors",
            ),
        ] {
            assert_eq!(chosen(names).as_deref(), Ok(want), "{names}");
        }
    }

    #[test]
    fn what_is_no_model_says_why() {
        for (names, why) in [
            ("README.md model.safetensors", "neither config.json nor"),
            ("modules.json 0_CLIPModel/config.json", "such as 0_CLIPModel"),
            ("config.json pytorch_model.bin", "weights_only=True"),
            ("config.json tf_model.h5", "has no weights"),
            ("config.json a.safetensors b.safetensors", "several files of weights (a.safetensors, b.safetensors)"),
            ("config.json model.safetensors.index.json model-00002-of-00002.safetensors", "and 1 of the files"),
            ("config.json model.safetensors.index.json", "and 0 of the files"),
        ] {
            let told = chosen(names).unwrap_err();
            assert!(told.contains(why), "{names}: {told}");
        }
    }

    #[test]
    fn paths_that_leave_the_folder_are_hostile() {
        for name in ["", "/etc/x", "../x", "a/../x", "a/..", "..", "a//x", "./x", "a\\x", "..\\x", "x\0", "C:x", "c:/x"]
        {
            assert!(hostile(name).is_some(), "{name:?}");
        }
        for name in ["config.json", "a/b.txt", "..a", "a..", "12:30.txt", "a b"] {
            assert!(hostile(name).is_none(), "{name:?}");
        }
    }
}
