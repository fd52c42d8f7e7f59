//! Makes the files.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A scratch folder with made files in it.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Runs ffmpeg in the folder with the words of `arguments`, which end in the file's name.
    pub fn ffmpeg(&self, arguments: &str) -> PathBuf {
        let words: Vec<&str> = arguments.split_ascii_whitespace().collect();
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-loglevel", "error", "-y"]).args(&words).current_dir(self.root());
        assert!(command.status().unwrap().success(), "{command:?}");
        self.path(words.last().unwrap())
    }

    /// `seconds` of moving pictures at `rate`, made by the further `arguments`.
    pub fn video(&self, rate: &str, seconds: u32, arguments: &str) -> PathBuf {
        self.ffmpeg(&format!("-f lavfi -i testsrc2=s=160x120:r={rate}:d={seconds} {arguments}"))
    }

    /// Frames at whole seconds and 30 a second, but only each fifth of them from second 4 on.
    pub fn variable(&self) -> PathBuf {
        self.video("30", 10, "-vf select='if(lt(t,4),1,not(mod(n,5)))' -fps_mode vfr -c:v libx264 variable.mp4")
    }

    /// As browsers record: ticks of a millisecond, frames as they come, no length and no rate in the head.
    pub fn browser(&self) -> PathBuf {
        let frames = "-vf select='gt(mod(n*7,11),3)',settb=1/1000 -fps_mode vfr -c:v libvpx -b:v 300k";
        self.video("1000/33", 12, &format!("{frames} -f webm -live 1 browser.webm"))
    }

    /// Starts in the middle of a group of pictures, whose first ones are there and not shown.
    pub fn edit_list(&self) -> PathBuf {
        self.video("10", 20, "-g 250 -c:v libx264 whole.mp4");
        self.ffmpeg("-ss 8 -i whole.mp4 -c copy edit_list.mp4")
    }

    /// Its first frame is shown after seven seconds.
    pub fn offset(&self) -> PathBuf {
        self.video("25", 9, "-c:v libx264 -output_ts_offset 7.3 offset.mkv")
    }

    /// Noise in the middle.
    pub fn damaged(&self) -> PathBuf {
        let whole = self.video("30", 12, "-c:v libx264 -b:v 500k whole_d.mp4");
        let mut bytes = std::fs::read(whole).unwrap();
        let (middle, mut state) = (bytes.len() / 2, 1u32);
        for byte in &mut bytes[middle..middle + 2000] {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        self.file("damaged.mp4", bytes)
    }
}
