//! Shader text: a small preprocessor, and the bindings read back from its output.
//!
//! Shaders are plain WGSL files in `shaders/`. They are specialised in two ways only: as text, by the directives below
//! (structure and sizes), and by the parameters of a call. Every directive stands alone on its line:
//!
//! | directive | effect |
//! |---|---|
//! | `#import name` | the text of `shaders/shared/name.wgsl`, once: imported again, it adds nothing |
//! | `#params Type name` | the parameters of a call: an immediate, or a uniform where the adapter has none |
//! | `#ifdef NAME` / `#ifndef NAME` / `#else` / `#endif` | keeps or drops lines |
//! | `#for i in 0..N` / `#endfor` | repeats lines, with `{i}` replaced; `N` is a number or a define |
//! | `#for x in a b c` / `#endfor` | the same with words |
//! | `#entry SIZE {` | begins the entry point, which ends with its `}`: SIZE invocations a workgroup; `flat` is the number of the workgroup in the folded grid, `local` that of the invocation in the workgroup |
//! | `#entry subgroup SIZE {` | the same where a workgroup is one subgroup; `lane` is the number of the invocation in the subgroup |
//!
//! Each define also becomes a WGSL constant: `const NAME: u32 = value;`.

mod preprocess;
mod reflect;

use std::borrow::Cow;
use std::hash::{Hash, Hasher};

pub use preprocess::{ParamsIn, preprocess};
pub use reflect::{BindingDecl, bindings};

/// A shader file with the defines that specialise it: the key of a compiled pipeline.
#[derive(Clone, Debug)]
pub struct Variant {
    /// The kernel's name: the file's name without its ending.
    pub name: Cow<'static, str>,
    /// The file's text, before preprocessing.
    pub source: Cow<'static, str>,
    /// Defines, in a fixed order per kernel.
    pub defines: Vec<(&'static str, u32)>,
    /// Whether runtime checks may be left out: true for the crate's own shaders, which guard their tails themselves.
    pub trusted: bool,
}

impl Variant {
    /// A variant of one of the crate's own shaders.
    pub(crate) fn own(name: &'static str, source: &'static str, defines: Vec<(&'static str, u32)>) -> Self {
        Self { name: Cow::Borrowed(name), source: Cow::Borrowed(source), defines, trusted: true }
    }

    /// A user's own WGSL; it is always compiled with bounds checks.
    pub fn user(name: impl Into<String>, source: impl Into<String>, defines: Vec<(&'static str, u32)>) -> Self {
        Self { name: Cow::Owned(name.into()), source: Cow::Owned(source.into()), defines, trusted: false }
    }

    /// The value of a define.
    pub fn define(&self, name: &str) -> Option<u32> {
        self.defines.iter().find(|(n, _)| *n == name).map(|&(_, v)| v)
    }

    /// `name[A=1,B=2]`: how profiles and errors call it.
    pub fn label(&self) -> String {
        let defines: Vec<String> = self.defines.iter().map(|(n, v)| format!("{n}={v}")).collect();
        if defines.is_empty() { self.name.to_string() } else { format!("{}[{}]", self.name, defines.join(",")) }
    }
}

impl PartialEq for Variant {
    fn eq(&self, other: &Self) -> bool {
        // The crate's own names are unique to their text; users' are not.
        self.name == other.name
            && self.defines == other.defines
            && self.trusted == other.trusted
            && (self.trusted || self.source == other.source)
    }
}

impl Eq for Variant {}

impl Hash for Variant {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.defines.hash(state);
    }
}
