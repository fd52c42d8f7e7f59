//! Safetensors files: named arrays and a few strings, read one array at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::elements::{byte_count, to_f32, to_i64, write_f16, write_f32};
use crate::tensor::{Array, DType, halves};
use crate::{Error, Result};

/// Longest header that is read: the format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

const METADATA_KEY: &str = "__metadata__";

/// An open safetensors file.
///
/// Opening reads and checks the header only: offsets without overlaps or holes, shapes that match their bytes, no name
/// twice, and a file of exactly the promised length. Values are read on demand and, as the format allows NaN and
/// infinity, not judged: see [`Array::non_finite`].
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: Mutex<File>,
    /// Where the values begin.
    start: u64,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// Opens `path` and checks its header.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for anything the format forbids; [`Error::Duplicate`] for a repeated name.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bad = |problem: &dyn fmt::Display| Error::malformed(path, "header", problem);
        let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let length = file.metadata().map_err(|e| Error::io("inspect", path, e))?.len();

        let mut prefix = [0; 8];
        file.read_exact(&mut prefix).map_err(|e| bad(&format!("no room for the header's length: {e}")))?;
        let header_bytes = u64::from_le_bytes(prefix);
        if header_bytes > MAX_HEADER_BYTES || header_bytes > length.saturating_sub(8) {
            return Err(bad(&format!("a length of {header_bytes} bytes in a file of {length}")));
        }
        // At most the file's length, which was just checked.
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).map_err(|e| Error::io("read", path, e))?;

        let Header { metadata, mut tensors } = serde_json::from_slice(&header).map_err(|e| bad(&e))?;
        let mut seen = BTreeSet::new();
        if let Some((name, _)) = tensors.iter().find(|(name, _)| !seen.insert(name.as_str())) {
            return Err(Error::duplicate(path, "header", "tensor", name));
        }
        if let Some((name, info)) = tensors.iter().find(|(_, info)| byte_count(&info.shape, Dtype::F64).is_none()) {
            return Err(bad(&format!("tensor {name:?}: absurd shape {:?}", info.shape)));
        }
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        let checked = Metadata::new(None::<HashMap<_, _>>, tensors.clone()).map_err(|e| bad(&e))?;
        let start = 8 + header_bytes;
        let held = length - start;
        if checked.data_len() as u64 != held {
            return Err(bad(&format!("the tensors take {} bytes, the file holds {held}", checked.data_len())));
        }
        Ok(Self {
            path: path.to_path_buf(),
            file: Mutex::new(file),
            start,
            tensors: tensors.into_iter().collect(),
            metadata,
        })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The strings of `__metadata__`, by name; empty when there are none.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The names of the tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The extents of tensor `name`, outermost first.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.info(name)?.shape)
    }

    /// Tensor `name` as `f32`, whatever number type the file holds it in.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::Malformed`] for a number type that is neither an integer nor f16, bf16, f32 or f64;
    /// [`Error::Io`].
    pub fn array(&self, name: &str) -> Result<Array> {
        let (shape, values) = self.decode(name, "a number", |dtype, bytes| to_f32(dtype, &bytes, false))?;
        Array::new(shape, values)
    }

    /// As [`TensorFile::array`], of floats alone. Weights of integers mean nothing without the scales that belong to them.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::Malformed`] for another number type; [`Error::Io`].
    pub fn floats(&self, name: &str) -> Result<Array> {
        let (shape, values) = self.decode(name, "f16, bf16, f32 or f64", |dtype, bytes| match dtype {
            Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64 => to_f32(dtype, &bytes, false),
            _ => None,
        })?;
        Array::new(shape, values)
    }

    /// The shape and the values of an integer (or bool) tensor.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::Malformed`] for floats and u64; [`Error::Io`].
    pub fn integers(&self, name: &str) -> Result<(Vec<usize>, Vec<i64>)> {
        self.decode(name, "an integer of at most 64 signed bits", |dtype, bytes| to_i64(dtype, &bytes))
    }

    /// The shape and the bytes of a u8 tensor.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::Malformed`] for another type; [`Error::Io`].
    pub fn bytes(&self, name: &str) -> Result<(Vec<usize>, Vec<u8>)> {
        self.decode(name, "u8", |dtype, bytes| (dtype == Dtype::U8).then_some(bytes))
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors.get(name).ok_or_else(|| Error::missing(&self.path, "tensor", name))
    }

    /// The shape and what `decode` makes of the type and the bytes of tensor `name`; nothing unless it is `wanted`.
    fn decode<T>(
        &self,
        name: &str,
        wanted: &str,
        decode: impl FnOnce(Dtype, Vec<u8>) -> Option<T>,
    ) -> Result<(Vec<usize>, T)> {
        let info = self.info(name)?;
        let problem = || format!("{:?} is not {wanted}", info.dtype);
        let values = decode(info.dtype, self.read(info)?)
            .ok_or_else(|| Error::malformed(&self.path, format_args!("tensor {name:?}"), problem()))?;
        Ok((info.shape.clone(), values))
    }

    fn read(&self, info: &TensorInfo) -> Result<Vec<u8>> {
        let (begin, end) = info.data_offsets;
        let failed = |e| Error::io("read", &self.path, e);
        // A panic elsewhere leaves no half-made state behind: every read seeks first.
        let mut file = self.file.lock().unwrap_or_else(|e| e.into_inner());
        file.seek(SeekFrom::Start(self.start + begin as u64)).map_err(failed)?;
        // Within the file: `open` compared all offsets with its length.
        let mut bytes = vec![0; end - begin];
        file.read_exact(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }
}

