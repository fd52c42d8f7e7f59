//! The server `reelgrad serve`, as pages and programs talk to it.

// It is stopped by signals, and videos are hidden behind symbolic links.
#![cfg(unix)]

mod answers;
mod fuzz;
mod http;
mod immich;
mod load;
mod media;
mod refusals;
mod server;
mod tokens;
mod world;
