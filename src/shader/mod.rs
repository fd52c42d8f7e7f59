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

mod params;
mod preprocess;
mod reflect;

use std::borrow::Cow;
use std::hash::{Hash, Hasher};

pub(crate) use params::{Member, ShaderParams, params};
pub use params::{Members, ParamsLayout};
pub use preprocess::{ParamsIn, preprocess};
pub use reflect::{BindingDecl, bindings};

/// A shader file with the defines that specialise it: the key of a compiled pipeline.
#[derive(Clone, Debug)]
pub struct Variant {
    /// The kernel's name: the file's name without its ending.
    pub(crate) name: Cow<'static, str>,
    /// The file's text, before preprocessing.
    pub(crate) source: Cow<'static, str>,
    /// Defines, in a fixed order per kernel.
    pub(crate) defines: Vec<(&'static str, u32)>,
    /// Whether runtime checks may be left out: true for the crate's own shaders, which guard their tails themselves.
    // Not public: a user's shader that claims it would reach memory that is not its own.
    pub(crate) trusted: bool,
    /// What a call passes, if the crate's own code declares it.
    pub(crate) params: ParamsLayout,
}

impl Variant {
    /// One of the crate's own shaders, called with parameters `P`; without defines yet.
    pub(crate) fn own<P: ShaderParams>(name: &'static str, source: &'static str) -> Self {
        let (name, source) = (Cow::Borrowed(name), Cow::Borrowed(source));
        Self { name, source, defines: Vec::new(), trusted: true, params: P::LAYOUT }
    }

    /// With one define more.
    pub(crate) fn set(self, name: &'static str, value: u32) -> Self {
        self.all([(name, value)])
    }

    /// With `name` defined as 1 if it is `on`.
    pub(crate) fn on(self, name: &'static str, on: bool) -> Self {
        self.maybe(name, on.then_some(1))
    }

    /// With `name` defined if there is a value.
    pub(crate) fn maybe(self, name: &'static str, value: Option<u32>) -> Self {
        self.all(value.map(|value| (name, value)))
    }

    /// With several defines more.
    pub(crate) fn all(mut self, defines: impl IntoIterator<Item = (&'static str, u32)>) -> Self {
        self.defines.extend(defines);
        self
    }

    /// A user's own WGSL; it is always compiled with bounds checks.
    pub fn user(name: impl Into<String>, source: impl Into<String>, defines: Vec<(&'static str, u32)>) -> Self {
        let (name, source) = (Cow::Owned(name.into()), Cow::Owned(source.into()));
        Self { name, source, defines, trusted: false, params: ParamsLayout::default() }
    }

    /// The kernel's name: the file's name without its ending.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a call passes, if the crate's own code declares it.
    pub fn params(&self) -> &ParamsLayout {
        &self.params
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
