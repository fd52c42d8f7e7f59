//! Which files make up a published dataset.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{
    Problems, Report, Split, VideoCaptions, check, read_activitynet_paragraphs, read_caption_lists,
    read_didemo_paragraphs, read_id_list, read_jsonl, read_lsmdc, read_msrvtt, read_msrvtt_ids, read_msrvtt_test,
};
use crate::data::Part;
use crate::{Error, Result};

/// A dataset of text-video retrieval, as a folder with its published annotation files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dataset {
    /// MSR-VTT, 9,000 videos for training: `MSRVTT_train.9k.csv`, `MSRVTT_data.json`, `MSRVTT_JSFUSION_test.csv`.
    MsrVtt9k,
    /// MSR-VTT, 7,010 videos for training: `MSRVTT_train.7k.csv` and the other two.
    MsrVtt7k,
    /// MSVD: `{train,val,test}_list.txt` and `captions_msvd.json`.
    Msvd,
    /// DiDeMo: `{train,val,test}_list.txt` and `{train,val,test}_data.json`.
    Didemo,
    /// VATEX: `{train,val,test}_list.txt` and `ref_captions.json`.
    Vatex,
    /// ActivityNet Captions: `{train,val}_ids.json`, `train.json` and `val_1.json`. Published figures are those of
    /// the validation part; there is no other.
    ActivityNet,
    /// LSMDC: `LSMDC16_annos_{training,val}.csv` and `LSMDC16_challenge_1000_publictect.csv`.
    Lsmdc,
    /// The neutral form: `{train,val,test}.jsonl`, see [`read_jsonl`].
    Neutral,
}

impl Dataset {
    /// All datasets.
    pub const ALL: [Dataset; 8] = [
        Dataset::MsrVtt9k,
        Dataset::MsrVtt7k,
        Dataset::Msvd,
        Dataset::Didemo,
        Dataset::Vatex,
        Dataset::ActivityNet,
        Dataset::Lsmdc,
        Dataset::Neutral,
    ];

    /// Its name on command lines, such as `msrvtt-9k`.
    pub fn name(self) -> &'static str {
        match self {
            Dataset::MsrVtt9k => "msrvtt-9k",
            Dataset::MsrVtt7k => "msrvtt-7k",
            Dataset::Msvd => "msvd",
            Dataset::Didemo => "didemo",
            Dataset::Vatex => "vatex",
            Dataset::ActivityNet => "activitynet",
            Dataset::Lsmdc => "lsmdc",
            Dataset::Neutral => "neutral",
        }
    }

    /// The parts that it has. MSR-VTT's splits have none for validation: published models are chosen on the test.
    pub fn parts(self) -> &'static [Part] {
        match self {
            Dataset::MsrVtt9k | Dataset::MsrVtt7k => &[Part::Train, Part::Test],
            Dataset::ActivityNet => &[Part::Train, Part::Validation],
            _ => &[Part::Train, Part::Validation, Part::Test],
        }
    }

    /// Reads a part from the folder with the annotation files.
    ///
    /// # Errors
    /// [`Error::Argument`] for a part that it does not have; those of the readers; and problems of their rows.
    pub fn read(self, folder: impl AsRef<Path>, part: Part, problems: &mut Problems) -> Result<Split> {
        let file = |name: &str| folder.as_ref().join(name);
        let name = part.name();
        match (self, part) {
            (Dataset::MsrVtt9k | Dataset::MsrVtt7k, Part::Train) => {
                let videos = if self == Dataset::MsrVtt7k { "MSRVTT_train.7k.csv" } else { "MSRVTT_train.9k.csv" };
                let ids = read_msrvtt_ids(file(videos), problems)?;
                let captions = file("MSRVTT_data.json");
                read_msrvtt(&captions, problems)?.select(&ids, &captions, problems)
            }
            (Dataset::MsrVtt9k | Dataset::MsrVtt7k, Part::Test) => {
                read_msrvtt_test(file("MSRVTT_JSFUSION_test.csv"), problems)
            }
            (Dataset::Msvd | Dataset::Vatex, _) => {
                let ids = read_id_list(file(&format!("{name}_list.txt")), problems)?;
                let captions = self.caption_lists(folder.as_ref());
                read_caption_lists(&captions, problems)?.select(&ids, &captions, problems)
            }
            (Dataset::Didemo, _) => {
                let (list, annotations) = (file(&format!("{name}_list.txt")), file(&format!("{name}_data.json")));
                read_didemo_paragraphs(list, annotations, problems)
            }
            (Dataset::ActivityNet, Part::Train | Part::Validation) => {
                let annotations = if part == Part::Train { "train.json" } else { "val_1.json" };
                read_activitynet_paragraphs(file(&format!("{name}_ids.json")), file(annotations), problems)
            }
            (Dataset::Lsmdc, _) => {
                let name = match part {
                    Part::Train => "LSMDC16_annos_training.csv",
                    Part::Validation => "LSMDC16_annos_val.csv",
                    Part::Test => "LSMDC16_challenge_1000_publictect.csv",
                };
                read_lsmdc(file(name), problems)
            }
            (Dataset::Neutral, _) => read_jsonl(file(&format!("{name}.jsonl")), problems),
            (Dataset::MsrVtt9k | Dataset::MsrVtt7k, Part::Validation) | (Dataset::ActivityNet, Part::Test) => {
                let parts: Vec<_> = self.parts().iter().map(|part| part.name()).collect();
                let why = format!("{name:?} is not in {}, which has {}", self.name(), parts.join(" and "));
                Err(Error::argument("Dataset::read", "part", why))
            }
        }
    }

    /// Reads all parts leniently and looks for the file of each video, see [`check`].
    ///
    /// # Errors
    /// As [`Dataset::read`], without problems of rows.
    pub fn check(self, folder: impl AsRef<Path>, is_there: impl FnMut(&VideoCaptions) -> bool) -> Result<Report> {
        let mut parts = Vec::new();
        for &part in self.parts() {
            let mut problems = Problems::lenient();
            let split = self.read(folder.as_ref(), part, &mut problems)?;
            parts.push((part.name(), split, problems));
        }
        Ok(check(&parts, is_there))
    }

    /// MSVD's or VATEX' captions; MSVD's pickle, to be refused with advice, where only that is there.
    fn caption_lists(self, folder: &Path) -> PathBuf {
        if self == Dataset::Vatex {
            return folder.join("ref_captions.json");
        }
        let (json, pickle) = (folder.join("captions_msvd.json"), folder.join("raw-captions.pkl"));
        if !json.exists() && pickle.exists() { pickle } else { json }
    }
}

impl FromStr for Dataset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|dataset| dataset.name() == name).ok_or_else(|| {
            let why = format!("{name:?} is none of {}", Self::ALL.map(Self::name).join(", "));
            Error::argument("Dataset::from_str", "name", why)
        })
    }
}
