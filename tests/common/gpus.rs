//! The devices that unit and integration tests run on.

use std::sync::OnceLock;

use reelgrad::gpu::{AdapterChoice, Gpu, GpuBuilder, KernelFamily};

fn is_set(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|value| value == "1")
}

/// The adapter and the shader mode that the environment variables `REELGRAD_ADAPTER` and `REELGRAD_CHECKED=1` choose.
pub fn builder() -> GpuBuilder {
    let Ok(adapter) = std::env::var("REELGRAD_ADAPTER").unwrap_or_default().parse::<AdapterChoice>();
    Gpu::builder().adapter(adapter).checked(is_set("REELGRAD_CHECKED"))
}

/// Devices of both kernel families where the adapter runs both; the second one also takes the way of adapters without
/// immediates. `REELGRAD_ONE_FAMILY=1` leaves the adapter's own family alone.
pub fn gpus() -> Vec<Gpu> {
    static GPUS: OnceLock<Vec<Gpu>> = OnceLock::new();
    GPUS.get_or_init(|| {
        let chosen = builder().build().expect("the tests need a GPU adapter; on Debian: mesa-vulkan-drivers");
        if chosen.family() == KernelFamily::Tiled || is_set("REELGRAD_ONE_FAMILY") {
            return vec![chosen];
        }
        let tiled = builder().family(KernelFamily::Tiled).immediates(false).build();
        vec![chosen, tiled.expect("the tiled family runs everywhere")]
    })
    .clone()
}
