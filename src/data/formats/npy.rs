//! NumPy files: one array (`.npy`), or several in a zip archive (`.npz`).

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use zip::ZipArchive;
use zip::result::ZipError;

use super::elements::{Element, byte_count, write_f32};
use crate::tensor::Array;
use crate::{Error, Result};

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Longest header that is read. NumPy's own default limit is 10,000 bytes.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// NumPy's own limit is 64 dimensions, 32 before version 2.
const MAX_DIMENSIONS: usize = 32;

/// Largest unpacked npz member.
const MAX_MEMBER_BYTES: u64 = 256 << 20;

/// A member over 1 MiB may unpack to this many times its packed size.
const MAX_RATIO: u64 = 256;

/// Reads a `.npy` file of booleans, integers or floats (f2, f4, f8) as `f32`: either byte order, C or Fortran layout,
/// format versions 1 to 3.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] for any other content, pickled objects among it, and unless the file holds exactly
/// the bytes that its shape needs.
pub fn read(path: impl AsRef<Path>) -> Result<Array> {
    let path = path.as_ref();
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let length = file.metadata().map_err(|e| Error::io("inspect", path, e))?.len();
    read_array(BufReader::new(file), length).map_err(|p| Error::malformed(path, p.place, p.problem))
}

/// Writes `array` as a little-endian `f32` `.npy` file in C order (format version 1), atomically.
///
/// # Errors
/// [`Error::Io`].
pub fn write_npy(path: impl AsRef<Path>, array: &Array) -> Result<()> {
    super::atomic::write(path.as_ref(), |file| write_to(file, array))
}

fn write_to(writer: &mut impl Write, array: &Array) -> std::io::Result<()> {
    // A tuple of one needs its comma: (3,)
    let extents: String = array.shape().iter().map(|d| format!("{d}, ")).collect();
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", extents.trim_end());
    // Magic, version, length, header and the newline together fill a multiple of 64 bytes.
    let used = MAGIC.len() + 4 + header.len() + 1;
    header.push_str(&" ".repeat(used.next_multiple_of(64) - used));
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(|_| std::io::Error::other("the shape has too many dimensions"))?;
    writer.write_all(MAGIC)?;
    writer.write_all(&[1, 0])?;
    writer.write_all(&length.to_le_bytes())?;
    writer.write_all(header.as_bytes())?;
    write_f32(writer, array.data())
}

/// An open `.npz` archive; members are unpacked on demand.
///
/// Members larger than 256 MiB, or larger than 1 MiB and 256 times their packed size, are refused.
#[derive(Debug)]
pub struct NpzFile {
    path: PathBuf,
    archive: Mutex<ZipArchive<BufReader<File>>>,
    names: Vec<String>,
}

