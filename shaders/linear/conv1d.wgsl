// Cross-correlation along the last axis, with zeros beyond both ends; with GRAD, the gradient of its input.
//
// x       (B, Cin, L)     read; with GRAD instead
// g       (B, Cout, M)    read: the gradient of y
// weight  (Cout, Cin, K)  read
// bias    (Cout)          read, with BIAS
// y       (B, Cout, M)    written; with GRAD instead
// dx      (B, Cin, L)     written
// grid    ceil(n / 64) workgroups of 64 invocations, folded; one element of the n of y or dx each

struct Params {
    count: u32, // of elements written
    cin: u32,
    cout: u32,
    taps: u32,
    length: u32, // L
    steps: u32, // M
    stride: u32,
    padding: u32,
}
#params Params p

#ifdef GRAD
@group(0) @binding(0) var<storage, read> g: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;
#else
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
#ifdef BIAS
@group(0) @binding(3) var<storage, read> bias: array<f32>;
#endif
#endif

#entry 64 {
    let i = flat * 64u + local;
    if (i < p.count) {
#ifdef GRAD
        let place = i % p.length + p.padding;
        let channel = i / p.length % p.cin;
        let batch = i / p.length / p.cin;
        var sum = 0.0;
        for (var k = 0u; k < p.taps; k++) {
            // The step whose tap k lies here: place = step * stride + k. A k beyond place wraps to a step beyond M.
            let step = (place - k) / p.stride;
            let hit = k <= place && step < p.steps && step * p.stride + k == place;
            let source = select(0u, step, hit);
            for (var o = 0u; o < p.cout; o++) {
                let v = weight[(o * p.cin + channel) * p.taps + k] * g[(batch * p.cout + o) * p.steps + source];
                sum += select(0.0, v, hit);
            }
        }
        dx[i] = sum;
#else
        let first = i % p.steps * p.stride;
        let o = i / p.steps % p.cout;
        let batch = i / p.steps / p.cout;
        var sum = 0.0;
        for (var channel = 0u; channel < p.cin; channel++) {
            let row = (batch * p.cin + channel) * p.length;
            for (var k = 0u; k < p.taps; k++) {
                // Before the start wraps to beyond the end.
                let at = first + k - p.padding;
                let inside = at < p.length;
                let v = weight[(o * p.cin + channel) * p.taps + k] * x[row + select(0u, at, inside)];
                sum += select(0.0, v, inside);
            }
        }
#ifdef BIAS
        sum += bias[o];
#endif
        y[i] = sum;
#endif
    }
}
