//! The GPU: adapter and device, buffers, pipelines, and the recorder that batches dispatches.
//!
//! [`Gpu`] is a cheap handle. Work is recorded by [`Gpu::launch`] and runs in order; reading a tensor back submits
//! what is pending and waits. Everything that can fail returns an [`Error`]; the first failure of the device is kept
//! and returned from then on, so that one cause does not turn into many messages.

mod adapter;
mod buffer;
mod describe;
mod disk_cache;
mod family;
mod health;
mod params;
mod pipeline;
mod profile;
mod recorder;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use adapter::{AdapterChoice, AdapterReport, adapters};
pub use buffer::{Buffer, MemoryLabel, MemoryReport};
pub use family::KernelFamily;
pub use profile::{KernelProfile, Profile};
pub(crate) use recorder::status_variant;
pub use recorder::{Binding, Launch};

use crate::shader::{ParamsIn, Variant};
use crate::{Error, Result};
use buffer::Pool;
use disk_cache::DiskCache;
use health::Health;
use params::MAX_PARAMS;
use pipeline::PipelineCache;
use recorder::Recorder;

/// A GPU device and everything the crate keeps on it. Clones share the device.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    report: AdapterReport,
    device: wgpu::Device,
    queue: wgpu::Queue,
    health: Arc<Health>,
    pool: Arc<Pool>,
    pipelines: PipelineCache,
    recorder: Recorder,
    options: Options,
}

#[derive(Clone, Debug)]
struct Options {
    choice: AdapterChoice,
    checked: bool,
    profile: bool,
    family: Option<KernelFamily>,
    immediates: bool,
    max_dispatches_per_submit: usize,
    timeout: Duration,
    binding_limit: Option<u64>,
    memory_limit: Option<u64>,
    pipeline_cache: Option<PathBuf>,
}

impl Options {
    /// The family that was asked for, if the adapter runs it; otherwise the adapter's own.
    fn family(&self, info: &wgpu::AdapterInfo, available: wgpu::Features) -> Result<KernelFamily> {
        let Some(family) = self.family else { return Ok(KernelFamily::for_adapter(info, available)) };
        let KernelFamily::Subgroup { size } = family else { return Ok(family) };
        if !available.contains(wgpu::Features::SUBGROUP) {
            return Err(Error::MissingFeature {
                op: "the subgroup kernel family",
                feature: "SUBGROUP",
                remedy: "use KernelFamily::Tiled",
            });
        }
        // Lanes beyond the adapter's subgroup would never hear of each other.
        if !matches!(size, 4 | 8 | 16) || size > info.subgroup_min_size {
            let most = info.subgroup_min_size;
            let why = format!("has subgroups of {size}; 4, 8 or 16 are possible, up to this adapter's {most}");
            return Err(Error::Argument { op: "opening the device", argument: "family", why });
        }
        Ok(family)
    }

    /// The features to ask the device for.
    fn features(&self, available: wgpu::Features) -> Result<wgpu::Features> {
        let mut wanted = wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16;
        wanted.set(wgpu::Features::IMMEDIATES, self.immediates);
        wanted.set(wgpu::Features::TIMESTAMP_QUERY, self.profile);
        wanted.set(wgpu::Features::PIPELINE_CACHE, self.pipeline_cache.is_some());
        if self.profile && !available.contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Err(Error::MissingFeature {
                op: "profiling",
                feature: "TIMESTAMP_QUERY",
                remedy: "build the Gpu without profile(true)",
            });
        }
        Ok(available & wanted)
    }
}

/// Chooses an adapter and the ways to use it; made by [`Gpu::builder`].
#[derive(Clone, Debug)]
pub struct GpuBuilder(Options);

impl GpuBuilder {
    /// Which adapter to take; the default is the fastest kind there is.
    pub fn adapter(mut self, choice: AdapterChoice) -> Self {
        self.0.choice = choice;
        self
    }

    /// Whether the crate's own shaders are compiled with bounds checks, loop bounding and zeroed workgroup memory.
    /// Slower on most GPUs; meant for tests and for hunting driver bugs. A user's shaders are always checked.
    pub fn checked(mut self, checked: bool) -> Self {
        self.0.checked = checked;
        self
    }

    /// Whether to time every kernel; see [`Gpu::profile`]. Needs timestamp queries and slows the run down.
    pub fn profile(mut self, profile: bool) -> Self {
        self.0.profile = profile;
        self
    }

    /// Forces a kernel family instead of the rule in [`KernelFamily::for_adapter`].
    pub fn family(mut self, family: KernelFamily) -> Self {
        self.0.family = Some(family);
        self
    }

    /// Whether parameters may travel as immediates where the adapter has them; otherwise in a uniform buffer.
    pub fn immediates(mut self, immediates: bool) -> Self {
        self.0.immediates = immediates;
        self
    }

