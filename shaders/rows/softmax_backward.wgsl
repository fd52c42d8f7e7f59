// The gradients of softmax.wgsl, from what it returned.
// SOFTMAX: dx = scale * y * (g - sum(g * y)); LOG_SOFTMAX: dx = scale * (g - exp(y) * sum(g)), 0 where masked, which
// shows as y = LOWEST; LOGSUMEXP: dx = scale * g * exp(scale * x - y), 0 where masked.
//
// y     (rows, n); LOGSUMEXP: (rows)    read
// g     y's shape                       read: the gradient of y
// x     (rows, n)                       read, with LOGSUMEXP
// mask  (rows, n) or (n)                read, with LOGSUMEXP and MASK
// dx    (rows, n)                       written
// grid  ceil(rows / (ROWS * SEQUENCE)) workgroups of LANES * ROWS invocations, folded

struct Params { rows: u32, n: u32, mask_stride: u32, scale: f32 }
#params Params p

#import row

#ifdef LOGSUMEXP
@group(0) @binding(0) var<storage, read> y: array<f32>;
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<Element>;
#ifdef MASK
@group(0) @binding(3) var<storage, read> mask: array<Element>;
@group(0) @binding(4) var<storage, read_write> dx: array<Element>;
#else
@group(0) @binding(3) var<storage, read_write> dx: array<Element>;
#endif
#else
@group(0) @binding(0) var<storage, read> y: array<Element>;
@group(0) @binding(1) var<storage, read> g: array<Element>;
@group(0) @binding(2) var<storage, read_write> dx: array<Element>;
#endif

// Below it, a logarithm of a probability means "masked".
const MASKED: f32 = -3.0e38;

#entry LANES * ROWS {
    let lane = local % LANES;
    let steps = (p.n + LANES - 1u) / LANES;
    for (var r = 0u; r < SEQUENCE; r++) {
        let row = (flat * SEQUENCE + r) * ROWS + local / LANES;
        let end = select(0u, p.n, row < p.rows);

#ifdef LOGSUMEXP
        var lse = 0.0;
        var factor = 0.0;
        if (end > 0u) {
            lse = y[row];
            factor = p.scale * g[row];
        }
#else
        var sums = Element(0.0);
        for (var s = 0u; s < steps; s++) {
            let c = s * LANES + lane;
            if (c < end) {
                let at = row * p.n + c;
#ifdef SOFTMAX
                sums += g[at] * y[at];
#else
                sums += select(Element(0.0), g[at], y[at] > Element(MASKED));
#endif
            }
        }
        let sum = row_sum(across_sum(sums), local);
#endif

        for (var s = 0u; s < steps; s++) {
            let c = s * LANES + lane;
            if (c < end) {
                let at = row * p.n + c;
#ifdef SOFTMAX
                dx[at] = p.scale * y[at] * (g[at] - sum);
#endif
#ifdef LOG_SOFTMAX
                let d = g[at] - exp(max(y[at], Element(-104.0))) * sum;
                dx[at] = select(Element(0.0), p.scale * d, y[at] > Element(MASKED));
#endif
#ifdef LOGSUMEXP
                // A row that is masked as a whole has z far above its lse; the bound keeps it finite until it is dropped.
                let e = factor * exp(min(p.scale * x[at] - lse, Element(0.0)));
#ifdef MASK
                dx[at] = select(Element(0.0), e, mask[row * p.mask_stride + c] > Element(0.5));
#else
                dx[at] = e;
#endif
#endif
            }
        }
    }
}
