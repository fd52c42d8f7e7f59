//! A writer of HDF5 files that hold `f32` datasets in the root group.
//!
//! It writes the oldest format (superblock 0, symbol-table groups, contiguous little-endian data), which every HDF5
//! library reads and which is what the published feature files use; reading the synthetic files therefore takes the
//! same path as reading the real ones. Names are indexed by a B-tree, so thousands of datasets are no problem.
//!
//! Byte layouts are those of the HDF5 File Format Specification, version 3.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::atomic;
use super::elements::write_f32;
use crate::{Error, Result};

const SIGNATURE: &[u8; 8] = b"\x89HDF\r\n\x1a\n";
const SUPERBLOCK_BYTES: u64 = 96;
/// Marks an address that points nowhere.
const UNDEFINED: u64 = u64::MAX;
/// A symbol node holds up to twice this many names, and a B-tree node twice that many children; these are the values
/// that the C library uses.
const LEAF_K: u16 = 4;
const INTERNAL_K: u16 = 16;

/// Writes the file `path` as a whole: `fill` adds the datasets, one at a time.
///
/// A failure leaves what was at `path` before.
///
/// # Errors
/// [`Error::Io`] from the file system, or what `fill` returns.
pub fn write(path: &Path, fill: impl FnOnce(&mut Hdf5Writer<'_>) -> Result<()>) -> Result<()> {
    let mut failure = None;
    let written = atomic::write(path, |file| {
        file.write_all(&[0; SUPERBLOCK_BYTES as usize])?;
        let mut writer =
            Hdf5Writer { path: path.to_path_buf(), file, end: SUPERBLOCK_BYTES, datasets: BTreeMap::new() };
        match fill(&mut writer) {
            Ok(()) => writer.finish(),
            Err(e) => {
                failure = Some(e);
                Err(io::Error::other("stopped by the caller"))
            }
        }
    });
    failure.map_or(written, Err)
}

/// Adds datasets to the file that [`write()`] is writing.
#[derive(Debug)]
pub struct Hdf5Writer<'a> {
    path: PathBuf,
    file: &'a mut BufWriter<File>,
    /// Where the next byte goes.
    end: u64,
    /// The address of each dataset's object header, in the order of names that the B-tree needs.
    datasets: BTreeMap<String, u64>,
}

