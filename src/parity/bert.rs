//! Golden cases of BERT and RoBERTa.

use super::Row;
use super::golden::Case;
use super::run::Run;
use crate::autograd::Var;
use crate::models::Model;
use crate::models::bert::{Bert, BertConfig, BertKind, Sentences};
use crate::{Gpu, Result};

/// The rows of a `bert-*` or `roberta-*` case: all outputs, the loss, and the gradient of every parameter.
pub(super) fn check(gpu: &Gpu, case: &Case) -> Result<Vec<Row>> {
    let same = ["vocab_size", "hidden_size", "intermediate_size", "type_vocab_size", "layer_norm_eps", "pad_token_id"];
    let renamed = [
        ("layers", "num_hidden_layers"),
        ("num_heads", "num_attention_heads"),
        ("max_positions", "max_position_embeddings"),
    ];
    let model_type = if case.model == "roberta" { BertKind::Roberta } else { BertKind::Bert };
    let config = BertConfig { model_type, ..case.fields(&same, &renamed)? };
    let model = Bert::from_arrays(gpu, config, "the golden file", case.parameters()?)?;
    let mut run = Run::new(gpu, case);

    let (_, ids) = case.ids("input.input_ids")?;
    let mask = case.array("input.attention_mask")?;
    let types = "input.token_type_ids";
    let types = case.has(types).then(|| case.ids(types)).transpose()?.map(|(_, types)| types);
    let length = case.size("text_len")?;
    let sentences = Sentences { ids: &ids, mask: mask.data(), token_types: types.as_deref(), length };
    let outputs = model.forward(&run.tape, &sentences)?;

    let mut results: Vec<(&str, Var)> = vec![
        ("embedding_output", outputs.embedding_output.clone()),
        ("second_to_last_hidden_state", outputs.second_to_last_hidden_state.clone()),
        ("last_hidden_state", outputs.last_hidden_state.clone()),
        ("concat_last_two", outputs.concat_last_two()?),
        ("mean_pooled", outputs.mean_pooled()?),
    ];
    results.extend(outputs.pooler_output.clone().map(|pooled| ("pooler_output", pooled)));
    let mut parts = Vec::new();
    for (name, var) in &results {
        run.add(format!("output.{name}"), var);
        let cotangent = format!("cotangent.{name}");
        if case.has(&format!("input.{cotangent}")) {
            parts.push(var.mul(&run.tape.constant(run.tensor(&cotangent)?))?.sum_all());
        }
    }
    let total = parts.into_iter().reduce(|sum, part| sum?.add(&part?)).transpose()?;
    if let Some(total) = &total {
        run.add("loss.total", total);
    }
    run.finish_model(model.store(), total.as_ref())
}
