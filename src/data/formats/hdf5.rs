//! HDF5 feature files: named `f32` arrays, read whole or by rows.
//!
//! All knowledge of the HDF5 crate is in this file.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytemuck::allocation::cast_vec;
use hdf5_reader::error::Error as H5Error;
use hdf5_reader::{ByteOrder, Dataset, Datatype, FileStorage, H5Type, Hdf5File, OpenOptions, SliceInfo, SliceInfoElem};
use safetensors::Dtype;

use super::elements::{self, byte_count, to_f32};
use crate::data::find_non_finite;
use crate::tensor::Array;
use crate::{Error, Result};

/// Most bytes that one call reads, counted as `f32`.
const MAX_READ_BYTES: usize = 256 << 20;

/// Rows are read in pieces of at most so many bytes, as they are in the file.
const PIECE_BYTES: usize = 64 << 20;

/// Filters of HDF5's registry that are met in feature files.
const FILTERS: [(u32, &str); 11] = [
    (4, "SZIP"),
    (307, "bzip2"),
    (32000, "LZF"),
    (32001, "Blosc"),
    (32004, "LZ4"),
    (32008, "Bitshuffle"),
    (32013, "ZFP"),
    (32015, "Zstandard"),
    (32017, "SZ"),
    (32026, "Blosc2"),
    (32032, "Granular BitRound"),
];

/// The layout class of virtual datasets.
const VIRTUAL: u8 = 3;

/// An open HDF5 file of numeric datasets.
///
/// Nothing but the directory of the file is read at first, values come with each call. Memory stays bounded whatever the
/// file claims: 256 MiB of values a call, and 64 MiB a chunk. Links to other files are not followed.
pub struct FeatureFile {
    path: PathBuf,
    file: Hdf5File,
}

impl FeatureFile {
    /// Opens `path`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] if it is not an HDF5 file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let options = OpenOptions::default()
            .with_max_read_bytes(2 * MAX_READ_BYTES)
            .with_max_chunk_bytes(64 << 20)
            .with_max_object_header_bytes(1 << 20)
            .with_chunk_cache_bytes(8 << 20);
        let opened = FileStorage::open(path).map_err(|e| failed(path, "open", "file", e))?;
        let file = Hdf5File::from_storage_with_options(Arc::new(opened), options);
        Ok(Self { path: path.to_path_buf(), file: file.map_err(|e| failed(path, "read", "file", e))? })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of the datasets in the root group, sorted.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a damaged directory, and for one with a virtual dataset; [`Error::Io`].
    pub fn names(&self) -> Result<Vec<String>> {
        let listed = self.file.root_group().and_then(|root| root.member_names());
        let (_, mut names) = listed.map_err(|e| failed(&self.path, "read", "root group", e))?;
        names.sort();
        Ok(names)
    }

    /// Dataset `name`, or `group/name`.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::Malformed`] for a damaged dataset, or one that holds no numbers; [`Error::Io`].
    pub fn dataset(&self, name: &str) -> Result<FeatureSet> {
        let place = format!("dataset {name:?}");
        let dataset = self.file.dataset(name).map_err(|e| match cause(e) {
            H5Error::DatasetNotFound(_) | H5Error::GroupNotFound(_) => Error::missing(&self.path, "dataset", name),
            e => failed(&self.path, "read", &place, e),
        })?;
        let bad = |problem: String| Error::malformed(&self.path, &place, problem);
        let raw = dataset.raw_datatype().map_err(|e| failed(&self.path, "read", &place, e))?;
        let kind = kind_of(dataset.dtype(), &raw).map_err(bad)?;
        let shape: Vec<usize> = dataset.shape().iter().map_while(|&d| usize::try_from(d).ok()).collect();
        if shape.len() != dataset.ndim() || byte_count(&shape, Dtype::F32).is_none() {
            return Err(bad(format!("absurd shape {:?}", dataset.shape())));
        }
        Ok(FeatureSet { path: self.path.clone(), place, dataset, shape, kind })
    }
}

