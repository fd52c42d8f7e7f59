//! How a call's parameters reach its shader where there are no immediates: in a uniform buffer with a slot a dispatch.

/// Bytes that the parameters of a call may take: the smallest immediate size of Vulkan and DX12.
pub(super) const MAX_PARAMS: u32 = 128;
/// A slot of the arena: the largest offset alignment of any adapter.
const SLOT: usize = 256;

/// Group 1 of every pipeline where parameters travel in a uniform buffer.
pub(super) fn uniform_layout(device: &wgpu::Device) -> wgpu::BindGroupLayout {
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some("params"),
        entries: &[wgpu::BindGroupLayoutEntry {
            binding: 0,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Uniform,
                has_dynamic_offset: true,
                min_binding_size: None,
            },
            count: None,
        }],
    })
}

/// The parameters of a batch.
pub(super) struct Arena {
    buffer: wgpu::Buffer,
    group: wgpu::BindGroup,
}

impl Arena {
    /// Room for so many dispatches.
    pub(super) fn new(device: &wgpu::Device, dispatches: usize) -> Self {
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("params"),
            size: (SLOT * dispatches) as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &buffer,
            offset: 0,
            size: std::num::NonZeroU64::new(MAX_PARAMS.into()),
        });
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("params"),
            layout: &uniform_layout(device),
            entries: &[wgpu::BindGroupEntry { binding: 0, resource }],
        });
        Self { buffer, group }
    }

    /// Uploads the parameters of a batch's dispatches, ahead of the batch.
    pub(super) fn write<'a>(&self, queue: &wgpu::Queue, params: impl Iterator<Item = &'a [u8]>) {
        let mut bytes = Vec::new();
        for params in params {
            let end = bytes.len() + SLOT;
            bytes.extend_from_slice(params);
            bytes.resize(end, 0);
        }
        queue.write_buffer(&self.buffer, 0, &bytes);
    }

    /// Binds the parameters of the batch's dispatch of this number.
    pub(super) fn bind(&self, pass: &mut wgpu::ComputePass<'_>, dispatch: usize) {
        pass.set_bind_group(1, &self.group, &[(dispatch * SLOT) as u32]);
    }
}
