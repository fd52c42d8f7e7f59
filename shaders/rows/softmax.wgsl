// Softmax and its kin over rows of z = scale * x, restricted to where the mask, if there is one, is above 0.5.
// With lse = log(sum(exp(z))): SOFTMAX: y = exp(z - lse), masked 0; LOG_SOFTMAX: y = z - lse, masked LOWEST;
// LOGSUMEXP: y = lse. A row without any z has lse = LOWEST.
//
// x     (rows, n)                       read
// mask  (rows, n) or (n)                read, with MASK: 0 or 1
// y     (rows, n); LOGSUMEXP: (rows)    written
// grid  ceil(rows / (ROWS * SEQUENCE)) workgroups of LANES * ROWS invocations, folded

struct Params { rows: u32, n: u32, mask_stride: u32, scale: f32 }
#params Params p

#import row

@group(0) @binding(0) var<storage, read> x: array<Element>;
#ifdef MASK
@group(0) @binding(1) var<storage, read> mask: array<Element>;
#ifdef LOGSUMEXP
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
#else
@group(0) @binding(2) var<storage, read_write> y: array<Element>;
#endif
#else
#ifdef LOGSUMEXP
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
#else
@group(0) @binding(1) var<storage, read_write> y: array<Element>;
#endif
#endif

const LOWEST: f32 = -3.40282347e38;

// Whether an element of a row counts.
fn counts(row: u32, c: u32) -> Truth {
#ifdef MASK
    return mask[row * p.mask_stride + c] > Element(0.5);
#else
    return Truth(true);
#endif
}

// z, or `otherwise` where it does not count.
fn load(row: u32, c: u32, otherwise: f32) -> Element {
    return select(Element(otherwise), p.scale * x[row * p.n + c], counts(row, c));
}

#entry LANES * ROWS {
    let lane = local % LANES;
#ifndef STEPS
    let steps = (p.n + LANES - 1u) / LANES;
#endif
    for (var r = 0u; r < SEQUENCE; r++) {
        let row = (flat * SEQUENCE + r) * ROWS + local / LANES;
        // A total that is NaN is not 0: a row with NaN has only NaN.
#ifdef STEPS
        if (row < p.rows) {
            let at = row * p.n + lane;
#for i in 0..STEPS
            let counts{i} = counts(row, lane + {i}u * LANES);
            let z{i} = load(row, lane + {i}u * LANES, LOWEST);
#endfor
            var tops = z0;
#for i in 1..STEPS
            tops = max(tops, z{i});
#endfor
            let top = row_max(across_max(tops), local);
            var totals = Element(0.0);
#for i in 0..STEPS
            let e{i} = select(Element(0.0), exp(z{i} - top), counts{i});
            totals += e{i};
#endfor
            let total = row_sum(across_sum(totals), local);
#ifdef SOFTMAX
            let factor = select(1.0 / total, 0.0, total == 0.0);
#for i in 0..STEPS
            y[at + {i}u * LANES] = e{i} * factor;
#endfor
#else
            let lse = select(top + log(total), LOWEST, total == 0.0);
#ifdef LOG_SOFTMAX
#for i in 0..STEPS
            y[at + {i}u * LANES] = select(Element(LOWEST), z{i} - lse, counts{i});
#endfor
#else
            if (lane == 0u) {
                y[row] = lse;
            }
#endif
#endif
        }
#else
        let end = select(0u, p.n, row < p.rows);

        var tops = Element(LOWEST);
        for (var s = 0u; s < steps; s++) {
            let c = s * LANES + lane;
            if (c < end) {
                tops = max(tops, load(row, c, LOWEST));
            }
        }
        let top = row_max(across_max(tops), local);

        var totals = Element(0.0);
        for (var s = 0u; s < steps; s++) {
            let c = s * LANES + lane;
            if (c < end) {
                let e = select(Element(0.0), exp(load(row, c, top) - top), counts(row, c));
                totals += e;
#ifdef SOFTMAX
                y[row * p.n + c] = e;
#endif
            }
        }
        let total = row_sum(across_sum(totals), local);

#ifdef SOFTMAX
        let factor = select(1.0 / total, 0.0, total == 0.0);
        for (var s = 0u; s < steps; s++) {
            let c = s * LANES + lane;
            if (c < end) {
                y[row * p.n + c] = y[row * p.n + c] * factor;
            }
        }
#else
        let lse = select(top + log(total), LOWEST, total == 0.0);
#ifdef LOG_SOFTMAX
        for (var s = 0u; s < steps; s++) {
            let c = s * LANES + lane;
            if (c < end) {
                y[row * p.n + c] = select(Element(LOWEST), load(row, c, LOWEST) - lse, counts(row, c));
            }
        }
#else
        if (lane == 0u && end > 0u) {
            y[row] = lse;
        }
#endif
#endif
#endif
    }
}
