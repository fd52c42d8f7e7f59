// The mean over the length S, weighted by a mask; with GRAD, its gradient. A weight of 0 hides its position, whatever
// x holds there; where all weights are 0, the mean is 0.
//
// VEC4, W and SPAN: see shared/pool_place.
//
// x     (B, S, W)  read; with GRAD instead
// g     (B, W)     read: the gradient of the mean
// mask  (B, S)     read, with MASKED
// y     (B, W)     written; with GRAD instead
// dx    (B, S, W)  written
// grid  ceil(n / 64) workgroups of 64 invocations, folded; n = B ceil(W / SPAN), SPAN elements of y each

struct Params { bundles: u32, per_row: u32, length: u32, width: u32 } // n, n / B, S, W
#params Params p

#import element

#ifdef GRAD
@group(0) @binding(0) var<storage, read> g: array<Element>;
@group(0) @binding(1) var<storage, read_write> dx: array<Element>;
#else
@group(0) @binding(0) var<storage, read> x: array<Element>;
@group(0) @binding(1) var<storage, read_write> y: array<Element>;
#endif
#ifdef MASKED
@group(0) @binding(2) var<storage, read> mask: array<f32>;
#endif

#entry 64 {
#import pool_place
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
        dx[row + c{t}] = select(Element(0.0), m * each{t}, m != 0.0);
#endfor
#else
#for t in 0..SPAN
        dx[row + c{t}] = each{t};
#endfor
#endif
    }
#else
#for t in 0..SPAN
    var sum{t} = Element(0.0);
#endfor
    var total = 0.0;
    for (var s = 0u; s < p.length; s++) {
        let row = (first + s) * p.width;
#ifdef MASKED
        let m = mask[first + s];
        total += m;
#for t in 0..SPAN
        sum{t} += select(Element(0.0), m * x[row + c{t}], m != 0.0);
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