    /// How many dispatches, copies among them, are batched into one submission (default 128). 1 helps to find a driver's
    /// bug.
    pub fn max_dispatches_per_submit(mut self, count: usize) -> Self {
        self.0.max_dispatches_per_submit = count.max(1);
        self
    }

    /// How long to wait for the device before it is [`Error::Timeout`] (default 120 s).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.0.timeout = timeout;
        self
    }

    /// Treats the device as if a binding could hold at most this many bytes; for testing what large sizes do.
    pub fn binding_limit(mut self, bytes: u64) -> Self {
        self.0.binding_limit = Some(bytes);
        self
    }

    /// Lets tensors take at most so many bytes of GPU memory; beyond that is [`Error::OutOfMemory`]. For sharing a GPU with
    /// other programs. The default is what the driver gives.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.0.memory_limit = Some(bytes);
        self
    }

    /// Keeps compiled pipelines in `folder` between runs, in a file for each adapter and driver, where the driver offers it
    /// (Vulkan). Written when the last handle of the device goes. The folder must be the user's own: the driver trusts
    /// what it holds. The default is to keep none; most drivers have a cache of their own.
    pub fn pipeline_cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.0.pipeline_cache = Some(folder.into());
        self
    }

    /// Opens the device.
    ///
    /// # Errors
    /// [`Error::NoAdapter`], [`Error::AdapterNotFound`]; [`Error::MissingFeature`] if a forced family or profiling needs
    /// what the adapter lacks; [`Error::Argument`] for a family whose subgroups are not 4, 8 or 16 wide or wider than the
    /// adapter's; [`Error::Gpu`] if the driver refuses.
    pub fn build(self) -> Result<Gpu> {
        Gpu::open(self.0)
    }
}

impl Gpu {
    /// Opens the default adapter.
    ///
    /// # Errors
    /// As [`GpuBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Options before opening a device.
    pub fn builder() -> GpuBuilder {
        GpuBuilder(Options {
            choice: AdapterChoice::default(),
            checked: false,
            profile: false,
            family: None,
            immediates: true,
            max_dispatches_per_submit: 128,
            timeout: Duration::from_secs(120),
            binding_limit: None,
            memory_limit: None,
            pipeline_cache: None,
        })
    }

    fn open(options: Options) -> Result<Self> {
        let adapter = adapter::choose(&options.choice)?;
        let available = adapter.features();
        let info = adapter.get_info();
        let family = options.family(&info, available)?;
        let features = options.features(available)?;
        // Limits must be asked for; otherwise the device keeps to WebGPU's smallest.
        let mut limits = adapter.limits();
        if !features.contains(wgpu::Features::IMMEDIATES) {
            limits.max_immediate_size = 0;
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("reelgrad"),
            required_features: features,
            required_limits: limits,
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| Error::Gpu { op: "opening the device".into(), message: e.to_string() })?;
        let health = Health::watch(&device);
        let mut limits = device.limits();
        if let Some(bytes) = options.binding_limit {
            limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.min(bytes);
        }
        let params = if limits.max_immediate_size >= MAX_PARAMS { ParamsIn::Immediates } else { ParamsIn::Uniform };
        let report = AdapterReport::new(&info, available, limits, family, params);
        log::info!("{}", report.line());
        let pool = Pool::new(device.clone(), health.clone(), report.limits.max_buffer_size, options.memory_limit);
        let disk = options.pipeline_cache.as_deref().and_then(|folder| DiskCache::open(&device, &info, folder));
        let pipelines = PipelineCache::new(device.clone(), options.checked, params, disk);
        let recorder = Recorder::new(&device, &queue, &options, &report);
        Ok(Self(Arc::new(Inner { report, device, queue, health, pool, pipelines, recorder, options })))
    }

    /// The adapter, its limits and features, and the kernels it gets.
    pub fn report(&self) -> &AdapterReport {
        &self.0.report
    }

    /// The family of hot kernels in use.
    pub fn family(&self) -> KernelFamily {
        self.0.report.family
    }

