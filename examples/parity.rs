//! Compares this crate's numbers with golden files of the reference implementations.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use reelgrad::parity::{Outcome, Row, check_file};

mod common;

/// What a model's folder must give.
const EXPECTED: &str = "expected.safetensors";

/// Computes every golden case given and prints a row a tensor: worst absolute and relative error against tolerance.
/// Exits 1 if a case failed, 2 for unusable arguments or files, 3 if a case is not supported.
#[derive(Parser)]
struct Options {
    /// Golden files (.safetensors, .json), or folders of them; of a model's folder, its expected.safetensors.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The adapter: a number, part of its name, "fastest" or "low-power".
    #[arg(long)]
    adapter: Option<String>,
    /// Prints only rows that fail, and the closing line.
    #[arg(long, short)]
    quiet: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let files = match collect(&options.paths) {
        Ok(files) if !files.is_empty() => files,
        Ok(_) => return fail("no golden files there"),
        Err(message) => return fail(&message),
    };
    let gpu = common::open_gpu(options.adapter.as_deref());
    println!("{}", gpu.report().line());
    let [mut passed, mut failed, mut unsupported] = [0, 0, 0];
    for file in &files {
        let name = name(file);
        match check_file(&gpu, file) {
            Ok(Outcome::NotSupported(_)) => {
                unsupported += 1;
                println!("{name}: not supported");
            }
            Ok(Outcome::Checked(rows)) if print_rows(&name, &rows, options.quiet) => passed += 1,
            Ok(Outcome::Checked(_)) => failed += 1,
            Err(error) => {
                failed += 1;
                println!("{name}: FAILED: {error}");
            }
        }
    }
    println!("{passed} passed, {failed} failed, {unsupported} not supported");
    match (failed, unsupported) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(3),
        _ => ExitCode::FAILURE,
    }
}

/// Prints a case; whether it passed.
fn print_rows(name: &str, rows: &[Row], quiet: bool) -> bool {
    let good = rows.iter().filter(|r| r.passed).count();
    let passed = good == rows.len() && !rows.is_empty();
    let verdict = if passed { "passed" } else { "FAILED" };
    println!("{name}: {verdict}, {good} of {} tensors", rows.len());
    for Row { passed, name, worst_abs, worst_rel, tolerance } in rows.iter().filter(|r| !(quiet && r.passed)) {
        let verdict = if *passed { "ok" } else { "BAD" };
        println!("  {verdict:<4} {name:<60} abs {worst_abs:<9.2e} rel {worst_rel:<9.2e} tolerance {tolerance}");
    }
    passed
}

fn fail(message: &str) -> ExitCode {
    eprintln!("parity: {message}");
    ExitCode::from(2)
}

/// A file's name; of what a model's folder must give, the folder's.
fn name(file: &Path) -> String {
    let named = if file.ends_with(EXPECTED) { file.parent().unwrap_or(file) } else { file };
    named.file_name().map(|n| n.to_string_lossy().to_string()).unwrap_or_default()
}

/// Folders are searched, and for models in folders of their own, the folders in them; files are taken as given.
fn collect(paths: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for path in paths {
        let expected = path.join(EXPECTED);
        if expected.is_file() {
            files.push(expected);
        } else if path.is_dir() {
            let entries = std::fs::read_dir(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
            let within = |p: PathBuf| if p.is_dir() { p.join(EXPECTED) } else { p };
            let entries = entries.flatten().map(|e| within(e.path()));
            let mut found: Vec<PathBuf> = entries.filter(|p| is_golden(p) && p.is_file()).collect();
            found.sort();
            files.extend(found);
        } else if path.is_file() {
            files.push(path.clone());
        } else {
            return Err(format!("{} is neither a file nor a folder", path.display()));
        }
    }
    Ok(files)
}

fn is_golden(path: &Path) -> bool {
    let known = path.extension().is_some_and(|e| e == "safetensors" || e == "json");
    known && path.file_name().is_none_or(|n| n != "MANIFEST.json")
}
