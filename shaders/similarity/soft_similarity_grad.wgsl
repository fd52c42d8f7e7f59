// The gradient of soft_similarity.wgsl: ds_r = g q_r (1 + scale * (s_r - y)), 0 where masked.
//
// scores      (rows, n)     read, then written: ds
// mask        (groups, n)   read, with MASK: as there
// y, lse, g   places of rows as there, read: what it returned, and the gradient of y
// grid        ceil(rows / (ROWS * SEQUENCE)) workgroups of LANES * ROWS invocations, folded

#import soft_similarity

@group(0) @binding(0) var<storage, read_write> scores: array<Element>;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> g: array<f32>;
#ifdef MASK
@group(0) @binding(4) var<storage, read> mask: array<Element>;
#endif

#entry LANES * ROWS {
    let lane = local % LANES;
    let steps = (p.n + LANES - 1u) / LANES;
    for (var r = 0u; r < SEQUENCE; r++) {
        let row = (flat * SEQUENCE + r) * ROWS + local / LANES;
        let end = select(0u, p.n, row < p.rows);
        let at = place(min(row, p.rows - 1u));
        let factor = g[at];
        let middle = p.scale * y[at];
        let total = lse[at];
        for (var s = 0u; s < steps; s++) {
            let c = s * LANES + lane;
            if (c < end) {
                let z = p.scale * scores[row * p.n + c];
                // A row that is masked as a whole has z far above its lse; the bound keeps it finite until it is dropped.
                let q = exp(clamp(z - total, Element(LEAST), Element(0.0)));
                scores[row * p.n + c] = select(Element(0.0), factor * q * (1.0 + z - middle), is_valid(row, c));
            }
        }
    }
}
