//! Parameters under their official names, in a few flat buffers.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::autograd::{Tape, Var};
use crate::gpu::Gpu;
use crate::random::Random;
use crate::tensor::{Array, DType, Tensor, halves};
use crate::{Error, Result};

/// Elements between the starts of two parameters: views of a flat buffer must start at multiples of 256 bytes.
const ALIGNMENT: usize = 64;

/// How a parameter starts.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// All elements equal.
    Constant(f32),
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// Normal with mean 0, drawn again until within two standard deviations.
    TruncatedNormal {
        /// Standard deviation before truncation.
        std: f32,
    },
    /// Uniform in [-bound, bound).
    Uniform {
        /// The bound.
        bound: f32,
    },
    /// Given values.
    Values(Vec<f32>),
}

impl Init {
    /// The identity matrix of `n` rows.
    pub fn identity(n: usize) -> Self {
        Self::Values((0..n * n).map(|i| if i % (n + 1) == 0 { 1.0 } else { 0.0 }).collect())
    }

    /// The values of a parameter of `len` elements. Each name has its own stream, so that adding a parameter does not
    /// change the others.
    fn values(&self, name: &str, len: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed, stream_of(name));
        match self {
            Self::Constant(value) => vec![*value; len],
            Self::Normal { std } => (0..len).map(|_| std * random.normal()).collect(),
            Self::TruncatedNormal { std } => (0..len)
                .map(|_| {
                    loop {
                        let z = random.normal();
                        if z.abs() < 2.0 {
                            return std * z;
                        }
                    }
                })
                .collect(),
            Self::Uniform { bound } => (0..len).map(|_| bound * (2.0 * random.uniform() - 1.0)).collect(),
            Self::Values(values) => values.clone(),
        }
    }
}

/// FNV-1a: a fixed number for a name, the same on every platform.
fn stream_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// Fills each parameter's place in the flat buffers, on all processors: a large model has 10^8 values to draw.
fn initialise(parameters: &[&Parameter], places: &[(usize, usize)], flats: &mut [Vec<f32>], seed: u64) {
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
                    slot.copy_from_slice(&parameter.0.init.values(parameter.name(), slot.len(), seed));
                }
            });
        }
    });
}

/// One parameter: a name, a shape, and, once the store is allocated, its place in the flat buffers. Clones share it.
#[derive(Clone)]
pub struct Parameter(Arc<Declared>);

struct Declared {
    name: String,
    shape: Vec<usize>,
    init: Init,
    kind: Kind,
    frozen: AtomicBool,
    place: OnceLock<Place>,
}

/// What a name of the official state dict stands for.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Weight,
    /// A weight that only affine maps read: inference may hold it in halves.
    Matrix,
    /// Computed values that files may leave out.
    Table,
}

struct Place {
    value: Tensor,
    /// Absent for what is not trained.
    gradient: Option<Tensor>,
    /// Which flat buffer, and where in it.
    shard: usize,
    offset: usize,
}

impl Parameter {
    /// Its official name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.0.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether an optimiser changes it: neither a table nor frozen.
    pub fn is_trained(&self) -> bool {
        self.0.kind != Kind::Table && !self.0.frozen.load(Ordering::Relaxed)
    }

    fn place(&self) -> Result<&Place> {
        self.0.place.get().ok_or_else(|| Error::MissingParameter {
            origin: "the parameter store, before allocate()".into(),
            name: self.0.name.clone(),
        })
    }

    /// Its values; f16 of a matrix in halves (see [`ParameterStore::halve`]).
    ///
    /// # Errors
    /// [`Error::MissingParameter`] before [`ParameterStore::allocate`].
    pub fn value(&self) -> Result<&Tensor> {
        Ok(&self.place()?.value)
    }

    /// Its gradient; `None` if it is not trained.
    ///
    /// # Errors
    /// As [`Parameter::value`].
    pub fn gradient(&self) -> Result<Option<&Tensor>> {
        Ok(self.place()?.gradient.as_ref())
    }

    /// The parameter on a tape; its gradient is added to the store's.
    ///
    /// # Errors
    /// As [`Parameter::value`].
    pub fn on(&self, tape: &Tape) -> Result<Var> {
        let place = self.place()?;
        Ok(match &place.gradient {
            Some(gradient) => tape.leaf_into(place.value.clone(), gradient.clone()),
            None => tape.constant(place.value.clone()),
        })
    }

