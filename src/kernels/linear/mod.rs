//! Affine maps: matrix products, convolution, tables of rows.

pub mod conv1d;
pub mod embedding;
pub mod matmul;
