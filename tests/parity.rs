//! The golden cases: those in the repository, and where they are at hand, all cases of the supported families.

use std::path::{Path, PathBuf};

use reelgrad::Gpu;
use reelgrad::parity::{Outcome, check_file};

mod common;

/// Golden files of `folder` whose names start with one of `families`; of a model's folder, what it must give.
fn files(folder: &Path, families: &[&str]) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    files.retain(|p| {
        let name = p.file_name().unwrap_or_default().to_string_lossy();
        families.iter().any(|family| name.starts_with(family))
    });
    // Their texts need a tokenizer.
    files.retain(|p| cfg!(feature = "text") || !p.is_dir());
    files.iter_mut().filter(|p| p.is_dir()).for_each(|p| p.push("expected.safetensors"));
    files.sort();
    files
}

fn check(gpu: &Gpu, files: &[PathBuf]) {
    for file in files {
        let outcome = check_file(gpu, file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let Outcome::Checked(rows) = outcome else { panic!("{} is not supported", file.display()) };
        assert!(!rows.is_empty(), "{} has nothing to compare", file.display());
        let failed: Vec<_> = rows.iter().filter(|r| !r.passed).collect();
        assert!(failed.is_empty(), "{}, {}: {failed:#?}", file.display(), gpu.family());
    }
}

#[test]
fn every_case_in_the_repository_passes_in_both_kernel_families() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let files = files(&folder, &FAMILIES);
    assert!(files.len() > 80, "only {} golden files in {}", files.len(), folder.display());
    for gpu in common::gpus() {
        check(&gpu, &files);
    }
}

/// The supported families, by the start of their files' names.
const FAMILIES: [&str; 11] = [
    "bert-",
    "bicnet-",
    "clip-",
    "eercf-",
    "glccl-",
    "op-",
    "preprocess-",
    "reloclnet-",
    "retrieval-metrics-",
    "roberta-",
    "tvr-metrics-",
];

#[test]
fn every_further_case_of_the_supported_families_passes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/goldens");
    let files = files(&folder, &FAMILIES);
    if files.is_empty() {
        eprintln!("skipped: {} is not at hand", folder.display());
        return;
    }
    for gpu in common::gpus() {
        check(&gpu, &files);
    }
}

#[test]
fn a_changed_number_fails() {
    let gpu = &common::gpus()[0];
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/op-linear-bias.safetensors");
    let mut bytes = std::fs::read(source).unwrap();
    // The last four bytes are an element of the last tensor.
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&1234.5f32.to_le_bytes());
    let file = tempfile::NamedTempFile::with_suffix(".safetensors").unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let Outcome::Checked(rows) = check_file(gpu, file.path()).unwrap() else { panic!("it is supported") };
    assert!(rows.iter().any(|r| !r.passed));
}

#[test]
fn unknown_families_and_ops_are_not_supported() {
    let gpu = &common::gpus()[0];
    let folder = tempfile::tempdir().unwrap();
    let unsupported = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        assert!(matches!(check_file(gpu, &file), Ok(Outcome::NotSupported(_))), "{name}");
    };
    unsupported("no-such-family.json", b"{}");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/op-linear-bias.safetensors");
    let good = std::fs::read(source).unwrap();
    // Made-up names as long as the known ones, so that the header keeps its length.
    for (name, known, made_up) in [
        ("family.safetensors", r#""model":"op""#, r#""model":"xx""#),
        ("op.safetensors", r#"\"linear\""#, r#"\"lineal\""#),
    ] {
        let at = good.windows(known.len()).position(|w| w == known.as_bytes()).unwrap();
        let mut bytes = good.clone();
        bytes[at..at + made_up.len()].copy_from_slice(made_up.as_bytes());
        unsupported(name, &bytes);
    }
}
