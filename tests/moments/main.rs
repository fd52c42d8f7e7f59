//! Moment retrieval as a user meets it: an index, searches in it, training runs, bad files.

#[path = "../common/mod.rs"]
mod common;
mod corpus;
mod index;
