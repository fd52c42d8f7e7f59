//! The dispatch with which a readback proves that the work before it was done; the GPU layer launches it itself.

use crate::gpu::status_variant;
use crate::shader::Variant;

pub(super) fn variants() -> Vec<Variant> {
    vec![status_variant()]
}