    /// The rows of `range` along its first dimension on a tape, as if they were a parameter of their own.
    ///
    /// # Errors
    /// As [`Parameter::value`]; [`Error::IndexOutOfRange`].
    pub fn rows_on(&self, tape: &Tape, range: Range<usize>) -> Result<Var> {
        let place = self.place()?;
        let rest = &place.value.shape()[1..];
        let width: usize = rest.iter().product();
        // Views start where parameters do; other rows are copied.
        if !(range.start * width).is_multiple_of(ALIGNMENT) {
            return self.on(tape)?.slice(0, range);
        }
        let shape = [&[range.len()], rest].concat();
        let view = |t: &Tensor| t.view(range.start * width, shape.clone());
        Ok(match &place.gradient {
            Some(gradient) => tape.leaf_into(view(&place.value)?, view(gradient)?),
            None => tape.constant(view(&place.value)?),
        })
    }

    /// The flat buffer it lies in and its first element there.
    pub(crate) fn location(&self) -> Result<(usize, usize)> {
        self.place().map(|p| (p.shard, p.offset))
    }
}

impl std::fmt::Debug for Parameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Parameter({} {:?})", self.0.name, self.0.shape)
    }
}

/// A flat buffer of parameters and the one of their gradients.
pub struct Shard {
    /// Values, 1-D; what lies between two parameters stays zero.
    pub values: Tensor,
    /// Gradients, of the same length.
    pub gradients: Tensor,
}

/// All parameters of a model.
///
/// Layers declare their parameters when they are made; [`ParameterStore::allocate`] then lays them out in flat buffers
/// and initialises them. An optimiser's step is one dispatch a group and buffer, and a checkpoint is one file under the
/// names that PyTorch users know.
pub struct ParameterStore {
    gpu: Gpu,
    declared: Vec<Parameter>,
    by_name: HashMap<String, usize>,
    shards: Vec<Shard>,
    halves: bool,
}

impl ParameterStore {
    /// An empty store.
    pub fn new(gpu: &Gpu) -> Self {
        Self { gpu: gpu.clone(), declared: Vec::new(), by_name: HashMap::new(), shards: Vec::new(), halves: false }
    }

    /// The GPU.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Declares a trained parameter.
    ///
    /// # Errors
    /// [`Error::DuplicateParameter`]; [`Error::Argument`] once the store is allocated.
    pub fn declare(&mut self, name: impl Into<String>, shape: impl Into<Vec<usize>>, init: Init) -> Result<Parameter> {
        self.add(name.into(), shape.into(), init, Kind::Weight)
    }

    /// As [`ParameterStore::declare`], of a matrix (out, in) that only affine maps read.
    ///
    /// # Errors
    /// As [`ParameterStore::declare`].
    pub(super) fn declare_matrix(&mut self, name: String, shape: [usize; 2], init: Init) -> Result<Parameter> {
        self.add(name, shape.into(), init, Kind::Matrix)
    }

    /// Declares a table that is saved and loaded but not trained.
    ///
    /// # Errors
    /// As [`ParameterStore::declare`].
    pub fn declare_table(
        &mut self,
        name: impl Into<String>,
        shape: impl Into<Vec<usize>>,
        values: Vec<f32>,
    ) -> Result<Parameter> {
        self.add(name.into(), shape.into(), Init::Values(values), Kind::Table)
    }

    fn add(&mut self, name: String, shape: Vec<usize>, init: Init, kind: Kind) -> Result<Parameter> {
        if !self.shards.is_empty() {
            let why = "is already allocated; declare all parameters first".to_string();
            return Err(Error::Argument { op: "declare", argument: "store", why });
        }
        if let Init::Values(values) = &init {
            Array::new(shape.clone(), values.clone())?;
        }
        if self.by_name.insert(name.clone(), self.declared.len()).is_some() {
            return Err(Error::DuplicateParameter { name });
        }
        let parameter = Parameter(Arc::new(Declared {
            name,
            shape,
            init,
            kind,
            frozen: AtomicBool::new(false),
            place: OnceLock::new(),
        }));
        self.declared.push(parameter.clone());
        Ok(parameter)
    }

