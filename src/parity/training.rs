//! Golden cases of optimisers and learning-rate schedules.

use serde::Deserialize;

use super::Row;
use super::golden::Case;
use crate::nn::{Init, ParameterStore, StoreBuilder};
use crate::optim::{GroupOptions, Optimizer, ReduceLrOnPlateau, Schedule};
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
    let mut optimizer = new_optimizer(case, &store)?;
    let steps = case.size("steps")?;
    let (mut norms, mut lrs) = (Vec::new(), Vec::new());
    let mut traces: Vec<Vec<f32>> = vec![Vec::new(); names.len()];
    for step in 0..steps {
        for name in &names {
            let grads = case.array(&format!("input.grads.{name}"))?;
            let len = grads.len() / steps;
            if let Some(gradient) = store.get(name)?.gradient() {
                gradient.write(&grads.data()[step * len..(step + 1) * len])?;
            }
        }
        let lr = case.number("lr")? * multiplier(case, step)?;
        lrs.push(lr as f32);
        norms.extend(optimizer.step(&store, lr)?.map(|norm| norm.item()).transpose()?);
        for (name, trace) in names.iter().zip(&mut traces) {
            trace.extend(store.get(name)?.value().to_vec()?);
        }
    }
    let row = |(name, trace): (&String, &Vec<f32>)| case.row(&format!("output.trace.{name}"), trace);
    let mut rows: Vec<Row> = names.iter().zip(&traces).map(row).collect::<Result<_>>()?;
    for (name, got) in [("output.global_norm", &norms), ("output.lr", &lrs)] {
        if case.has(name) {
            rows.push(case.row(name, got)?);
        }
    }
    Ok(rows)
}

fn new_optimizer(case: &Case, store: &ParameterStore) -> Result<Optimizer> {
    let algorithm = case.fields(&["algorithm", "beta1", "beta2", "eps"], &[])?;
    let optimizer = Optimizer::new(store, algorithm, |p| GroupOptions {
        weight_decay: case.config["weight_decay_per_tensor"][p.name()].as_f64().unwrap_or(0.0),
        clip_tensor_norm: case.config["clip_tensor_norm"].as_f64(),
        ..GroupOptions::default()
    })?;
    Ok(optimizer.clip_global_norm(case.config["clip_global_norm"].as_f64()))
}

fn multiplier(case: &Case, step: usize) -> Result<f64> {
    let Some(schedule) = schedule_of(case) else { return Ok(1.0) };
    Ok(schedule.multiplier(step as u64, case.size("total_steps")? as u64, case.number("warmup")?))
}

fn schedule_of(case: &Case) -> Option<Schedule> {
    Schedule::deserialize(&case.config["schedule"]).ok()
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
    let same = ["threshold_mode", "factor", "patience", "cooldown", "threshold", "min_lr", "eps"];
    let mut plateau = ReduceLrOnPlateau::new(case.number("initial_lr")?, case.fields(&same, &[("mode", "goal")])?)?;
    let metrics = case.array("input.metric")?;
    let got: Vec<f32> = metrics.data().iter().map(|&m| plateau.step(m.into()) as f32).collect();
    Ok(vec![case.row("output.lr", &got)?])
}
