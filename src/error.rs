//! The crate's one error type.
//!
//! Every fallible function returns [`Result`]; every variant carries the data a program needs to react: the op and its
//! shapes, both numbers of a limit, the file and the place in it.

use std::path::{Path, PathBuf};

/// `Result` with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // --- adapter and device ---
    /// No GPU adapter answered at all.
    #[error(
        "no GPU adapter found ({searched}); install a Vulkan driver (Debian/Ubuntu: mesa-vulkan-drivers), or run on a machine with Vulkan, Metal or DX12"
    )]
    NoAdapter {
        /// The back ends that were asked.
        searched: String,
    },
    /// The adapter that was asked for by name or index is not there.
    #[error("no GPU adapter matches {wanted:?}; available: {}", available.join(", "))]
    AdapterNotFound {
        /// What was asked for.
        wanted: String,
        /// The adapters that are there.
        available: Vec<String>,
    },
    /// The adapter lacks a feature that the caller insisted on.
    #[error("{op} needs the GPU feature {feature}, which this adapter lacks; {remedy}")]
    MissingFeature {
        /// The operation.
        op: &'static str,
        /// The feature's name.
        feature: &'static str,
        /// What to do instead.
        remedy: &'static str,
    },
    /// A size is beyond what the device allows.
    #[error("{op}: {what} of {needed} exceeds the device's limit of {limit}; {remedy}")]
    LimitExceeded {
        /// The operation.
        op: &'static str,
        /// Which limit.
        what: &'static str,
        /// What the call needed.
        needed: u64,
        /// What the device allows.
        limit: u64,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The device could not allocate.
    #[error("out of GPU memory in {op}: {bytes} bytes asked for with {live_bytes} bytes live")]
    OutOfMemory {
        /// The label of the allocation.
        op: String,
        /// Bytes asked for.
        bytes: u64,
        /// Bytes that were live.
        live_bytes: u64,
    },
    /// The device is gone; everything on it is lost.
    #[error("the GPU device was lost: {reason}")]
    DeviceLost {
        /// The driver's words.
        reason: String,
    },
    /// The device did not answer in time.
    #[error("{op}: the GPU did not answer within {seconds} s")]
    Timeout {
        /// The operation that waited.
        op: &'static str,
        /// How long it waited.
        seconds: u64,
    },
    /// A shader did not compile.
    #[error("shader {kernel} was rejected: {message}")]
    ShaderRejected {
        /// The kernel.
        kernel: String,
        /// The compiler's message.
        message: String,
    },
    /// The GPU API reported an error that is none of the above.
    #[error("GPU error in {op}: {message}")]
    Gpu {
        /// The operation, as far as known.
        op: String,
        /// The API's message.
        message: String,
    },

    // --- shapes and arguments ---
    /// One argument has the wrong shape.
    #[error("{op}: {argument} must have shape {expected}, got {got:?}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The argument.
        argument: &'static str,
        /// The shape it should have, in words or numbers.
        expected: String,
        /// The shape it has.
        got: Vec<usize>,
    },
    /// Two arguments do not fit each other.
    #[error("{op}: shapes {left:?} and {right:?} do not fit: {why}")]
    ShapeMismatch {
        /// The operation.
        op: &'static str,
        /// Shape of the first argument.
        left: Vec<usize>,
        /// Shape of the second argument.
        right: Vec<usize>,
        /// Which rule they break.
        why: &'static str,
    },
    /// A tensor has the wrong element type.
    #[error("{op}: {argument} must be {expected}, got {got}")]
    DType {
        /// The operation.
        op: &'static str,
        /// The argument.
        argument: &'static str,
        /// The type it should have.
        expected: &'static str,
        /// The type it has.
        got: &'static str,
    },
    /// A value is out of its domain.
    #[error("{op}: {argument} {why}")]
    Argument {
        /// The operation.
        op: &'static str,
        /// The argument.
        argument: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// An index is beyond the end.
    #[error("{op}: index {index} is out of range for length {len}")]
    IndexOutOfRange {
        /// The operation.
        op: &'static str,
        /// The index.
        index: u64,
        /// The length.
        len: u64,
    },
    /// An op has no gradient for an argument that needs one.
    #[error("{op} has no gradient for its argument {argument}")]
    NoGradient {
        /// The operation.
        op: &'static str,
        /// The argument.
        argument: &'static str,
    },
    /// An argument that needs a gradient is on another tape than the op.
    #[error("{op}: {argument} is on another tape; compute it on this one, or detach it if its gradient is not wanted")]
    ForeignTape {
        /// The operation.
        op: &'static str,
        /// The argument.
        argument: &'static str,
    },
    /// The tape's way back was walked already.
    #[error("{op}: backward has emptied this tape; begin a new one for each pass")]
    TapeSpent {
        /// The operation.
        op: &'static str,
    },

    // --- parameters ---
    /// A parameter is not in the store, or not in the model.
    #[error("{origin}: unknown parameter {name:?}")]
    UnknownParameter {
        /// Which store or file was searched.
        origin: String,
        /// The parameter's name.
        name: String,
    },
    /// A parameter that the model needs is not in the file.
    #[error("{origin}: parameter {name:?} is missing")]
    MissingParameter {
        /// Which store or file was searched.
        origin: String,
        /// The parameter's name.
        name: String,
    },
    /// A name is taken.
    #[error("parameter {name:?} is already defined")]
    DuplicateParameter {
        /// The parameter's name.
        name: String,
    },
    /// A parameter has another shape in the file than in the model.
    #[error("{origin}: parameter {name:?} must have shape {expected:?}, got {got:?}")]
    ParameterShape {
        /// The file.
        origin: String,
        /// The parameter's name.
        name: String,
        /// The model's shape.
        expected: Vec<usize>,
        /// The file's shape.
        got: Vec<usize>,
    },

    // --- settings of a run ---
    /// There is no setting of this name.
    #[error("{name} is no setting; did you mean {nearest}?")]
    UnknownSetting {
        /// What was named.
        name: String,
        /// The setting whose name is nearest.
        nearest: String,
    },
    /// A setting cannot have this value.
    #[error("{name} cannot be {value}: {why}")]
    Setting {
        /// The setting.
        name: String,
        /// What it was given.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// A run that goes on was asked to be another one.
    #[error(
        "a run that goes on keeps its settings, and {name} would be {asked} instead of {stored}; start a new run for that"
    )]
    ResumeChanges {
        /// The setting.
        name: String,
        /// Its value in the run.
        stored: String,
        /// What was asked for.
        asked: String,
    },

    // --- files and data ---
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: "open", "read", "write", "rename".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A program that this crate runs is not there, or does not start.
    #[error(
        "cannot run {}: {source}; install ffmpeg (Debian/Ubuntu: apt-get install ffmpeg; macOS: brew install ffmpeg; Windows: winget install ffmpeg), or name the folder it is in",
        program.display()
    )]
    NoProgram {
        /// The program, ffmpeg or ffprobe.
        program: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file is damaged, hostile, or not of its format.
    #[error("{}: {place}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in it: a line, row, byte offset, dataset or key.
        place: String,
        /// What is wrong there.
        problem: String,
    },
    /// Data holds NaN or infinity.
    #[error("{origin}: {count} non-finite values, the first at {place}")]
    NonFinite {
        /// The file or matrix.
        origin: String,
        /// Where the first one is: row, column, dataset.
        place: String,
        /// How many there are.
        count: u64,
    },
    /// A value is too large for half precision.
    #[error("{origin}: element {index} of {name:?} is {value}, and half precision ends at 65504; keep it in f32")]
    HalfOverflow {
        /// The file, or what else holds the values.
        origin: String,
        /// The parameter's or tensor's name there.
        name: String,
        /// Which of its elements, in row-major order.
        index: usize,
        /// The value.
        value: f32,
    },
    /// A listed item has no data.
    #[error("{}: {kind} {id:?} is missing", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
        /// "video", "caption", "dataset".
        kind: &'static str,
        /// Its id.
        id: String,
    },
    /// An id occurs twice.
    #[error("{}: {place}: duplicate {kind} {id:?}", path.display())]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// The line or row of the second one.
        place: String,
        /// "video", "caption".
        kind: &'static str,
        /// The id.
        id: String,
    },
    /// A sentence is empty, or has nothing but white space.
    #[error("{}: {place}: blank {kind} {id:?}", path.display())]
    Blank {
        /// The file.
        path: PathBuf,
        /// The line or entry.
        place: String,
        /// "caption of video", "sentence of query".
        kind: &'static str,
        /// The id of the video or query.
        id: String,
    },
    /// A checkpoint is incomplete or was changed after it was written.
    #[error("{}: checkpoint is not whole: {problem}", path.display())]
    Checkpoint {
        /// The checkpoint's folder or file.
        path: PathBuf,
        /// What does not agree.
        problem: String,
    },
    /// The user asked to stop.
    #[error("interrupted; {}", saved.as_ref().map_or("nothing was saved".into(), |p| format!("the state is saved in {}", p.display())))]
    Interrupted {
        /// The checkpoint to resume from, if the run has a folder.
        saved: Option<PathBuf>,
    },
}

