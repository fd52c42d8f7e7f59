//! NumPy files: one array (`.npy`), or several in a zip archive (`.npz`).

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use safetensors::Dtype;
use zip::ZipArchive;
use zip::result::ZipError;

use super::elements::{byte_count, first_overflow, number_type, to_f32, to_f64, write_f32};
use crate::tensor::Array;
use crate::{Error, Result};

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Longest header that is read. NumPy's own default limit is 10,000 bytes.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// NumPy's own limit is 64 dimensions, 32 before version 2.
const MAX_DIMENSIONS: usize = 32;

/// Largest unpacked npz member.
const MAX_MEMBER_BYTES: u64 = 256 << 20;

/// Deflate packs nothing to less than a share of this.
const MAX_RATIO: u64 = 1032;

/// The table of contents' entries: their signature, and where their lengths and their names are.
const ENTRY: &[u8; 4] = b"PK\x01\x02";
const ENTRY_BYTES: usize = 46;

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

/// As [`read`], without rounding: the shape, and the row-major values.
///
/// # Errors
/// As [`read`]; [`Error::Malformed`] for integers over 2^53.
pub(crate) fn read_f64(path: &Path) -> Result<(Vec<usize>, Vec<f64>)> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let length = file.metadata().map_err(|e| Error::io("inspect", path, e))?.len();
    let read = || {
        let (header, bytes) = read_values(BufReader::new(file), length)?;
        let values = to_f64(header.dtype, &bytes, header.big_endian);
        let values = values.ok_or_else(|| in_values("integers over 2^53 are not told apart".into()))?;
        let values = if header.fortran_order { to_row_major(&header.shape, &values) } else { values };
        Ok((header.shape, values))
    };
    read().map_err(|p: Problem| Error::malformed(path, p.place, p.problem))
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
/// Members larger than 256 MiB, or than 1032 times their packed size, which no packing reaches, are refused.
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
            let name = twice(path, archive.central_directory_start()).map_err(|e| Error::io("read", path, e))?;
            return Err(Error::duplicate(path, "table of contents", "member", name));
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
        let missing = || Error::missing(&self.path, "array", name);
        // A panic elsewhere leaves no half-made state behind: every member is found anew.
        let mut archive = self.archive.lock().unwrap_or_else(|e| e.into_inner());
        let index = archive.index_for_name_raw(format!("{name}.npy").as_bytes()).ok_or_else(missing)?;
        let member = archive.by_index(index).map_err(bad)?;
        let (size, packed) = (member.size(), member.compressed_size());
        if size > MAX_MEMBER_BYTES || size > packed.saturating_mul(MAX_RATIO) {
            let problem = format!("{size} bytes, packed into {packed}, exceed the limits on unpacking");
            return Err(Error::malformed(&self.path, place(""), problem));
        }
        // A member that unpacks to more than it declares is cut one byte later, and then fails its checks.
        read(&mut BufReader::new(member.take(size + 1)), size)
            .map_err(|p| Error::malformed(&self.path, place(&format!(", {}", p.place)), p.problem))
    }
}

