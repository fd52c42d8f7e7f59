// The gradient of layer_norm.wgsl for its input. With w = gain * dy and h the normalised row:
// dx = inverse * (w - mean(w) - h * k), where k = mean(w * h); with p.unbiased, where the deviation sd has n - 1 degrees
// of freedom and eps is outside the root, k = sum(w * h) * (sd + eps) / ((n - 1) * sd), and 0 where sd is 0.
//
// dy     (rows, n)  read
// x      (rows, n)  read: what was normalised
// gain   (n)        read
// stats  (rows, 2)  read
// dx     (rows, n)  written
// grid   ceil(rows / (ROWS * SEQUENCE)) workgroups of LANES * ROWS invocations, folded

struct Params { rows: u32, n: u32, width: f32, eps: f32, unbiased: u32 }
#params Params p

#import row

@group(0) @binding(0) var<storage, read> dy: array<Element>;
@group(0) @binding(1) var<storage, read> x: array<Element>;
@group(0) @binding(2) var<storage, read> gain: array<Element>;
@group(0) @binding(3) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> dx: array<Element>;

#entry LANES * ROWS {
    let lane = local % LANES;
    let steps = (p.n + LANES - 1u) / LANES;
    for (var r = 0u; r < SEQUENCE; r++) {
        let row = (flat * SEQUENCE + r) * ROWS + local / LANES;
        let end = select(0u, p.n, row < p.rows);
        let saved = stats[min(row, p.rows - 1u)];
        let mean = saved.x;
        let inverse = select(saved.y, 1.0 / (saved.y + p.eps), p.unbiased != 0u);

        var plain = Element(0.0);
        var along = Element(0.0);
        for (var s = 0u; s < steps; s++) {
            let c = s * LANES + lane;
            if (c < end) {
                let at = row * p.n + c;
                let w = gain[c] * dy[at];
                plain += w;
                along += w * ((x[at] - mean) * inverse);
            }
        }
        let sums = row_sum2(vec2<f32>(across_sum(plain), across_sum(along)), local);

        let average = sums.x / p.width;
        var k = sums.y / p.width;
        if (p.unbiased != 0u) {
            let known = saved.y > 0.0;
            let sd = select(1.0, saved.y, known);
            k = select(0.0, sums.y / max(p.width - 1.0, 1.0) * ((sd + p.eps) / sd), known);
        }
        for (var s = 0u; s < steps; s++) {
            let c = s * LANES + lane;
            if (c < end) {
                let at = row * p.n + c;
                let h = (x[at] - mean) * inverse;
                dx[at] = inverse * (gain[c] * dy[at] - average - h * k);
            }
        }
    }
}