/// All tensors of `path` as `f32`, by name.
///
/// # Errors
/// Those of [`TensorFile::open`] and [`TensorFile::array`].
pub fn read(path: impl AsRef<Path>) -> Result<BTreeMap<String, Array>> {
    let file = TensorFile::open(path)?;
    file.names().map(|name| Ok((name.to_owned(), file.array(name)?))).collect()
}

/// Writes `tensors` as `f32` and `metadata` to `path`, atomically. Equal input gives equal bytes.
///
/// # Errors
/// [`Error::Argument`] for a tensor named `__metadata__`; [`Error::Io`].
pub fn write(
    path: impl AsRef<Path>,
    tensors: &BTreeMap<String, Array>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    write_as(path, tensors, metadata, DType::F32)
}

/// As [`write()`], as f32 or f16; halves are rounded to the nearest.
///
/// # Errors
/// As [`write()`]; [`Error::HalfOverflow`]; [`Error::DType`] for another type.
pub fn write_as(
    path: impl AsRef<Path>,
    tensors: &BTreeMap<String, Array>,
    metadata: &BTreeMap<String, String>,
    precision: DType,
) -> Result<()> {
    precision.expect_float("safetensors::write", "precision")?;
    if tensors.contains_key(METADATA_KEY) {
        return Err(Error::argument("safetensors::write", "tensors", format!("must not be named {METADATA_KEY:?}")));
    }
    if precision == DType::F16 {
        let origin = path.as_ref().display().to_string();
        tensors.iter().try_for_each(|(name, array)| halves::check(&origin, name, array.data()))?;
    }
    let header = header(tensors, metadata, precision);
    super::atomic::write(path.as_ref(), |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        tensors.values().try_for_each(|array| match precision {
            DType::F16 => write_f16(file, array.data()),
            _ => write_f32(file, array.data()),
        })
    })
}

/// The JSON header, padded with blanks so that the values start at a multiple of 8 bytes.
fn header(tensors: &BTreeMap<String, Array>, metadata: &BTreeMap<String, String>, precision: DType) -> String {
    let dtype = precision.name().to_uppercase();
    // A sorted map, so that equal input gives equal bytes.
    let mut entries = BTreeMap::new();
    if !metadata.is_empty() {
        entries.insert(METADATA_KEY, serde_json::json!(metadata));
    }
    let mut end = 0;
    for (name, array) in tensors {
        let begin = end;
        end += precision.bytes() * array.len();
        let entry = serde_json::json!({"dtype": dtype, "shape": array.shape(), "data_offsets": [begin, end]});
        entries.insert(name, entry);
    }
    let mut text = serde_json::json!(entries).to_string();
    text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
    text
}

