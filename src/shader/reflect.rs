//! The storage bindings that a preprocessed shader declares, read from its text.
//!
//! All of the crate's shaders declare them one to a line, `@group(0) @binding(n) var<storage, access> name: type;`; a
//! test compares this reading with naga's.

/// One storage binding of group 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindingDecl {
    /// The binding's number.
    pub index: u32,
    /// Whether the shader writes it.
    pub writes: bool,
}

/// The storage bindings of `wgsl`, in order of number.
pub fn bindings(wgsl: &str) -> Vec<BindingDecl> {
    let mut found: Vec<BindingDecl> = wgsl.lines().filter_map(binding).collect();
    found.sort_by_key(|b| b.index);
    found
}

fn binding(line: &str) -> Option<BindingDecl> {
    let rest = line.trim_start().strip_prefix("@group(0) @binding(")?;
    let (index, rest) = rest.split_once(')')?;
    let access = rest.split_once("var<storage,")?.1.split_once('>')?.0.trim();
    Some(BindingDecl { index: index.trim().parse().ok()?, writes: access == "read_write" })
}
