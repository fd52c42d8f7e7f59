//! Moment retrieval as a user meets it: training runs, an index in memory and on disk, searches in it.

#[path = "../common/mod.rs"]
mod common;
mod corpus;
mod files;
mod index;
mod reference;
mod search;
mod training;