    /// Leaves out of training the parameters that `frozen` names: they have no gradient and no place in the flat
    /// buffers. With all of them frozen a model needs half of the memory.
    ///
    /// # Errors
    /// [`Error::Argument`] once the store is allocated.
    pub fn freeze(&mut self, frozen: impl Fn(&str) -> bool) -> Result<()> {
        if !self.shards.is_empty() {
            let why = "is already allocated; freeze before".to_string();
            return Err(Error::Argument { op: "freeze", argument: "store", why });
        }
        self.declared.iter().filter(|p| frozen(p.name())).for_each(|p| p.0.frozen.store(true, Ordering::Relaxed));
        Ok(())
    }

    /// Holds the frozen matrices of affine maps in half precision: half of the memory and of its traffic, for inference.
    /// Those whose rows cannot be read by fours stay as they are.
    ///
    /// # Errors
    /// [`Error::Argument`] once the store is allocated.
    pub fn halve(&mut self) -> Result<()> {
        if !self.shards.is_empty() {
            let why = "is already allocated; halve before".to_string();
            return Err(Error::Argument { op: "halve", argument: "store", why });
        }
        self.halves = true;
        Ok(())
    }

    /// Whether a parameter is held in halves. Parts of such ones must start where views may.
    fn is_halved(&self, p: &Parameter) -> bool {
        self.halves && !p.is_trained() && p.0.kind == Kind::Matrix && p.shape()[1].is_multiple_of(2 * ALIGNMENT)
    }

    /// A tensor of its own for what is not trained.
    fn untrained(&self, p: &Parameter, seed: u64) -> Result<Tensor> {
        let dtype = if self.is_halved(p) { DType::F16 } else { DType::F32 };
        let value = Tensor::uninit_of(&self.gpu, "parameters", p.shape(), dtype)?;
        let initial = p.0.init.values(p.name(), p.len(), seed);
        if dtype == DType::F16 {
            halves::check("initial values", p.name(), &initial)?;
        }
        value.write(&initial)?;
        Ok(value)
    }

    /// Lays the parameters out and initialises them from `seed`.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] if one parameter is larger than a binding may be; [`Error::HalfOverflow`] for initial
    /// values that do not fit in halves; [`Error::OutOfMemory`].
    pub fn allocate(&mut self, seed: u64) -> Result<()> {
        if !self.shards.is_empty() {
            let why = "is already allocated".to_string();
            return Err(Error::Argument { op: "allocate", argument: "store", why });
        }
        let limit = (self.gpu.report().limits.max_storage_buffer_binding_size / 4) as usize;
        // Trained parameters fill flat buffers in order of declaration, each as long as a binding may be.
        let mut places: Vec<(usize, usize)> = Vec::new();
        let mut lengths = vec![0usize];
        for p in self.declared.iter().filter(|p| p.is_trained()) {
            let len = p.len().next_multiple_of(ALIGNMENT);
            if len > limit {
                return Err(Error::LimitExceeded {
                    op: "allocate parameters",
                    what: "bytes in one binding",
                    needed: 4 * p.len() as u64,
                    limit: 4 * limit as u64,
                    remedy: "use a smaller layer",
                });
            }
            let shard = lengths.len() - 1;
            if lengths[shard] + len > limit {
                places.push((shard + 1, 0));
                lengths.push(len);
            } else {
                places.push((shard, lengths[shard]));
                lengths[shard] += len;
            }
        }
        let mut flats: Vec<Vec<f32>> = lengths.iter().map(|&n| vec![0.0; n]).collect();
        let trained: Vec<&Parameter> = self.declared.iter().filter(|p| p.is_trained()).collect();
        initialise(&trained, &places, &mut flats, seed);
        self.shards = flats
            .iter()
            .map(|flat| {
                let values = Tensor::uninit(&self.gpu, "parameters", [flat.len()])?;
                values.write(flat)?;
                Ok(Shard { values, gradients: Tensor::zeros(&self.gpu, "gradients", [flat.len()])? })
            })
            .collect::<Result<_>>()?;
        let mut places = places.into_iter();
        for p in &self.declared {
            let place = if p.is_trained() {
                let (shard, offset) = places.next().unwrap_or_default();
                let Shard { values, gradients } = &self.shards[shard];
                let gradient = Some(gradients.view(offset, p.shape())?);
                Place { value: values.view(offset, p.shape())?, gradient, shard, offset }
            } else {
                Place { value: self.untrained(p, seed)?, gradient: None, shard: usize::MAX, offset: 0 }
            };
            // Set once: allocate() runs once.
            let _ = p.0.place.set(place);
        }
        Ok(())
    }

