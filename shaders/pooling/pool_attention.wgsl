// Attention pooling over the length S: weights are the softmax over S of logits, and y is the weighted sum of x; with
// GRAD, the gradients of both, where each channel has its logits.
//
// The logits differ between channels, or with SHARED are one for each position. With HIDE, a mask of 0 hides its
// position; where all are hidden, weights and y are 0. With FILL nothing is hidden, and a position's logit counts as
// a m + (1 - m) fill, m being its mask. With DROPOUT the weights that multiply x are z w, where z is dropout's factor
// of the element of w; w itself is written without.
//
// VEC4, W and SPAN: see shared/pool_place.
// L is Element, or f32 with SHARED; WIDE says that it is a vector.
//
// x     (B, S, W)             read
// a     (B, S, W) or (B, S)   read: the logits
// w     as a                  written: the weights; with GRAD read
// y     (B, W)                written; with GRAD read
// mask  (B, S)                read, with HIDE or FILL; with GRAD, with FILL only
// g     (B, W)                read, with GRAD: the gradient of y
// dx    (B, S, W)             written, with GRAD
// da    (B, S, W)             written, with GRAD
// grid  ceil(n / 64) workgroups of 64 invocations, folded; n = B ceil(W / SPAN), SPAN elements of y each

struct Params {
    bundles: u32, // n
    per_row: u32, // n / B
    length: u32, // S
    width: u32, // W
    fill: f32,
    threshold: u32,
    scale: f32,
    seed_low: u32,
    seed_high: u32,
    stream_low: u32,
    stream_high: u32,
}
#params Params p

#import element
#ifdef SHARED
alias L = f32;
#else
alias L = Element;
#endif

@group(0) @binding(0) var<storage, read> x: array<Element>;
#ifdef GRAD
@group(0) @binding(1) var<storage, read> w: array<Element>;
@group(0) @binding(2) var<storage, read> y: array<Element>;
@group(0) @binding(3) var<storage, read> g: array<Element>;
@group(0) @binding(4) var<storage, read_write> dx: array<Element>;
@group(0) @binding(5) var<storage, read_write> da: array<Element>;
#ifdef FILL
@group(0) @binding(6) var<storage, read> mask: array<f32>;
#endif
#else
@group(0) @binding(1) var<storage, read> a: array<L>;
@group(0) @binding(2) var<storage, read_write> w: array<L>;
@group(0) @binding(3) var<storage, read_write> y: array<Element>;
#ifdef HIDE
@group(0) @binding(4) var<storage, read> mask: array<f32>;
#endif
#ifdef FILL
@group(0) @binding(4) var<storage, read> mask: array<f32>;
#endif
#endif

#ifdef DROPOUT
#import dropout
#ifdef WIDE
fn factor(i: u32) -> L { return dropout_four(i); }
#else
fn factor(i: u32) -> L { return dropout_one(i); }
#endif
#else
fn factor(i: u32) -> L { return L(1.0); }
#endif
#ifndef GRAD

const LEAST = -3.4e38;

// Whether position i of the mask counts.
fn counts(i: u32) -> bool {
#ifdef HIDE
    return mask[i] != 0.0;
#else
    return true;
#endif
}

// The logit at i that belongs to position k of the mask.
fn logit(i: u32, k: u32) -> L {
#ifdef FILL
    let m = mask[k];
    return select(L(p.fill), m * a[i] + (1.0 - m) * p.fill, m != 0.0);
#else
    return a[i];
#endif
}
#endif

#entry 64 {
#import pool_place
#ifdef GRAD
    // The gradient of a logit is w g (z x - sum of z w x over S), and that sum is y.
#for t in 0..SPAN
    let g{t} = g[column{t}];
    let y{t} = y[column{t}];
#endfor
    for (var s = 0u; s < p.length; s++) {
        let row = (first + s) * p.width;
#ifdef FILL
        let m = mask[first + s];
#endif
#for t in 0..SPAN
        let w{t} = w[row + c{t}];
        let z{t} = factor(row + c{t});
        var slope{t} = w{t} * g{t} * (z{t} * x[row + c{t}] - y{t});
#ifdef FILL
        slope{t} = select(Element(0.0), m * slope{t}, m != 0.0);
#endif
        dx[row + c{t}] = z{t} * w{t} * g{t};
        // A weight of 0 may hide anything in x.
        da[row + c{t}] = select(slope{t}, Element(0.0), w{t} == Element(0.0));
#endfor
    }
#else
#ifdef SHARED
    var top = L(LEAST);
    for (var s = 0u; s < p.length; s++) {
        top = select(top, max(top, logit(first + s, first + s)), counts(first + s));
    }
    var total = L(0.0);
#else
#for t in 0..SPAN
    var top{t} = L(LEAST);
    var total{t} = L(0.0);
#endfor
    for (var s = 0u; s < p.length; s++) {
        let row = (first + s) * p.width;
        let counted = counts(first + s);
#for t in 0..SPAN
        top{t} = select(top{t}, max(top{t}, logit(row + c{t}, first + s)), counted);
#endfor
    }
#endif
#for t in 0..SPAN
    var sum{t} = Element(0.0);
#endfor
    for (var s = 0u; s < p.length; s++) {
        let row = (first + s) * p.width;
        let counted = counts(first + s);
#ifdef SHARED
        let e = exp(logit(first + s, first + s) - top);
        let z = factor(first + s);
        total += select(L(0.0), e, counted);
#for t in 0..SPAN
        sum{t} += select(Element(0.0), z * e * x[row + c{t}], counted);
#endfor
#else
#for t in 0..SPAN
        let e{t} = exp(logit(row + c{t}, first + s) - top{t});
        total{t} += select(L(0.0), e{t}, counted);
        sum{t} += select(Element(0.0), factor(row + c{t}) * e{t} * x[row + c{t}], counted);
#endfor
#endif
    }
    // Where all is hidden, the sums are 0 too.
#ifdef SHARED
    total = select(total, 1.0, total == 0.0);
#for t in 0..SPAN
    y[column{t}] = sum{t} / total;
#endfor
    if (c0 == 0u) {
        for (var s = 0u; s < p.length; s++) {
            let e = exp(logit(first + s, first + s) - top);
            w[first + s] = select(0.0, e / total, counts(first + s));
        }
    }
#else
#for t in 0..SPAN
    total{t} = select(total{t}, L(1.0), total{t} == L(0.0));
    y[column{t}] = sum{t} / total{t};
#endfor
    for (var s = 0u; s < p.length; s++) {
        let row = (first + s) * p.width;
        let counted = counts(first + s);
#for t in 0..SPAN
        let e{t} = exp(logit(row + c{t}, first + s) - top{t});
        w[row + c{t}] = select(L(0.0), e{t} / total{t}, counted);
#endfor
    }
#endif
#endif
}
