//! Tensors: on the host ([`Array`]) and on the GPU ([`Tensor`]).

mod array;
pub(crate) mod halves;
mod parts;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::gpu::{Binding, Buffer, Gpu};
use crate::{Error, Result};

pub use array::Array;
pub(crate) use parts::whole_steps;

/// Element types: on the GPU, and of numbers in files and indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 16-bit float, for values that are read alone: weights of inference, clips of an index.
    F16,
    /// 32-bit unsigned integer: ids, labels, counts.
    U32,
}

impl DType {
    /// The type's name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::U32 => "u32",
        }
    }

    /// The bytes of an element.
    pub fn bytes(self) -> usize {
        if self == Self::F16 { 2 } else { 4 }
    }

    /// [`Error::DType`] unless it is a float.
    pub(crate) fn expect_float(self, op: &'static str, argument: &'static str) -> Result<()> {
        match self {
            Self::F32 | Self::F16 => Ok(()),
            Self::U32 => Err(Error::DType { op, argument, expected: "f32 or f16", got: self.name() }),
        }
    }
}

/// Views start at multiples of so many bytes, as bindings must.
const VIEW_ALIGNMENT: usize = 256;

/// A dense row-major array in GPU memory. Clones and reshapes share the memory; kernels never write into a tensor that
/// anybody else may read, except where their documentation says "in place".
#[derive(Clone)]
pub struct Tensor {
    gpu: Gpu,
    buffer: Buffer,
    /// In bytes; a multiple of 256.
    offset: u64,
    shape: Vec<usize>,
    dtype: DType,
}

