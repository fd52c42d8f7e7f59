//! Records work as plain data, and submits it in batches.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::pipeline::{Pipeline, uniform_layout};
use super::profile::{Profile, Timeline};
use super::{Buffer, Inner, Options};
use crate::shader::{ParamsIn, Variant, params};
use crate::{Error, Result};

/// Bytes that the parameters of a call may take: the smallest immediate size of Vulkan and DX12.
pub(crate) const MAX_PARAMS: u32 = 128;
/// A slot of the uniform arena: the largest offset alignment of any adapter.
const SLOT: u64 = 256;
/// Floating-point operations after which a submission ends: a second at 100 GFLOP/s, as small GPUs make. Systems that draw
/// with the same GPU end what takes several.
const SUBMISSION_FLOPS: u64 = 100_000_000_000;
/// Submissions that may be under way before the recorder waits for the oldest.
const MAX_IN_FLIGHT: usize = 4;

/// A range of a buffer that a dispatch binds.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// The buffer.
    pub buffer: &'a Buffer,
    /// Where the range starts, in bytes; a multiple of 256.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// One dispatch.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The operation, as errors and profiles name it.
    pub op: &'static str,
    /// The shader.
    pub variant: &'a Variant,
    /// Storage buffers in the order of their binding numbers.
    pub bindings: &'a [Binding<'a>],
    /// The bytes of the shader's parameter struct, at most 128.
    pub params: &'a [u8],
    /// Workgroups in each dimension.
    pub grid: [u32; 3],
    /// Floating-point operations it will do, for profiles; 0 where bytes moved are the better measure.
    pub flops: u64,
}

enum Command {
    Dispatch {
        op: &'static str,
        pipeline: Arc<Pipeline>,
        group: wgpu::BindGroup,
        params: Vec<u8>,
        grid: [u32; 3],
        flops: u64,
        bytes: u64,
    },
    Copy {
        from: wgpu::Buffer,
        from_offset: u64,
        to: wgpu::Buffer,
        to_offset: u64,
        bytes: u64,
    },
    Clear {
        buffer: wgpu::Buffer,
        offset: u64,
        bytes: u64,
    },
}

pub(super) struct Recorder {
    max_dispatches: usize,
    alignment: u64,
    max_binding: u64,
    /// Each readback writes a fresh number here last, and checks that it arrived: some drivers lose work silently.
    status: wgpu::Buffer,
    arena: Option<(wgpu::Buffer, wgpu::BindGroup)>,
    timeline: Option<Timeline>,
    state: Mutex<State>,
}

struct State {
    commands: Vec<Command>,
    dispatches: usize,
    flops: u64,
    /// The number of the batch that is being recorded; starts at 1, so that 0 means "never used".
    batch: u64,
    in_flight: VecDeque<wgpu::SubmissionIndex>,
    staging: Vec<wgpu::Buffer>,
    nonce: u32,
}

