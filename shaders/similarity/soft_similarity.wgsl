// The softmax-weighted sum of a row's own scores: y = sum_r q_r s_r with q = softmax(scale * s) over the entries whose
// mask, if there is one, is above 0.5; and lse = log(sum(exp(scale * s))). A row without such an entry has y = 0 and
// lse = LOWEST. One pass: sums shrink whenever the maximum grows.
//
// scores  (rows, n)     read
// mask    (groups, n)   read, with MASK: row i uses row p.mask_first + i % groups
// y, lse                written, row i at p.first + i / groups * p.stride + i % groups
// grid    ceil(rows / (ROWS * SEQUENCE)) workgroups of LANES * ROWS invocations, folded

#import soft_similarity
#import nan

@group(0) @binding(0) var<storage, read> scores: array<Element>;
#ifdef MASK
@group(0) @binding(1) var<storage, read> mask: array<Element>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;
#else
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;
#endif

#entry LANES * ROWS {
    let lane = local % LANES;
    let steps = (p.n + LANES - 1u) / LANES;
    for (var r = 0u; r < SEQUENCE; r++) {
        let row = (flat * SEQUENCE + r) * ROWS + local / LANES;
        let end = select(0u, p.n, row < p.rows);
        var top = LOWEST;
        var sum = Element(0.0);
        var weighted = Element(0.0);
        for (var s = 0u; s < steps; s++) {
            let c = s * LANES + lane;
            if (c < end) {
                let counts = is_valid(row, c);
                let z = select(Element(LOWEST), p.scale * scores[row * p.n + c], counts);
                let higher = max(top, across_max(z));
                let shrink = exp(max(top - higher, LEAST));
                let e = select(Element(0.0), exp(max(z - higher, Element(LEAST))), counts);
                sum = sum * shrink + e;
                weighted = weighted * shrink + e * z;
                top = higher;
            }
        }
        let highest = row_max(top, local);
        let share = exp(max(top - highest, LEAST));
        let totals = row_sum2(vec2<f32>(across_sum(sum), across_sum(weighted)) * share, local);
        if (lane == 0u && end > 0u) {
            let at = place(row);
            let empty = totals.x == 0.0 && totals.y == 0.0;
            y[at] = select(totals.y / (totals.x * p.scale), 0.0, empty);
            // The bounds above keep NaN from totals.x, but not from totals.y.
            lse[at] = select(select(highest + log(totals.x), LOWEST, empty), totals.y, is_nan(totals.y));
        }
    }
}
