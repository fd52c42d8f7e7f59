//! The golden cases: those in the repository, and where they are at hand, all cases of the supported families.

use std::path::{Path, PathBuf};

use reelgrad::Gpu;
use reelgrad::parity::{Outcome, check_file};

mod common;

/// Golden files of `folder` whose names start with one of `families`.
fn files(folder: &Path, families: &[&str]) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    files.retain(|p| {
        let name = p.file_name().unwrap_or_default().to_string_lossy();
        families.iter().any(|family| name.starts_with(family))
    });
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
    let files = files(&folder, &["op-", "bicnet-", "retrieval-metrics-", "reloclnet-data"]);
    assert!(files.len() > 80, "only {} golden files in {}", files.len(), folder.display());
    for gpu in common::gpus() {
        check(&gpu, &files);
    }
}

/// The supported families, by the start of their files' names.
const FAMILIES: [&str; 7] =
    ["bicnet-", "clip-tokenizer", "op-", "preprocess-", "reloclnet-", "retrieval-metrics-", "tvr-metrics-"];

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
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/goldens");
    for file in files(&folder, &["eercf-tiny-eval", "bert-tiny"]) {
        assert!(matches!(check_file(gpu, &file), Ok(Outcome::NotSupported(_))), "{}", file.display());
    }
}
