//! The order of the layers: a module uses those before it in the list, and its own. ARCHITECTURE.md says what they are.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules of a parent, lowest first.
const ORDERS: [(&str, &[&str]); 2] = [
    (
        "",
        &[
            "error",
            "progress",
            "stop",
            "random",
            "shader",
            "gpu",
            "tensor",
            "kernels",
            "autograd",
            "data",
            "nn",
            "optim",
            "models",
            "retrieval",
            "train",
            "run",
            "parity",
        ],
    ),
    ("data::", &["batch", "formats", "media", "moments", "captions", "tokenizer", "bicnet", "pairs", "synthetic"]),
];

/// What the crate's root hands on, and where it comes from.
const REEXPORTS: [(&str, &str); 7] = [
    ("Error", "error"),
    ("Result", "error"),
    ("Gpu", "gpu"),
    ("Progress", "progress"),
    ("StopFlag", "stop"),
    ("Array", "tensor"),
    ("Tensor", "tensor"),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_test = ["tests", "tests.rs", "testing.rs"].contains(&name) || name.ends_with("_tests.rs");
        // The program is a crate of its own, on top of all layers.
        if path.is_dir() && !is_test && name != "bin" {
            sources(&path, found);
        } else if name.ends_with(".rs") && !is_test {
            found.push(path);
        }
    }
}

/// A file's module, such as data, media, video.
fn module(path: &Path) -> Vec<String> {
    let names = path.with_extension("");
    let names = names.iter().map(|name| name.to_str().unwrap().to_string());
    names.filter(|name| !["mod", "lib"].contains(&name.as_str())).collect()
}

/// A file's text without comments and without items for tests; rustfmt's layout says where those end.
fn code(text: &str) -> String {
    let (mut code, mut lines) = (String::new(), text.lines());
    while let Some(line) = lines.next() {
        let bare = line.trim_start();
        if bare.starts_with("#[cfg(test)]") || bare.starts_with("#[cfg(all(test") {
            let indent = line.len() - bare.len();
            let outside = |line: &str| line.len() - line.trim_start().len() == indent;
            lines.find(|line| outside(line) && line.ends_with([';', '}']));
        } else if !bare.starts_with("//") {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

/// The paths of modules that follow `start` in `code`, as far as they consist of lower-case names, groups unfolded.
fn paths(code: &str) -> Vec<Vec<String>> {
    let end = code.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '{').unwrap_or(code.len());
    if let Some(group) = code.strip_prefix('{') {
        let (mut depth, mut from, mut found) = (0, 0, Vec::new());
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    found.extend(paths(group[from..at].trim_start()));
                    from = at + 1;
                    if c == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
        return found;
    }
    let name = code[..end].to_string();
    let rest = code[end..].strip_prefix("::").map(paths).unwrap_or_default();
    if rest.is_empty() {
        return vec![vec![name]];
    }
    rest.into_iter().map(|path| [vec![name.clone()], path].concat()).collect()
}

/// Every path from the crate's root that a module names, by `crate::` or `super::`.
fn uses(module: &[String], code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = &code[..at];
            if before.ends_with("super::") || before.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
                continue;
            }
            let ups = code[at..].split("::").take_while(|part| *part == "super").count();
            let base = if start == "crate::" { &[] } else { &module[..module.len().saturating_sub(ups)] };
            let rest = &code[at + start.len() * ups.max(1)..];
            found.extend(paths(rest).into_iter().map(|path| [base, &path].concat()));
        }
    }
    found
}

#[test]
fn modules_use_only_those_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for file in &files {
        let module = module(file.strip_prefix(&root).unwrap());
        for path in uses(&module, &code(&fs::read_to_string(file).unwrap())) {
            for (parent, order) in ORDERS {
                let place = |path: &[String]| {
                    let path = path.join("::");
                    let name = path.strip_prefix(parent)?.split("::").next()?;
                    let name = REEXPORTS.iter().find(|(known, _)| *known == name).map_or(name, |(_, from)| from);
                    order.iter().position(|known| *known == name)
                };
                let (Some(own), Some(other)) = (place(&module), place(&path)) else { continue };
                seen += 1;
                if other > own {
                    wrong.push(format!("{} uses {}", file.display(), path.join("::")));
                }
            }
        }
    }
    assert!(seen > 1000, "only {seen} uses found");
    assert!(wrong.is_empty(), "these use a layer above their own:\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_its_place() {
    for (parent, order) in ORDERS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(parent.trim_end_matches("::"));
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let known = ["mod", "lib", "testing", "bin"].contains(&name) || order.contains(&name);
            assert!(known, "{} is in no place of tests/architecture.rs", path.display());
        }
    }
}

#[test]
fn paths_are_read_as_they_are_written() {
    let module = ["data", "media", "video"].map(String::from);
    let text = "use crate::{Error, tensor::{Array, Tensor as T}};\n// crate::train\nuse super::pixels;\n\
        use super::super::moments::Problems;\n#[cfg(test)]\nmod tests {\n    use crate::train;\n}\nlet x = crate::gpu::Gpu::new();\n";
    let got: Vec<String> = uses(&module, &code(text)).iter().map(|path| path.join("::")).collect();
    let want =
        ["Error", "tensor::Array", "tensor::Tensor", "gpu::Gpu::new", "data::media::pixels", "data::moments::Problems"];
    assert_eq!(got, want);
}
