//! Buffers, reused over time through a free list by size class, and counted by label.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::health::Health;
use crate::{Error, Result};

/// A range of GPU memory. The last clone's end returns it to the device's free list.
#[derive(Clone)]
pub struct Buffer(Arc<Lease>);

struct Lease {
    slot: Option<Slot>,
    label: &'static str,
    pool: Arc<Pool>,
}

/// A driver's buffer, leased or free.
struct Slot {
    raw: wgpu::Buffer,
    bytes: u64,
    /// The last batch that used it: an upload must not overtake the dispatches of a pending batch.
    batch: AtomicU64,
}

impl Buffer {
    pub(super) fn raw(&self) -> &wgpu::Buffer {
        &self.slot().raw
    }

    /// Bytes that it can hold.
    pub fn bytes(&self) -> u64 {
        self.slot().bytes
    }

    pub(super) fn is_of(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.0.pool, pool)
    }

    pub(super) fn last_batch(&self) -> u64 {
        self.slot().batch.load(Ordering::Relaxed)
    }

    pub(super) fn used_in(&self, batch: u64) {
        self.slot().batch.store(batch, Ordering::Relaxed);
    }

    fn slot(&self) -> &Slot {
        self.0.slot.as_ref().expect("a lease holds its slot until it is dropped")
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({}, {} bytes)", self.0.label, self.bytes())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.pool.give_back(self.label, slot);
        }
    }
}

/// The device's memory.
pub(super) struct Pool {
    device: wgpu::Device,
    health: Arc<Health>,
    max_buffer: u64,
    /// How much may be reserved.
    limit: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    free: HashMap<u64, Vec<Slot>>,
    labels: BTreeMap<&'static str, (u64, u64)>,
    live: u64,
    peak: u64,
    reserved: u64,
    created: u64,
}

/// Bytes under one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLabel {
    /// The op or purpose that allocated.
    pub label: &'static str,
    /// Bytes in use now.
    pub live: u64,
    /// The most that was in use at once.
    pub peak: u64,
}

/// GPU memory in use; sizes are those of whole buffers, rounded up to size classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryReport {
    /// Bytes in use now.
    pub live: u64,
    /// The most that was in use at once.
    pub peak: u64,
    /// Bytes held from the driver, in use or free for reuse.
    pub reserved: u64,
    /// Buffers created since the device was opened.
    pub buffers_created: u64,
    /// By label, the largest peak first.
    pub labels: Vec<MemoryLabel>,
}

impl Pool {
    pub(super) fn new(device: wgpu::Device, health: Arc<Health>, max_buffer: u64, limit: Option<u64>) -> Arc<Self> {
        Arc::new(Self { device, health, max_buffer, limit: limit.unwrap_or(u64::MAX), state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn allocate(self: &Arc<Self>, label: &'static str, bytes: u64) -> Result<Buffer> {
        if bytes > self.max_buffer {
            return Err(Error::LimitExceeded {
                op: label,
                what: "buffer size in bytes",
                needed: bytes,
                limit: self.max_buffer,
                remedy: "split the tensor, or use a smaller batch",
            });
        }
        let class = size_class(bytes).min(self.max_buffer);
        let recycled = self.lock().free.get_mut(&class).and_then(Vec::pop);
        let slot = match recycled {
            Some(slot) => slot,
            None => self.create(label, class)?,
        };
        let mut state = self.lock();
        state.live += class;
        state.peak = state.peak.max(state.live);
        let entry = state.labels.entry(label).or_default();
        entry.0 += class;
        entry.1 = entry.1.max(entry.0);
        drop(state);
        Ok(Buffer(Arc::new(Lease { slot: Some(slot), label, pool: self.clone() })))
    }

    fn create(&self, label: &'static str, bytes: u64) -> Result<Slot> {
        let mut state = self.lock();
        if bytes > self.limit.saturating_sub(state.reserved) {
            return Err(Error::OutOfMemory { op: label.into(), bytes, live_bytes: state.live });
        }
        // Before the driver is asked, so that threads cannot exceed the limit together.
        state.reserved += bytes;
        drop(state);
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let raw = self.create_raw(label, bytes, usage).inspect_err(|_| self.lock().reserved -= bytes)?;
        self.lock().created += 1;
        Ok(Slot { raw, bytes, batch: AtomicU64::new(0) })
    }

    /// A buffer that the pool does not count.
    pub(super) fn create_raw(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size: bytes, usage, mapped_at_creation: false };
        let raw = self.device.create_buffer(&descriptor);
        let (invalid, exhausted) = (pollster::block_on(validation.pop()), pollster::block_on(memory.pop()));
        if let Some(error) = invalid {
            return Err(Error::Gpu { op: label.into(), message: error.to_string() });
        }
        if exhausted.is_some() {
            return Err(Error::OutOfMemory { op: label.into(), bytes, live_bytes: self.lock().live });
        }
        self.health.check().map(|()| raw)
    }

    fn give_back(&self, label: &'static str, slot: Slot) {
        let mut state = self.lock();
        state.live -= slot.bytes;
        if let Some(entry) = state.labels.get_mut(label) {
            entry.0 -= slot.bytes;
        }
        state.free.entry(slot.bytes).or_default().push(slot);
    }

    /// Drops the free buffers; work that still uses one holds its memory until it is done.
    pub(super) fn trim(&self) {
        let mut state = self.lock();
        let free: u64 = state.free.iter().map(|(bytes, slots)| bytes * slots.len() as u64).sum();
        state.reserved -= free;
        state.free.clear();
    }

    pub(super) fn reset_peak(&self) {
        let mut state = self.lock();
        state.peak = state.live;
        state.labels.values_mut().for_each(|(live, peak)| *peak = *live);
    }

    pub(super) fn report(&self) -> MemoryReport {
        let state = self.lock();
        let mut labels: Vec<MemoryLabel> =
            state.labels.iter().map(|(&label, &(live, peak))| MemoryLabel { label, live, peak }).collect();
        labels.sort_by(|a, b| b.peak.cmp(&a.peak).then(a.label.cmp(b.label)));
        MemoryReport {
            live: state.live,
            peak: state.peak,
            reserved: state.reserved,
            buffers_created: state.created,
            labels,
        }
    }
}

/// Sizes are rounded up to four classes a power of two: little waste, and much reuse.
fn size_class(bytes: u64) -> u64 {
    let bytes = bytes.max(256);
    let step = (bytes.next_power_of_two() / 8).max(64);
    bytes.div_ceil(step) * step
}

#[cfg(test)]
mod tests {
    use super::size_class;

    #[test]
    fn size_classes_hold_and_waste_little() {
        for bytes in (0..100_000).chain([1 << 27, (1 << 27) + 1, (1 << 31) - 5]) {
            let class = size_class(bytes);
            assert!(class >= bytes && class.is_multiple_of(64));
            assert!(bytes < 1024 || class - bytes <= bytes / 4, "{bytes} -> {class}");
        }
    }
}
