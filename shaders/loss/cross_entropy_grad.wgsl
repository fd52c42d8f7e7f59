// Gradient of the mean cross entropy; see cross_entropy.wgsl.
//
// x       (n, c)  read
// target  (n)     read, without SYMMETRIC
// lse     (n) or (2, n)  read: as cross_entropy.wgsl writes it
// g       (1)     read: the gradient of the loss
// dx      (n, c)  written
// grid            n * chunks workgroups of 64 invocations, folded; each does up to 256 columns of one row

struct Params { n: u32, c: u32, chunks: u32, scale: f32 }
#params Params p

#ifdef SYMMETRIC
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> lse: array<f32>;
@group(0) @binding(2) var<storage, read> g: array<f32>;
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;
#else
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> target_of: array<u32>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> g: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;
#endif

#import small_exp

#entry 64 {
    let i = flat / p.chunks;
    if (i >= p.n) {
        return;
    }
    let start = (flat - i * p.chunks) * 256u + local;
    let scale = g[0] * p.scale;
    let row = lse[i];
#ifdef SYMMETRIC
    let positive = i;
#else
    let positive = target_of[i];
#endif
    for (var k = 0u; k < 4u; k++) {
        let j = start + k * 64u;
        if (j < p.c) {
            let score = x[i * p.c + j];
            var share = small_exp(score - row);
#ifdef SYMMETRIC
            share = 0.5 * (share + small_exp(score - lse[p.n + j]));
#endif
            dx[i * p.c + j] = scale * (share - select(0.0, 1.0, j == positive));
        }
    }
}
