//! The parameters of a call: declared once in Rust, with what a test needs to compare them with the shader's.

use bytemuck::Pod;

/// A member of a shader's parameter struct, or several of one type side by side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Members {
    /// Their names in the shader.
    pub names: &'static [&'static str],
    /// Their type in the shader.
    pub ty: &'static str,
    /// Where the first one is, in bytes; they are four bytes each.
    pub offset: usize,
}

/// How a kernel's parameters lie in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ParamsLayout {
    /// The members in order.
    pub members: &'static [Members],
    /// Bits that a member is made of, by the names that they have in the shader.
    pub flags: &'static [(&'static str, u32)],
    /// The whole struct's size.
    pub bytes: usize,
}

/// Parameters that [`params!`] declares; `()` for shaders without any.
pub(crate) trait ShaderParams: Pod {
    const LAYOUT: ParamsLayout;
}

impl ShaderParams for () {
    const LAYOUT: ParamsLayout = ParamsLayout { members: &[], flags: &[], bytes: 0 };
}

/// What a member may be.
pub(crate) trait Member {
    /// The name of the type in WGSL; of an array, that of its elements.
    const WGSL: &'static str;
}

impl Member for u32 {
    const WGSL: &'static str = "u32";
}

impl Member for f32 {
    const WGSL: &'static str = "f32";
}

impl<T: Member, const N: usize> Member for [T; N] {
    const WGSL: &'static str = T::WGSL;
}

/// Declares a struct of parameters as the shader has it. An array stands for members whose names follow it: `row: [u32; 2]
/// as [row_head, row_stride]`. The constants after `flags` are the bits that a member is made of.
macro_rules! params {
    (@names $field:ident) => { &[stringify!($field)] };
    (@names $field:ident [$($part:ident),+]) => { &[$(stringify!($part)),+] };
    (
        $(#[$meta:meta])*
        struct $name:ident { $($field:ident: $ty:ty $(as [$($part:ident),+])?),+ $(,)? }
        $(flags [$($flag:ident),+])?
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        struct $name {
            $($field: $ty),+
        }

        impl $crate::shader::ShaderParams for $name {
            const LAYOUT: $crate::shader::ParamsLayout = $crate::shader::ParamsLayout {
                members: &[$($crate::shader::Members {
                    names: $crate::shader::params!(@names $field $([$($part),+])?),
                    ty: <$ty as $crate::shader::Member>::WGSL,
                    offset: std::mem::offset_of!(Self, $field),
                }),+],
                flags: &[$($((stringify!($flag), $flag)),+)?],
                bytes: size_of::<Self>(),
            };
        }
    };
}
pub(crate) use params;