impl Recorder {
    pub(super) fn new(device: &wgpu::Device, queue: &wgpu::Queue, options: &Options, params: ParamsIn) -> Self {
        let max_dispatches = options.max_dispatches_per_submit;
        let limits = device.limits();
        let arena = (params == ParamsIn::Uniform).then(|| {
            let buffer = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("params"),
                size: SLOT * max_dispatches as u64,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("params"),
                layout: &uniform_layout(device),
                entries: &[wgpu::BindGroupEntry {
                    binding: 0,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &buffer,
                        offset: 0,
                        size: std::num::NonZeroU64::new(MAX_PARAMS.into()),
                    }),
                }],
            });
            (buffer, group)
        });
        let status = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("status"),
            size: 16,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        Self {
            max_dispatches,
            alignment: u64::from(limits.min_storage_buffer_offset_alignment),
            max_binding: options.binding_limit.map_or(limits.max_storage_buffer_binding_size, |bytes| {
                bytes.min(limits.max_storage_buffer_binding_size)
            }),
            status,
            arena,
            timeline: options.profile.then(|| Timeline::new(device, queue, max_dispatches)),
            state: Mutex::new(State {
                commands: Vec::new(),
                dispatches: 0,
                flops: 0,
                batch: 1,
                in_flight: VecDeque::new(),
                staging: Vec::new(),
                nonce: 0,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, gpu: &Inner, launch: Launch<'_>, pipeline: Arc<Pipeline>) -> Result<()> {
        self.check(&launch, &pipeline)?;
        let mut state = self.lock();
        let entries: Vec<wgpu::BindGroupEntry<'_>> = launch
            .bindings
            .iter()
            .zip(0..)
            .map(|(b, binding)| {
                b.buffer.used_in(state.batch);
                let size = std::num::NonZeroU64::new(bound(b.bytes));
                let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: b.buffer.raw(),
                    offset: b.offset,
                    size,
                });
                wgpu::BindGroupEntry { binding, resource }
            })
            .collect();
        // The group keeps the driver's buffers alive, so tensors can return theirs to the pool before the batch runs.
        let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(launch.op),
            layout: &pipeline.layout,
            entries: &entries,
        });
        let bytes = launch.bindings.iter().map(|b| b.bytes).sum();
        state.commands.push(Command::Dispatch {
            op: launch.op,
            pipeline,
            group,
            params: launch.params.to_vec(),
            grid: launch.grid,
            flops: launch.flops,
            bytes,
        });
        state.dispatches += 1;
        state.flops += launch.flops;
        if state.dispatches >= self.max_dispatches || state.flops >= SUBMISSION_FLOPS {
            self.submit(gpu, &mut state, &[])?;
        }
        Ok(())
    }

    fn check(&self, launch: &Launch<'_>, pipeline: &Pipeline) -> Result<()> {
        if launch.bindings.len() != pipeline.buffers || launch.params.len() > MAX_PARAMS as usize {
            return Err(Error::Gpu {
                op: launch.op.into(),
                message: format!(
                    "{} declares {} buffers; the call binds {} and has {} bytes of parameters (at most {MAX_PARAMS})",
                    pipeline.label,
                    pipeline.buffers,
                    launch.bindings.len(),
                    launch.params.len()
                ),
            });
        }
        for b in launch.bindings {
            if bound(b.bytes) > self.max_binding {
                return Err(Error::LimitExceeded {
                    op: launch.op,
                    what: "bytes in one binding",
                    needed: b.bytes,
                    limit: self.max_binding,
                    remedy: "split the tensor along its first dimension, or use a smaller batch",
                });
            }
            if b.offset.checked_add(b.bytes).is_none_or(|end| end > b.buffer.bytes()) {
                let why = format!("reach beyond a buffer: {} bytes from {} of {}", b.bytes, b.offset, b.buffer.bytes());
                return Err(Error::Argument { op: launch.op, argument: "bindings", why });
            }
            if b.offset % self.alignment != 0 {
                return Err(Error::LimitExceeded {
                    op: launch.op,
                    what: "binding offset alignment",
                    needed: b.offset,
                    limit: self.alignment,
                    remedy: "copy the view into a tensor of its own",
                });
            }
        }
        Ok(())
    }

    pub(super) fn upload(&self, gpu: &Inner, buffer: &Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut state = self.lock();
        if buffer.last_batch() == state.batch {
            self.submit(gpu, &mut state, &[])?;
        }
        gpu.queue.write_buffer(buffer.raw(), offset, bytes);
        Ok(())
    }

    pub(super) fn copy(&self, gpu: &Inner, from: (&Buffer, u64), to: (&Buffer, u64), bytes: u64) -> Result<()> {
        let mut state = self.lock();
        from.0.used_in(state.batch);
        to.0.used_in(state.batch);
        state.commands.push(Command::Copy {
            from: from.0.raw().clone(),
            from_offset: from.1,
            to: to.0.raw().clone(),
            to_offset: to.1,
            bytes: bytes.next_multiple_of(4),
        });
        gpu.health.check()
    }

    pub(super) fn clear(&self, gpu: &Inner, buffer: &Buffer, offset: u64, bytes: u64) -> Result<()> {
        let mut state = self.lock();
        buffer.used_in(state.batch);
        state.commands.push(Command::Clear { buffer: buffer.raw().clone(), offset, bytes: bytes.next_multiple_of(4) });
        gpu.health.check()
    }

    pub(super) fn flush(&self, gpu: &Inner) -> Result<()> {
        self.submit(gpu, &mut self.lock(), &[])
    }

    pub(super) fn synchronize(&self, gpu: &Inner) -> Result<()> {
        let mut state = self.lock();
        self.submit(gpu, &mut state, &[])?;
        while let Some(index) = state.in_flight.pop_front() {
            wait(gpu, "synchronize", index)?;
        }
        gpu.health.check()
    }

    /// Encodes and submits the pending batch, followed by `reads`.
    fn submit(&self, gpu: &Inner, state: &mut State, reads: &[Read]) -> Result<()> {
        if state.commands.is_empty() && reads.is_empty() {
            return gpu.health.check();
        }
        let commands = std::mem::take(&mut state.commands);
        (state.dispatches, state.flops) = (0, 0);
        state.batch += 1;
        if let Some((arena, _)) = &self.arena {
            gpu.queue.write_buffer(arena, 0, &arena_bytes(&commands));
        }
        let mut encoder =
            gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("reelgrad") });
        self.encode(&mut encoder, &commands);
        for read in reads {
            encoder.copy_buffer_to_buffer(&read.from, read.offset, &read.staging, read.at, Some(read.bytes));
        }
        let index = gpu.queue.submit([encoder.finish()]);
        if let Some(timeline) = &self.timeline {
            let done = commands.iter().filter_map(|c| match c {
                Command::Dispatch { op, pipeline, flops, bytes, .. } => {
                    Some((*op, pipeline.label.as_str(), *flops, *bytes))
                }
                _ => None,
            });
            timeline.collect(gpu, done)?;
        }
        state.in_flight.push_back(index);
        while state.in_flight.len() > MAX_IN_FLIGHT {
            if let Some(oldest) = state.in_flight.pop_front() {
                wait(gpu, "submit", oldest)?;
            }
        }
        gpu.health.check()
    }

    fn encode(&self, encoder: &mut wgpu::CommandEncoder, commands: &[Command]) {
        let mut rest = commands;
        let mut dispatch_number = 0;
        while let Some(command) = rest.first() {
            match command {
                Command::Copy { from, from_offset, to, to_offset, bytes } => {
                    encoder.copy_buffer_to_buffer(from, *from_offset, to, *to_offset, Some(*bytes));
                    rest = &rest[1..];
                }
                Command::Clear { buffer, offset, bytes } => {
                    encoder.clear_buffer(buffer, *offset, Some(*bytes));
                    rest = &rest[1..];
                }
                Command::Dispatch { .. } => {
                    // One pass for a run of dispatches; with timestamps, which stand at a pass's ends, one pass each.
                    let longest = if self.timeline.is_some() { 1 } else { rest.len() };
                    let run = rest[..longest].iter().take_while(|c| matches!(c, Command::Dispatch { .. })).count();
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                        label: None,
                        timestamp_writes: self.timeline.as_ref().map(|t| t.writes(dispatch_number)),
                    });
                    for command in &rest[..run] {
                        self.encode_dispatch(&mut pass, command, dispatch_number);
                        dispatch_number += 1;
                    }
                    rest = &rest[run..];
                }
            }
        }
        if let Some(timeline) = &self.timeline {
            timeline.resolve(encoder, dispatch_number);
        }
    }

    fn encode_dispatch(&self, pass: &mut wgpu::ComputePass<'_>, command: &Command, number: usize) {
        let Command::Dispatch { pipeline, group, params, grid, .. } = command else { return };
        pass.set_pipeline(&pipeline.raw);
        pass.set_bind_group(0, group, &[]);
        match &self.arena {
            Some((_, arena)) => pass.set_bind_group(1, arena, &[number as u32 * SLOT as u32]),
            None if params.is_empty() => {}
            None => pass.set_immediates(0, params),
        }
        pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
    }

    pub(super) fn read(&self, gpu: &Inner, op: &'static str, ranges: &[(&Buffer, u64, u64)]) -> Result<Vec<Vec<u8>>> {
        gpu.health.check()?;
        let mut state = self.lock();
        let mut at = 16;
        let starts: Vec<u64> = ranges
            .iter()
            .map(|r| {
                let start = at;
                at += r.2.next_multiple_of(16);
                start
            })
            .collect();
        let nonce = self.record_status(gpu, &mut state)?;
        let staging = self.staging(gpu, &mut state, at)?;
        let mut reads = vec![Read { from: self.status.clone(), offset: 0, staging: staging.clone(), at: 0, bytes: 4 }];
        for (&(buffer, offset, bytes), &at) in ranges.iter().zip(&starts) {
            if bytes > 0 {
                let bytes = bytes.next_multiple_of(4);
                reads.push(Read { from: buffer.raw().clone(), offset, staging: staging.clone(), at, bytes });
            }
        }
        self.submit(gpu, &mut state, &reads)?;
        let (sender, receiver) = std::sync::mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            let _ = sender.send(result);
        });
        while let Some(index) = state.in_flight.pop_front() {
            wait(gpu, op, index)?;
        }
        let failed = |message: String| Error::Gpu { op: op.into(), message };
        match receiver.recv_timeout(gpu.options.timeout) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return gpu.health.check().and(Err(failed(e.to_string()))),
            Err(_) => return Err(Error::Timeout { op, seconds: gpu.options.timeout.as_secs() }),
        }
        let bytes = {
            let view = staging.get_mapped_range(..).map_err(|e| failed(e.to_string()))?;
            let arrived = u32::from_le_bytes([view[0], view[1], view[2], view[3]]);
            if arrived != nonce {
                gpu.health.silent_failure(format!("{op}: the device lost work without reporting an error"));
            }
            ranges.iter().zip(&starts).map(|(r, &at)| view[at as usize..(at + r.2) as usize].to_vec()).collect()
        };
        staging.unmap();
        state.staging.push(staging);
        gpu.health.check()?;
        Ok(bytes)
    }

    /// Records the dispatch that proves, when its number arrives, that the work before it was done.
    fn record_status(&self, gpu: &Inner, state: &mut State) -> Result<u32> {
        state.nonce = state.nonce.wrapping_add(1);
        let pipeline = gpu.pipelines.get(&status_variant())?;
        let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("status"),
            layout: &pipeline.layout,
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: self.status.as_entire_binding() }],
        });
        let params = bytemuck::bytes_of(&Status { nonce: state.nonce }).to_vec();
        state.commands.push(Command::Dispatch {
            op: "status",
            pipeline,
            group,
            params,
            grid: [1, 1, 1],
            flops: 0,
            bytes: 4,
        });
        // It may be one more than a batch holds; the arena and the timeline have no room for that.
        if state.dispatches + 1 > self.max_dispatches {
            let last = state.commands.pop();
            self.submit(gpu, state, &[])?;
            state.commands.extend(last);
        }
        state.dispatches += 1;
        Ok(state.nonce)
    }

    fn staging(&self, gpu: &Inner, state: &mut State, bytes: u64) -> Result<wgpu::Buffer> {
        if let Some(i) = state.staging.iter().position(|b| b.size() >= bytes && b.size() <= bytes.max(4096) * 4) {
            return Ok(state.staging.swap_remove(i));
        }
        state.staging.truncate(3);
        let size = bytes.next_power_of_two().max(4096);
        let memory = gpu.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        match pollster::block_on(memory.pop()) {
            None => Ok(buffer),
            Some(_) => {
                Err(Error::OutOfMemory { op: "readback".into(), bytes: size, live_bytes: gpu.pool.report().live })
            }
        }
    }

    pub(super) fn take_profile(&self) -> Profile {
        self.timeline.as_ref().map(Timeline::take).unwrap_or_default()
    }
}