/// The first name that occurs twice in the table of contents at `start`, which the zip library does not tell.
fn twice(path: &Path, start: u64) -> std::io::Result<String> {
    let mut reader = BufReader::new(File::open(path)?);
    reader.seek(SeekFrom::Start(start))?;
    let mut seen = HashSet::new();
    loop {
        let mut entry = [0; ENTRY_BYTES];
        reader.read_exact(&mut entry)?;
        if !entry.starts_with(ENTRY) {
            return Ok("unknown".into());
        }
        let length = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
        let mut name = vec![0; length(28).into()];
        reader.read_exact(&mut name)?;
        let name = String::from_utf8_lossy(&name).into_owned();
        reader.seek_relative(i64::from(length(30)) + i64::from(length(32)))?;
        if !seen.insert(name.clone()) {
            return Ok(name);
        }
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

fn in_values(problem: String) -> Problem {
    Problem { place: "values", problem }
}

/// The array in `reader`, which holds `length` bytes.
fn read_array(reader: impl Read, length: u64) -> Parsed<Array> {
    let (header, bytes) = read_values(reader, length)?;
    let values = to_f32(header.dtype, &bytes, header.big_endian).unwrap_or_default();
    // Only f64 holds numbers that f32 does not.
    if header.dtype == Dtype::F64 && values.iter().any(|v| v.is_infinite()) {
        let wide = to_f64(header.dtype, &bytes, header.big_endian).unwrap_or_default();
        if let Some((number, value)) = first_overflow(&wide) {
            return Err(in_values(format!("number {number} is {value:e}, which does not fit 32 bits")));
        }
    }
    let values = if header.fortran_order { to_row_major(&header.shape, &values) } else { values };
    Array::new(header.shape, values).map_err(in_header)
}

/// The header of the array in `reader`, which holds `length` bytes, and its values as they are.
fn read_values(mut reader: impl Read, length: u64) -> Parsed<(Header, Vec<u8>)> {
    let header = Header::read(&mut reader, length)?;
    // `Header::read` compared this size with `length`, so the file can hold what is allocated here.
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(header.bytes).map_err(|e| in_values(e.to_string()))?;
    // One byte more than needed, so that a reader that holds too much is found out and its checksum is verified.
    reader.take(header.bytes as u64 + 1).read_to_end(&mut bytes).map_err(|e| in_values(e.to_string()))?;
    if bytes.len() != header.bytes {
        return Err(in_values(format!("{} bytes are needed, {} or more are there", header.bytes, bytes.len())));
    }
    Ok((header, bytes))
}

/// The row-major order of `values`, whose first index runs fastest.
fn to_row_major<T: Copy>(shape: &[usize], values: &[T]) -> Vec<T> {
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
    dtype: Dtype,
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
        let header = Self::parse(std::str::from_utf8(&text).map_err(in_header)?)?;
        let held = length.saturating_sub((start.len() + size_bytes + size) as u64);
        if header.bytes as u64 != held {
            let (shape, bytes) = (&header.shape, header.bytes);
            return Err(in_header(format!("shape {shape:?} needs {bytes} bytes, {held} are there")));
        }
        Ok(header)
    }

    /// Parses a Python dictionary of exactly the keys `descr`, `fortran_order` and `shape`, in any order.
    fn parse(text: &str) -> Parsed<Self> {
        let mut cursor = Cursor(text);
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        cursor.expect("{")?;
        while !cursor.accept("}") {
            let key = cursor.string()?;
            cursor.expect(":")?;
            let repeated = match key {
                "descr" if cursor.accept("[") => return Err(cursor.structured()),
                "descr" => descr.replace(cursor.string()?).is_some(),
                "fortran_order" => fortran_order.replace(cursor.boolean()?).is_some(),
                "shape" => shape.replace(cursor.tuple()?).is_some(),
                _ => return Err(in_header(format!("unknown key {key:?}"))),
            };
            if repeated {
                return Err(in_header(format!("key {key:?} is repeated")));
            }
            if !cursor.accept(",") {
                cursor.expect("}")?;
                break;
            }
        }
        if !cursor.0.trim_ascii().is_empty() {
            return Err(in_header("text after the dictionary"));
        }
        let (Some(descr), Some(fortran_order), Some(shape)) = (descr, fortran_order, shape) else {
            return Err(in_header("descr, fortran_order or shape is missing"));
        };
        let (dtype, big_endian) =
            described(descr).ok_or_else(|| in_header(format!("cannot read values of type {descr:?}")))?;
        let bytes = byte_count(&shape, dtype).ok_or_else(|| in_header(format!("absurd shape {shape:?}")))?;
        Ok(Self { dtype, big_endian, fortran_order, shape, bytes })
    }
}

/// The number type of a `descr` such as `<f4`, and whether it is big endian.
fn described(descr: &str) -> Option<(Dtype, bool)> {
    let &[order, kind, size @ b'1'..=b'8'] = descr.as_bytes() else { return None };
    let dtype = number_type(kind, usize::from(size - b'0'))?;
    let big_endian = match order {
        b'<' => false,
        b'>' => true,
        b'=' => cfg!(target_endian = "big"),
        // No byte order, which is true of single bytes only.
        b'|' if size == b'1' => false,
        _ => return None,
    };
    Some((dtype, big_endian))
}

/// What is left of a header's text. Every method skips blanks first.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn accept(&mut self, token: &str) -> bool {
        let text = self.0.trim_ascii_start();
        let behind = text.strip_prefix(token);
        self.0 = behind.unwrap_or(text);
        behind.is_some()
    }

    fn expect(&mut self, token: &str) -> Parsed<()> {
        if self.accept(token) { Ok(()) } else { Err(in_header(format!("{token:?} expected"))) }
    }

    /// A string in single or double quotes, without escapes.
    fn string(&mut self) -> Parsed<&'a str> {
        let quote = if self.accept("\"") { "\"" } else { "'" };
        if quote == "'" {
            self.expect(quote)?;
        }
        let (string, rest) = self.0.split_once(quote).ok_or_else(|| in_header("a string does not end"))?;
        self.0 = rest;
        Ok(string)
    }

    /// The error for a structured type, `[('a', '<f4'), ..]`, behind its bracket.
    fn structured(&mut self) -> Problem {
        let mut names = Vec::new();
        while self.accept("(") {
            names.extend(self.string());
            self.0 = self.0.split_once(')').map_or("", |(_, rest)| rest);
            self.accept(",");
        }
        let names = names.join(", ");
        in_header(format!("a structured array of the fields {names}; store each field as an array of its own"))
    }

    fn boolean(&mut self) -> Parsed<bool> {
        let value = self.accept("True");
        if value || self.accept("False") { Ok(value) } else { Err(in_header("True or False expected")) }
    }

    /// A tuple of non-negative integers.
    fn tuple(&mut self) -> Parsed<Vec<usize>> {
        let mut items = Vec::new();
        self.expect("(")?;
        while !self.accept(")") {
            items.push(self.integer()?);
            if items.len() > MAX_DIMENSIONS {
                return Err(in_header(format!("more than {MAX_DIMENSIONS} dimensions")));
            }
            if !self.accept(",") {
                self.expect(")")?;
                // Python reads (3) as a number, but some writers mean a tuple.
                break;
            }
        }
        Ok(items)
    }

    fn integer(&mut self) -> Parsed<usize> {
        let text = self.0.trim_ascii_start();
        let (number, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        self.0 = rest;
        number.parse().map_err(|_| in_header("a non-negative integer that fits is expected"))
    }
}

#[cfg(test)]
#[path = "npy_tests.rs"]
mod tests;
