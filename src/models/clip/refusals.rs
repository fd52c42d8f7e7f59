//! What a folder holds that is no model of these families, in words that say what it is and what to do.

use std::path::Path;

use serde_json::Value;

use crate::Error;

/// What can be opened.
const SUPPORTED: &str = "CLIP, open_clip's vision transformers, SigLIP, SigLIP 2 of fixed resolution and Chinese-CLIP";

/// Models by Hugging Face's `model_type`: what they are, and why they are none of the supported ones.
const OTHERS: [(&str, &str); 38] = [
    ("altclip", "AltCLIP, whose text tower is an XLM-RoBERTa"),
    ("xclip", "X-CLIP, whose image tower looks across frames"),
    ("blip", "BLIP"),
    ("blip-2", "BLIP-2"),
    ("instructblip", "InstructBLIP"),
    (
        "siglip2",
        "a SigLIP 2 of the NaFlex kind, which takes pictures of any proportion; take a checkpoint of fixed resolution (google/siglip2-base-patch16-224 and its kin)",
    ),
    ("clipseg", "CLIPSeg, a model for segmentation"),
    ("clap", "CLAP, a model for sounds"),
    ("clvp", "CLVP, a model for speech"),
    ("align", "ALIGN, whose image tower is an EfficientNet"),
    ("flava", "FLAVA"),
    ("groupvit", "GroupViT"),
    ("owlvit", "OWL-ViT, a detector"),
    ("owlv2", "OWLv2, a detector"),
    ("bridgetower", "BridgeTower"),
    ("vision-text-dual-encoder", "a dual encoder that was joined from two other models"),
    ("metaclip_2", "MetaCLIP 2"),
    ("jina_clip", "Jina CLIP"),
    ("tinyclip", "TinyCLIP"),
    ("mobileclip", "MobileCLIP"),
    ("eva_clip", "EVA-CLIP"),
    ("llava", "LLaVA, a language model that sees"),
    ("clip_text_model", "the text tower of a CLIP alone; take the folder of the whole model"),
    ("clip_vision_model", "the image tower of a CLIP alone; take the folder of the whole model"),
    ("siglip_text_model", "the text tower of a SigLIP alone; take the folder of the whole model"),
    ("siglip_vision_model", "the image tower of a SigLIP alone; take the folder of the whole model"),
    ("siglip2_text_model", "the text tower of a SigLIP 2 alone; take the folder of the whole model"),
    ("siglip2_vision_model", "the image tower of a SigLIP 2 alone; take the folder of the whole model"),
    ("chinese_clip_text_model", "the text tower of a Chinese-CLIP alone; take the folder of the whole model"),
    ("chinese_clip_vision_model", "the image tower of a Chinese-CLIP alone; take the folder of the whole model"),
    ("bert", "a BERT, which encodes texts alone: `encode bert` takes it"),
    ("roberta", "a RoBERTa, which encodes texts alone: `encode bert` takes it"),
    ("xlm-roberta", "an XLM-RoBERTa, which encodes texts alone"),
    ("distilbert", "a DistilBERT, which encodes texts alone"),
    ("mpnet", "an MPNet, which encodes texts alone"),
    ("vit", "a ViT, which encodes images alone"),
    ("dinov2", "a DINOv2, which encodes images alone"),
    ("videomae", "a VideoMAE, which encodes videos alone"),
];

/// The error of a `config.json` of another model.
pub(super) fn model_type(path: &Path, json: &Value) -> Error {
    let Some(found) = json["model_type"].as_str() else {
        let problem = format!("is missing: this is no configuration of a model; supported are {SUPPORTED}");
        return Error::malformed(path, "model_type", problem);
    };
    let known = OTHERS.iter().find(|(name, _)| *name == found).map(|(_, what)| *what);
    let what = known.map_or_else(|| format!("is {found:?}"), |what| format!("is {found:?}: {what}"));
    Error::malformed(path, "model_type", format_args!("{what}; supported are {SUPPORTED}"))
}

/// The error of an open_clip configuration whose towers are others than plain transformers, if it is one.
pub(super) fn open_clip(path: &Path, model: &Value) -> Option<Error> {
    let refuse = |place: &str, what: String| {
        Some(Error::malformed(path, place, format_args!("{what}; supported are {SUPPORTED}")))
    };
    let (vision, text) = (&model["vision_cfg"], &model["text_cfg"]);
    if let Some(name) = vision["timm_model_name"].as_str() {
        let what = match name {
            n if n.contains("siglip") => {
                "a SigLIP in open_clip's layout; the same model in Hugging Face's layout (google/siglip-.., google/siglip2-..) can be opened"
            }
            n if n.contains("pe_core") || n.starts_with("vit_pe") => "a PE-Core (Perception Encoder)",
            n if n.contains("eva") => "an EVA-CLIP",
            n if n.contains("mci") || n.contains("mobileclip") || n.contains("fastvit") => "a MobileCLIP",
            n if n.contains("convnext") => "a ConvNeXt",
            _ => "of timm's",
        };
        return refuse("vision_cfg.timm_model_name", format!("the image tower {name:?} is {what}"));
    }
    if let Some(name) = text["hf_model_name"].as_str() {
        return refuse("text_cfg.hf_model_name", format!("the text tower is {name:?}, of another library"));
    }
    if vision["layers"].is_array() {
        return refuse("vision_cfg.layers", "the image tower is a ResNet".into());
    }
    if !model["multimodal_cfg"].is_null() {
        return refuse("multimodal_cfg", "this is a CoCa, which also writes captions".into());
    }
    None
}

/// The error of a path at which there is no model, with what is there instead.
pub(super) fn nothing_at(path: &Path) -> Error {
    let text = path.to_string_lossy();
    let parts: Vec<&str> = text.split('/').collect();
    let plain = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if !path.exists() {
        if parts.len() == 2 && parts.iter().all(plain) && !text.starts_with('.') {
            let problem = format!(
                "there is no such folder; if this is a name on the Hugging Face hub, download it first: \
                 hf download {text} --local-dir {}",
                parts[1]
            );
            return Error::malformed(path, "model", problem);
        }
        return Error::io("open", path, std::io::ErrorKind::NotFound.into());
    }
    if path.join("modules.json").is_file() {
        let inner = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut clip: Vec<_> = inner.filter(|inner| inner.join("config.json").is_file()).collect();
        clip.sort();
        let inner = clip.first().map_or_else(|| "its folder 0_CLIPModel".into(), |inner| inner.display().to_string());
        let problem = format!("this is the root of a sentence-transformers model; give {inner}");
        return Error::malformed(path, "modules.json", problem);
    }
    let problem = "there is neither config.json nor open_clip_config.json; give the whole folder of a model, or, for \
                   weights alone, their file and its architecture";
    Error::malformed(path, "model", problem)
}