/// The header as written: a list, because a map would hide repeated names.
struct Header {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut metadata = None;
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name != METADATA_KEY {
                        tensors.push((name, map.next_value()?));
                    } else if metadata.replace(map.next_value()?).is_some() {
                        return Err(A::Error::duplicate_field(METADATA_KEY));
                    }
                }
                Ok(Header { metadata: metadata.unwrap_or_default(), tensors })
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::{Folder, mutations};

    fn sample() -> (BTreeMap<String, Array>, BTreeMap<String, String>) {
        let a = Array::new([2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let b = Array::new([], vec![-0.5]).unwrap();
        let tensors = [("a".to_owned(), a), ("z".to_owned(), b), ("empty".to_owned(), Array::zeros([0, 4]))];
        (tensors.into(), [("epoch".to_owned(), "3".to_owned()), ("b".to_owned(), "é\"".to_owned())].into())
    }

    /// A file with this JSON header and `data` after it.
    fn raw(folder: &Folder, header: &str, data: &[u8]) -> PathBuf {
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
        folder.file("raw.safetensors", &bytes)
    }

    #[test]
    fn written_files_read_back_and_are_deterministic() {
        let folder = Folder::new();
        let (tensors, metadata) = sample();
        let (one, two) = (folder.path("1"), folder.path("2"));
        write(&one, &tensors, &metadata).unwrap();
        write(&two, &tensors, &metadata).unwrap();
        let bytes = std::fs::read(&one).unwrap();
        assert_eq!(bytes, std::fs::read(&two).unwrap());
        assert_eq!(read(&one).unwrap(), tensors);
        assert_eq!(TensorFile::open(&one).unwrap().metadata(), &metadata);
        // And the reference implementation agrees.
        let view = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(view.tensor("a").unwrap().shape(), [2, 3]);
        assert!(write(&one, &[(METADATA_KEY.to_owned(), Array::zeros([1]))].into(), &metadata).is_err());
    }

    #[test]
    fn other_number_types_convert() {
        let folder = Folder::new();
        // `i` starts at byte 1: unaligned.
        let header = r#"{"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
            "i":{"dtype":"I64","shape":[2],"data_offsets":[1,17]},"h":{"dtype":"BF16","shape":[1],"data_offsets":[17,19]}}"#;
        let data = [&[200u8][..], &(-1i64).to_le_bytes(), &(1i64 << 60).to_le_bytes(), &[0xc0, 0x3f]].concat();
        let file = TensorFile::open(raw(&folder, header, &data)).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["b", "h", "i"]);
        assert_eq!(file.array("b").unwrap().data(), [200.0]);
        assert_eq!(file.array("h").unwrap().data(), [1.5]);
        assert_eq!(file.integers("i").unwrap(), (vec![2], vec![-1, 1 << 60]));
        assert_eq!(file.integers("b").unwrap().1, [200]);
        assert_eq!(file.bytes("b").unwrap(), (vec![1], vec![200]));
        assert!(matches!(file.integers("h"), Err(Error::Malformed { .. })));
        assert!(matches!(file.bytes("i"), Err(Error::Malformed { .. })));
        assert!(matches!(file.array("nothing"), Err(Error::Missing { .. })));
    }

    #[test]
    fn forbidden_headers_are_refused() {
        let folder = Folder::new();
        let one = |shape: &str, offsets: &str| {
            format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let two = |first: &str, b: &str, second: &str| {
            format!(
                r#"{{"a":{{"dtype":"U8","shape":[2],"data_offsets":{first}}},"{b}":{{"dtype":"U8","shape":[2],"data_offsets":{second}}}}}"#
            )
        };
        let huge = u64::MAX;
        for header in [
            String::new(),
            "[]".to_owned(),
            "{".to_owned(),
            "[".repeat(100_000),
            one("[2]", "[0,4]"),
            one("[1]", "[4,8]"),
            one("[1]", "[4,0]"),
            one("[-1]", "[0,4]"),
            one("[1.5]", "[0,4]"),
            one("[4294967296,4294967296]", "[0,4]"),
            one(&format!("[0,{huge},2]"), "[0,4]"),
            one(&format!("[0,{huge},2]"), "[0,0]"),
            one(&format!("[{huge}]"), &format!("[0,{huge}]")),
            two("[0,2]", "b", "[1,3]"),
            two("[0,2]", "b", "[3,5]"),
            r#"{"__metadata__":{"a":1}}"#.to_owned(),
            r#"{"__metadata__":{},"__metadata__":{}}"#.to_owned(),
            r#"{"a":{"dtype":"Q7","shape":[1],"data_offsets":[0,4]}}"#.to_owned(),
        ] {
            let opened = TensorFile::open(raw(&folder, &header, &[0; 4]));
            assert!(matches!(opened, Err(Error::Malformed { .. })), "{:.200}: {opened:?}", header);
        }
        let repeated = TensorFile::open(raw(&folder, &two("[0,2]", "a", "[2,4]"), &[0; 4]));
        assert!(matches!(repeated, Err(Error::Duplicate { kind: "tensor", .. })), "{repeated:?}");
        for trailing in [3, 5] {
            assert!(TensorFile::open(raw(&folder, &one("[1]", "[0,4]"), &vec![0; trailing])).is_err());
        }
        for length in [0u64, 1 << 63, u64::MAX, 100, 99_999_999] {
            assert!(TensorFile::open(folder.file("length", length.to_le_bytes())).is_err());
        }
    }

    #[test]
    fn damaged_files_never_panic() {
        let folder = Folder::new();
        let (tensors, metadata) = sample();
        write(folder.path("good"), &tensors, &metadata).unwrap();
        for bytes in mutations(&std::fs::read(folder.path("good")).unwrap(), 600) {
            // An error, or arrays of the length their shape says.
            for array in read(folder.file("bad", &bytes)).into_iter().flat_map(BTreeMap::into_values) {
                assert_eq!(array.shape().iter().product::<usize>(), array.len());
            }
        }
    }
}
