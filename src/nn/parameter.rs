//! Parameters under their official names, in a few flat buffers.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::autograd::{Tape, Var};
use crate::data::formats::digest;
use crate::gpu::Gpu;
use crate::nn::Init;
use crate::tensor::{Array, DType, Tensor, halves};
use crate::{Error, Result};

/// Elements between the starts of two parameters: views of a flat buffer must start at multiples of 256 bytes.
pub(super) const ALIGNMENT: usize = 64;

/// One parameter: a name, a shape, and its place in the store. Clones share it.
#[derive(Clone)]
pub struct Parameter(pub(super) Arc<Declared>);

pub(super) struct Declared {
    pub name: String,
    pub shape: Vec<usize>,
    pub init: Init,
    pub kind: Kind,
    /// Set when the store is made: [`crate::nn::StoreBuilder`] hands parameters out no sooner.
    pub place: OnceLock<Place>,
}

/// What a name of the official state dict stands for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Weight,
    /// A weight that only affine maps read: inference may hold it in halves.
    Matrix,
    /// Computed values that files may leave out.
    Table,
}

pub(super) struct Place {
    pub value: Tensor,
    /// Absent for what is not trained.
    pub gradient: Option<Tensor>,
    /// Which flat buffer, and where in it.
    pub shard: usize,
    pub offset: usize,
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
        self.place().gradient.is_some()
    }

    fn place(&self) -> &Place {
        self.0.place.get().expect("parameters leave the function that declares them with their store")
    }

    /// Its values; f16 of a matrix in halves (see [`crate::nn::StoreBuilder::halve`]).
    pub fn value(&self) -> &Tensor {
        &self.place().value
    }

    /// Its gradient; `None` if it is not trained.
    pub fn gradient(&self) -> Option<&Tensor> {
        self.place().gradient.as_ref()
    }

    /// The parameter on a tape; its gradient is added to the store's.
    pub fn on(&self, tape: &Tape) -> Var {
        match self.gradient() {
            Some(gradient) => tape.leaf_into(self.value().clone(), gradient.clone()),
            None => tape.constant(self.value().clone()),
        }
    }

    /// The rows of `range` along its first dimension on a tape, as if they were a parameter of their own.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    pub fn rows_on(&self, tape: &Tape, range: Range<usize>) -> Result<Var> {
        let rest = &self.value().shape()[1..];
        let width: usize = rest.iter().product();
        // Views start where parameters do; other rows are copied.
        if !(range.start * width).is_multiple_of(ALIGNMENT) {
            return self.on(tape).slice(0, range);
        }
        let shape = [&[range.len()], rest].concat();
        let view = |t: &Tensor| t.view(range.start * width, shape.clone());
        Ok(match self.gradient() {
            Some(gradient) => tape.leaf_into(view(self.value())?, view(gradient)?),
            None => tape.constant(view(self.value())?),
        })
    }

    /// The flat buffer it lies in and its first element there.
    pub(crate) fn location(&self) -> (usize, usize) {
        (self.place().shard, self.place().offset)
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

/// Parameters in order of declaration, found by name.
#[derive(Default)]
pub(super) struct Declarations {
    pub list: Vec<Parameter>,
    by_name: HashMap<String, usize>,
}

impl Declarations {
    pub fn add(&mut self, parameter: Parameter) -> Result<()> {
        let name = parameter.name().to_string();
        if self.by_name.contains_key(&name) {
            return Err(Error::DuplicateParameter { name });
        }
        self.by_name.insert(name, self.list.len());
        self.list.push(parameter);
        Ok(())
    }

    /// Whether `arrays` are values of all parameters, tables perhaps aside; returns them by their names here.
    pub fn check<'a>(&self, origin: &str, arrays: &'a BTreeMap<String, Array>) -> Result<BTreeMap<&'a str, &'a Array>> {
        let named: BTreeMap<&str, &Array> =
            arrays.iter().map(|(n, a)| (n.strip_prefix("module.").unwrap_or(n), a)).collect();
        let origin = || origin.to_string();
        if let Some(name) = named.keys().find(|n| !self.by_name.contains_key(**n)) {
            return Err(Error::UnknownParameter { origin: origin(), name: (*name).into() });
        }
        for p in &self.list {
            let name = || p.name().to_string();
            let Some(array) = named.get(p.name()) else {
                if p.0.kind == Kind::Table {
                    continue;
                }
                return Err(Error::MissingParameter { origin: origin(), name: name() });
            };
            if array.shape() != p.shape() {
                let (expected, got) = (p.shape().to_vec(), array.shape().to_vec());
                return Err(Error::ParameterShape { origin: origin(), name: name(), expected, got });
            }
            if let Some((count, first)) = array.non_finite() {
                let place = format!("{} element {first}", p.name());
                return Err(Error::NonFinite { origin: origin(), place, count });
            }
        }
        Ok(named)
    }

    /// Whether the values of those parameters in `arrays` that are `halved` are within what halves hold.
    pub fn check_halves(
        &self,
        origin: &str,
        arrays: &BTreeMap<String, Array>,
        halved: impl Fn(&Parameter) -> bool,
    ) -> Result<()> {
        for (name, array) in arrays {
            let parameter = self.by_name.get(name.strip_prefix("module.").unwrap_or(name)).map(|&i| &self.list[i]);
            if parameter.is_some_and(&halved) {
                halves::check(origin, name, array.data())?;
            }
        }
        Ok(())
    }
}

