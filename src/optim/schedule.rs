//! Learning rates over the course of a run.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A learning-rate multiplier as a function of progress `x = step / total`, with a linear warm-up from 0 while
/// `x < warmup`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// 1 throughout, without a warm-up.
    #[default]
    Constant,
    /// 1 after the warm-up.
    WarmupConstant,
    /// After the warm-up a line from 1 down to 0 at the end, and 0 from there on.
    WarmupLinear,
    /// CLIP4Clip's cosine: `(1 + cos πx) / 2` over the whole run, so the rate jumps down where the warm-up ends, and
    /// rises again beyond the end.
    WarmupCosine,
    /// The cosine over what the warm-up leaves: starts at 1 and reaches 0 at the end.
    WarmupCosineRescaled,
}

impl Schedule {
    /// The multiplier at `step` (counted from 0) of `total`, with `warmup` a fraction of the run.
    ///
    /// A `total` of 0 means no schedule: the multiplier is 1. `warmup` is clamped to 0..=1, NaN counts as 0.
    pub fn multiplier(self, step: u64, total: u64, warmup: f64) -> f64 {
        if total == 0 || self == Schedule::Constant {
            return 1.0;
        }
        let warmup = if warmup.is_nan() { 0.0 } else { warmup.clamp(0.0, 1.0) };
        let x = step as f64 / total as f64;
        if x < warmup {
            return x / warmup;
        }
        // A warm-up over the whole run leaves nothing to scale by.
        let rest = if warmup < 1.0 { (x - warmup) / (1.0 - warmup) } else { x };
        match self {
            Schedule::Constant | Schedule::WarmupConstant => 1.0,
            Schedule::WarmupLinear => (1.0 - rest).max(0.0),
            Schedule::WarmupCosine => 0.5 * (1.0 + (PI * x).cos()),
            Schedule::WarmupCosineRescaled => 0.5 * (1.0 + (PI * rest).cos()),
        }
    }
}

/// Whether a metric should grow or shrink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// Larger is better.
    Max,
    /// Smaller is better.
    Min,
}

/// What an improvement is measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Threshold {
    /// The fraction of the best value.
    Rel,
    /// The value itself.
    Abs,
}

/// How [`ReduceLrOnPlateau`] behaves; the defaults are PyTorch's, but for the goal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlateauConfig {
    /// Whether the metric should grow or shrink.
    pub goal: Goal,
    /// What the rate is multiplied by, in 0..1.
    pub factor: f64,
    /// Evaluations without an improvement that are let pass; the next one reduces the rate.
    pub patience: u64,
    /// Evaluations after a reduction in which none is counted.
    pub cooldown: u64,
    /// By how much a value must beat the best one.
    pub threshold: f64,
    /// Unit of `threshold`.
    pub threshold_mode: Threshold,
    /// The rate never falls below this.
    pub min_lr: f64,
    /// A reduction by no more than this is not made.
    pub eps: f64,
}

impl Default for PlateauConfig {
    fn default() -> Self {
        Self {
            goal: Goal::Max,
            factor: 0.1,
            patience: 10,
            cooldown: 0,
            threshold: 1e-4,
            threshold_mode: Threshold::Rel,
            min_lr: 0.0,
            eps: 1e-8,
        }
    }
}

/// Reduces the learning rate when a metric stops improving, as PyTorch's scheduler of that name does.
///
/// Serialise the whole value into a checkpoint; it resumes where it stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReduceLrOnPlateau {
    config: PlateauConfig,
    lr: f64,
    /// None before the first finite value: JSON has no infinity to start from.
    best: Option<f64>,
    bad: u64,
    cooling: u64,
}

impl ReduceLrOnPlateau {
    /// A scheduler that starts at the rate `lr`.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `factor` is in 0..1 and the other numbers are finite and not negative.
    pub fn new(lr: f64, config: PlateauConfig) -> Result<Self> {
        let fail = |argument, why: &str| Err(Error::Argument { op: "ReduceLrOnPlateau", argument, why: why.into() });
        if !(0.0..1.0).contains(&config.factor) {
            return fail("factor", "must be in 0..1");
        }
        for (name, value) in
            [("lr", lr), ("threshold", config.threshold), ("min_lr", config.min_lr), ("eps", config.eps)]
        {
            if !(value.is_finite() && value >= 0.0) {
                return fail(name, "must be finite and not negative");
            }
        }
        Ok(Self { config, lr, best: None, bad: 0, cooling: 0 })
    }

    /// The current rate.
    pub fn lr(&self) -> f64 {
        self.lr
    }

    /// The best metric so far.
    pub fn best(&self) -> Option<f64> {
        self.best
    }

