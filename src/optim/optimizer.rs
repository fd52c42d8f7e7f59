//! Optimisers: one dispatch a group of hyper-parameters and flat buffer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::kernels::elementwise::permute;
use crate::kernels::optimizer::{self, Clip, Group, Numbers, Update};
use crate::nn::{Parameter, ParameterStore};
use crate::tensor::{Array, Tensor};
use crate::{Error, Result};

/// The update rule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "algorithm")]
pub enum Algorithm {
    /// PyTorch's Adam: bias-corrected; weight decay is added to the gradient, after clipping (Kingma & Ba, 2015).
    Adam(Moments),
    /// PyTorch's AdamW: bias-corrected; weight decay shrinks the parameter (Loshchilov & Hutter, 2019).
    AdamW(Moments),
    /// BERT's Adam: no bias correction; weight decay is added to the update.
    BertAdam(Moments),
}

/// m and v, the running means of the gradient and of its square.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    /// Decay of m.
    pub beta1: f64,
    /// Decay of v.
    pub beta2: f64,
    /// Added to √v.
    pub eps: f64,
}

impl Algorithm {
    /// Adam with PyTorch's defaults: 0.9, 0.999, 1e-8.
    pub const ADAM: Self = Self::Adam(Moments { beta1: 0.9, beta2: 0.999, eps: 1e-8 });
    /// BertAdam with BERT's own numbers, which ReLoCLNet's trainer keeps.
    pub const BERT_ADAM: Self = Self::BertAdam(Moments { beta1: 0.9, beta2: 0.999, eps: 1e-6 });
    /// BertAdam with CLIP's second decay, as CLIP4Clip's trainer sets it and EERCF's and GLCCL's inherit it.
    pub const CLIP4CLIP_ADAM: Self = Self::BertAdam(Moments { beta1: 0.9, beta2: 0.98, eps: 1e-6 });

    fn update(self, options: &GroupOptions, lr: f64, step: u64) -> Update {
        let (Self::Adam(moments) | Self::AdamW(moments) | Self::BertAdam(moments)) = self;
        let Moments { beta1, beta2, eps } = moments;
        let (rate, decay) = (lr * options.lr_scale, options.weight_decay);
        let numbers = Numbers { rate, beta1, beta2, eps, decay, step, max: options.max };
        match self {
            Self::Adam(_) => Update::Adam(numbers),
            Self::AdamW(_) => Update::AdamW(numbers),
            Self::BertAdam(_) if options.half => Update::HalfBertAdam(numbers),
            Self::BertAdam(_) => Update::BertAdam(numbers),
        }
    }
}

/// Hyper-parameters of a parameter; those with equal options form a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupOptions {
    /// Weight decay.
    pub weight_decay: f64,
    /// Factor of the learning rate.
    pub lr_scale: f64,
    /// Largest norm of one tensor's gradient, after global clipping.
    pub clip_tensor_norm: Option<f64>,
    /// Whether the parameter, its gradient, m and v are rounded as PyTorch does it with tensors of halves; with
    /// [`Algorithm::BertAdam`] only. Second moments of gradients below some 1e-3 vanish, and steps below half the
    /// distance of neighbouring halves are lost: what published training runs did.
    pub half: bool,
    /// What a step leaves of elements above it.
    pub max: Option<f64>,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self { weight_decay: 0.0, lr_scale: 1.0, clip_tensor_norm: None, half: false, max: None }
    }
}

/// An optimiser of a [`ParameterStore`].
pub struct Optimizer {
    algorithm: Algorithm,
    clip_global_norm: Option<f64>,
    steps: u64,
    shards: Vec<State>,
    /// Whose m and v those are.
    trained: Vec<Parameter>,
}

/// A group's hyper-parameters, and where its parameters lie: starts and lengths.
type GroupRanges = (GroupOptions, Vec<(usize, usize)>);

/// What belongs to one flat buffer.
struct State {
    m: Tensor,
    v: Tensor,
    all: Group,
    groups: Vec<(GroupOptions, Group)>,
}

