//! Which family of hot kernels an adapter gets.

/// The two families of matmul, attention, row norms and softmax. Both compute the same; each op picks its kernel by the
/// family of the [`Gpu`](crate::gpu::Gpu) and the shape of the call. Nothing is tuned at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KernelFamily {
    /// Workgroup memory and register tiles: for GPUs.
    Tiled,
    /// One subgroup a workgroup, broadcasts instead of workgroup memory, no barriers: for software adapters, where a
    /// barrier suspends every invocation and a workgroup-memory load is as dear as any other.
    Subgroup {
        /// Invocations in a subgroup: 4, 8 or 16.
        size: u32,
    },
}

impl KernelFamily {
    /// The rule: a software adapter whose subgroups all have 4, 8 or 16 invocations gets the subgroup family, every
    /// other adapter the tiled one.
    pub fn for_adapter(info: &wgpu::AdapterInfo, features: wgpu::Features) -> Self {
        let size = info.subgroup_min_size;
        let fixed = size == info.subgroup_max_size && matches!(size, 4 | 8 | 16);
        if info.device_type == wgpu::DeviceType::Cpu && features.contains(wgpu::Features::SUBGROUP) && fixed {
            Self::Subgroup { size }
        } else {
            Self::Tiled
        }
    }
}

impl std::fmt::Display for KernelFamily {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tiled => f.write_str("tiled"),
            Self::Subgroup { size } => write!(f, "subgroup of {size}"),
        }
    }
}
