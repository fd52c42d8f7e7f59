//! What a server serves, and the pictures in it.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, Weak};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::{ImageFormat, RgbImage};
use reelgrad::data::media::pixels::Image;
use reelgrad::data::media::video::Ffmpeg;
use reelgrad::random::Random;

pub const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/clip-tiny-hf");
pub const NAME: &str = "clip-tiny-hf";

/// Videos, and an index of them. One is outside the folder whose videos are played, one hides behind a link to there, and
/// one is gone.
pub struct World {
    pub root: tempfile::TempDir,
}

impl World {
    /// Made once for the tests that run at a time, and removed after the last.
    pub fn shared() -> Arc<Self> {
        static WORLD: Mutex<Weak<World>> = Mutex::new(Weak::new());
        let mut world = WORLD.lock().unwrap();
        world.upgrade().unwrap_or_else(|| {
            let made = Arc::new(Self::make());
            *world = Arc::downgrade(&made);
            made
        })
    }

    fn make() -> Self {
        let world = Self { root: tempfile::tempdir().unwrap() };
        for (name, shots) in [
            ("open/one.mp4", &[(1, 12)][..]),
            ("open/two.mp4", &[(2, 5), (3, 5)]),
            ("open/gone.mp4", &[(4, 3)]),
            ("open/link.mp4", &[(5, 3)]),
            ("closed/three.mp4", &[(6, 9)]),
        ] {
            video(&world.film(name), shots);
        }
        fs::write(world.picture(), png(3)).unwrap();
        let films = world.path("films");
        let made = reelgrad(&["index", &films, "--model", MODEL, "--out", &world.path("index")]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::remove_file(world.film("open/gone.mp4")).unwrap();
        fs::remove_file(world.film("open/link.mp4")).unwrap();
        symlink(world.film("closed/three.mp4"), world.film("open/link.mp4")).unwrap();
        world
    }

    pub fn path(&self, name: &str) -> String {
        self.root.path().join(name).to_str().unwrap().to_string()
    }

    pub fn film(&self, name: &str) -> PathBuf {
        self.root.path().join("films").join(name)
    }

    /// What a second of one video looks like, in a file.
    pub fn picture(&self) -> String {
        self.path("picture.png")
    }
}

pub fn reelgrad(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_reelgrad")).args(arguments).output().unwrap()
}

/// Large random squares: picture `number`, of 64 by 48 pixels.
fn squares(number: u64) -> Vec<u8> {
    let mut random = Random::new(number, 1);
    let colours: Vec<[u8; 3]> = (0..16).map(|_| std::array::from_fn(|_| (random.uniform() * 255.0) as u8)).collect();
    (0..64 * 48).flat_map(|i| colours[i % 64 / 16 + i / 64 / 12 * 4]).collect()
}

/// A video of two frames a second that shows each picture for so many seconds.
fn video(path: &Path, shots: &[(u64, usize)]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let picture = |number| Image::new(64, 48, squares(number)).unwrap();
    let frames: Vec<Image> = shots.iter().flat_map(|&(n, seconds)| vec![picture(n); 2 * seconds]).collect();
    Ffmpeg::find().unwrap().encode(path, &frames, 2).unwrap();
}

pub fn picture(number: u64, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    RgbImage::from_raw(64, 48, squares(number)).unwrap().write_to(&mut file, format).unwrap();
    file.into_inner()
}

pub fn png(number: u64) -> Vec<u8> {
    picture(number, ImageFormat::Png)
}

pub fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}
