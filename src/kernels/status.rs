//! The last dispatch before a readback; see `shaders/status.wgsl`.

use crate::shader::Variant;

/// The kernel's one variant.
pub(crate) fn variant() -> Variant {
    Variant::own("status", include_str!("../../shaders/status.wgsl"), vec![])
}

pub(super) fn variants() -> Vec<Variant> {
    vec![variant()]
}
