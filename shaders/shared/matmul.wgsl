// What both matmul kernels share: parameters, tensors, and what becomes of a sum.

// Flags besides those of the epilogue: the workgroups next to each other are below each other.
const DOWN: u32 = 8u;

struct Params {
    m: u32,
    n: u32,
    k: u32,
    alpha: f32,
    stride_a: u32,
    stride_b: u32,
    stride_y: u32,
    k_step: u32,
    k_count: u32,
    first_m: u32,
    first_n: u32,
    first_z: u32,
    flags: u32,
}
#params Params p

#ifdef VEC
@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
#ifdef HALF
@group(0) @binding(1) var<storage, read> b: array<vec2<u32>>;
#import halves
#else
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;
#endif
#else
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
#endif
@group(0) @binding(2) var<storage, read_write> y: array<Cell>;
#ifdef ACTIVATION
@group(0) @binding(3) var<storage, read> bias: array<Cell>;
@group(0) @binding(4) var<storage, read> residual: array<Cell>;
@group(0) @binding(5) var<storage, read_write> kept: array<Cell>;
#endif
#import epilogue

#ifdef VEC
fn a_quad(i: u32) -> vec4<f32> {
    return a[i];
}

fn b_quad(i: u32) -> vec4<f32> {
#ifdef HALF
    return halves(b[i]);
#else
    return b[i];
#endif
}
#endif

// Which tile of y is a workgroup's.
fn tile_of(group: vec3<u32>) -> vec2<u32> {
    return vec2<u32>(p.first_n, p.first_m) + select(group.xy, group.yx, (p.flags & DOWN) != 0u);
}
