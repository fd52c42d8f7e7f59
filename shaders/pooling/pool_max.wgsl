// The maximum over the length S and where it is; with GRAD, its gradient, which goes to that position alone.
//
// Of equal values the first counts, and NaN exceeds everything. A mask of 0 hides its position; where all are hidden, the maximum is 0 at no
// position. With FILL nothing is hidden, and a position counts as x m + (1 - m) fill, m being its mask.
//
// VEC4, W and SPAN: see shared/pool_place.
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

#import element

#ifdef GRAD
@group(0) @binding(0) var<storage, read> g: array<Element>;
@group(0) @binding(1) var<storage, read> at: array<Word>;
@group(0) @binding(2) var<storage, read_write> dx: array<Element>;
#ifdef FILL
@group(0) @binding(3) var<storage, read> mask: array<f32>;
#endif
#else
@group(0) @binding(0) var<storage, read> x: array<Element>;
@group(0) @binding(1) var<storage, read_write> at: array<Word>;
@group(0) @binding(2) var<storage, read_write> y: array<Element>;
#ifdef MASKED
@group(0) @binding(3) var<storage, read> mask: array<f32>;
#endif
#endif

const NONE = 0xffffffffu;

#entry 64 {
#import pool_place
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
        let v{t} = select(Element(0.0), m * value{t}, m != 0.0);
        dx[row + c{t}] = select(Element(0.0), v{t}, position{t} == Word(s));
#endfor
#else
#for t in 0..SPAN
        dx[row + c{t}] = select(Element(0.0), value{t}, position{t} == Word(s));
#endfor
#endif
    }
#else
#for t in 0..SPAN
    var best{t} = Element(0.0);
    var position{t} = Word(NONE);
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
        v{t} = select(Element(p.fill), m * v{t} + (1.0 - m) * p.fill, m != 0.0);
#endif
        let higher{t} = Truth(counts) & ((position{t} == Word(NONE)) | exceeds(v{t}, best{t}));
        best{t} = select(best{t}, v{t}, higher{t});
        position{t} = select(position{t}, Word(s), higher{t});
#endfor
    }
#for t in 0..SPAN
    y[column{t}] = best{t};
    at[column{t}] = position{t};
#endfor
#endif
}
