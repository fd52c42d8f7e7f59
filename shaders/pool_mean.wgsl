// The mean over the length S, weighted by a mask; with GRAD, its gradient. A weight of 0 hides its position, whatever
// x holds there; where all weights are 0, the mean is 0.
//
// VEC4: D is a multiple of 4, and an element of V stands for four channels; otherwise for one. W is D in elements of V.
//
// x     (B, S, W)  read; with GRAD instead
// g     (B, W)     read: the gradient of the mean
// mask  (B, S)     read, with MASKED
// y     (B, W)     written; with GRAD instead
// dx    (B, S, W)  written
// grid  ceil(B W / 64) workgroups of 64 invocations, folded; one element of the mean each

struct Params { columns: u32, length: u32, width: u32 } // columns = B W
#params Params p

#ifdef VEC4
alias V = vec4<f32>;
#else
alias V = f32;
#endif

#ifdef GRAD
@group(0) @binding(0) var<storage, read> g: array<V>;
@group(0) @binding(1) var<storage, read_write> dx: array<V>;
#else
@group(0) @binding(0) var<storage, read> x: array<V>;
@group(0) @binding(1) var<storage, read_write> y: array<V>;
#endif
#ifdef MASKED
@group(0) @binding(2) var<storage, read> mask: array<f32>;
#endif

#import grid

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let column = flat_group(group, groups) * 64u + lane;
    if (column < p.columns) {
        let batch = column / p.width;
        let first = batch * p.length;
        let start = first * p.width + column % p.width;
#ifdef GRAD
#ifdef MASKED
        var total = 0.0;
        for (var s = 0u; s < p.length; s++) {
            total += mask[first + s];
        }
        let each = g[column] / select(total, 1.0, total == 0.0);
        for (var s = 0u; s < p.length; s++) {
            let m = mask[first + s];
            dx[start + s * p.width] = select(V(0.0), m * each, m != 0.0);
        }
#else
        let each = g[column] / f32(p.length);
        for (var s = 0u; s < p.length; s++) {
            dx[start + s * p.width] = each;
        }
#endif
#else
        var sum = V(0.0);
#ifdef MASKED
        var total = 0.0;
        for (var s = 0u; s < p.length; s++) {
            let m = mask[first + s];
            total += m;
            sum += select(V(0.0), m * x[start + s * p.width], m != 0.0);
        }
        y[column] = sum / select(total, 1.0, total == 0.0);
#else
        for (var s = 0u; s < p.length; s++) {
            sum += x[start + s * p.width];
        }
        y[column] = sum / max(f32(p.length), 1.0);
#endif
#endif
    }
}
