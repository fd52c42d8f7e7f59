//! Host-side arrays: what files hold and what is uploaded.

use crate::Result;

/// A dense row-major `f32` array in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    shape: Vec<usize>,
    data: Vec<f32>,
}

impl Array {
    /// An array of `shape` over `data`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] unless the product of `shape` (checked for overflow) is `data.len()`.
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Result<Self> {
        let shape = shape.into();
        super::expect_product("Array::new", &shape, data.len())?;
        Ok(Self { shape, data })
    }

    /// An array of zeros. The caller vouches that the size is sane.
    pub fn zeros(shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        let data = vec![0.0; shape.iter().product()];
        Self { shape, data }
    }

    /// The extents, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements in row-major order.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The elements, to be changed in place.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The elements, without a copy.
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Row `index` of the outermost dimension.
    ///
    /// # Panics
    /// If the array is a scalar or `index` is beyond its end, as slice indexing does.
    pub fn row(&self, index: usize) -> &[f32] {
        let width: usize = self.shape[1..].iter().product();
        &self.data[index * width..(index + 1) * width]
    }

    /// The count of NaN and infinite elements and the index of the first one.
    pub fn non_finite(&self) -> Option<(u64, usize)> {
        let first = self.data.iter().position(|v| !v.is_finite())?;
        let count = self.data[first..].iter().filter(|v| !v.is_finite()).count();
        Some((count as u64, first))
    }
}