    /// Takes the metric of one evaluation and returns the rate from here on. NaN is no improvement.
    pub fn step(&mut self, metric: f64) -> f64 {
        if self.improves(metric) {
            self.best = Some(metric);
            self.bad = 0;
        } else {
            self.bad += 1;
        }
        if self.cooling > 0 {
            self.cooling -= 1;
            self.bad = 0;
        }
        if self.bad > self.config.patience {
            let reduced = (self.lr * self.config.factor).max(self.config.min_lr);
            if self.lr - reduced > self.config.eps {
                self.lr = reduced;
            }
            self.cooling = self.config.cooldown;
            self.bad = 0;
        }
        self.lr
    }

    /// Whether `metric` beats the best value by the threshold.
    fn improves(&self, metric: f64) -> bool {
        let Some(best) = self.best else { return metric.is_finite() };
        let threshold = self.config.threshold;
        match (self.config.goal, self.config.threshold_mode) {
            (Goal::Max, Threshold::Rel) => metric > best * (1.0 + threshold),
            (Goal::Max, Threshold::Abs) => metric > best + threshold,
            (Goal::Min, Threshold::Rel) => metric < best * (1.0 - threshold),
            (Goal::Min, Threshold::Abs) => metric < best - threshold,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::golden;

    #[test]
    fn schedules_match_the_golden_files() {
        for name in ["constant", "warmup_constant", "warmup_linear", "warmup_cosine", "warmup_cosine_rescaled"] {
            let golden = golden::open(&format!("op-lr_schedule-{name}"));
            let schedule: Schedule = serde_json::from_value(golden.config["schedule"].clone()).unwrap();
            let total = golden.config["total_steps"].as_u64().unwrap();
            let warmup = golden.config["warmup"].as_f64().unwrap();
            let steps = golden.u32("input.step");
            let got: Vec<f32> = steps.iter().map(|&s| schedule.multiplier(s.into(), total, warmup) as f32).collect();
            golden.check("output.multiplier", &got);
        }
    }

    #[test]
    fn plateau_matches_the_golden_file_across_a_resume() {
        let golden = golden::open("op-lr_plateau");
        let config = &golden.config;
        let number = |name: &str| config[name].as_f64().unwrap();
        let plateau = PlateauConfig {
            goal: serde_json::from_value(config["mode"].clone()).unwrap(),
            factor: number("factor"),
            patience: config["patience"].as_u64().unwrap(),
            cooldown: config["cooldown"].as_u64().unwrap(),
            threshold: number("threshold"),
            threshold_mode: serde_json::from_value(config["threshold_mode"].clone()).unwrap(),
            min_lr: number("min_lr"),
            eps: number("eps"),
        };
        let mut scheduler = ReduceLrOnPlateau::new(number("initial_lr"), plateau).unwrap();
        let mut got = Vec::new();
        for metric in golden.f32("input.metric") {
            got.push(scheduler.step(metric.into()) as f32);
            let text = serde_json::to_string(&scheduler).unwrap();
            let restored: ReduceLrOnPlateau = serde_json::from_str(&text).unwrap();
            assert_eq!(restored, scheduler);
            scheduler = restored;
        }
        golden.check("output.lr", &got);
    }

    #[test]
    fn edges_of_schedules_are_finite() {
        for schedule in [Schedule::WarmupConstant, Schedule::WarmupLinear, Schedule::WarmupCosineRescaled] {
            for warmup in [0.0, 1.0, 2.0, -1.0, f64::NAN] {
                for step in [0, 1, 10, 11, u64::MAX] {
                    let m = schedule.multiplier(step, 10, warmup);
                    assert!((0.0..=1.0).contains(&m), "{schedule:?} {step} {warmup}: {m}");
                }
            }
            assert_eq!(schedule.multiplier(3, 0, 0.1), 1.0);
        }
    }

    #[test]
    fn plateau_goals_and_bounds() {
        let config = PlateauConfig {
            goal: Goal::Min,
            factor: 0.1,
            patience: 0,
            threshold_mode: Threshold::Abs,
            threshold: 0.5,
            min_lr: 0.05,
            ..Default::default()
        };
        let mut scheduler = ReduceLrOnPlateau::new(1.0, config).unwrap();
        assert_eq!(scheduler.step(f64::NAN), 0.1);
        assert_eq!(scheduler.step(3.0), 0.1);
        assert_eq!(scheduler.step(2.0), 0.1);
        assert_eq!(scheduler.best(), Some(2.0));
        assert_eq!(scheduler.step(1.9), 0.05);
        assert_eq!(scheduler.step(1.9), 0.05);
        assert!(ReduceLrOnPlateau::new(f64::NAN, config).is_err());
        assert!(ReduceLrOnPlateau::new(1.0, PlateauConfig { factor: 1.0, ..config }).is_err());
    }
}
