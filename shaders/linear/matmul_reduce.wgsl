// The sum of a matmul's partial results over slices of k, in order, and what follows it:
// y = act(alpha * sum + bias) + residual.
//
// partial   (slices, n)                    read
// y         (n)                            written
// bias      (width), width divides n       read, with ACTIVATION
// residual  (n)                            read, with ACTIVATION
// kept      (n)                            written, with ACTIVATION: the sum before the activation
// grid      ceil(n / 64) workgroups of 64 invocations, folded; a cell each
//
// With VEC_OUT everything is vec4 and n, stride and width count them.

struct Params { n: u32, slices: u32, stride: u32, width: u32, alpha: f32, flags: u32 }
#params Params p

#ifdef VEC_OUT
@group(0) @binding(0) var<storage, read> partial: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
#ifdef ACTIVATION
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> residual: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> kept: array<vec4<f32>>;
#endif
#else
@group(0) @binding(0) var<storage, read> partial: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
#ifdef ACTIVATION
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> residual: array<f32>;
@group(0) @binding(4) var<storage, read_write> kept: array<f32>;
#endif
#endif
#import grid
#import epilogue

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if (i < p.n) {
        var sum = Cell(0.0);
        for (var s = 0u; s < p.slices; s++) {
            sum += partial[s * p.stride + i];
        }
        emit(i, i % p.width, sum);
    }
}
