// y = z x, where z is 0 for what is dropped and 1 / (1 - probability) for the rest; with ACTIVATION, y = f(z x); with
// GRAD also, y = g z f'(z x). Without ACTIVATION the gradient is the same function of g.
//
// x  (n)  read
// g  (n)  read, with GRAD: the gradient of f(z x)
// y  (n)  written; up to three elements beyond the end as well, which are padding
// grid    ceil(n / 256) workgroups of 64 invocations, folded; four elements each, for which one block of random words
//         is made

struct Params {
    blocks: u32, // ceil(n / 4)
    threshold: u32,
    scale: f32,
    seed_low: u32,
    seed_high: u32,
    stream_low: u32,
    stream_high: u32,
}
#params Params p

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
#ifdef GRAD
@group(0) @binding(1) var<storage, read> g: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;
#else
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
#endif

#import dropout
#ifdef ACTIVATION
#import activation
#endif

#entry 64 {
    let i = flat * 64u + local;
    if (i < p.blocks) {
        let keep = dropout_block(i) >= vec4<u32>(p.threshold);
        let zero = vec4<f32>(0.0);
        // A choice, not a product: what is dropped is 0 whatever it was.
        let v = select(zero, p.scale * x[i], keep);
#ifdef ACTIVATION
#ifdef GRAD
        let d = vec4<f32>(activate_grad(v.x), activate_grad(v.y), activate_grad(v.z), activate_grad(v.w));
        y[i] = select(zero, p.scale * g[i] * d, keep);
#else
        y[i] = activate4(v);
#endif
#else
        y[i] = v;
#endif
    }
}
