// y[o, i] = sum over m of x[o, m, i], in order: one step from the gradient of the scores to that of a bias.
//
// x     (outer, middle, inner)  read
// y     (outer, inner)          written
// grid  ceil(outer inner / 64) workgroups of 64 invocations, folded

struct Params { n: u32, middle: u32, inner: u32 }
#params Params p

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

#import grid

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if (i >= p.n) {
        return;
    }
    let start = (i / p.inner) * p.middle * p.inner + i % p.inner;
    var sum = 0.0;
    for (var m = 0u; m < p.middle; m++) {
        sum += x[start + m * p.inner];
    }
    y[i] = sum;
}