    /// Allocates `bytes` (rounded up) of storage, counted under `label`. The contents are whatever was there before.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`], [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn allocate(&self, label: &'static str, bytes: u64) -> Result<Buffer> {
        self.0.health.check()?;
        self.with_memory(|| self.0.pool.allocate(label, bytes))
    }

    /// `attempt`, and once more if memory is short: work under way holds some that was given back, and free buffers of
    /// other sizes may be all that is missing.
    fn with_memory<T>(&self, attempt: impl Fn() -> Result<T>) -> Result<T> {
        match attempt() {
            Err(Error::OutOfMemory { .. }) => self.trim().and_then(|()| attempt()),
            result => result,
        }
    }

    /// Compiles `variants` in parallel, so that no launch has to wait for its shader.
    ///
    /// # Errors
    /// [`Error::ShaderRejected`] for the first that fails.
    pub fn warm_up(&self, variants: &[Variant]) -> Result<()> {
        self.0.pipelines.warm_up(variants)
    }

    /// Records one dispatch. A grid with a zero extent does nothing.
    ///
    /// # Errors
    /// [`Error::ShaderRejected`], [`Error::LimitExceeded`], [`Error::DeviceLost`], [`Error::Gpu`]; [`Error::Argument`] for
    /// a binding that reaches beyond its buffer, or is of another device.
    pub fn launch(&self, launch: Launch<'_>) -> Result<()> {
        self.0.health.check()?;
        if launch.grid.contains(&0) {
            return Ok(());
        }
        let limit = self.0.report.limits.max_compute_workgroups_per_dimension;
        if let Some(&groups) = launch.grid.iter().find(|&&g| g > limit) {
            return Err(Error::LimitExceeded {
                op: launch.op,
                what: "workgroups in one dimension",
                needed: groups.into(),
                limit: limit.into(),
                remedy: "split the batch",
            });
        }
        launch.bindings.iter().try_for_each(|b| self.expect_own(launch.op, b.buffer))?;
        let pipeline = self.0.pipelines.get(launch.variant)?;
        self.0.recorder.record(&self.0, launch, pipeline)
    }

    /// A grid of `groups` workgroups, folded over two dimensions where one is not enough; `#entry` unfolds
    /// it in shaders, which must skip the numbers beyond theirs.
    pub fn grid(&self, groups: usize) -> [u32; 3] {
        let limit = self.0.report.limits.max_compute_workgroups_per_dimension as usize;
        if groups <= limit {
            [groups as u32, 1, 1]
        } else {
            let rows = groups.div_ceil(limit);
            // Spread evenly, so that few groups are idle.
            [groups.div_ceil(rows) as u32, u32::try_from(rows).unwrap_or(u32::MAX), 1]
        }
    }

    /// Copies host bytes into `buffer` at `offset`.
    pub(crate) fn upload(&self, buffer: &Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        self.0.health.check()?;
        self.0.recorder.upload(&self.0, buffer, offset, bytes)
    }

    /// Records a copy on the device.
    pub(crate) fn copy(&self, from: (&Buffer, u64), to: (&Buffer, u64), bytes: u64) -> Result<()> {
        self.0.health.check()?;
        self.expect_own("copy", from.0)?;
        self.0.recorder.copy(&self.0, from, to, bytes)
    }

    /// Records filling a range with zeros.
    pub(crate) fn clear(&self, buffer: &Buffer, offset: u64, bytes: u64) -> Result<()> {
        self.0.health.check()?;
        self.0.recorder.clear(&self.0, buffer, offset, bytes)
    }

    /// Submits what is pending, waits, and returns the bytes of each range.
    pub(crate) fn read(&self, op: &'static str, ranges: &[(&Buffer, u64, u64)]) -> Result<Vec<Vec<u8>>> {
        ranges.iter().try_for_each(|r| self.expect_own(op, r.0))?;
        self.with_memory(|| self.0.recorder.read(&self.0, op, ranges))
    }

    /// Mixed devices would fail inside the driver, and for good.
    fn expect_own(&self, op: &'static str, buffer: &Buffer) -> Result<()> {
        if buffer.is_of(&self.0.pool) {
            return Ok(());
        }
        Err(Error::Argument { op, argument: "tensors", why: "are on different devices".into() })
    }

    /// Submits what is pending without waiting.
    ///
    /// # Errors
    /// The first failure of the device, if there was one.
    pub fn flush(&self) -> Result<()> {
        self.0.recorder.flush(&self.0)
    }

    /// Submits what is pending and waits until the device is idle.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::DeviceLost`], [`Error::Gpu`].
    pub fn synchronize(&self) -> Result<()> {
        self.0.recorder.synchronize(&self.0)
    }

    /// Bytes live and at peak, in all and by label, and how many buffers were ever created.
    pub fn memory_report(&self) -> MemoryReport {
        self.0.pool.report()
    }

    /// Sets the peak to what is live now.
    pub fn reset_peak_memory(&self) {
        self.0.pool.reset_peak();
    }

    /// Waits for the work under way, and gives unused buffers back to the driver.
    ///
    /// # Errors
    /// As [`Gpu::synchronize`].
    pub fn trim(&self) -> Result<()> {
        self.synchronize()?;
        self.0.recorder.trim();
        self.0.pool.trim();
        Ok(())
    }

    /// The times of every kernel since the last call; empty unless the device was built with `profile(true)`.
    ///
    /// # Errors
    /// As [`Gpu::synchronize`].
    pub fn profile(&self) -> Result<Profile> {
        self.synchronize()?;
        Ok(self.0.recorder.take_profile())
    }

    /// How many pipelines were compiled so far: each took time once, mostly in the first step.
    pub fn pipelines_compiled(&self) -> usize {
        self.0.pipelines.len()
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Gpu").field(&self.0.report.name).finish()
    }
}
