//! Compiled pipelines kept on disk between runs, where the driver offers it (Vulkan).

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The driver's cache and its file.
pub(super) struct DiskCache {
    raw: wgpu::PipelineCache,
    file: PathBuf,
}

impl DiskCache {
    /// Opens the cache of this adapter and driver in `folder`; `None` where the device has no such caches. A file that is
    /// missing, damaged, or of another driver is the same as an empty cache.
    pub(super) fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo, folder: &Path) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            log::info!("this adapter cannot keep compiled pipelines on disk");
            return None;
        }
        let file = folder.join(wgpu::util::pipeline_cache_key(info)?);
        let data = fs::read(&file).ok();
        let descriptor =
            wgpu::PipelineCacheDescriptor { label: Some("reelgrad"), data: data.as_deref(), fallback: true };
        // SAFETY: the file holds what get_data gave for a cache of this key: only save() writes it, whole or not at all,
        // and wgpu checks its header before the driver sees it.
        let raw = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(Self { raw, file })
    }

    pub(super) fn raw(&self) -> &wgpu::PipelineCache {
        &self.raw
    }

    /// Writes the cache under a temporary name and renames it. A cache that cannot be written costs time only, so that
    /// is a warning.
    pub(super) fn save(&self) {
        let Some(data) = self.raw.get_data() else { return };
        let temporary = self.file.with_extension(format!("{}.tmp", std::process::id()));
        let written = self.file.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
            let mut file = File::create(&temporary)?;
            file.write_all(&data)?;
            file.sync_all()?;
            fs::rename(&temporary, &self.file)
        });
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            log::warn!("cannot keep compiled pipelines in {}: {error}", self.file.display());
        }
    }
}
