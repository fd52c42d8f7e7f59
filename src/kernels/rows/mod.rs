//! Functions of rows: softmax, norms, reductions over an axis.

pub mod l2_normalize;
pub mod layer_norm;
mod plan;
pub mod reduce;
pub mod softmax;

pub(super) use plan::RowPlan;
