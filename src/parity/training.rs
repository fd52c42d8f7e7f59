//! Golden cases of optimisers and learning-rate schedules.

use serde_json::Value;

use super::Row;
use super::case::Case;
use crate::nn::{Init, StoreBuilder};
use crate::optim::schedule::{Goal, PlateauConfig, Threshold};
use crate::optim::{Algorithm, GroupOptions, Optimizer, ReduceLrOnPlateau, Schedule};
use crate::tensor::Tensor;
use crate::{Gpu, Result};

/// Replays an optimiser's trace over three tensors.
pub(super) fn optimizer(gpu: &Gpu, case: &Case) -> Result<Vec<Row>> {
    let names = case.names("input.param0.");
    let (store, ()) = StoreBuilder::new(gpu, 0).build(|s| {
        names.iter().try_for_each(|name| {
            let start = case.array(&format!("input.param0.{name}"))?;
            s.declare(name, start.shape(), Init::Values(start.data().to_vec())).map(drop)
        })
    })?;
    let (beta1, beta2, eps) = (case.number("beta1")?, case.number("beta2")?, case.number("eps")?);
    let algorithm = match case.text("algorithm") {
        "adamw" => Algorithm::AdamW { beta1, beta2, eps },
        "bertadam" => Algorithm::BertAdam { beta1, beta2, eps },
        _ => Algorithm::Adam { beta1, beta2, eps },
    };
    let decay = case.config["weight_decay_per_tensor"].clone();
    let tensor_clip = case.config["clip_tensor_norm"].as_f64();
    let global_clip = case.config["clip_global_norm"].as_f64();
    let mut optimizer = Optimizer::new(&store, algorithm, |p| GroupOptions {
        weight_decay: decay[p.name()].as_f64().unwrap_or(0.0),
        clip_tensor_norm: tensor_clip,
        ..GroupOptions::default()
    })?
    .clip_global_norm(global_clip);

    let steps = case.size("steps")?;
    let (mut norms, mut lrs) = (Vec::new(), Vec::new());
    let mut traces: Vec<Vec<f32>> = vec![Vec::new(); names.len()];
    for step in 0..steps {
        for name in &names {
            let grads = case.array(&format!("input.grads.{name}"))?;
            let len = grads.len() / steps;
            let parameter = store.get(name)?;
            if let Some(gradient) = parameter.gradient() {
                gradient.write(&grads.data()[step * len..(step + 1) * len])?;
            }
        }
        let multiplier = match schedule_of(case) {
            Some(schedule) => {
                schedule.multiplier(step as u64, case.size("total_steps")? as u64, case.number("warmup")?)
            }
            None => 1.0,
        };
        let lr = case.number("lr")? * multiplier;
        lrs.push(lr as f32);
        if let Some(norm) = optimizer.step(&store, lr)? {
            norms.push(norm);
        }
        for (name, trace) in names.iter().zip(&mut traces) {
            trace.extend(store.get(name)?.value().to_vec()?);
        }
    }
    let mut rows: Vec<Row> = names
        .iter()
        .zip(&traces)
        .map(|(name, trace)| case.row(&format!("output.trace.{name}"), trace))
        .collect::<Result<_>>()?;
    if case.has("output.global_norm") {
        let norms: Vec<f32> = norms.iter().map(Tensor::item).collect::<Result<_>>()?;
        rows.push(case.row("output.global_norm", &norms)?);
    }
    if case.has("output.lr") {
        rows.push(case.row("output.lr", &lrs)?);
    }
    Ok(rows)
}

fn schedule_of(case: &Case) -> Option<Schedule> {
    Some(match case.text("schedule") {
        "constant" => Schedule::Constant,
        "warmup_constant" => Schedule::WarmupConstant,
        "warmup_linear" => Schedule::WarmupLinear,
        "warmup_cosine" => Schedule::WarmupCosine,
        "warmup_cosine_rescaled" => Schedule::WarmupCosineRescaled,
        _ => return None,
    })
}

/// The multiplier at every step.
pub(super) fn schedule(case: &Case) -> Result<Option<Vec<Row>>> {
    let Some(schedule) = schedule_of(case) else { return Ok(None) };
    let (total, warmup) = (case.size("total_steps")? as u64, case.number("warmup")?);
    let (_, steps) = case.ids("input.step")?;
    let got: Vec<f32> = steps.iter().map(|&s| schedule.multiplier(s.into(), total, warmup) as f32).collect();
    Ok(Some(vec![case.row("output.multiplier", &got)?]))
}

/// The rate after every evaluation.
pub(super) fn plateau(case: &Case) -> Result<Vec<Row>> {
    let mut plateau = ReduceLrOnPlateau::new(case.number("initial_lr")?, plateau_config(&case.config))?;
    let metrics = case.array("input.metric")?;
    let got: Vec<f32> = metrics.data().iter().map(|&m| plateau.step(m.into()) as f32).collect();
    Ok(vec![case.row("output.lr", &got)?])
}

fn plateau_config(config: &Value) -> PlateauConfig {
    let default = PlateauConfig::default();
    let number = |key: &str, default: f64| config[key].as_f64().unwrap_or(default);
    let count = |key: &str, default: u64| config[key].as_u64().unwrap_or(default);
    PlateauConfig {
        goal: if config["mode"] == "min" { Goal::Min } else { Goal::Max },
        threshold_mode: if config["threshold_mode"] == "abs" { Threshold::Abs } else { Threshold::Rel },
        factor: number("factor", default.factor),
        patience: count("patience", default.patience),
        cooldown: count("cooldown", default.cooldown),
        threshold: number("threshold", default.threshold),
        min_lr: number("min_lr", default.min_lr),
        eps: number("eps", default.eps),
    }
}
