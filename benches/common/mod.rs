//! What the benches share.

use reelgrad::gpu::{AdapterChoice, Gpu, GpuBuilder, KernelFamily};

/// The adapter that `REELGRAD_ADAPTER` chooses, in both kernel families where it runs both.
pub fn gpus() -> Vec<Gpu> {
    let Ok(adapter) = std::env::var("REELGRAD_ADAPTER").unwrap_or_default().parse::<AdapterChoice>();
    let open = |builder: GpuBuilder| builder.adapter(adapter.clone()).build().expect("the benches need a GPU adapter");
    let chosen = open(Gpu::builder());
    match chosen.family() {
        KernelFamily::Tiled => vec![chosen],
        KernelFamily::Subgroup { .. } => vec![chosen, open(Gpu::builder().family(KernelFamily::Tiled))],
    }
}
