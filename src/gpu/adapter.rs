//! Finding adapters and describing them.

use std::convert::Infallible;
use std::str::FromStr;

use crate::gpu::KernelFamily;
use crate::shader::ParamsIn;
use crate::{Error, Result};

/// The back ends this crate is built for.
const BACKENDS: wgpu::Backends = wgpu::Backends::VULKAN.union(wgpu::Backends::METAL).union(wgpu::Backends::DX12);

/// Which adapter to open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AdapterChoice {
    /// A discrete GPU before an integrated one before a virtual one before software.
    #[default]
    Fastest,
    /// An integrated GPU first.
    LowPower,
    /// The adapter with this number in [`adapters`].
    Index(usize),
    /// The first adapter whose name contains this text, whatever its case.
    Name(String),
}

/// As users write it: "fastest" (or nothing), "low-power", a number, or part of a name.
impl FromStr for AdapterChoice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "" | "fastest" => Self::Fastest,
            "low-power" => Self::LowPower,
            _ => text.parse().map_or_else(|_| Self::Name(text.to_string()), Self::Index),
        })
    }
}

/// An adapter in words and numbers.
#[derive(Clone, Debug)]
pub struct AdapterReport {
    /// The adapter's name.
    pub name: String,
    /// "Vulkan", "Metal" or "Dx12".
    pub backend: String,
    /// "DiscreteGpu", "IntegratedGpu", "VirtualGpu", "Cpu" or "Other".
    pub kind: String,
    /// The driver and its version.
    pub driver: String,
    /// Smallest and largest subgroup.
    pub subgroup_size: (u32, u32),
    /// The features that the adapter has, whether or not the crate asked for them.
    pub features: wgpu::Features,
    /// The device's limits.
    pub limits: wgpu::Limits,
    /// The family of hot kernels.
    pub family: KernelFamily,
    /// How parameters travel.
    pub params: ParamsIn,
}

impl AdapterReport {
    pub(super) fn new(
        info: &wgpu::AdapterInfo,
        features: wgpu::Features,
        limits: wgpu::Limits,
        family: KernelFamily,
        params: ParamsIn,
    ) -> Self {
        Self {
            name: info.name.clone(),
            backend: format!("{:?}", info.backend),
            kind: format!("{:?}", info.device_type),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
            subgroup_size: (info.subgroup_min_size, info.subgroup_max_size),
            features,
            limits,
            family,
            params,
        }
    }

    /// Whether the adapter runs on the CPU.
    pub fn is_software(&self) -> bool {
        self.kind == "Cpu"
    }

    /// One line: name, back end, driver, kernel family.
    pub fn line(&self) -> String {
        format!("{} ({}, {}), {} kernels", self.name, self.backend, self.driver, self.family)
    }
}

/// Every adapter of this machine, in a fixed order.
pub fn adapters() -> Vec<AdapterReport> {
    enumerate()
        .iter()
        .map(|adapter| {
            let (info, features) = (adapter.get_info(), adapter.features());
            let family = KernelFamily::for_adapter(&info, features);
            let params =
                if features.contains(wgpu::Features::IMMEDIATES) { ParamsIn::Immediates } else { ParamsIn::Uniform };
            AdapterReport::new(&info, features, adapter.limits(), family, params)
        })
        .collect()
}

fn enumerate() -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = BACKENDS;
    pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(BACKENDS))
}

pub(super) fn choose(choice: &AdapterChoice) -> Result<wgpu::Adapter> {
    let mut all = enumerate();
    if all.is_empty() {
        return Err(Error::NoAdapter { searched: "Vulkan, Metal and DX12".into() });
    }
    let names: Vec<String> = all.iter().map(|a| a.get_info().name).collect();
    let rank = |order: [wgpu::DeviceType; 5]| {
        let place = |a: &wgpu::Adapter| order.iter().position(|&kind| kind == a.get_info().device_type);
        (0..all.len()).min_by_key(|&i| place(&all[i]))
    };
    use wgpu::DeviceType::{Cpu, DiscreteGpu, IntegratedGpu, Other, VirtualGpu};
    let found = match choice {
        AdapterChoice::Fastest => rank([DiscreteGpu, IntegratedGpu, VirtualGpu, Other, Cpu]),
        AdapterChoice::LowPower => rank([IntegratedGpu, DiscreteGpu, VirtualGpu, Other, Cpu]),
        AdapterChoice::Index(index) => Some(*index).filter(|&i| i < all.len()),
        AdapterChoice::Name(name) => names.iter().position(|n| n.to_lowercase().contains(&name.to_lowercase())),
    };
    match found {
        Some(index) => Ok(all.swap_remove(index)),
        None => {
            let wanted = match choice {
                AdapterChoice::Index(index) => format!("index {index}"),
                AdapterChoice::Name(name) => name.clone(),
                AdapterChoice::Fastest | AdapterChoice::LowPower => String::new(),
            };
            Err(Error::AdapterNotFound { wanted, available: names })
        }
    }
}
