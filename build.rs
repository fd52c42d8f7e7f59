//! Lists the shader pieces of `shaders/shared` for the preprocessor.

use std::path::Path;
use std::{env, fs};

fn main() {
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("shaders/shared");
    println!("cargo::rerun-if-changed={}", folder.display());
    let entries = fs::read_dir(&folder).expect("the folder is there");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("readable").file_name().into_string().expect("names are Unicode")).collect();
    names.sort();
    let pieces = names.iter().filter(|name| name.ends_with(".wgsl"));
    let list: String =
        pieces.map(|name| format!("(\"shared/{name}\", include_str!({:?})),\n", folder.join(name))).collect();
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("pieces.rs");
    fs::write(out, format!("&[\n{list}]\n")).expect("the build folder is writable");
}
