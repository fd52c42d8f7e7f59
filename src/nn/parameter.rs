//! Parameters under their official names, in a few flat buffers.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::autograd::{Tape, Var};
use crate::data::formats::digest;
use crate::gpu::Gpu;
use crate::nn::Init;
use crate::tensor::{Array, DType, Tensor};
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

impl Declared {
    /// The shape of its tensor, which holds two halves in each element where `halves` says so.
    pub fn stored_shape(&self, halves: bool) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if let (Some(width), true) = (shape.last_mut(), halves) {
            *width /= 2;
        }
        shape
    }
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

    /// Its values; of a matrix in halves (see [`crate::nn::StoreBuilder::halve`]) u32, with two to an element.
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
                }
            }
        }
        Ok(named)
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
        let whole: Vec<&Tensor> = values.iter().copied().filter(|v| v.dtype() == DType::F32).collect();
        let mut whole = Tensor::read_all(&whole)?.into_iter();
        let read = |(p, value): (&Parameter, &Tensor)| {
            let data = match value.dtype() {
                DType::F32 => whole.next().unwrap_or_default(),
                DType::U32 => value.to_u32()?.into_iter().flat_map(unpack).collect(),
            };
            Ok((p.name().to_string(), Array::new(p.shape(), data)?))
        };
        self.parameters().iter().zip(values).map(read).collect()
    }

    /// Sets every parameter from `arrays`, all or none. Names may carry PyTorch's `module.` prefix. A table may be absent:
    /// it then keeps its computed values.
    ///
    /// # Errors
    /// [`Error::MissingParameter`], [`Error::UnknownParameter`] for a name that the model does not have,
    /// [`Error::ParameterShape`], [`Error::NonFinite`]; `origin` says in them where the arrays are from.
    pub fn load(&self, origin: &str, arrays: &BTreeMap<String, Array>) -> Result<()> {
        let named = self.declared.check(origin, arrays)?;
        self.mark_changed();
        for p in self.parameters() {
            if let Some(array) = named.get(p.name()) {
                write(p.value(), array.data())?;
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

/// Fills a parameter's tensor, which holds halves if it is of u32.
pub(super) fn write(value: &Tensor, data: &[f32]) -> Result<()> {
    if value.dtype() == DType::F32 {
        return value.write(data);
    }
    let half = |x: f32| u32::from(half::f16::from_f32(x).to_bits());
    value.write_u32(&data.chunks_exact(2).map(|pair| half(pair[0]) | half(pair[1]) << 16).collect::<Vec<_>>())
}

/// The two halves of an element, the first in the low bits.
fn unpack(pair: u32) -> [f32; 2] {
    [pair as u16, (pair >> 16) as u16].map(|bits| half::f16::from_bits(bits).to_f32())
}
