//! The golden cases, all of them.

use std::path::{Path, PathBuf};

use reelgrad::Gpu;
use reelgrad::parity::{Outcome, check_file};

mod common;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// The golden files; of a model's folder, what it must give.
fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(golden("")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|p| p.file_name().unwrap() != "README.md").collect();
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
fn every_case_passes_in_both_kernel_families() {
    let files = files();
    assert_eq!(files.len(), 129);
    for gpu in common::gpus() {
        check(&gpu, &files);
    }
}

#[test]
fn a_changed_number_fails() {
    let gpu = &common::gpus()[0];
    let source = golden("op-linear-bias.safetensors");
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
    let source = golden("op-linear-bias.safetensors");
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
