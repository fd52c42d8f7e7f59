//! Functions of rows: softmax, norms, reductions over an axis.

pub mod l2_normalize;
pub mod layer_norm;
pub mod reduce;
pub mod softmax;
