//! Videos and pictures as they are met outside: each kind is made by ffmpeg or byte for byte, read, and compared with what
//! is right.
#![cfg(all(feature = "images", unix))]

mod make;
mod pictures;
mod times;
mod videos;
