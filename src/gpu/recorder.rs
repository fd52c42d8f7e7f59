//! Records work as plain data, and submits it in batches.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::params::{Arena, MAX_PARAMS};
use super::pipeline::Pipeline;
use super::profile::{Profile, Timeline};
use super::{AdapterReport, Buffer, Inner, Options};
use crate::shader::{ParamsIn, Variant, params};
use crate::{Error, Result};

/// Floating-point operations after which a submission ends: a second at 100 GFLOP/s, as small GPUs make. Systems that draw
/// with the same GPU end what takes several.
const SUBMISSION_FLOPS: u64 = 100_000_000_000;
/// What stands before the ranges of a readback: the status, and what aligns them.
const STATUS_BYTES: u64 = 16;
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

impl Command {
    /// Of so many bytes, from and to these places, in whole words.
    fn copy(from: (&wgpu::Buffer, u64), to: (&wgpu::Buffer, u64), bytes: u64) -> Self {
        let (from, from_offset, to, to_offset) = (from.0.clone(), from.1, to.0.clone(), to.1);
        Self::Copy { from, from_offset, to, to_offset, bytes: bytes.next_multiple_of(4) }
    }
}

pub(super) struct Recorder {
    max_commands: usize,
    alignment: u64,
    max_binding: u64,
    /// Each readback writes a fresh number here last, and checks that it arrived: some drivers lose work silently.
    status: wgpu::Buffer,
    arena: Option<Arena>,
    timeline: Option<Timeline>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    commands: Vec<Command>,
    flops: u64,
    /// The number of the batch that is being recorded; starts at 1, so that 0 means "never used".
    batch: u64,
    in_flight: VecDeque<wgpu::SubmissionIndex>,
    staging: Vec<wgpu::Buffer>,
    nonce: u32,
}

impl Recorder {
    pub(super) fn new(device: &wgpu::Device, queue: &wgpu::Queue, options: &Options, report: &AdapterReport) -> Self {
        let max_commands = options.max_dispatches_per_submit;
        let status = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("status"),
            size: 16,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        Self {
            max_commands,
            alignment: report.limits.min_storage_buffer_offset_alignment.into(),
            max_binding: report.limits.max_storage_buffer_binding_size,
            status,
            arena: (report.params == ParamsIn::Uniform).then(|| Arena::new(device, max_commands)),
            timeline: options.profile.then(|| Timeline::new(device, queue, max_commands)),
            state: Mutex::new(State { batch: 1, ..State::default() }),
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
        let dispatch = Command::Dispatch {
            op: launch.op,
            pipeline,
            group,
            params: launch.params.to_vec(),
            grid: launch.grid,
            flops: launch.flops,
            bytes: launch.bindings.iter().map(|b| b.bytes).sum(),
        };
        state.flops += launch.flops;
        self.push(gpu, &mut state, dispatch)
    }

    /// Adds to the batch, and submits it when it is full.
    fn push(&self, gpu: &Inner, state: &mut State, command: Command) -> Result<()> {
        state.commands.push(command);
        if state.commands.len() < self.max_commands && state.flops < SUBMISSION_FLOPS {
            return gpu.health.check();
        }
        self.submit(gpu, state)
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
            self.submit(gpu, &mut state)?;
        }
        gpu.queue.write_buffer(buffer.raw(), offset, bytes);
        Ok(())
    }

    pub(super) fn copy(&self, gpu: &Inner, from: (&Buffer, u64), to: (&Buffer, u64), bytes: u64) -> Result<()> {
        let mut state = self.lock();
        from.0.used_in(state.batch);
        to.0.used_in(state.batch);
        let copy = Command::copy((from.0.raw(), from.1), (to.0.raw(), to.1), bytes);
        self.push(gpu, &mut state, copy)
    }

    pub(super) fn clear(&self, gpu: &Inner, buffer: &Buffer, offset: u64, bytes: u64) -> Result<()> {
        let mut state = self.lock();
        buffer.used_in(state.batch);
        let clear = Command::Clear { buffer: buffer.raw().clone(), offset, bytes: bytes.next_multiple_of(4) };
        self.push(gpu, &mut state, clear)
    }

    pub(super) fn flush(&self, gpu: &Inner) -> Result<()> {
        self.submit(gpu, &mut self.lock())
    }

    pub(super) fn synchronize(&self, gpu: &Inner) -> Result<()> {
        self.flush(gpu)?;
        let last = self.lock().in_flight.back().cloned();
        last.map_or(Ok(()), |last| wait(gpu, "synchronize", last))
    }

    /// Submits the pending batch, if there is one.
    fn submit(&self, gpu: &Inner, state: &mut State) -> Result<()> {
        if state.commands.is_empty() { gpu.health.check() } else { self.send(gpu, state).map(drop) }
    }

