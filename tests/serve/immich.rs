//! The protocol of Immich's machine learning.

use serde_json::{Value, json};

use crate::http::Request;
use crate::server::{Server, entries};
use crate::world::{NAME, base64, png};

/// The vector of an answer, which comes as a string.
fn predicted(answer: &Value) -> Vec<f32> {
    serde_json::from_str(answer["clip"].as_str().unwrap()).unwrap()
}

fn encoded(answer: &Value) -> Vec<f32> {
    serde_json::from_value(answer["vectors"][0].clone()).unwrap()
}

#[test]
fn immich_is_answered_in_its_own_protocol() {
    let server = Server::start(&[]);
    let (textual, visual) = (entries("textual", NAME), entries("visual", NAME));
    let ask =
        |fields: &[(&str, &str)], file: Option<(&str, &[u8])>| server.ask(&Request::form("/predict", fields, file));
    let answer = ask(&[("entries", &textual), ("text", "a dog")], None).json();
    assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
    assert_eq!(predicted(&answer), encoded(&server.post("/v1/encode/text", &json!({ "texts": ["a dog"] }))));
    let answer = ask(&[("entries", &visual)], Some(("image", &png(2)))).json();
    assert_eq!((&answer["imageHeight"], &answer["imageWidth"]), (&48.into(), &64.into()));
    assert_eq!(predicted(&answer), encoded(&server.post("/v1/encode/image", &json!({ "images": [base64(&png(2))] }))));

    let other = ask(&[("entries", &entries("textual", "ViT-B-32__openai")), ("text", "a dog")], None);
    assert!(other.refusal(&[422], "another model").contains(NAME));
    let stage = json!({ "modelName": "buffalo_l", "options": { "minScore": 0.7 } });
    for task in ["facial-recognition", "ocr"] {
        let wanted = json!({ task: { "detection": stage, "recognition": stage } }).to_string();
        ask(&[("entries", &wanted)], Some(("image", &png(2)))).refusal(&[422], task);
    }
    for bad in ["", "{", "null", "[]", "{}", r#"{"clip":1}"#, r#"{"clip":{}}"#, r#"{"clip":{"textual":{}}}"#] {
        ask(&[("entries", bad), ("text", "a dog")], None).refusal(&[422], bad);
    }
    ask(&[("text", "a dog")], None).refusal(&[422], "no entries");
    ask(&[("entries", &textual)], None).refusal(&[400], "neither");
    ask(&[("entries", &visual)], None).refusal(&[400], "neither");
    ask(&[("entries", &textual), ("text", "  ")], None).refusal(&[400], "a blank text");
    ask(&[("entries", &visual)], Some(("image", b"no picture"))).refusal(&[400], "no picture");
    ask(&[("entries", &visual)], Some(("image", b""))).refusal(&[400], "an empty picture");
    server.ask(&Request::post("/predict", &json!({}))).refusal(&[415], "JSON");
    let edgeless = Request::new("POST", "/predict").with("Content-Type: multipart/form-data").of("x");
    server.ask(&edgeless).refusal(&[400, 415], "a form without a boundary");
}

#[test]
fn immich_may_know_the_model_by_another_name() {
    let server = Server::start(&["--immich-model", "ViT-B-32__openai"]);
    let ask = |model| {
        let entries = entries("textual", model);
        server.ask(&Request::form("/predict", &[("entries", &entries), ("text", "a dog")], None))
    };
    assert!(!predicted(&ask("ViT-B-32__openai").json()).is_empty());
    assert!(ask(NAME).refusal(&[422], NAME).contains("ViT-B-32__openai"));
}
