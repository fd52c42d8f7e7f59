// The mean over the length S, weighted by a mask; with GRAD, its gradient. A weight of 0 hides its position, whatever
// x holds there; where all weights are 0, the mean is 0.
//
// VEC4: D is a multiple of 4, and an element of V stands for four channels; otherwise for one. W is D in elements of V.
// SPAN: how many neighbouring elements of a row one invocation works on; 4 for software adapters, which run few
// invocations side by side and would otherwise touch a little of every row before the next.
//
// x     (B, S, W)  read; with GRAD instead
// g     (B, W)     read: the gradient of the mean
// mask  (B, S)     read, with MASKED
// y     (B, W)     written; with GRAD instead
// dx    (B, S, W)  written
// grid  ceil(n / 64) workgroups of 64 invocations, folded; n = B ceil(W / SPAN), SPAN elements of y each

struct Params { bundles: u32, per_row: u32, length: u32, width: u32 } // n, n / B, S, W
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
    let bundle = flat_group(group, groups) * 64u + lane;
    if (bundle < p.bundles) {
        let batch = bundle / p.per_row;
        let first = batch * p.length;
        // What would lie beyond the end is the last element once more.
#for t in 0..SPAN
        let c{t} = min(bundle % p.per_row * SPAN + {t}u, p.width - 1u);
        let column{t} = batch * p.width + c{t};
#endfor
#ifdef GRAD
#ifdef MASKED
        var total = 0.0;
        for (var s = 0u; s < p.length; s++) {
            total += mask[first + s];
        }
        total = select(total, 1.0, total == 0.0);
#else
        let total = f32(p.length);
#endif
#for t in 0..SPAN
        let each{t} = g[column{t}] / total;
#endfor
        for (var s = 0u; s < p.length; s++) {
            let row = (first + s) * p.width;
#ifdef MASKED
            let m = mask[first + s];
#for t in 0..SPAN
            dx[row + c{t}] = select(V(0.0), m * each{t}, m != 0.0);
#endfor
#else
#for t in 0..SPAN
            dx[row + c{t}] = each{t};
#endfor
#endif
        }
#else
#for t in 0..SPAN
        var sum{t} = V(0.0);
#endfor
        var total = 0.0;
        for (var s = 0u; s < p.length; s++) {
            let row = (first + s) * p.width;
#ifdef MASKED
            let m = mask[first + s];
            total += m;
#for t in 0..SPAN
            sum{t} += select(V(0.0), m * x[row + c{t}], m != 0.0);
#endfor
#else
            total += 1.0;
#for t in 0..SPAN
            sum{t} += x[row + c{t}];
#endfor
#endif
        }
        total = select(total, 1.0, total == 0.0);
#for t in 0..SPAN
        y[column{t}] = sum{t} / total;
#endfor
#endif
    }
}