impl Tensor {
    /// An f32 tensor whose contents are whatever was in memory: for outputs that a kernel fills.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn uninit(gpu: &Gpu, label: &'static str, shape: impl Into<Vec<usize>>) -> Result<Self> {
        Self::uninit_of(gpu, label, shape, DType::F32)
    }

    /// As [`Tensor::uninit`], of any element type.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn uninit_of(gpu: &Gpu, label: &'static str, shape: impl Into<Vec<usize>>, dtype: DType) -> Result<Self> {
        let shape = shape.into();
        let size = shape.iter().try_fold(dtype.bytes() as u64, |n, &d| n.checked_mul(d as u64));
        let size = size.and_then(|n| n.checked_next_multiple_of(4));
        let size = size.ok_or_else(|| Error::shape(label, "shape", "a size that fits in 64 bits", &shape))?;
        let buffer = gpu.allocate(label, size)?;
        Ok(Self { gpu: gpu.clone(), buffer, offset: 0, shape, dtype })
    }

    /// An f32 tensor of zeros.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn zeros(gpu: &Gpu, label: &'static str, shape: impl Into<Vec<usize>>) -> Result<Self> {
        let tensor = Self::uninit(gpu, label, shape)?;
        tensor.fill_zero()?;
        Ok(tensor)
    }

    /// Uploads `data` as an f32 tensor of `shape`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the product of `shape` is not `data.len()`; as [`Gpu::allocate`].
    pub fn from_slice(gpu: &Gpu, shape: impl Into<Vec<usize>>, data: &[f32]) -> Result<Self> {
        let tensor = Self::for_data(gpu, shape.into(), data.len(), DType::F32)?;
        tensor.write(data)?;
        Ok(tensor)
    }

    /// Uploads `data` rounded to the nearest halves, as an f16 tensor of `shape`.
    ///
    /// # Errors
    /// As [`Tensor::from_slice`]; [`Error::HalfOverflow`].
    pub fn from_slice_f16(gpu: &Gpu, shape: impl Into<Vec<usize>>, data: &[f32]) -> Result<Self> {
        let tensor = Self::for_data(gpu, shape.into(), data.len(), DType::F16)?;
        tensor.write(data)?;
        Ok(tensor)
    }

    /// Uploads ids, labels or counts.
    ///
    /// # Errors
    /// As [`Tensor::from_slice`].
    pub fn from_u32(gpu: &Gpu, shape: impl Into<Vec<usize>>, data: &[u32]) -> Result<Self> {
        let tensor = Self::for_data(gpu, shape.into(), data.len(), DType::U32)?;
        tensor.write_u32(data)?;
        Ok(tensor)
    }

    /// Uploads a host array.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn from_array(gpu: &Gpu, array: &Array) -> Result<Self> {
        Self::from_slice(gpu, array.shape(), array.data())
    }

    /// Memory for `len` elements, if `shape` holds as many.
    fn for_data(gpu: &Gpu, shape: Vec<usize>, len: usize, dtype: DType) -> Result<Self> {
        expect_product("upload", &shape, len)?;
        Self::uninit_of(gpu, "upload", shape, dtype)
    }

    /// Overwrites the elements of a tensor of floats, in place; one of halves takes the nearest.
    ///
    /// # Errors
    /// [`Error::Shape`] if the count differs; [`Error::DType`] for a u32 tensor; [`Error::HalfOverflow`]; as
    /// [`Gpu::allocate`].
    pub fn write(&self, data: &[f32]) -> Result<()> {
        self.dtype.expect_float("write", "self")?;
        self.expect_len(data.len())?;
        if self.dtype == DType::F32 {
            return self.write_bytes(bytemuck::cast_slice(data));
        }
        halves::check("write", "data", data)?;
        let mut halves = halves::round(data);
        halves.resize(halves.len().next_multiple_of(2), half::f16::ZERO);
        self.write_bytes(bytemuck::cast_slice(&halves))
    }

    /// Overwrites a u32 tensor's elements, in place.
    ///
    /// # Errors
    /// [`Error::Shape`] if the count differs; [`Error::DType`] for another tensor; as [`Gpu::allocate`].
    pub fn write_u32(&self, data: &[u32]) -> Result<()> {
        self.expect_dtype("write_u32", "self", DType::U32)?;
        self.expect_len(data.len())?;
        self.write_bytes(bytemuck::cast_slice(data))
    }

    fn expect_len(&self, len: usize) -> Result<()> {
        if len == self.len() {
            return Ok(());
        }
        Err(Error::shape("write", "data", format!("{} elements", self.len()), &[len]))
    }

    fn write_bytes(&self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() { Ok(()) } else { self.gpu.upload(&self.buffer, self.offset, bytes) }
    }

    /// Fills with zeros, in place.
    ///
    /// # Errors
    /// The device's first failure.
    pub fn fill_zero(&self) -> Result<()> {
        if self.is_empty() { Ok(()) } else { self.gpu.clear(&self.buffer, self.offset, self.bytes()) }
    }

    /// Copies `source`'s elements into this tensor, in place.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the element counts differ; [`Error::DType`] if the types do.
    pub fn copy_from(&self, source: &Tensor) -> Result<()> {
        source.expect_dtype("copy_from", "source", self.dtype)?;
        if self.len() != source.len() {
            let why = "a copy needs equal element counts";
            return Err(Error::mismatch("copy_from", &self.shape, &source.shape, why));
        }
        if self.is_empty() {
            return Ok(());
        }
        self.gpu.copy((&source.buffer, source.offset), (&self.buffer, self.offset), self.bytes())
    }

    /// The GPU that holds it.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The extents, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements' size in bytes, in whole words.
    pub fn bytes(&self) -> u64 {
        (self.dtype.bytes() as u64 * self.len() as u64).next_multiple_of(4)
    }

    /// The extent of the last dimension; 1 for a scalar.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The number of rows: the product of all extents but the last.
    pub fn rows(&self) -> usize {
        let outer = self.shape.len().saturating_sub(1);
        self.shape[..outer].iter().product()
    }

    /// What a launch binds.
    pub fn binding(&self) -> Binding<'_> {
        Binding { buffer: &self.buffer, offset: self.offset, bytes: self.bytes() }
    }

    /// The same elements under another shape, without a copy.
    ///
    /// # Errors
    /// [`Error::Shape`] if the element counts differ.
    pub fn reshape(&self, shape: impl Into<Vec<usize>>) -> Result<Self> {
        let shape = shape.into();
        expect_product("reshape", &shape, self.len())?;
        Ok(Self { shape, ..self.clone() })
    }

    /// A view of `shape` that starts `offset` elements into this tensor, without a copy.
    ///
    /// # Errors
    /// [`Error::Shape`] if it reaches beyond the end; [`Error::Argument`] unless `offset` is a multiple of 64,
    /// or of 128 for halves.
    pub fn view(&self, offset: usize, shape: impl Into<Vec<usize>>) -> Result<Self> {
        let shape = shape.into();
        let step = VIEW_ALIGNMENT / self.dtype.bytes();
        if !offset.is_multiple_of(step) {
            let why = format!("of {offset} is not a multiple of {step} elements");
            return Err(Error::Argument { op: "view", argument: "offset", why });
        }
        let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).and_then(|n| n.checked_add(offset));
        if len.is_none_or(|end| end > self.len()) {
            return Err(Error::shape("view", "shape", format!("within {} elements from {offset}", self.len()), &shape));
        }
        Ok(Self { shape, offset: self.offset + (self.dtype.bytes() * offset) as u64, ..self.clone() })
    }

    /// Waits for the elements, f32 or f16, and returns them.
    ///
    /// # Errors
    /// [`Error::DType`] unless floats; [`Error::Timeout`], [`Error::DeviceLost`].
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        Ok(Self::read_all(&[self])?.pop().unwrap_or_default())
    }

    /// As [`Tensor::to_vec`], for u32 tensors.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn to_u32(&self) -> Result<Vec<u32>> {
        self.expect_dtype("to_u32", "self", DType::U32)?;
        let bytes = self.gpu.read("to_u32", &[(&self.buffer, self.offset, self.bytes())])?;
        Ok(bytemuck::pod_collect_to_vec(&bytes[0]))
    }

    /// Waits for the elements and returns them with their shape.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn to_array(&self) -> Result<Array> {
        Array::new(self.shape.clone(), self.to_vec()?)
    }

    /// The one element of an f32 tensor.
    ///
    /// # Errors
    /// [`Error::Shape`] unless it has one; as [`Tensor::to_vec`].
    pub fn item(&self) -> Result<f32> {
        self.expect_one("item", "self")?;
        Ok(self.to_vec()?[0])
    }

    /// Reads several tensors of floats in one round trip.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn read_all(tensors: &[&Tensor]) -> Result<Vec<Vec<f32>>> {
        let Some(first) = tensors.first() else { return Ok(Vec::new()) };
        for t in tensors {
            t.dtype.expect_float("read", "tensors")?;
        }
        let ranges: Vec<(&Buffer, u64, u64)> = tensors.iter().map(|t| (&t.buffer, t.offset, t.bytes())).collect();
        let bytes = first.gpu.read("read", &ranges)?;
        let floats = |(bytes, tensor): (&Vec<u8>, &&Tensor)| match tensor.dtype {
            DType::F16 => halves::to_f32(&bytemuck::pod_collect_to_vec(bytes)[..tensor.len()]),
            _ => bytemuck::pod_collect_to_vec(bytes),
        };
        Ok(bytes.iter().zip(tensors).map(floats).collect())
    }

    pub(crate) fn expect_dtype(&self, op: &'static str, argument: &'static str, expected: DType) -> Result<()> {
        if self.dtype == expected {
            return Ok(());
        }
        Err(Error::DType { op, argument, expected: expected.name(), got: self.dtype.name() })
    }

    /// Whether it is f16; [`Error::DType`] unless f16 or f32.
    pub(crate) fn is_half(&self, op: &'static str, argument: &'static str) -> Result<bool> {
        self.dtype.expect_float(op, argument)?;
        Ok(self.dtype == DType::F16)
    }

    pub(crate) fn expect_shape(&self, op: &'static str, argument: &'static str, expected: &[usize]) -> Result<()> {
        if self.shape == expected {
            return Ok(());
        }
        Err(Error::shape(op, argument, format!("{expected:?}"), &self.shape))
    }

    /// As [`Tensor::expect_dtype`] and [`Tensor::expect_shape`].
    pub(crate) fn expect(&self, op: &'static str, argument: &'static str, dtype: DType, shape: &[usize]) -> Result<()> {
        self.expect_dtype(op, argument, dtype)?;
        self.expect_shape(op, argument, shape)
    }

    /// The extents of an f32 tensor of as many dimensions as are asked for; `axes` names them in the error.
    pub(crate) fn extents<const N: usize>(
        &self,
        op: &'static str,
        argument: &'static str,
        axes: &str,
    ) -> Result<[usize; N]> {
        self.expect_dtype(op, argument, DType::F32)?;
        self.shape.as_slice().try_into().map_err(|_| Error::shape(op, argument, axes, &self.shape))
    }

    /// [`Error::Shape`] unless it has one element.
    pub(crate) fn expect_one(&self, op: &'static str, argument: &'static str) -> Result<()> {
        if self.len() == 1 {
            return Ok(());
        }
        Err(Error::shape(op, argument, "one element", &self.shape))
    }
}

/// [`Error::Shape`] unless the product of `shape`, checked for overflow, is `len`.
pub(crate) fn expect_product(op: &'static str, shape: &[usize], len: usize) -> Result<()> {
    if shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) == Some(len) {
        return Ok(());
    }
    Err(Error::shape(op, "shape", format!("a product of {len}"), shape))
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?})", self.dtype.name(), self.shape)
    }
}
