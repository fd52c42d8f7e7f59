// Attention pooling over the length S: weights are the softmax over S of logits, and y is the weighted sum of x; with
// GRAD, the gradients of both, where each channel has its logits.
//
// The logits differ between channels, or with SHARED are one for each position. With HIDE, a mask of 0 hides its
// position; where all are hidden, weights and y are 0. With FILL nothing is hidden, and a position's logit counts as
// a m + (1 - m) fill, m being its mask. With DROPOUT the weights that multiply x are z w, where z is dropout's factor of
// the element of w; w itself is written without.
//
// VEC4: D is a multiple of 4, and an element of V stands for four channels; otherwise for one. W is D in elements of V.
// L is V, or f32 with SHARED; WIDE says that it is a vector.
//
// x     (B, S, W)             read
// a     (B, S, W) or (B, S)   read: the logits
// w     as a                  written: the weights; with GRAD read
// y     (B, W)                written; with GRAD read
// mask  (B, S)                read, with HIDE or FILL; with GRAD, with FILL only
// g     (B, W)                read, with GRAD: the gradient of y
// dx    (B, S, W)             written, with GRAD
// da    (B, S, W)             written, with GRAD
// grid  ceil(B W / 64) workgroups of 64 invocations, folded; one element of y each

struct Params {
    columns: u32, // B W
    length: u32,
    width: u32,
    fill: f32,
    threshold: u32,
    scale: f32,
    seed_low: u32,
    seed_high: u32,
    stream_low: u32,
    stream_high: u32,
}
#params Params p

#ifdef VEC4
alias V = vec4<f32>;
#else
alias V = f32;
#endif
#ifdef SHARED
alias L = f32;
#else
alias L = V;
#endif

@group(0) @binding(0) var<storage, read> x: array<V>;
#ifdef GRAD
@group(0) @binding(1) var<storage, read> w: array<V>;
@group(0) @binding(2) var<storage, read> y: array<V>;
@group(0) @binding(3) var<storage, read> g: array<V>;
@group(0) @binding(4) var<storage, read_write> dx: array<V>;
@group(0) @binding(5) var<storage, read_write> da: array<V>;
#ifdef FILL
@group(0) @binding(6) var<storage, read> mask: array<f32>;
#endif
#else
@group(0) @binding(1) var<storage, read> a: array<L>;
@group(0) @binding(2) var<storage, read_write> w: array<L>;
@group(0) @binding(3) var<storage, read_write> y: array<V>;
#ifdef HIDE
@group(0) @binding(4) var<storage, read> mask: array<f32>;
#endif
#ifdef FILL
@group(0) @binding(4) var<storage, read> mask: array<f32>;
#endif
#endif

#import grid
#ifdef DROPOUT
#import philox
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

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let column = flat_group(group, groups) * 64u + lane;
    if (column < p.columns) {
        let first = column / p.width * p.length;
        let start = first * p.width + column % p.width;
#ifdef GRAD
        // The gradient of a logit is w g (z x - sum of z w x over S), and that sum is y.
        let gradient = g[column];
        let mean = y[column];
        for (var s = 0u; s < p.length; s++) {
            let i = start + s * p.width;
            let weight = w[i];
            let z = factor(i);
            dx[i] = z * weight * gradient;
            var slope = weight * gradient * (z * x[i] - mean);
#ifdef FILL
            let m = mask[first + s];
            slope = select(V(0.0), m * slope, m != 0.0);
#endif
            // A weight of 0 may hide anything in x.
            da[i] = select(slope, V(0.0), weight == V(0.0));
        }
#else
#ifdef SHARED
        let origin = first;
        let stride = 1u;
#else
        let origin = start;
        let stride = p.width;
#endif
        var top = L(-3.4e38);
        for (var s = 0u; s < p.length; s++) {
            top = select(top, max(top, logit(origin + s * stride, first + s)), counts(first + s));
        }
        var total = L(0.0);
        var sum = V(0.0);
        for (var s = 0u; s < p.length; s++) {
            let i = origin + s * stride;
            let e = exp(logit(i, first + s) - top);
            total += select(L(0.0), e, counts(first + s));
            sum += select(V(0.0), factor(i) * e * x[start + s * p.width], counts(first + s));
        }
        // Nothing is divided by where all is hidden.
        total = select(total, L(1.0), total == L(0.0));
        y[column] = sum / total;
#ifdef SHARED
        let writes = column % p.width == 0u;
#else
        let writes = true;
#endif
        if (writes) {
            for (var s = 0u; s < p.length; s++) {
                let i = origin + s * stride;
                w[i] = select(L(0.0), exp(logit(i, first + s) - top) / total, counts(first + s));
            }
        }
#endif
    }
}
