//! Compiled pipelines on disk: written, read back, and no harm done by a damaged file.

use reelgrad::{Gpu, Tensor, gpu::GpuBuilder};

mod common;

fn run(builder: GpuBuilder) -> (Vec<f32>, bool) {
    let gpu: Gpu = builder.build().unwrap();
    let a = Tensor::from_slice(&gpu, [2, 2], &[1.0, 2.0, 3.0, 4.0]).unwrap();
    let y = reelgrad::kernels::linear::matmul::forward(&a, &a, &Default::default()).unwrap().y;
    (y.to_vec().unwrap(), gpu.report().features.contains(wgpu::Features::PIPELINE_CACHE))
}

#[test]
fn pipelines_outlive_the_device_and_damage_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let cached = || run(common::builder().pipeline_cache(folder.path().join("new folder")));
    let (expected, offered) = cached();
    assert_eq!(expected, [7.0, 10.0, 15.0, 22.0]);
    // An adapter that does not offer it writes none.
    let files = std::fs::read_dir(folder.path().join("new folder")).into_iter().flatten();
    let files: Vec<_> = files.map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), usize::from(offered), "{files:?}");
    assert_eq!(cached().0, expected);
    for damaged in [&b"not a cache"[..], b""] {
        files.iter().for_each(|file| std::fs::write(file, damaged).unwrap());
        assert_eq!(cached().0, expected);
    }
}