    /// Encodes and submits the pending batch.
    fn send(&self, gpu: &Inner, state: &mut State) -> Result<wgpu::SubmissionIndex> {
        let commands = std::mem::take(&mut state.commands);
        state.flops = 0;
        state.batch += 1;
        if let Some(arena) = &self.arena {
            let params = commands.iter().filter_map(|c| match c {
                Command::Dispatch { params, .. } => Some(params.as_slice()),
                _ => None,
            });
            arena.write(&gpu.queue, params);
        }
        let mut encoder =
            gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("reelgrad") });
        self.encode(&mut encoder, &commands);
        let index = gpu.queue.submit([encoder.finish()]);
        if let Some(timeline) = &self.timeline {
            let done = commands.iter().filter_map(|c| match c {
                Command::Dispatch { op, pipeline, flops, bytes, .. } => {
                    Some((*op, pipeline.label.as_str(), *flops, *bytes))
                }
                _ => None,
            });
            timeline.collect(gpu, index.clone(), done)?;
        }
        state.in_flight.push_back(index.clone());
        while state.in_flight.len() > MAX_IN_FLIGHT {
            if let Some(oldest) = state.in_flight.pop_front() {
                wait(gpu, "submit", oldest)?;
            }
        }
        gpu.health.check().map(|()| index)
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
            Some(arena) => arena.bind(pass, number),
            None if params.is_empty() => {}
            None => pass.set_immediates(0, params),
        }
        pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
    }

    /// Submits what is pending, waits without keeping others from recording, and returns the bytes of each range.
    pub(super) fn read(&self, gpu: &Inner, op: &'static str, ranges: &[(&Buffer, u64, u64)]) -> Result<Vec<Vec<u8>>> {
        gpu.health.check()?;
        let (mut starts, mut end) = (Vec::with_capacity(ranges.len()), STATUS_BYTES);
        for range in ranges {
            starts.push(end);
            end += range.2.next_multiple_of(16);
        }
        let (staging, nonce, index) = self.submit_read(gpu, ranges, &starts, end)?;
        let (sender, receiver) = std::sync::mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            let _ = sender.send(result);
        });
        wait(gpu, op, index)?;
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
        self.lock().staging.push(staging);
        gpu.health.check()?;
        Ok(bytes)
    }

    /// Submits what is pending, then the copies of `ranges` to `starts` in a staging buffer of `bytes`, and the status: a
    /// number of its own that says, when it arrives, that the work before it was done.
    fn submit_read(
        &self,
        gpu: &Inner,
        ranges: &[(&Buffer, u64, u64)],
        starts: &[u64],
        bytes: u64,
    ) -> Result<(wgpu::Buffer, u32, wgpu::SubmissionIndex)> {
        let mut state = self.lock();
        let staging = self.staging(gpu, &mut state, bytes)?;
        let nonce = self.record_status(gpu, &mut state)?;
        state.commands.push(Command::copy((&self.status, 0), (&staging, 0), 4));
        for (&(buffer, offset, bytes), &at) in ranges.iter().zip(starts).filter(|(r, _)| r.2 > 0) {
            state.commands.push(Command::copy((buffer.raw(), offset), (&staging, at), bytes));
        }
        let index = self.send(gpu, &mut state)?;
        Ok((staging, nonce, index))
    }

    /// Records the dispatch that writes the next number.
    fn record_status(&self, gpu: &Inner, state: &mut State) -> Result<u32> {
        state.nonce = state.nonce.wrapping_add(1);
        let pipeline = gpu.pipelines.get(&status_variant())?;
        let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("status"),
            layout: &pipeline.layout,
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: self.status.as_entire_binding() }],
        });
        let params = bytemuck::bytes_of(&Status { nonce: state.nonce }).to_vec();
        let dispatch = Command::Dispatch { op: "status", pipeline, group, params, grid: [1, 1, 1], flops: 0, bytes: 4 };
        self.push(gpu, state, dispatch)?;
        Ok(state.nonce)
    }

    fn staging(&self, gpu: &Inner, state: &mut State, bytes: u64) -> Result<wgpu::Buffer> {
        if let Some(i) = state.staging.iter().position(|b| b.size() >= bytes && b.size() <= bytes.max(4096) * 4) {
            return Ok(state.staging.swap_remove(i));
        }
        state.staging.truncate(3);
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        gpu.pool.create_raw("readback", bytes.next_power_of_two().max(4096), usage)
    }

    /// Drops the staging buffers of readbacks.
    pub(super) fn trim(&self) {
        self.lock().staging.clear();
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

pub(super) fn wait(gpu: &Inner, op: &'static str, index: wgpu::SubmissionIndex) -> Result<()> {
    let wait = wgpu::PollType::Wait { submission_index: Some(index), timeout: Some(gpu.options.timeout) };
    match gpu.device.poll(wait) {
        Ok(_) => gpu.health.check(),
        Err(wgpu::PollError::Timeout) => Err(Error::Timeout { op, seconds: gpu.options.timeout.as_secs() }),
        Err(error) => gpu.health.check().and(Err(Error::Gpu { op: op.into(), message: error.to_string() })),
    }
}

#[cfg(test)]
mod tests;
