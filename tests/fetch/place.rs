//! Where the program runs, and how it ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::hub::{Repository, Server};

pub const WEIGHTS: &str = "model.safetensors";
pub const NEEDED: [&str; 6] =
    ["config.json", "merges.txt", WEIGHTS, "preprocessor_config.json", "tokenizer.json", "vocab.json"];

/// A place where the program runs, with its home.
pub struct Place(TempDir);

/// How a run ended.
pub struct Ran {
    pub code: Option<i32>,
    pub answer: String,
    pub told: String,
}

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file of the folder that the model goes to by itself.
    pub fn model(&self, name: &str) -> PathBuf {
        self.at("tiny").join(name)
    }

    /// What an earlier run left of the weights.
    pub fn part(&self, content: &[u8]) -> PathBuf {
        fs::create_dir_all(self.at("tiny")).unwrap();
        let part = self.model("model.safetensors.part");
        fs::write(&part, content).unwrap();
        part
    }

    /// The program, to which nothing else of the environment matters.
    pub fn command(&self, endpoint: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reelgrad"));
        for name in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "RUST_LOG"] {
            command.env_remove(name);
        }
        for name in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_ascii_lowercase());
        }
        command.arg("fetch").args(arguments).current_dir(self.0.path());
        command.env("HF_ENDPOINT", endpoint).env("HF_HOME", self.at("home"));
        command
    }

    pub fn run(&self, server: &Server, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
        let mut command = self.command(&server.address, arguments);
        let output = command.envs(environment.iter().copied()).output().unwrap();
        let [answer, told] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        Ran { code: output.status.code(), answer, told }
    }

    /// Fetches the model, which must go well, and returns the answer.
    #[track_caller]
    pub fn fetch(&self, server: &Server) -> Value {
        let ran = self.run(server, &["somebody/tiny", "--json"], &[]);
        assert_eq!(ran.code, Some(0), "{}", ran.told);
        serde_json::from_str(&ran.answer).unwrap()
    }

    /// What is complained of where the model cannot be fetched.
    #[track_caller]
    pub fn complaint(&self, server: &Server, environment: &[(&str, &str)]) -> String {
        let ran = self.run(server, &["somebody/tiny"], environment);
        assert_eq!((ran.code, ran.answer.as_str()), (Some(2), ""), "{}", ran.told);
        ran.told
    }
}

/// Where the files of an answer are from, if all are alike.
#[track_caller]
pub fn source(answer: &Value) -> &str {
    let files = answer["files"].as_array().unwrap();
    assert!(files.iter().all(|file| file["from"] == files[0]["from"]), "{answer}");
    files[0]["from"].as_str().unwrap()
}

/// Where one file of an answer is from.
pub fn source_of<'a>(answer: &'a Value, name: &str) -> &'a str {
    let file = answer["files"].as_array().unwrap().iter().find(|file| file["name"] == name);
    file.unwrap()["from"].as_str().unwrap()
}

/// A folder holds these files of the model, and nothing else.
#[track_caller]
pub fn assert_whole(folder: &Path, model: &Repository, names: &[&str]) {
    for name in names {
        assert!(fs::read(folder.join(name)).unwrap() == model.file(name).content, "{name}");
    }
    let mut held: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    held.sort();
    assert_eq!(held, names);
}