impl Hdf5Writer<'_> {
    /// Adds the dataset `name` with the extents `shape` (none for a scalar) and the row-major values `data`.
    ///
    /// # Errors
    /// [`Error::Argument`] for an empty name or one with `/` or a zero byte; [`Error::Duplicate`] for a name that is
    /// taken; [`Error::Shape`] unless the product of `shape`, of at most 32 extents, is `data.len()`; [`Error::Io`].
    pub fn dataset(&mut self, name: &str, shape: &[usize], data: &[f32]) -> Result<()> {
        const OP: &str = "Hdf5Writer::dataset";
        // "." names the group itself.
        if name.is_empty() || name == "." || name.contains(['/', '\0']) {
            return Err(Error::argument(OP, "name", format!("{name:?} must be one non-empty path component")));
        }
        if self.datasets.contains_key(name) {
            let place = format!("dataset {}", self.datasets.len());
            return Err(Error::duplicate(&self.path, place, "dataset", name));
        }
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if count != Some(data.len()) || shape.len() > 32 {
            let expected = format!("at most 32 extents with a product of {}", data.len());
            return Err(Error::Shape { op: OP, argument: "shape", expected, got: shape.to_vec() });
        }
        let header = self.put_dataset(shape, data).map_err(|e| Error::io("write", &self.path, e))?;
        self.datasets.insert(name.to_owned(), header);
        Ok(())
    }

    /// Writes the values and their object header; returns the header's address.
    fn put_dataset(&mut self, shape: &[usize], data: &[f32]) -> io::Result<u64> {
        let address = if data.is_empty() { UNDEFINED } else { self.end };
        write_f32(self.file, data)?;
        self.end += 4 * data.len() as u64;

        let mut space = Bytes::default();
        space.u8(1).u8(shape.len() as u8).zeros(6);
        for &extent in shape {
            space.u64(extent as u64);
        }
        // Version 1, class 1: a float of 4 bytes, little-endian, sign in bit 31, leading mantissa bit implied; then
        // its bit offset, bit count, place and size of exponent and mantissa, and the exponent's bias.
        let mut kind = Bytes::default();
        kind.u8(0x11).u8(0x20).u8(31).u8(0).u32(4);
        kind.u16(0).u16(32).u8(23).u8(8).u8(0).u8(23).u32(127);
        // Version 2: allocated early, written if set, the default value of zero.
        let mut fill = Bytes::default();
        fill.u8(2).u8(1).u8(2).u8(1).u32(0);
        // Version 3, class 1: contiguous.
        let mut layout = Bytes::default();
        layout.u8(3).u8(1).u64(address).u64(4 * data.len() as u64);
        self.put_object(&[(0x0001, space), (0x0003, kind), (0x0005, fill), (0x0008, layout)])
    }

    /// Writes the root group and, at the front, the superblock.
    fn finish(mut self) -> io::Result<()> {
        // The local heap: all names, each ended by a zero and padded to 8 bytes; offset 0 is the empty name.
        let mut names = Bytes::default();
        names.zeros(8);
        let datasets = std::mem::take(&mut self.datasets);
        let mut entries = Vec::with_capacity(datasets.len());
        for (name, header) in &datasets {
            entries.push((names.0.len() as u64, *header));
            names.bytes(name.as_bytes()).u8(0).pad();
        }
        let names_at = self.put(&names.0)?;
        let mut heap = Bytes::default();
        // 1 in place of an offset: no free space.
        heap.bytes(b"HEAP").zeros(4).u64(names.0.len() as u64).u64(1).u64(names_at);
        let heap_at = self.put(&heap.0)?;

        let tree_at = self.put_tree(&entries)?;
        let mut table = Bytes::default();
        table.u64(tree_at).u64(heap_at);
        let root_at = self.put_object(&[(0x0011, table)])?;

        let mut superblock = Bytes::default();
        superblock.bytes(SIGNATURE).bytes(&[0, 0, 0, 0, 0, 8, 8, 0]).u16(LEAF_K).u16(INTERNAL_K).u32(0);
        superblock.u64(0).u64(UNDEFINED).u64(self.end).u64(UNDEFINED);
        superblock.u64(0).u64(root_at).u32(1).u32(0).u64(tree_at).u64(heap_at);
        debug_assert_eq!(superblock.0.len() as u64, SUPERBLOCK_BYTES);
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&superblock.0)
    }

    /// Writes the symbol nodes and the B-tree over them; `entries` are (offset of the name in the heap, address of the
    /// object header) in the order of names. Returns the address of the B-tree's root.
    fn put_tree(&mut self, entries: &[(u64, u64)]) -> io::Result<u64> {
        // What a level offers to the one above: each node's address and the offset of its last name.
        let mut children = Vec::new();
        for part in entries.chunks(2 * usize::from(LEAF_K)) {
            let mut node = Bytes::default();
            node.bytes(b"SNOD").u8(1).u8(0).u16(part.len() as u16);
            for &(name, header) in part {
                node.u64(name).u64(header).zeros(24);
            }
            // Nodes have their full size, whatever they hold.
            node.zeros((2 * usize::from(LEAF_K) - part.len()) * 40);
            children.push((self.put(&node.0)?, part[part.len() - 1].0));
        }
        let mut level = 0;
        loop {
            let width = 2 * usize::from(INTERNAL_K);
            let node_bytes = 24 + (2 * width + 1) as u64 * 8;
            let count = children.len().div_ceil(width).max(1);
            let first_at = self.end;
            let mut parents = Vec::with_capacity(count);
            let mut before = 0;
            for n in 0..count {
                let part = &children[n * width..children.len().min((n + 1) * width)];
                let sibling = |there: bool, n: usize| if there { first_at + n as u64 * node_bytes } else { UNDEFINED };
                let mut node = Bytes::default();
                node.bytes(b"TREE").u8(0).u8(level).u16(part.len() as u16);
                node.u64(sibling(n > 0, n.wrapping_sub(1))).u64(sibling(n + 1 < count, n + 1));
                // Keys and children take turns: all names in a child are above the key to its left and not above the
                // key to its right.
                node.u64(before);
                for &(address, last) in part {
                    node.u64(address).u64(last);
                    before = last;
                }
                node.zeros((width - part.len()) * 16);
                parents.push((self.put(&node.0)?, before));
            }
            if let [(root, _)] = parents[..] {
                return Ok(root);
            }
            children = parents;
            level += 1;
        }
    }

    /// Writes an object header (version 1) with the messages (type, content); returns its address.
    fn put_object(&mut self, messages: &[(u16, Bytes)]) -> io::Result<u64> {
        let mut body = Bytes::default();
        for (kind, content) in messages {
            body.u16(*kind).u16(content.0.len().next_multiple_of(8) as u16).zeros(4).bytes(&content.0).pad();
        }
        let mut header = Bytes::default();
        header.u8(1).u8(0).u16(messages.len() as u16).u32(1).u32(body.0.len() as u32).zeros(4).bytes(&body.0);
        // Data of an odd number of values ends in mid-word.
        let gap = self.end.next_multiple_of(8) - self.end;
        self.put(&[0; 8][..gap as usize])?;
        self.put(&header.0)
    }

    /// Writes bytes at the end; returns their address.
    fn put(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let address = self.end;
        self.file.write_all(bytes)?;
        self.end += bytes.len() as u64;
        Ok(address)
    }
}

