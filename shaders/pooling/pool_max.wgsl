// The maximum over the length S and where it is; with GRAD, its gradient, which goes to that position alone.
//
// Of equal values the first counts. A mask of 0 hides its position; where all are hidden, the maximum is 0 at no
// position. With FILL nothing is hidden, and a position counts as x m + (1 - m) fill, m being its mask.
//
// VEC4: D is a multiple of 4, and an element of V stands for four channels; otherwise for one. W is D in elements of V.
// SPAN: how many neighbouring elements of a row one invocation works on; 4 for software adapters, which run few
// invocations side by side and would otherwise touch a little of every row before the next.
//
// x     (B, S, W)  read; with GRAD instead
// g     (B, W)     read: the gradient of the maximum
// at    (B, W)     written; with GRAD read: the position of the maximum, 2^32 - 1 for none
// y     (B, W)     written; with GRAD instead
// dx    (B, S, W)  written
// mask  (B, S)     read, with MASKED; with GRAD, read with FILL only
// grid  ceil(n / 64) workgroups of 64 invocations, folded; n = B ceil(W / SPAN), SPAN elements of y each

struct Params { bundles: u32, per_row: u32, length: u32, width: u32, fill: f32 } // n, n / B, S, W
#params Params p

#ifdef VEC4
alias V = vec4<f32>;
alias U = vec4<u32>;
alias Bool = vec4<bool>;
#else
alias V = f32;
alias U = u32;
alias Bool = bool;
#endif

#ifdef GRAD
@group(0) @binding(0) var<storage, read> g: array<V>;
@group(0) @binding(1) var<storage, read> at: array<U>;
@group(0) @binding(2) var<storage, read_write> dx: array<V>;
#ifdef FILL
@group(0) @binding(3) var<storage, read> mask: array<f32>;
#endif
#else
@group(0) @binding(0) var<storage, read> x: array<V>;
@group(0) @binding(1) var<storage, read_write> at: array<U>;
@group(0) @binding(2) var<storage, read_write> y: array<V>;
#ifdef MASKED
@group(0) @binding(3) var<storage, read> mask: array<f32>;
#endif
#endif

#import grid

const NONE = 0xffffffffu;

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
#for t in 0..SPAN
        let value{t} = g[column{t}];
        let position{t} = at[column{t}];
#endfor
        for (var s = 0u; s < p.length; s++) {
            let row = (first + s) * p.width;
#ifdef FILL
            let m = mask[first + s];
#for t in 0..SPAN
            let v{t} = select(V(0.0), m * value{t}, m != 0.0);
            dx[row + c{t}] = select(V(0.0), v{t}, position{t} == U(s));
#endfor
#else
#for t in 0..SPAN
            dx[row + c{t}] = select(V(0.0), value{t}, position{t} == U(s));
#endfor
#endif
        }
#else
#for t in 0..SPAN
        var best{t} = V(0.0);
        var position{t} = U(NONE);
#endfor
        for (var s = 0u; s < p.length; s++) {
            let row = (first + s) * p.width;
            var counts = true;
#ifdef MASKED
            let m = mask[first + s];
#ifndef FILL
            counts = m != 0.0;
#endif
#endif
#for t in 0..SPAN
            var v{t} = x[row + c{t}];
#ifdef FILL
            v{t} = select(V(p.fill), m * v{t} + (1.0 - m) * p.fill, m != 0.0);
#endif
            let higher{t} = Bool(counts) & ((v{t} > best{t}) | (position{t} == U(NONE)));
            best{t} = select(best{t}, v{t}, higher{t});
            position{t} = select(position{t}, U(s), higher{t});
#endfor
        }
#for t in 0..SPAN
        y[column{t}] = best{t};
        at[column{t}] = position{t};
#endfor
#endif
    }
}
