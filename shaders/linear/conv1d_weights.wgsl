// The gradients of conv1d.wgsl's weight, or with BIAS of its bias, in two stages: sums over some of the positions, then
// with FOLD the sums of those until one is left.
//
// g        (B, Cout, M)  read: the gradient of y
// x        (B, Cin, L)   read, without BIAS
// partial  (P, slots)    written: row r for weight r of (Cout, Cin, K) or bias r; slot s sums positions s, s + slots,
//                        and so on, of the B M there are
// with FOLD instead:
// partial  (P, slots)    read
// y        (P, fewer)    written: element s sums slots s, s + fewer, and so on
// grid     ceil(n / 64) workgroups of 64 invocations, folded; one element of the n written each

struct Params {
    count: u32, // of elements written
    positions: u32, // B M; with FOLD, slots
    slots: u32, // written in each row
    cin: u32,
    cout: u32,
    taps: u32,
    length: u32, // L
    steps: u32, // M
    stride: u32,
    padding: u32,
}
#params Params p

#ifdef FOLD
@group(0) @binding(0) var<storage, read> partial: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
#else
@group(0) @binding(0) var<storage, read> g: array<f32>;
@group(0) @binding(1) var<storage, read_write> partial: array<f32>;
#ifndef BIAS
@group(0) @binding(2) var<storage, read> x: array<f32>;
#endif
#endif

#entry 64 {
    let i = flat * 64u + local;
    if (i < p.count) {
        let row = i / p.slots;
        var sum = 0.0;
#ifdef FOLD
        for (var s = i % p.slots; s < p.positions; s += p.slots) {
            sum += partial[row * p.positions + s];
        }
        y[i] = sum;
#else
#ifndef BIAS
        let o = row / p.taps / p.cin;
        let channel = row / p.taps % p.cin;
        let k = row % p.taps;
#else
        let o = row;
#endif
        for (var s = i % p.slots; s < p.positions; s += p.slots) {
            let batch = s / p.steps;
            let step = s % p.steps;
            let gradient = g[(batch * p.cout + o) * p.steps + step];
#ifdef BIAS
            sum += gradient;
#else
            // Before the start wraps to beyond the end.
            let at = step * p.stride + k - p.padding;
            let inside = at < p.length;
            sum += select(0.0, gradient * x[(batch * p.cin + channel) * p.length + select(0u, at, inside)], inside);
#endif
        }
        partial[i] = sum;
#endif
    }
}