    /// Every parameter and table, in order of declaration.
    pub fn parameters(&self) -> &[Parameter] {
        &self.declared
    }

    /// The parameter of this name.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`].
    pub fn get(&self, name: &str) -> Result<&Parameter> {
        let unknown = || Error::UnknownParameter { origin: "the parameter store".into(), name: name.into() };
        self.by_name.get(name).map(|&i| &self.declared[i]).ok_or_else(unknown)
    }

    /// The flat buffers, for optimisers.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The number of trained elements.
    pub fn trained_elements(&self) -> usize {
        self.declared.iter().filter(|p| p.is_trained()).map(Parameter::len).sum()
    }

    /// Sets every gradient to zero.
    ///
    /// # Errors
    /// The device's first failure.
    pub fn zero_gradients(&self) -> Result<()> {
        self.shards.iter().try_for_each(|s| s.gradients.fill_zero())
    }

    /// Every parameter and table by name, on the host.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn to_arrays(&self) -> Result<BTreeMap<String, Array>> {
        let values: Vec<&Tensor> = self.declared.iter().map(Parameter::value).collect::<Result<_>>()?;
        let array = |(p, data): (&Parameter, Vec<f32>)| Ok((p.name().to_string(), Array::new(p.shape(), data)?));
        self.declared.iter().zip(Tensor::read_all(&values)?).map(array).collect()
    }

    /// Sets every parameter from `arrays`, all or none. Names may carry PyTorch's `module.` prefix. A table may be absent:
    /// it then keeps its computed values.
    ///
    /// # Errors
    /// [`Error::MissingParameter`], [`Error::UnknownParameter`] for a name that the model does not have,
    /// [`Error::ParameterShape`], [`Error::NonFinite`], [`Error::HalfOverflow`]; `origin` says in them where the arrays are
    /// from.
    pub fn load(&self, origin: &str, arrays: &BTreeMap<String, Array>) -> Result<()> {
        let named = self.check(origin, arrays)?;
        for p in &self.declared {
            if let Some(array) = named.get(p.name()) {
                p.value()?.write(array.data())?;
            }
        }
        Ok(())
    }

    /// Whether [`ParameterStore::load`] takes `arrays`, which needs no memory yet; returns them by their names here.
    pub(crate) fn check<'a>(
        &self,
        origin: &str,
        arrays: &'a BTreeMap<String, Array>,
    ) -> Result<BTreeMap<&'a str, &'a Array>> {
        let named: BTreeMap<&str, &Array> =
            arrays.iter().map(|(n, a)| (n.strip_prefix("module.").unwrap_or(n), a)).collect();
        let origin = || origin.to_string();
        if let Some(name) = named.keys().find(|n| !self.by_name.contains_key(**n)) {
            return Err(Error::UnknownParameter { origin: origin(), name: (*name).into() });
        }
        for p in &self.declared {
            match named.get(p.name()) {
                None if p.0.kind != Kind::Table => {
                    return Err(Error::MissingParameter { origin: origin(), name: p.name().into() });
                }
                None => {}
                Some(a) if a.shape() != p.shape() => {
                    return Err(Error::ParameterShape {
                        origin: origin(),
                        name: p.name().into(),
                        expected: p.shape().to_vec(),
                        got: a.shape().to_vec(),
                    });
                }
                Some(a) => {
                    if let Some((count, first)) = a.non_finite() {
                        let place = format!("{} element {first}", p.name());
                        return Err(Error::NonFinite { origin: origin(), place, count });
                    }
                    if self.is_halved(p) {
                        // By the name that the file has.
                        let name = arrays.keys().find(|n| n.strip_prefix("module.").unwrap_or(n) == p.name());
                        halves::check(&origin(), name.map_or(p.name(), String::as_str), a.data())?;
                    }
                }
            }
        }
        Ok(named)
    }
}