impl NpzFile {
    /// Opens `path` and reads its table of contents.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] if it is no zip archive; [`Error::Duplicate`] if two members share a name.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bad = |e: ZipError| match e {
            ZipError::Io(e) => Error::io("read", path, e),
            e => Error::malformed(path, "table of contents", e),
        };
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let archive = ZipArchive::new(BufReader::new(file)).map_err(bad)?;
        if archive.has_duplicate_names() {
            let (path, place) = (path.to_path_buf(), "table of contents".to_owned());
            return Err(Error::Duplicate { path, place, kind: "member", id: "of an archive".to_owned() });
        }
        let members = archive.file_names_raw().filter_map(|raw| std::str::from_utf8(raw).ok());
        let mut names: Vec<String> = members.filter_map(|name| name.strip_suffix(".npy")).map(str::to_owned).collect();
        names.sort();
        Ok(Self { path: path.to_path_buf(), archive: Mutex::new(archive), names })
    }

    /// The archive's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of the arrays, without `.npy`, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Whether there is an array `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.names.binary_search_by(|n| n.as_str().cmp(name)).is_ok()
    }

    /// The extents of array `name`; reads its header only.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::Malformed`], naming the member; [`Error::Io`].
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        self.member(name, |reader, length| Ok(Header::read(reader, length)?.shape))
    }

    /// Array `name` as `f32`: see [`read`].
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::Malformed`], naming the member; [`Error::Io`].
    pub fn array(&self, name: &str) -> Result<Array> {
        self.member(name, |reader, length| read_array(reader, length))
    }

    fn member<T>(&self, name: &str, read: impl FnOnce(&mut dyn Read, u64) -> Parsed<T>) -> Result<T> {
        let place = |detail: &str| format!("member {name:?}{detail}");
        let bad = |e: ZipError| Error::malformed(&self.path, place(""), e);
        let missing = || Error::Missing { path: self.path.clone(), kind: "array", id: name.to_owned() };
        // A panic elsewhere leaves no half-made state behind: every member is found anew.
        let mut archive = self.archive.lock().unwrap_or_else(|e| e.into_inner());
        let index = archive.index_for_name_raw(format!("{name}.npy").as_bytes()).ok_or_else(missing)?;
        let member = archive.by_index(index).map_err(bad)?;
        let (size, packed) = (member.size(), member.compressed_size());
        if size > MAX_MEMBER_BYTES || size > packed.saturating_mul(MAX_RATIO).max(1 << 20) {
            let problem = format!("{size} bytes, packed into {packed}, exceed the limits on unpacking");
            return Err(Error::malformed(&self.path, place(""), problem));
        }
        // A member that unpacks to more than it declares is cut one byte later, and then fails its checks.
        read(&mut BufReader::new(member.take(size + 1)), size)
            .map_err(|p| Error::malformed(&self.path, place(&format!(", {}", p.place)), p.problem))
    }
}

/// What is wrong inside an array file, and where.
struct Problem {
    place: &'static str,
    problem: String,
}

type Parsed<T> = std::result::Result<T, Problem>;

fn in_header(problem: impl ToString) -> Problem {
    Problem { place: "header", problem: problem.to_string() }
}

/// The array in `reader`, which holds `length` bytes.
fn read_array(mut reader: impl Read, length: u64) -> Parsed<Array> {
    let header = Header::read(&mut reader, length)?;
    let in_values = |problem: String| Problem { place: "values", problem };
    // `Header::read` compared this size with `length`, so the file can hold what is allocated here.
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(header.bytes).map_err(|e| in_values(e.to_string()))?;
    // One byte more than needed, so that a reader that holds too much is found out and its checksum is verified.
    reader.take(header.bytes as u64 + 1).read_to_end(&mut bytes).map_err(|e| in_values(e.to_string()))?;
    if bytes.len() != header.bytes {
        return Err(in_values(format!("{} bytes are needed, {} or more are there", header.bytes, bytes.len())));
    }
    let values = header.element.to_f32(&bytes, header.big_endian);
    let values = if header.fortran_order { to_row_major(&header.shape, &values) } else { values };
    Array::new(header.shape, values).map_err(in_header)
}

/// The row-major order of `values`, whose first index runs fastest.
fn to_row_major(shape: &[usize], values: &[f32]) -> Vec<f32> {
    let mut strides = vec![1; shape.len()];
    for axis in 1..shape.len() {
        strides[axis] = strides[axis - 1] * shape[axis - 1];
    }
    let mut index = vec![0; shape.len()];
    let mut from = 0;
    let mut ordered = Vec::with_capacity(values.len());
    for _ in values {
        ordered.push(values[from]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            from += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            from -= index[axis] * strides[axis];
            index[axis] = 0;
        }
    }
    ordered
}

struct Header {
    element: Element,
    big_endian: bool,
    fortran_order: bool,
    shape: Vec<usize>,
    /// The size of the values.
    bytes: usize,
}

impl Header {
    /// Reads the header of a file of `length` bytes and checks that the rest of the file is what the values need.
    fn read(mut reader: impl Read, length: u64) -> Parsed<Self> {
        let mut start = [0; 8];
        reader.read_exact(&mut start).map_err(in_header)?;
        if !start.starts_with(MAGIC) {
            return Err(in_header("not an npy file"));
        }
        let wide = match start[6] {
            1 => false,
            2 | 3 => true,
            version => return Err(in_header(format!("format version {version} is not known"))),
        };
        let mut size = [0; 4];
        let size_bytes = if wide { 4 } else { 2 };
        reader.read_exact(&mut size[..size_bytes]).map_err(in_header)?;
        let size = u32::from_le_bytes(size) as usize;
        if size > MAX_HEADER_BYTES {
            return Err(in_header(format!("a length of {size} bytes, over the limit of {MAX_HEADER_BYTES}")));
        }
        let mut text = vec![0; size];
        reader.read_exact(&mut text).map_err(in_header)?;
        let header = Self::parse(&text)?;
        let held = length.saturating_sub((start.len() + size_bytes + size) as u64);
        if header.bytes as u64 != held {
            let (shape, bytes) = (&header.shape, header.bytes);
            return Err(in_header(format!("shape {shape:?} needs {bytes} bytes, {held} are there")));
        }
        Ok(header)
    }

    /// Parses a Python dictionary of exactly the keys `descr`, `fortran_order` and `shape`, in any order.
    fn parse(text: &[u8]) -> Parsed<Self> {
        let mut cursor = Cursor(text);
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        cursor.expect(b'{')?;
        while !cursor.accept(b'}') {
            let key = cursor.string()?;
            cursor.expect(b':')?;
            let repeated = match key {
                b"descr" => descr.replace(cursor.string()?).is_some(),
                b"fortran_order" => fortran_order.replace(cursor.boolean()?).is_some(),
                b"shape" => shape.replace(cursor.tuple()?).is_some(),
                _ => return Err(in_header(format!("unknown key {:?}", String::from_utf8_lossy(key)))),
            };
            if repeated {
                return Err(in_header(format!("key {:?} is repeated", String::from_utf8_lossy(key))));
            }
            if !cursor.accept(b',') {
                cursor.expect(b'}')?;
                break;
            }
        }
        cursor.end()?;
        let (Some(descr), Some(fortran_order), Some(shape)) = (descr, fortran_order, shape) else {
            return Err(in_header("descr, fortran_order or shape is missing"));
        };
        let (element, big_endian) = number_type(descr)
            .ok_or_else(|| in_header(format!("cannot read values of type {:?}", String::from_utf8_lossy(descr))))?;
        let bytes = byte_count(&shape, element).ok_or_else(|| in_header(format!("absurd shape {shape:?}")))?;
        Ok(Self { element, big_endian, fortran_order, shape, bytes })
    }
}

/// The number type of a `descr` such as `<f4`, and whether it is big endian.
fn number_type(descr: &[u8]) -> Option<(Element, bool)> {
    let (&order, code) = descr.split_first()?;
    let big_endian = match order {
        b'<' | b'|' => false,
        b'>' => true,
        b'=' => cfg!(target_endian = "big"),
        _ => return None,
    };
    let element = match code {
        b"b1" => Element::Bool,
        b"i1" => Element::I8,
        b"i2" => Element::I16,
        b"i4" => Element::I32,
        b"i8" => Element::I64,
        b"u1" => Element::U8,
        b"u2" => Element::U16,
        b"u4" => Element::U32,
        b"u8" => Element::U64,
        b"f2" => Element::F16,
        b"f4" => Element::F32,
        b"f8" => Element::F64,
        _ => return None,
    };
    // `|` says that there is no byte order, which is true of single bytes only.
    (order != b'|' || element.size() == 1).then_some((element, big_endian))
}

/// What is left of a header's text. Every method skips blanks first.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn accept(&mut self, byte: u8) -> bool {
        self.0 = self.0.trim_ascii_start();
        let found = self.0.first() == Some(&byte);
        self.0 = &self.0[usize::from(found)..];
        found
    }

    fn expect(&mut self, byte: u8) -> Parsed<()> {
        if self.accept(byte) { Ok(()) } else { Err(in_header(format!("{:?} expected", char::from(byte)))) }
    }

    fn end(&mut self) -> Parsed<()> {
        if self.0.trim_ascii().is_empty() { Ok(()) } else { Err(in_header("text after the dictionary")) }
    }

    /// A string in single or double quotes, without escapes.
    fn string(&mut self) -> Parsed<&'a [u8]> {
        let quote = if self.accept(b'"') { b'"' } else { b'\'' };
        if quote == b'\'' {
            self.expect(quote)?;
        }
        let rest = self.0;
        let end = rest.iter().position(|&b| b == quote).ok_or_else(|| in_header("a string does not end"))?;
        self.0 = &rest[end + 1..];
        Ok(&rest[..end])
    }

    fn boolean(&mut self) -> Parsed<bool> {
        self.0 = self.0.trim_ascii_start();
        for (word, value) in [(&b"True"[..], true), (b"False", false)] {
            if let Some(rest) = self.0.strip_prefix(word) {
                self.0 = rest;
                return Ok(value);
            }
        }
        Err(in_header("True or False expected"))
    }

    /// A tuple of non-negative integers.
    fn tuple(&mut self) -> Parsed<Vec<usize>> {
        let mut items = Vec::new();
        self.expect(b'(')?;
        while !self.accept(b')') {
            items.push(self.integer()?);
            if items.len() > MAX_DIMENSIONS {
                return Err(in_header(format!("more than {MAX_DIMENSIONS} dimensions")));
            }
            if !self.accept(b',') {
                self.expect(b')')?;
                // Python reads (3) as a number, but some writers mean a tuple.
                break;
            }
        }
        Ok(items)
    }

    fn integer(&mut self) -> Parsed<usize> {
        self.0 = self.0.trim_ascii_start();
        let digits = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        let (number, rest) = self.0.split_at(digits);
        self.0 = rest;
        let value = number.iter().try_fold(0usize, |n, b| n.checked_mul(10)?.checked_add(usize::from(b - b'0')));
        value.filter(|_| digits > 0).ok_or_else(|| in_header("a non-negative integer that fits is expected"))
    }
}

#[cfg(test)]
#[path = "npy_tests.rs"]
mod tests;
