//! How a store of parameters is made: layers declare, then everything is laid out and filled at once.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::parameter::{ALIGNMENT, Declarations, Declared, Kind, Place};
use crate::Result;
use crate::gpu::Gpu;
use crate::nn::{Init, Parameter, ParameterStore, Shard};
use crate::tensor::{Array, DType, Tensor, halves};

/// Where layers declare their parameters: below one name of a model, or below none.
#[derive(Clone)]
pub struct Scope<'a> {
    declared: &'a RefCell<Declarations>,
    prefix: String,
}

impl<'a> Scope<'a> {
    /// The scope `name` within this one: its names start with both, and a dot after each.
    pub fn scope(&self, name: impl Display) -> Scope<'a> {
        Scope { declared: self.declared, prefix: format!("{}{name}.", self.prefix) }
    }

    /// Declares a parameter that is trained, unless it is frozen.
    ///
    /// # Errors
    /// [`crate::Error::DuplicateParameter`]; [`crate::Error::Shape`] for given values of another number.
    pub fn declare(&self, name: &str, shape: impl Into<Vec<usize>>, init: Init) -> Result<Parameter> {
        self.add(name, shape.into(), init, Kind::Weight)
    }

    /// As [`Scope::declare`], of a matrix (out, in) that only affine maps read.
    ///
    /// # Errors
    /// As [`Scope::declare`].
    pub(super) fn declare_matrix(&self, name: &str, shape: [usize; 2], init: Init) -> Result<Parameter> {
        self.add(name, shape.into(), init, Kind::Matrix)
    }

    /// Declares a table that is saved and loaded but not trained.
    ///
    /// # Errors
    /// As [`Scope::declare`].
    pub fn declare_table(&self, name: &str, shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Result<Parameter> {
        self.add(name, shape.into(), Init::Values(values), Kind::Table)
    }

    fn add(&self, name: &str, shape: Vec<usize>, init: Init, kind: Kind) -> Result<Parameter> {
        if let Init::Values(values) = &init {
            Array::new(shape.clone(), values.clone())?;
        }
        let name = format!("{}{name}", self.prefix);
        let parameter = Parameter(Arc::new(Declared { name, shape, init, kind, place: OnceLock::new() }));
        self.declared.borrow_mut().add(parameter.clone())?;
        Ok(parameter)
    }
}

