//! Affine maps: matrix products, convolution, patches of images, tables of rows.

pub mod conv1d;
pub mod embedding;
pub mod matmul;
pub mod patches;