/// All parameters of a model, which a [`crate::nn::StoreBuilder`] laid out in flat buffers.
///
/// An optimiser's step is one dispatch a group and buffer, and a checkpoint is one file under the names that PyTorch
/// users know.
pub struct ParameterStore {
    pub(super) gpu: Gpu,
    pub(super) declared: Declarations,
    pub(super) shards: Vec<Shard>,
    pub(super) hashed: Hashed,
}

/// How often the values were changed, and what [`ParameterStore::hash`] gave last: for which count and text.
#[derive(Default)]
pub(super) struct Hashed {
    generation: AtomicU64,
    last: Mutex<Option<(u64, String, String)>>,
}

impl ParameterStore {
    /// The GPU.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Every parameter and table, in order of declaration.
    pub fn parameters(&self) -> &[Parameter] {
        &self.declared.list
    }

    /// The parameter of this name.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`].
    pub fn get(&self, name: &str) -> Result<&Parameter> {
        let unknown = || Error::UnknownParameter { origin: "the parameter store".into(), name: name.into() };
        self.declared.by_name.get(name).map(|&i| &self.declared.list[i]).ok_or_else(unknown)
    }

    /// The flat buffers, for optimisers.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The number of trained elements.
    pub fn trained_elements(&self) -> usize {
        self.parameters().iter().filter(|p| p.is_trained()).map(Parameter::len).sum()
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
        let values: Vec<&Tensor> = self.parameters().iter().map(Parameter::value).collect();
        let array = |(p, data): (&Parameter, Vec<f32>)| Ok((p.name().to_string(), Array::new(p.shape(), data)?));
        self.parameters().iter().zip(Tensor::read_all(&values)?).map(array).collect()
    }

    /// Sets every parameter from `arrays`, all or none. Names may carry PyTorch's `module.` prefix. A table may be absent:
    /// it then keeps its computed values.
    ///
    /// # Errors
    /// [`Error::MissingParameter`], [`Error::UnknownParameter`] for a name that the model does not have,
    /// [`Error::ParameterShape`], [`Error::NonFinite`], [`Error::HalfOverflow`]; `origin` says in them where the arrays are
    /// from.
    pub fn load(&self, origin: &str, arrays: &BTreeMap<String, Array>) -> Result<()> {
        let named = self.declared.check(origin, arrays)?;
        self.declared.check_halves(origin, arrays, |p| p.value().dtype() == DType::F16)?;
        self.mark_changed();
        for p in self.parameters() {
            if let Some(array) = named.get(p.name()) {
                p.value().write(array.data())?;
            }
        }
        Ok(())
    }

    /// Whoever changes values on the device says so, for [`ParameterStore::hash`].
    pub(crate) fn mark_changed(&self) {
        self.hashed.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// The SHA-256 of `text`, and of every parameter's name and values. They are read back when they were loaded or trained
    /// since the last call, and not otherwise.
    pub(crate) fn hash(&self, text: &str) -> Result<String> {
        let generation = self.hashed.generation.load(Ordering::Relaxed);
        let mut last = self.hashed.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, hash)) = last.as_ref().filter(|(g, t, _)| *g == generation && t == text) {
            return Ok(hash.clone());
        }
        let arrays = self.to_arrays()?;
        let hash = digest::of_values(text, arrays.iter().map(|(name, array)| (name.as_str(), array.data())));
        *last = Some((generation, text.to_string(), hash.clone()));
        Ok(hash)
    }
}