impl Optimizer {
    /// An optimiser whose groups are made by `options`.
    ///
    /// # Errors
    /// [`Error::Argument`] for halves with another algorithm than BertAdam; device errors.
    pub fn new(
        store: &ParameterStore,
        algorithm: Algorithm,
        options: impl Fn(&Parameter) -> GroupOptions,
    ) -> Result<Self> {
        let gpu = store.gpu();
        let trained: Vec<Parameter> = store.parameters().iter().filter(|p| p.is_trained()).cloned().collect();
        let mut ranges: Vec<Vec<GroupRanges>> = vec![Vec::new(); store.shards().len()];
        for p in &trained {
            let (shard, offset) = p.location();
            let (options, range) = (options(p), (offset, p.len()));
            if options.half && !matches!(algorithm, Algorithm::BertAdam(_)) {
                let why = format!("is for BertAdam, not for {algorithm:?}");
                return Err(Error::Argument { op: "optimizer", argument: "half", why });
            }
            match ranges[shard].iter_mut().find(|(o, _)| *o == options) {
                Some((_, group)) => group.push(range),
                None => ranges[shard].push((options, vec![range])),
            }
        }
        let shards = store
            .shards()
            .iter()
            .zip(ranges)
            .map(|(shard, groups)| {
                let len = shard.values.len();
                Ok(State {
                    m: Tensor::zeros(gpu, "optimizer state", [len])?,
                    v: Tensor::zeros(gpu, "optimizer state", [len])?,
                    all: Group::new(gpu, &groups.iter().flat_map(|(_, r)| r.clone()).collect::<Vec<_>>())?,
                    groups: groups
                        .into_iter()
                        .map(|(options, ranges)| Ok((options, Group::new(gpu, &ranges)?)))
                        .collect::<Result<_>>()?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { algorithm, clip_global_norm: None, steps: 0, shards, trained })
    }

    /// Scales all gradients together so that their norm is at most `limit`; `None` leaves them.
    pub fn clip_global_norm(mut self, limit: Option<f64>) -> Self {
        self.clip_global_norm = limit;
        self
    }

    /// Steps made so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Changes the parameters by their gradients, at learning rate `lr`. Returns the norm of all gradients before
    /// clipping, a scalar on the GPU, if they are clipped globally.
    pub fn step(&mut self, store: &ParameterStore, lr: f64) -> Result<Option<Tensor>> {
        let global = self.clip_global_norm.map(|limit| self.clip(store, limit as f32)).transpose()?;
        let scale = global.as_ref().map(|c| &c.scale);
        store.mark_changed();
        for (state, shard) in self.shards.iter().zip(store.shards()) {
            for (options, group) in &state.groups {
                let by_tensor = options
                    .clip_tensor_norm
                    .map(|limit| optimizer::clip_ranges(&shard.gradients, group, limit as f32, scale))
                    .transpose()?;
                let update = self.algorithm.update(options, lr, self.steps + 1);
                let scale = by_tensor.as_ref().map(|c| &c.scale).or(scale);
                optimizer::step(&shard.values, &shard.gradients, &state.m, &state.v, group, &update, scale)?;
            }
        }
        self.steps += 1;
        Ok(global.map(|c| c.norm))
    }

    /// The global norm and its scale; over several buffers it is the norm of their norms.
    fn clip(&self, store: &ParameterStore, limit: f32) -> Result<Clip> {
        let shards = || self.shards.iter().zip(store.shards());
        if let ([state], [shard]) = (self.shards.as_slice(), store.shards()) {
            return optimizer::clip_global(&shard.gradients, &state.all, limit);
        }
        let norms: Vec<Tensor> = shards()
            .map(|(state, shard)| optimizer::clip_global(&shard.gradients, &state.all, limit)?.norm.reshape([1]))
            .collect::<Result<_>>()?;
        let norms = permute::concat(&norms.iter().collect::<Vec<_>>(), 0)?;
        optimizer::clip_global(&norms, &Group::new(store.gpu(), &[(0, norms.len())])?, limit)
    }

    /// m and v by parameter (`m.{name}`, `v.{name}`) for a checkpoint; the number of steps is [`Optimizer::steps`].
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn to_arrays(&self) -> Result<BTreeMap<String, Array>> {
        let flats: Vec<&Tensor> = self.shards.iter().flat_map(|s| [&s.m, &s.v]).collect();
        let flats = Tensor::read_all(&flats)?;
        let mut arrays = BTreeMap::new();
        for p in &self.trained {
            let (shard, offset) = p.location();
            for (kind, flat) in [("m", &flats[2 * shard]), ("v", &flats[2 * shard + 1])] {
                let values = flat[offset..offset + p.len()].to_vec();
                arrays.insert(format!("{kind}.{}", p.name()), Array::new(p.shape(), values)?);
            }
        }
        Ok(arrays)
    }

    /// Continues from a checkpoint's m, v and number of steps.
    ///
    /// # Errors
    /// [`Error::MissingParameter`], [`Error::ParameterShape`]; `origin` says in them where the arrays are from.
    pub fn load(&mut self, origin: &str, arrays: &BTreeMap<String, Array>, steps: u64) -> Result<()> {
        let mut flats: Vec<[Vec<f32>; 2]> =
            self.shards.iter().map(|s| [vec![0.0; s.m.len()], vec![0.0; s.v.len()]]).collect();
        for p in &self.trained {
            let (shard, offset) = p.location();
            for (kind, flat) in ["m", "v"].into_iter().zip(&mut flats[shard]) {
                let name = format!("{kind}.{}", p.name());
                let Some(array) = arrays.get(&name) else {
                    return Err(Error::MissingParameter { origin: origin.into(), name });
                };
                if array.shape() != p.shape() {
                    let (expected, got) = (p.shape().to_vec(), array.shape().to_vec());
                    return Err(Error::ParameterShape { origin: origin.into(), name, expected, got });
                }
                flat[offset..offset + array.len()].copy_from_slice(array.data());
            }
        }
        for (state, [m, v]) in self.shards.iter().zip(&flats) {
            state.m.write(m)?;
            state.v.write(v)?;
        }
        self.steps = steps;
        Ok(())
    }
}
