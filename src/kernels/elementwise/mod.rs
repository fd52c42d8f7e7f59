//! One element in, one out: functions of one and of two tensors, dropout, and copies that move elements.

pub mod binary;
pub mod dropout;
pub mod permute;
pub mod unary;
