use std::io::Write as _;

use zip::write::SimpleFileOptions;

use super::*;
use crate::data::testing::{Folder, fixture, mutations};

fn ramp(shape: impl Into<Vec<usize>>) -> Array {
    let mut array = Array::zeros(shape);
    array.data_mut().iter_mut().enumerate().for_each(|(i, v)| *v = i as f32 * 0.5);
    array
}

fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    [MAGIC, &[1, 0][..], &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn arrays_of_numpy_read_as_they_are() {
    let file = NpzFile::open(fixture("arrays.npz")).unwrap();
    for name in ["f2", "f4", "f8", "f4_big_endian"] {
        assert_eq!(file.array(name).unwrap(), ramp([2, 3]), "{name}");
        assert_eq!(file.shape(name).unwrap(), [2, 3]);
    }
    assert_eq!(file.array("fortran").unwrap(), ramp([2, 3, 4]));
    assert_eq!(file.array("i8").unwrap().data(), [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]);
    assert_eq!(file.array("u1").unwrap().data(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(file.array("flags").unwrap().data(), [1.0, 0.0]);
    assert_eq!(file.array("scalar").unwrap(), Array::new([], vec![2.5]).unwrap());
    assert_eq!(file.array("none").unwrap().shape(), [0, 3]);
    for unsupported in ["text", "complex"] {
        assert!(matches!(file.array(unsupported), Err(Error::Malformed { .. })));
    }
    assert!(matches!(file.array("nothing"), Err(Error::Missing { kind: "array", .. })));
    assert!(matches!(read(fixture("objects.npy")), Err(Error::Malformed { .. })));
    assert!(file.contains("f2") && !file.contains("f2.npy"));
    assert_eq!(file.names().count(), 12);
}

#[test]
fn written_arrays_read_back() {
    let folder = Folder::new();
    let path = folder.path("a.npy");
    for array in [ramp([2, 3, 4]), ramp([5]), ramp([]), ramp([0, 2])] {
        write_npy(&path, &array).unwrap();
        assert_eq!(read(&path).unwrap(), array);
        let length = std::fs::metadata(&path).unwrap().len() as usize;
        assert_eq!((length - 4 * array.len()) % 64, 0);
    }
}

#[test]
fn all_versions_and_key_orders_are_read() {
    let folder = Folder::new();
    let header = "{\"shape\": (2,), 'fortran_order':False,\n 'descr' : '|u1'}  \n";
    assert_eq!(read(folder.file("1", npy(header, &[7, 8]))).unwrap().data(), [7.0, 8.0]);
    for version in [2, 3] {
        let length = (header.len() as u32).to_le_bytes();
        let bytes = [MAGIC, &[version, 0][..], &length, header.as_bytes(), &[7, 8]].concat();
        assert_eq!(read(folder.file("23", bytes)).unwrap().data(), [7.0, 8.0]);
    }
}

#[test]
fn bad_headers_are_refused() {
    let folder = Folder::new();
    let dict = |descr: &str, order: &str, shape: &str| {
        format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}")
    };
    let one = |shape: &str| dict("'<f4'", "False", shape);
    let nested = format!("{}1{}", "[".repeat(15_000), "]".repeat(15_000));
    for header in [
        String::new(),
        "{}".to_owned(),
        one("(2,)"),
        one("(-1,)"),
        one("(1.0,)"),
        one("(1 1)"),
        one("(,)"),
        one("[1]"),
        one("1"),
        one("(1"),
        one("(4294967296, 4294967296)"),
        one("(18446744073709551616,)"),
        one("(0, 18446744073709551615, 2)"),
        one(&format!("({})", "1,".repeat(33))),
        one(&nested),
        one("(1,)") + "x",
        one("(1,)").replace("'shape'", "'other'"),
        one("(1,)").replace("}", ", 'shape': (1,)}"),
        one("(1,)").replace("'shape'", "'shape"),
        dict("'|O'", "False", "(1,)"),
        dict("'<U4'", "False", "(1,)"),
        dict("'<c8'", "False", "(1,)"),
        dict("'|f4'", "False", "(1,)"),
        dict("'f4'", "False", "(1,)"),
        dict("''", "False", "(1,)"),
        dict("[('a', '<f4')]", "False", "(1,)"),
        dict("'<f4'", "0", "(1,)"),
        "__import__('os')".to_owned(),
    ] {
        let got = read(folder.file("bad.npy", npy(&header, &[0; 4])));
        assert!(matches!(got, Err(Error::Malformed { .. })), "{header:.100}: {got:?}");
    }
    assert!(read(folder.file("good.npy", npy(&one("(1,)"), &[0; 4]))).is_ok());
    for length in [0, 3, 5] {
        assert!(read(folder.file("length.npy", npy(&one("(1,)"), &vec![0; length]))).is_err());
    }
    let long = [MAGIC, &[2, 0][..], &u32::MAX.to_le_bytes()].concat();
    assert!(read(folder.file("long.npy", long)).is_err());
    assert!(matches!(read(folder.path("nothing.npy")), Err(Error::Io { .. })));
}

fn zipped(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in members {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn bombs_duplicates_and_lies_are_refused() {
    let folder = Folder::new();
    let header = |n: usize| format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({n},)}}");
    // A member that claims to be larger than its packed bytes can be.
    let bomb = npy(&header(8 << 20), &[0; 9]);
    let (short, long) = (npy(&header(5), &[0; 4]), npy(&header(3), &[0; 4]));
    let members: [(&str, &[u8]); 5] =
        [("bomb.npy", &bomb), ("short.npy", &short), ("long.npy", &long), ("../up.npy", &long), ("note.txt", b"hi")];
    let bytes = zipped(&members);
    let file = NpzFile::open(folder.file("a.npz", &bytes)).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["../up", "bomb", "long", "short"]);
    for name in file.names() {
        let got = file.array(name);
        assert!(matches!(got, Err(Error::Malformed { .. })), "{name}: {got:?}");
    }

    // Rename a member to another one's name, in the local header and in the table of contents.
    let mut twice = zipped(&[("a.npy", &short), ("b.npy", &short)]);
    for i in 0..twice.len() - 5 {
        if &twice[i..i + 5] == b"b.npy" {
            twice[i] = b'a';
        }
    }
    match NpzFile::open(folder.file("twice.npz", twice)) {
        Err(Error::Duplicate { kind: "member", id, .. }) => assert_eq!(id, "a.npy"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn zeros_that_pack_well_are_read() {
    let folder = Folder::new();
    let zeros = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (600, 1000)}", &[0; 2_400_000]);
    let file = NpzFile::open(folder.file("a.npz", zipped(&[("a.npy", &zeros)]))).unwrap();
    assert_eq!(file.array("a").unwrap(), Array::zeros([600, 1000]));

    // The same with sizes that no packing gives: both headers have them as 32 bits.
    let mut lie = zipped(&[("a.npy", &zeros)]);
    let (size, claimed) = ((zeros.len() as u32).to_le_bytes(), (200u32 << 20).to_le_bytes());
    for at in 0..lie.len() - 4 {
        if lie[at..at + 4] == size {
            lie[at..at + 4].copy_from_slice(&claimed);
        }
    }
    let file = NpzFile::open(folder.file("b.npz", lie)).unwrap();
    let error = file.array("a").unwrap_err().to_string();
    assert!(error.contains("exceed the limits on unpacking"), "{error}");
}

#[test]
fn what_numpy_has_beside_numbers_is_named() {
    let folder = Folder::new();
    let problem = |header: &str, data: &[u8]| read(folder.file("a.npy", npy(header, data))).unwrap_err().to_string();
    let fields = "{'descr': [('id', '<i4'), ('score', '<f4', (2,))], 'fortran_order': False, 'shape': (1,), }";
    let error = problem(fields, &[0; 12]);
    assert!(error.contains("a structured array of the fields id, score; store each"), "{error}");
    let wide = "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }";
    let error = problem(wide, &[1.0f64.to_le_bytes(), 1e300f64.to_le_bytes()].concat());
    assert!(error.contains("values: number 1 is 1e300, which does not fit 32 bits"), "{error}");
}

#[test]
fn damaged_files_never_panic() {
    let folder = Folder::new();
    let good = npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3)}", &[1; 24]);
    assert!(read(folder.file("good", &good)).is_ok());
    for bytes in mutations(&good, 800) {
        let _ = read(folder.file("bad", &bytes));
    }
    let good = std::fs::read(fixture("arrays.npz")).unwrap();
    let mut wrong = 0;
    for bytes in mutations(&good, 400) {
        let Ok(file) = NpzFile::open(folder.file("bad", &bytes)) else { continue };
        for name in file.names() {
            wrong += usize::from(name == "f4" && file.array(name).is_ok_and(|a| a != ramp([2, 3])));
            let _ = file.array(name);
        }
    }
    assert_eq!(wrong, 0, "the checksum of a member must be verified");
}
