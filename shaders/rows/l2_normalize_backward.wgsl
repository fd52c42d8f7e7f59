// The gradient of l2_normalize.wgsl: dx = inverse * (g - y * k). The divisor max(length, eps) has k = sum(g * y), or 0
// where eps is larger; with p.add, length + eps has k = sum(g * y) * (length + eps) / length, or 0 where length is 0.
//
// y      (rows, n)  read
// g      (rows, n)  read: the gradient of y
// stats  (rows, 2)  read
// dx     (rows, n)  written
// grid   ceil(rows / (ROWS * SEQUENCE)) workgroups of LANES * ROWS invocations, folded

struct Params { rows: u32, n: u32, eps: f32, add: u32 }
#params Params p

#import row

@group(0) @binding(0) var<storage, read> y: array<Element>;
@group(0) @binding(1) var<storage, read> g: array<Element>;
@group(0) @binding(2) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> dx: array<Element>;

#entry LANES * ROWS {
    let lane = local % LANES;
    let steps = (p.n + LANES - 1u) / LANES;
    for (var r = 0u; r < SEQUENCE; r++) {
        let row = (flat * SEQUENCE + r) * ROWS + local / LANES;
        let end = select(0u, p.n, row < p.rows);
        let saved = stats[min(row, p.rows - 1u)];

        var dots = Element(0.0);
        for (var s = 0u; s < steps; s++) {
            let c = s * LANES + lane;
            if (c < end) {
                dots += g[row * p.n + c] * y[row * p.n + c];
            }
        }
        let dot = row_sum(across_sum(dots), local);

        let known = saved.y > 0.0;
        let ratio = (saved.y + p.eps) / select(1.0, saved.y, known);
        let clamped = select(0.0, dot, saved.y >= p.eps);
        let k = select(clamped, select(0.0, dot * ratio, known), p.add != 0u);
        for (var s = 0u; s < steps; s++) {
            let c = s * LANES + lane;
            if (c < end) {
                dx[row * p.n + c] = saved.x * (g[row * p.n + c] - y[row * p.n + c] * k);
            }
        }
    }
}