impl std::fmt::Debug for FeatureFile {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("FeatureFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// One dataset of a [`FeatureFile`]: f16, bf16, f32, f64, integers or h5py's booleans, read as `f32`.
pub struct FeatureSet {
    path: PathBuf,
    place: String,
    dataset: Dataset,
    shape: Vec<usize>,
    kind: Dtype,
}

impl FeatureSet {
    /// The extents, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// All values.
    ///
    /// # Errors
    /// [`Error::NonFinite`], naming dataset and row; [`Error::Malformed`] for damage or more than 256 MiB; [`Error::Io`].
    pub fn read(&self) -> Result<Array> {
        match self.shape.first() {
            Some(&rows) => self.rows(0..rows),
            None => {
                let array = Array::new([], self.selected(&SliceInfo::all(0))?)?;
                find_non_finite(&self.path, &self.place, 0, &array)?;
                Ok(array)
            }
        }
    }

    /// The values at `index` of the outermost dimension; the result lacks that dimension.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`], and those of [`FeatureSet::read`].
    pub fn row(&self, index: usize) -> Result<Array> {
        let rows = self.rows(index..index.saturating_add(1))?;
        Array::new(&self.shape[1..], rows.into_data())
    }

    /// The values in a range of the outermost dimension.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`] for a range that ends beyond the dataset, or before it begins, and those of
    /// [`FeatureSet::read`].
    pub fn rows(&self, range: Range<usize>) -> Result<Array> {
        let len = self.shape.first().copied().unwrap_or_default();
        if self.shape.is_empty() || range.start > range.end || range.end > len {
            let index = range.end.saturating_sub(1).max(range.start) as u64;
            return Err(Error::IndexOutOfRange { op: "FeatureSet::rows", index, len: len as u64 });
        }
        let shape: Vec<usize> = [&[range.len()], &self.shape[1..]].concat();
        if shape.contains(&0) {
            return Ok(Array::zeros(shape));
        }
        if byte_count(&shape, Dtype::F32).is_none_or(|bytes| bytes > MAX_READ_BYTES) {
            let problem =
                format!("shape {shape:?} is over the limit of {MAX_READ_BYTES} bytes a read; read fewer rows");
            return Err(Error::malformed(&self.path, &self.place, problem));
        }
        let mut values = Vec::new();
        let each = self.rows_of_a_piece();
        for start in range.clone().step_by(each) {
            let mut selection = SliceInfo::all(self.shape.len());
            let end = range.end.min(start.saturating_add(each));
            selection.selections[0] = SliceInfoElem::Slice { start: start as u64, end: end as u64, step: 1 };
            values.extend(self.selected(&selection)?);
        }
        let array = Array::new(shape, values)?;
        find_non_finite(&self.path, &self.place, range.start, &array)?;
        Ok(array)
    }

    /// Whole chunks, as far as the dataset has some and they fit: none is unpacked twice.
    fn rows_of_a_piece(&self) -> usize {
        let row = byte_count(&self.shape[1..], self.kind).unwrap_or(usize::MAX).max(1);
        let rows = (PIECE_BYTES / row).max(1);
        let chunk = self.dataset.chunks().and_then(|chunks| chunks.first().copied()).unwrap_or(1).max(1) as usize;
        if rows < chunk { rows } else { rows - rows % chunk }
    }

    /// The values of `selection`, in their order.
    fn selected(&self, selection: &SliceInfo) -> Result<Vec<f32>> {
        let read = if self.kind == Dtype::BF16 {
            self.dataset.read_slice::<Brain>(selection).map(|a| cast_vec(a.into_raw_vec_and_offset().0))
        } else {
            self.dataset.read_slice::<Value>(selection).map(|a| cast_vec(a.into_raw_vec_and_offset().0))
        };
        read.map_err(|e| failed(&self.path, "read", &self.place, e))
    }
}

impl std::fmt::Debug for FeatureSet {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("FeatureSet").field("path", &self.path).field("place", &self.place).finish_non_exhaustive()
    }
}

/// Our error for one of the HDF5 crate's.
fn failed(path: &Path, action: &'static str, place: &str, error: H5Error) -> Error {
    match cause(error) {
        H5Error::Io(e) => Error::io(action, path, e),
        H5Error::UnsupportedFilter(what) => Error::malformed(path, place, compressed(&what)),
        H5Error::UnsupportedLayoutClass(VIRTUAL) => {
            let problem =
                "a virtual dataset, whose values lie in others, is not read; copy them into a dataset of this file";
            Error::malformed(path, place, problem)
        }
        e => Error::malformed(path, place, e),
    }
}

/// What is wrong with a filter that the HDF5 crate calls "filter id 32000".
fn compressed(what: &str) -> String {
    let id = what.rsplit(' ').next().and_then(|id| id.parse::<u32>().ok());
    let name = FILTERS.iter().find(|(known, _)| Some(*known) == id).map_or("an unknown filter", |(_, name)| *name);
    format!("is compressed with {name} ({what}), which is not read; write it with gzip, or without compression")
}

fn cause(error: H5Error) -> H5Error {
    match error {
        H5Error::Context { source, .. } => cause(*source),
        e => e,
    }
}

/// The number type of a dataset; `raw` is its datatype as stored, which tells kinds of floats apart.
fn kind_of(datatype: &Datatype, raw: &[u8]) -> std::result::Result<Dtype, String> {
    let Some((dtype, _)) = number_type(datatype, false) else {
        return Err(format!("holds no numbers that can be read: {datatype:?}"));
    };
    let Datatype::FloatingPoint { size, .. } = datatype else { return Ok(dtype) };
    // Class and flags (4 bytes), size (4), then bit offset and precision (2 each), the exponent's place and size, the
    // mantissa's, and the exponent's bias (4).
    let bits = raw.get(12..16).zip(raw.get(16..20)).and_then(|(places, bias)| {
        let bias = u32::from_le_bytes(bias.try_into().ok()?);
        Some(([places[0], places[1], places[2], places[3]], bias))
    });
    match (size, bits) {
        (2, Some(([10, 5, 0, 10], 15))) | (4, Some(([23, 8, 0, 23], 127))) | (8, Some(([52, 11, 0, 52], 1023))) => {
            Ok(dtype)
        }
        (2, Some(([7, 8, 0, 7], 127))) => Ok(Dtype::BF16),
        (_, Some(([_, exponent, _, mantissa], bias))) => Err(format!(
            "holds floats of {size} bytes with {exponent} bits of exponent (bias {bias}) and {mantissa} of mantissa, \
             which are not read; write them as f32"
        )),
        (_, None) => Err("has a damaged datatype".into()),
    }
}

/// The number type of values, floats of two bytes being bfloat16 if `is_brain`, and whether they are big endian. h5py
/// stores booleans as an enumeration of bytes.
fn number_type(datatype: &Datatype, is_brain: bool) -> Option<(Dtype, bool)> {
    let (kind, size, order) = match datatype {
        Datatype::FloatingPoint { size, byte_order } => (b'f', *size, *byte_order),
        Datatype::FixedPoint { size, signed, byte_order } => (if *signed { b'i' } else { b'u' }, *size, *byte_order),
        Datatype::Enum { base, members } => {
            let is_bool = members.len() == 2 && members.iter().all(|m| ["FALSE", "TRUE"].contains(&m.name.as_str()));
            return number_type(base, false).filter(|_| is_bool);
        }
        _ => return None,
    };
    let dtype =
        if is_brain && (kind, size) == (b'f', 2) { Dtype::BF16 } else { elements::number_type(kind, size.into())? };
    Some((dtype, order == ByteOrder::BigEndian))
}

/// A type of numbers that are read as `f32`.
macro_rules! value {
    ($(#[$doc:meta])* $name:ident, $is_brain:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(transparent)]
        struct $name(f32);

        impl H5Type for $name {
            fn hdf5_type() -> Datatype {
                f32::hdf5_type()
            }

            fn from_bytes(bytes: &[u8], datatype: &Datatype) -> std::result::Result<Self, H5Error> {
                let unread = || H5Error::InvalidData(format!("{} bytes hold no {datatype:?}", bytes.len()));
                Self::decode_vec(bytes, datatype, 1).ok_or_else(unread)?.map(|values| values[0])
            }

            fn element_size(datatype: &Datatype) -> usize {
                number_type(datatype, $is_brain).map_or(4, |(dtype, _)| dtype.bitsize() / 8)
            }

            fn decode_vec(
                raw: &[u8],
                datatype: &Datatype,
                count: usize,
            ) -> Option<std::result::Result<Vec<Self>, H5Error>> {
                let (dtype, big_endian) = number_type(datatype, $is_brain)?;
                let raw = raw.get(..count.checked_mul(dtype.bitsize() / 8)?)?;
                Some(Ok(cast_vec(to_f32(dtype, raw, big_endian)?)))
            }
        }
    };
}

value!(
    /// Of any type but bfloat16.
    Value,
    false
);
value!(
    /// A bfloat16, which the HDF5 crate does not tell from other floats of two bytes.
    Brain,
    true
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::{Folder, fixture, mutations};

    fn read(file: &FeatureFile, name: &str) -> Result<Array> {
        file.dataset(name)?.read()
    }

    fn ramp(shape: impl Into<Vec<usize>>) -> Array {
        let mut array = Array::zeros(shape);
        array.data_mut().iter_mut().enumerate().for_each(|(i, v)| *v = i as f32 * 0.5);
        array
    }

    #[test]
    fn every_number_type_and_layout_is_read() {
        for name in ["features.h5", "features_latest.h5"] {
            let file = FeatureFile::open(fixture(name)).unwrap();
            for set in ["f2", "f4", "f8", "f4_big_endian"] {
                assert_eq!(read(&file, set).unwrap(), ramp([4, 3]), "{set}");
                let set = file.dataset(set).unwrap();
                assert_eq!(set.shape(), [4, 3]);
                assert_eq!(set.row(2).unwrap(), Array::new([3], vec![3.0, 3.5, 4.0]).unwrap());
                assert_eq!(set.rows(1..3).unwrap().data(), &ramp([4, 3]).data()[3..9]);
                assert_eq!(set.rows(4..4).unwrap().shape(), [0, 3]);
            }
            assert_eq!(read(&file, "i4").unwrap().row(0), [-3.0, -2.0, -1.0]);
            assert_eq!(read(&file, "gzip").unwrap(), ramp([6, 2, 3]));
            let row = file.dataset("gzip").unwrap().row(3).unwrap();
            assert_eq!((row.shape(), row.data()), (&[2, 3][..], ramp([6, 2, 3]).row(3)));
            assert_eq!(read(&file, "sub/inner").unwrap(), ramp([2]));
            assert_eq!(read(&file, "scalar").unwrap(), Array::new([], vec![2.5]).unwrap());
            assert_eq!(read(&file, "none").unwrap().shape(), [0, 3]);
            let names = file.names().unwrap();
            assert_eq!(
                names,
                ["f2", "f4", "f4_big_endian", "f8", "gzip", "huge", "i4", "nan", "none", "scalar", "text"]
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_a_typed_error() {
        for name in ["features.h5", "features_latest.h5"] {
            let file = FeatureFile::open(fixture(name)).unwrap();
            for missing in ["nothing", "no/such", "sub/nothing", "sub", "", "/"] {
                let got = read(&file, missing);
                assert!(matches!(got, Err(Error::Missing { kind: "dataset", .. })), "{missing:?}: {got:?}");
            }
            assert!(matches!(read(&file, "text"), Err(Error::Malformed { .. })));
            let nan = file.dataset("nan").unwrap();
            let Err(Error::NonFinite { place, count: 2, .. }) = nan.read() else { panic!("{:?}", nan.read()) };
            assert_eq!(place, "dataset \"nan\", row 2");
            let Err(Error::NonFinite { place, count: 1, .. }) = nan.row(3) else { panic!("{:?}", nan.row(3)) };
            assert_eq!(place, "dataset \"nan\", row 3");
            assert!(nan.rows(0..2).is_ok());
            for range in [3..5, 5..5, Range { start: 2, end: 1 }, 0..usize::MAX, usize::MAX..usize::MAX] {
                let got = nan.rows(range.clone());
                assert!(matches!(got, Err(Error::IndexOutOfRange { .. })), "{range:?}: {got:?}");
            }
            assert!(matches!(nan.row(usize::MAX), Err(Error::IndexOutOfRange { .. })));
            assert!(matches!(file.dataset("scalar").unwrap().row(0), Err(Error::IndexOutOfRange { .. })));
            let huge = file.dataset("huge").unwrap();
            assert!(matches!(huge.read(), Err(Error::Malformed { .. })));
            assert_eq!(huge.row((1 << 30) - 1).unwrap().len(), 1024);
        }
        assert!(matches!(FeatureFile::open("no/such/file.h5"), Err(Error::Io { .. })));
    }

    #[test]
    fn foreign_datasets_are_read_as_what_they_are_or_named() {
        let file = FeatureFile::open(fixture("features_foreign.h5")).unwrap();
        assert_eq!(read(&file, "good").unwrap(), ramp([4, 3]));
        // The same numbers, whose upper halves are exact.
        assert_eq!(read(&file, "brain").unwrap(), ramp([4, 3]));
        assert_eq!(file.dataset("brain").unwrap().row(2).unwrap().data(), [3.0, 3.5, 4.0]);
        assert_eq!(read(&file, "flags").unwrap().data(), [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
        for (name, part) in [
            ("lzf", "is compressed with LZF (filter id 32000), which is not read; write it with gzip"),
            ("virtual", "a virtual dataset, whose values lie in others, is not read"),
            ("eight", "holds no numbers that can be read"),
        ] {
            let error = read(&file, name).unwrap_err().to_string();
            assert!(error.contains(&format!("dataset {name:?}: {part}")), "{error}");
        }
        // Whoever lists them meets the virtual one.
        assert!(file.names().unwrap_err().to_string().contains("root group: a virtual dataset"));
        assert!(compressed("filter id 7").contains("an unknown filter (filter id 7)"));
    }

    #[test]
    fn damaged_files_never_panic() {
        let folder = Folder::new();
        for name in ["features.h5", "features_latest.h5"] {
            for bytes in mutations(&std::fs::read(fixture(name)).unwrap(), 400) {
                let Ok(file) = FeatureFile::open(folder.file("bad.h5", &bytes)) else { continue };
                for set in ["f2", "f8", "gzip", "sub/inner", "scalar"] {
                    let _ = read(&file, set);
                }
                let _ = file.names();
            }
        }
        for bytes in [&b""[..], b"\x89HDF\r\n\x1a\n", &[0; 4096]] {
            assert!(FeatureFile::open(folder.file("none.h5", bytes)).is_err());
        }
    }
}
