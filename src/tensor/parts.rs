//! Tensors larger than a binding, part by part.

use std::ops::Range;

use super::{Tensor, VIEW_ALIGNMENT};
use crate::Result;

impl Tensor {
    /// Runs of indices of the first dimension, each within what a binding may hold and starting where a view may; one run
    /// for what fits. A single index that does not fit is left to the launch to refuse.
    pub(crate) fn parts(&self) -> Vec<Range<usize>> {
        let count = self.shape.first().copied().unwrap_or(1);
        let limit = self.gpu.report().limits.max_storage_buffer_binding_size;
        if self.bytes() <= limit {
            return std::iter::once(0..count).collect();
        }
        let each = self.bytes() / count as u64;
        let most = whole_steps((limit / each) as usize, each);
        (0..count).step_by(most).map(|start| start..(start + most).min(count)).collect()
    }

    /// The indices of `range` along the first dimension, without a copy.
    ///
    /// # Errors
    /// As [`Tensor::view`].
    pub(crate) fn rows_view(&self, range: Range<usize>) -> Result<Self> {
        let Some((&count, rest)) = self.shape.split_first() else { return Ok(self.clone()) };
        if range == (0..count) {
            return Ok(self.clone());
        }
        let each: usize = rest.iter().product();
        self.view(range.start * each, [&[range.len()], rest].concat())
    }
}

/// The most rows of `bytes` each, up to `limit`, after which a view may start; one step of them at least.
pub(crate) fn whole_steps(limit: usize, bytes: u64) -> usize {
    let step = VIEW_ALIGNMENT >> bytes.trailing_zeros().min(VIEW_ALIGNMENT.trailing_zeros());
    (limit / step * step).max(step)
}
