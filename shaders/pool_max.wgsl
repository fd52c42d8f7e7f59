// The maximum over the length S and where it is; with GRAD, its gradient, which goes to that position alone.
//
// Of equal values the first counts. A mask of 0 hides its position; where all are hidden, the maximum is 0 at no
// position. With FILL nothing is hidden, and a position counts as x m + (1 - m) fill, m being its mask.
//
// VEC4: D is a multiple of 4, and an element of V stands for four channels; otherwise for one. W is D in elements of V.
//
// x     (B, S, W)  read; with GRAD instead
// g     (B, W)     read: the gradient of the maximum
// at    (B, W)     written; with GRAD read: the position of the maximum, 2^32 - 1 for none
// y     (B, W)     written; with GRAD instead
// dx    (B, S, W)  written
// mask  (B, S)     read, with MASKED; with GRAD, read with FILL only
// grid  ceil(B W / 64) workgroups of 64 invocations, folded; one element of the maximum each

struct Params { columns: u32, length: u32, width: u32, fill: f32 } // columns = B W
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
        let value = g[column];
        let position = at[column];
        for (var s = 0u; s < p.length; s++) {
#ifdef FILL
            let v = select(V(0.0), value * mask[first + s], mask[first + s] != 0.0);
#else
            let v = value;
#endif
            dx[start + s * p.width] = select(V(0.0), v, position == U(s));
        }
#else
        var best = V(0.0);
        var position = U(0xffffffffu);
        for (var s = 0u; s < p.length; s++) {
            var v = x[start + s * p.width];
            var counts = true;
#ifdef MASKED
            let m = mask[first + s];
#ifdef FILL
            v = select(V(p.fill), v * m + (1.0 - m) * p.fill, m != 0.0);
#else
            counts = m != 0.0;
#endif
#endif
            let higher = Bool(counts) & ((v > best) | (position == U(0xffffffffu)));
            best = select(best, v, higher);
            position = select(position, U(s), higher);
        }
        y[column] = best;
        at[column] = position;
#endif
    }
}
