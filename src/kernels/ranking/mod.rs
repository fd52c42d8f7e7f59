//! Choosing by score: ranks, the largest, one of each row.

pub mod nearest;
pub mod pick;
pub mod rank;
pub(crate) mod select;
pub mod topk;