/// The names that `declare` declares, and what it returns.
fn declarations<T>(declare: impl FnOnce(&Scope<'_>) -> Result<T>) -> Result<(Declarations, T)> {
    let declared = RefCell::default();
    let layers = declare(&Scope { declared: &declared, prefix: String::new() })?;
    Ok((declared.into_inner(), layers))
}

/// Names and shapes of what `declare` declares, tables included; nothing is allocated.
///
/// # Errors
/// What `declare` returns.
pub fn shapes<T>(declare: impl FnOnce(&Scope<'_>) -> Result<T>) -> Result<BTreeMap<String, Vec<usize>>> {
    let (declared, _) = declarations(declare)?;
    Ok(declared.list.iter().map(|p| (p.name().to_string(), p.shape().to_vec())).collect())
}

/// Where values come from.
enum Source {
    Seed(u64),
    Arrays(String, BTreeMap<String, Array>),
}

/// Makes a [`ParameterStore`]: what it holds at first, what of it is trained, and in which precision.
pub struct StoreBuilder<'a> {
    gpu: Gpu,
    source: Source,
    frozen: Box<dyn Fn(&str) -> bool + 'a>,
    halves: bool,
}

impl<'a> StoreBuilder<'a> {
    /// Initial values are drawn from `seed`.
    pub fn new(gpu: &Gpu, seed: u64) -> Self {
        Self::of(gpu, Source::Seed(seed))
    }

    /// Values are those of `arrays`, as for [`ParameterStore::load`]; they are checked before any memory is taken.
    pub fn from_arrays(gpu: &Gpu, origin: impl Into<String>, arrays: BTreeMap<String, Array>) -> Self {
        Self::of(gpu, Source::Arrays(origin.into(), arrays))
    }

    fn of(gpu: &Gpu, source: Source) -> Self {
        Self { gpu: gpu.clone(), source, frozen: Box::new(|_| false), halves: false }
    }

    /// Leaves out of training the parameters that `frozen` names: they have no gradient and no place in the flat
    /// buffers. With all of them frozen a model needs half of the memory.
    #[must_use]
    pub fn freeze(self, frozen: impl Fn(&str) -> bool + 'a) -> Self {
        Self { frozen: Box::new(frozen), ..self }
    }

    /// Holds the frozen matrices of affine maps in half precision: half of the memory and of its traffic, for inference.
    /// Those whose rows cannot be read by fours stay as they are.
    #[must_use]
    pub fn halve(self) -> Self {
        Self { halves: true, ..self }
    }

    /// Makes the store of the parameters that `declare` declares, and returns it with the layers.
    ///
    /// # Errors
    /// What `declare` returns; those of [`ParameterStore::load`] for given arrays; [`crate::Error::HalfOverflow`] for initial values
    /// that do not fit in halves; [`crate::Error::LimitExceeded`] if a parameter is larger than a buffer may be;
    /// [`crate::Error::OutOfMemory`].
    pub fn build<T>(self, declare: impl FnOnce(&Scope<'_>) -> Result<T>) -> Result<(ParameterStore, T)> {
        let (declared, layers) = declarations(declare)?;
        Ok((self.allocate(declared)?, layers))
    }

    /// Lays the parameters out and fills them.
    fn allocate(self, declared: Declarations) -> Result<ParameterStore> {
        let (seed, given) = match &self.source {
            Source::Seed(seed) => (*seed, BTreeMap::new()),
            Source::Arrays(origin, arrays) => (0, declared.check(origin, arrays)?),
        };
        let values = |p: &Parameter| match given.get(p.name()) {
            Some(array) => Cow::Borrowed(array.data()),
            None => Cow::Owned(p.0.init.values(p.name(), p.len(), seed)),
        };
        let is_trained = |p: &&Parameter| p.0.kind != Kind::Table && !(self.frozen)(p.name());
        let (trained, others): (Vec<&Parameter>, Vec<&Parameter>) = declared.list.iter().partition(is_trained);
        if let Source::Arrays(origin, arrays) = &self.source {
            declared.check_halves(origin, arrays, |p| !is_trained(&p) && self.is_halved(p))?;
        }
        let (places, lengths) = lay_out(&trained, &self.gpu);
        let mut flats: Vec<Vec<f32>> = lengths.iter().map(|&n| vec![0.0; n]).collect();
        fill(&trained, &places, &mut flats, values);
        let shard = |flat: &Vec<f32>| {
            let values = Tensor::uninit(&self.gpu, "parameters", [flat.len()])?;
            values.write(flat)?;
            Ok(Shard { values, gradients: Tensor::zeros(&self.gpu, "gradients", [flat.len()])? })
        };
        let shards: Vec<Shard> = flats.iter().map(shard).collect::<Result<_>>()?;
        // Each is set once: the declarations were made for this store.
        for (p, (shard, offset)) in trained.into_iter().zip(places) {
            let Shard { values, gradients } = &shards[shard];
            let (value, gradient) = (values.view(offset, p.shape())?, Some(gradients.view(offset, p.shape())?));
            let _ = p.0.place.set(Place { value, gradient, shard, offset });
        }
        for p in others {
            let (dtype, values) = (if self.is_halved(p) { DType::F16 } else { DType::F32 }, values(p));
            if dtype == DType::F16 {
                halves::check("initial values", p.name(), &values)?;
            }
            let value = Tensor::uninit_of(&self.gpu, "parameters", p.shape(), dtype)?;
            value.write(&values)?;
            let _ = p.0.place.set(Place { value, gradient: None, shard: usize::MAX, offset: 0 });
        }
        Ok(ParameterStore { gpu: self.gpu, declared, shards, hashed: Default::default() })
    }

    /// Whether a frozen parameter is held in halves. Parts of such ones must start where views may.
    fn is_halved(&self, p: &Parameter) -> bool {
        self.halves && p.0.kind == Kind::Matrix && p.shape()[1].is_multiple_of(2 * ALIGNMENT)
    }
}

/// The flat buffer and the place in it of each parameter, and the buffers' lengths: parameters fill them in order of
/// declaration, each as long as a binding may be; what is longer has a buffer of its own, which is bound in parts.
fn lay_out(trained: &[&Parameter], gpu: &Gpu) -> (Vec<(usize, usize)>, Vec<usize>) {
    let limit = (gpu.report().limits.max_storage_buffer_binding_size / 4) as usize;
    let (mut places, mut lengths) = (Vec::with_capacity(trained.len()), vec![0usize]);
    for p in trained {
        let (len, last) = (p.len().next_multiple_of(ALIGNMENT), lengths[lengths.len() - 1]);
        if last > 0 && last + len > limit {
            lengths.push(0);
        }
        let shard = lengths.len() - 1;
        places.push((shard, lengths[shard]));
        lengths[shard] += len;
    }
    (places, lengths)
}

/// Fills each parameter's place in the flat buffers, on all processors: a large model has 10^8 values to draw.
fn fill<'v>(
    parameters: &[&Parameter],
    places: &[(usize, usize)],
    flats: &mut [Vec<f32>],
    values: impl Fn(&Parameter) -> Cow<'v, [f32]> + Sync,
) {
    let mut rest: Vec<(usize, &mut [f32])> = flats.iter_mut().map(|flat| (0, flat.as_mut_slice())).collect();
    let mut jobs = Vec::with_capacity(parameters.len());
    for (&parameter, &(shard, offset)) in parameters.iter().zip(places) {
        let (start, tail) = std::mem::take(&mut rest[shard]);
        let (slot, tail) = tail[offset - start..].split_at_mut(parameter.len());
        jobs.push((parameter, slot));
        rest[shard] = (offset + parameter.len(), tail);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let queue = Mutex::new(jobs.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((parameter, slot)) = next() {
                    slot.copy_from_slice(&values(parameter));
                }
            });
        }
    });
}
