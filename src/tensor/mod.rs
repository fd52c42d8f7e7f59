//! Tensors on the host and on the GPU.

mod array;

pub use array::Array;