/// Little-endian bytes, built by chained calls.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn zeros(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    /// Zeros up to a multiple of 8 bytes.
    fn pad(&mut self) -> &mut Self {
        self.zeros(self.0.len().next_multiple_of(8) - self.0.len())
    }

    fn u8(&mut self, v: u8) -> &mut Self {
        self.bytes(&[v])
    }

    fn u16(&mut self, v: u16) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }

    fn u32(&mut self, v: u32) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }

    fn u64(&mut self, v: u64) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdf5_reader::Hdf5File;

    /// The values and their odd count differ from name to name.
    fn values(i: usize) -> Vec<f32> {
        (0..1 + i % 5).map(|k| (i * 10 + k) as f32 - 0.5).collect()
    }

    fn round_trip(count: usize) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.h5");
        write(&path, |w| {
            (0..count).try_for_each(|i| {
                let data = values(i);
                w.dataset(&format!("video{i}"), &[data.len(), 1], &data)
            })
        })
        .unwrap();
        let file = Hdf5File::open(&path).unwrap();
        assert_eq!(file.root_group().unwrap().member_names().unwrap().1.len(), count);
        for i in 0..count {
            let dataset = file.dataset(&format!("video{i}")).unwrap();
            let data = values(i);
            assert_eq!(dataset.shape(), [data.len() as u64, 1]);
            assert_eq!(dataset.read_array::<f32>().unwrap().into_raw_vec_and_offset().0, data);
        }
        assert!(file.dataset("video").is_err() && file.dataset("video99999").is_err());
    }

    #[test]
    fn every_dataset_is_found_at_all_depths_of_the_tree() {
        // Capacities: 8 names in one symbol node, 256 under one B-tree node, 8,192 under two levels.
        for count in [0, 1, 8, 9, 256, 257, 5400, 8193] {
            round_trip(count);
        }
    }

    #[test]
    fn scalars_empty_datasets_and_large_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.h5");
        let large: Vec<f32> = (0..50_000).map(|v| v as f32).collect();
        write(&path, |w| {
            w.dataset("scalar", &[], &[1.5])?;
            w.dataset("empty", &[3, 0], &[])?;
            w.dataset("large", &[10, 50, 100], &large)
        })
        .unwrap();
        let file = Hdf5File::open(&path).unwrap();
        let read = |name| file.dataset(name).unwrap().read_array::<f32>().unwrap().into_raw_vec_and_offset().0;
        assert_eq!(read("scalar"), [1.5]);
        assert!(read("empty").is_empty());
        assert_eq!(read("large"), large);
        assert_eq!(file.dataset("large").unwrap().shape(), [10, 50, 100]);
    }

    #[test]
    fn bad_calls_are_errors_and_leave_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.h5");
        let fails = |name: &str, shape: &[usize]| write(&path, |w| w.dataset(name, shape, &[0.0; 2])).unwrap_err();
        assert!(matches!(fails("a", &[3]), Error::Shape { .. }));
        assert!(matches!(fails("a", &[usize::MAX, 3]), Error::Shape { .. }));
        assert!(matches!(fails("a", &[1; 33]), Error::Shape { .. }));
        for name in ["", ".", "a/b", "a\0"] {
            assert!(matches!(fails(name, &[2]), Error::Argument { .. }));
        }
        let twice = write(&path, |w| {
            w.dataset("a", &[1], &[0.0])?;
            w.dataset("a", &[1], &[0.0])
        });
        assert!(matches!(twice, Err(Error::Duplicate { .. })));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
