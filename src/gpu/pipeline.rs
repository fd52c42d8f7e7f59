//! Compiled pipelines, each built once, on first use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::disk_cache::DiskCache;
use super::params::{MAX_PARAMS, uniform_layout};
use crate::shader::{BindingDecl, ParamsIn, Variant, bindings, preprocess};
use crate::{Error, Result};

/// A compiled variant.
pub(super) struct Pipeline {
    pub(super) raw: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
    /// How many storage buffers it binds.
    pub(super) buffers: usize,
    pub(super) label: String,
}

pub(super) struct PipelineCache {
    device: wgpu::Device,
    checked: bool,
    params: ParamsIn,
    disk: Option<DiskCache>,
    /// The uniform that holds parameters where there are no immediates.
    uniform: wgpu::BindGroupLayout,
    built: Mutex<HashMap<Variant, Arc<Pipeline>>>,
}

impl PipelineCache {
    pub(super) fn new(device: wgpu::Device, checked: bool, params: ParamsIn, disk: Option<DiskCache>) -> Self {
        let uniform = uniform_layout(&device);
        Self { device, checked, params, disk, uniform, built: Mutex::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.built.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(super) fn get(&self, variant: &Variant) -> Result<Arc<Pipeline>> {
        if let Some(pipeline) = self.built.lock().unwrap_or_else(PoisonError::into_inner).get(variant) {
            return Ok(pipeline.clone());
        }
        let pipeline = Arc::new(self.build(variant)?);
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(built.entry(variant.clone()).or_insert(pipeline).clone())
    }

    pub(super) fn warm_up(&self, variants: &[Variant]) -> Result<()> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = variants.len().div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let workers: Vec<_> = variants
                .chunks(share)
                .map(|chunk| scope.spawn(|| chunk.iter().try_for_each(|v| self.get(v).map(drop))))
                .collect();
            workers.into_iter().try_for_each(|w| {
                w.join().unwrap_or_else(|_| {
                    Err(Error::Gpu { op: "warm_up".into(), message: "a compiling thread panicked".into() })
                })
            })
        })
    }

    fn build(&self, variant: &Variant) -> Result<Pipeline> {
        let label = variant.label();
        let wgsl = preprocess(variant, self.params)?;
        let declared = bindings(&wgsl);
        let checked = self.checked || !variant.trusted;
        // Errors of scopes are reported to the thread that pushed them.
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let module = self.module(&label, wgsl, checked);
        let layout = self.storage_layout(&label, &declared);
        let (uniform, immediate_size) = match self.params {
            ParamsIn::Immediates => (None, MAX_PARAMS),
            ParamsIn::Uniform => (Some(Some(&self.uniform)), 0),
        };
        let groups: Vec<_> = [Some(&layout)].into_iter().chain(uniform).collect();
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&label),
            bind_group_layouts: &groups,
            immediate_size,
        });
        let raw = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: checked,
                ..Default::default()
            },
            cache: self.disk.as_ref().map(DiskCache::raw),
        });
        let errors = [pollster::block_on(validation.pop()), pollster::block_on(internal.pop())];
        if let Some(error) = errors.into_iter().flatten().next() {
            return Err(Error::ShaderRejected { kernel: label, message: error.to_string() });
        }
        Ok(Pipeline { raw, layout, buffers: declared.len(), label })
    }

    fn module(&self, label: &str, wgsl: String, checked: bool) -> wgpu::ShaderModule {
        let source = wgpu::ShaderSource::Wgsl(wgsl.into());
        let descriptor = wgpu::ShaderModuleDescriptor { label: Some(label), source };
        if checked {
            return self.device.create_shader_module(descriptor);
        }
        let mut checks = wgpu::ShaderRuntimeChecks::checked();
        checks.bounds_checks = false;
        checks.force_loop_bounding = false;
        // SAFETY: only the crate's own shaders get here. Each guards its tail itself and has uniform, finite loops; the
        // test suite runs all of them in checked mode too.
        unsafe { self.device.create_shader_module_trusted(descriptor, checks) }
    }

    /// Group 0: the storage buffers that the shader declares.
    fn storage_layout(&self, label: &str, declared: &[BindingDecl]) -> wgpu::BindGroupLayout {
        let entry = |b: &BindingDecl| wgpu::BindGroupLayoutEntry {
            binding: b.index,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only: !b.writes },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let entries: Vec<_> = declared.iter().map(entry).collect();
        self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(label), entries: &entries })
    }
}

impl Drop for PipelineCache {
    fn drop(&mut self) {
        if let (Some(disk), true) = (&self.disk, self.len() > 0) {
            disk.save();
        }
    }
}