/// What is bound for so many bytes: whole vec4s, for an array of vec4 must hold at least one, and buffers are longer than
/// their tensors.
fn bound(bytes: u64) -> u64 {
    bytes.next_multiple_of(16).max(16)
}

params! {
    struct Status { nonce: u32 }
}

/// The shader that writes the number of a readback, as the last work before it.
pub(crate) fn status_variant() -> Variant {
    Variant::own::<Status>("status", include_str!("../../shaders/status.wgsl"))
}

/// One range to copy into a staging buffer.
struct Read {
    from: wgpu::Buffer,
    offset: u64,
    staging: wgpu::Buffer,
    at: u64,
    bytes: u64,
}

fn arena_bytes(commands: &[Command]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for command in commands {
        if let Command::Dispatch { params, .. } = command {
            let start = bytes.len();
            bytes.extend_from_slice(params);
            bytes.resize(start + SLOT as usize, 0);
        }
    }
    bytes
}

pub(super) fn wait(gpu: &Inner, op: &'static str, index: wgpu::SubmissionIndex) -> Result<()> {
    let wait = wgpu::PollType::Wait { submission_index: Some(index), timeout: Some(gpu.options.timeout) };
    match gpu.device.poll(wait) {
        Ok(_) => gpu.health.check(),
        Err(wgpu::PollError::Timeout) => Err(Error::Timeout { op, seconds: gpu.options.timeout.as_secs() }),
        Err(error) => gpu.health.check().and(Err(Error::Gpu { op: op.into(), message: error.to_string() })),
    }
}