impl Error {
    /// An [`Error::Shape`] about `argument`.
    pub(crate) fn shape(op: &'static str, argument: &'static str, expected: impl Into<String>, got: &[usize]) -> Self {
        Error::Shape { op, argument, expected: expected.into(), got: got.to_vec() }
    }

    /// An [`Error::ShapeMismatch`] of the shapes `left` and `right`.
    pub(crate) fn mismatch(op: &'static str, left: &[usize], right: &[usize], why: &'static str) -> Self {
        Error::ShapeMismatch { op, left: left.to_vec(), right: right.to_vec(), why }
    }

    /// An [`Error::Io`] about `path`.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { action, path: path.as_ref().to_path_buf(), source }
    }

    /// An [`Error::Argument`] about `argument`.
    pub(crate) fn argument(op: &'static str, argument: &'static str, why: impl Into<String>) -> Self {
        Error::Argument { op, argument, why: why.into() }
    }

    /// An [`Error::Malformed`] about `place` in `path`.
    pub fn malformed(path: impl AsRef<Path>, place: impl ToString, problem: impl ToString) -> Self {
        Error::Malformed { path: path.as_ref().to_path_buf(), place: place.to_string(), problem: problem.to_string() }
    }

    /// An [`Error::Missing`] of `id` in `path`.
    pub fn missing(path: impl AsRef<Path>, kind: &'static str, id: impl ToString) -> Self {
        Error::Missing { path: path.as_ref().to_path_buf(), kind, id: id.to_string() }
    }

    /// An [`Error::Duplicate`] of `id` at `place` in `path`.
    pub fn duplicate(path: impl AsRef<Path>, place: impl ToString, kind: &'static str, id: impl ToString) -> Self {
        Error::Duplicate { path: path.as_ref().to_path_buf(), place: place.to_string(), kind, id: id.to_string() }
    }
}
