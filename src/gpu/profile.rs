//! Time per kernel, by timestamp queries.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use super::Inner;
use super::recorder::wait;
use crate::{Error, Result};

/// What the kernels of a run took.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    events: Vec<Event>,
}

#[derive(Clone, Debug)]
struct Event {
    op: &'static str,
    kernel: String,
    start_ns: f64,
    duration_ns: f64,
    flops: u64,
    bytes: u64,
}

/// One row of a profile: a kernel variant and all its calls.
#[derive(Clone, Debug)]
pub struct KernelProfile {
    /// The operation that launched it.
    pub op: &'static str,
    /// The kernel and its defines.
    pub kernel: String,
    /// How often it ran.
    pub calls: usize,
    /// Its time in all, in seconds.
    pub seconds: f64,
    /// 10^9 floating-point operations a second; 0 where the op does not count them.
    pub gflops: f64,
    /// 10^9 bytes bound a second.
    pub gbytes: f64,
}

impl Profile {
    /// One row a kernel, the most time first.
    pub fn kernels(&self) -> Vec<KernelProfile> {
        /// Sums over a kernel's calls.
        #[derive(Default)]
        struct Sums {
            calls: usize,
            ns: f64,
            flops: u64,
            bytes: u64,
        }
        let mut sums: BTreeMap<(&'static str, &str), Sums> = BTreeMap::new();
        for e in &self.events {
            let row = sums.entry((e.op, &e.kernel)).or_default();
            row.calls += 1;
            row.ns += e.duration_ns;
            row.flops += e.flops;
            row.bytes += e.bytes;
        }
        let mut rows: Vec<KernelProfile> = sums
            .into_iter()
            .map(|((op, kernel), s)| KernelProfile {
                op,
                kernel: kernel.to_string(),
                calls: s.calls,
                seconds: s.ns * 1e-9,
                gflops: s.flops as f64 / s.ns.max(1.0),
                gbytes: s.bytes as f64 / s.ns.max(1.0),
            })
            .collect();
        rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        rows
    }

    /// The rows as a text table.
    pub fn table(&self) -> String {
        let rows = self.kernels();
        let total: f64 = rows.iter().map(|r| r.seconds).sum();
        let mut out = format!("{:>10} {:>6} {:>7} {:>9} {:>8}  kernel\n", "ms", "%", "calls", "GFLOP/s", "GB/s");
        for r in &rows {
            let share = 100.0 * r.seconds / total.max(f64::MIN_POSITIVE);
            let ms = r.seconds * 1e3;
            let _ = writeln!(
                out,
                "{ms:>10.3} {share:>6.1} {:>7} {:>9.2} {:>8.2}  {}: {}",
                r.calls, r.gflops, r.gbytes, r.op, r.kernel
            );
        }
        let _ = writeln!(out, "{:>10.3}  total", total * 1e3);
        out
    }

    /// The events in the Chrome trace format, which Perfetto reads too.
    pub fn chrome_trace(&self) -> String {
        let first = self.events.iter().map(|e| e.start_ns).fold(f64::INFINITY, f64::min);
        let events: Vec<serde_json::Value> = self
            .events
            .iter()
            .map(|e| {
                serde_json::json!({
                    "name": e.op, "cat": "gpu", "ph": "X", "pid": 0, "tid": 0,
                    "ts": (e.start_ns - first) / 1e3, "dur": e.duration_ns / 1e3,
                    "args": { "kernel": e.kernel, "flops": e.flops, "bytes": e.bytes },
                })
            })
            .collect();
        serde_json::json!({ "traceEvents": events, "displayTimeUnit": "ms" }).to_string()
    }
}

/// The queries of one batch, and the events of all batches so far.
pub(super) struct Timeline {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    mapped: wgpu::Buffer,
    period_ns: f64,
    events: Mutex<Vec<Event>>,
}

impl Timeline {
    pub(super) fn new(device: &wgpu::Device, queue: &wgpu::Queue, max_dispatches: usize) -> Self {
        let count = 2 * max_dispatches as u32;
        let buffer = |label, usage| {
            let size = u64::from(count) * 8;
            device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
        };
        Self {
            queries: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count,
            }),
            resolved: buffer("timestamps", wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
            mapped: buffer("timestamps read", wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST),
            period_ns: queue.get_timestamp_period().into(),
            events: Mutex::default(),
        }
    }

    pub(super) fn writes(&self, dispatch: usize) -> wgpu::ComputePassTimestampWrites<'_> {
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(2 * dispatch as u32),
            end_of_pass_write_index: Some(2 * dispatch as u32 + 1),
        }
    }

    pub(super) fn resolve(&self, encoder: &mut wgpu::CommandEncoder, dispatches: usize) {
        let count = 2 * dispatches as u32;
        if count > 0 {
            encoder.resolve_query_set(&self.queries, 0..count, &self.resolved, 0);
            encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.mapped, 0, Some(u64::from(count) * 8));
        }
    }

    /// Waits for the batch that was submitted as `index` and keeps its events.
    pub(super) fn collect<'a>(
        &self,
        gpu: &Inner,
        index: wgpu::SubmissionIndex,
        done: impl Iterator<Item = (&'static str, &'a str, u64, u64)>,
    ) -> Result<()> {
        let failed = |message: String| Error::Gpu { op: "profile".into(), message };
        self.mapped.map_async(wgpu::MapMode::Read, .., |_| {});
        wait(gpu, "profile", index).inspect_err(|_| self.mapped.unmap())?;
        {
            let view = self.mapped.get_mapped_range(..).map_err(|e| failed(e.to_string()))?;
            let ticks: Vec<u64> =
                view.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap_or_default())).collect();
            let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            for ((op, kernel, flops, bytes), span) in done.zip(ticks.chunks_exact(2)) {
                events.push(Event {
                    op,
                    kernel: kernel.to_string(),
                    start_ns: span[0] as f64 * self.period_ns,
                    duration_ns: span[1].saturating_sub(span[0]) as f64 * self.period_ns,
                    flops,
                    bytes,
                });
            }
        }
        self.mapped.unmap();
        Ok(())
    }

    pub(super) fn take(&self) -> Profile {
        Profile { events: std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner)) }
    }
}
