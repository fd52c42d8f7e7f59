// The gradients of attention pooling with one logit for each position; the rest is as in pool_attention.wgsl.
//
// x     (B, S, W)  read
// w     (B, S)     read
// y     (B, W)     read
// g     (B, W)     read: the gradient of y
// dx    (B, S, W)  written
// da    (B, S)     written
// mask  (B, S)     read, with FILL
// grid  B S workgroups, folded, one for each position; with SUBGROUP a workgroup is one subgroup of that many
//       invocations, otherwise it has 64

struct Params {
    rows: u32, // B S
    length: u32,
    width: u32,
    threshold: u32,
    scale: f32,
    seed_low: u32,
    seed_high: u32,
    stream_low: u32,
    stream_high: u32,
}
#params Params p

#import element

@group(0) @binding(0) var<storage, read> x: array<Element>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<Element>;
@group(0) @binding(3) var<storage, read> g: array<Element>;
@group(0) @binding(4) var<storage, read_write> dx: array<Element>;
@group(0) @binding(5) var<storage, read_write> da: array<f32>;
#ifdef FILL
@group(0) @binding(6) var<storage, read> mask: array<f32>;
#endif

#ifdef DROPOUT
#import dropout
#endif
#ifdef SUBGROUP
const LANES = SUBGROUP;
#else
const LANES = 64u;
var<workgroup> partial: array<f32, 64>;
#endif

#entry LANES {
    let valid = flat < p.rows;
    let here = select(0u, flat, valid);
    let batch = here / p.length * p.width;
    let weight = w[here];
#ifdef DROPOUT
    let z = dropout_one(here);
#else
    let z = 1.0;
#endif
    var sum = Element(0.0);
    for (var c = local; c < p.width; c += LANES) {
        let gradient = g[batch + c];
        sum += gradient * (z * x[here * p.width + c] - y[batch + c]);
        if (valid) {
            dx[here * p.width + c] = z * weight * gradient;
        }
    }
#ifdef SUBGROUP
    let total = subgroupAdd(across_sum(sum));
#else
    partial[local] = across_sum(sum);
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if (local < half) {
            partial[local] += partial[local + half];
        }
        workgroupBarrier();
    }
    let total = partial[0];
#endif
    if (valid && local == 0u) {
        var slope = weight * total;
#ifdef FILL
        let m = mask[here];
        slope = select(0.0, m * slope, m != 0.0);
#endif
        // A weight of 0 may hide anything in x.
        da[here] = select(slope, 0.0, weight == 0.0);
    }
}
