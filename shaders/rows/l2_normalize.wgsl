// Rows divided by their length: y = x * inverse, with inverse = 1 / max(length, eps), or, with p.add, 1 / (length + eps).
//
// x      (rows, n)  read
// y      (rows, n)  written
// stats  (rows, 2)  written: inverse and length
// grid   ceil(rows / (ROWS * SEQUENCE)) workgroups of LANES * ROWS invocations, folded

struct Params { rows: u32, n: u32, eps: f32, add: u32 }
#params Params p

#import row
#import nan

@group(0) @binding(0) var<storage, read> x: array<Element>;
@group(0) @binding(1) var<storage, read_write> y: array<Element>;
@group(0) @binding(2) var<storage, read_write> stats: array<vec2<f32>>;

#entry LANES * ROWS {
    let lane = local % LANES;
    let steps = (p.n + LANES - 1u) / LANES;
    for (var r = 0u; r < SEQUENCE; r++) {
        let row = (flat * SEQUENCE + r) * ROWS + local / LANES;
        let end = select(0u, p.n, row < p.rows);

        var squares = Element(0.0);
        for (var s = 0u; s < steps; s++) {
            let c = s * LANES + lane;
            if (c < end) {
                let v = x[row * p.n + c];
                squares += v * v;
            }
        }
        let length = sqrt(row_sum(across_sum(squares), local));
        let inverse = 1.0 / select(max(length, p.eps), length + p.eps, p.add != 0u || is_nan(length));
        for (var s = 0u; s < steps; s++) {
            let c = s * LANES + lane;
            if (c < end) {
                y[row * p.n + c] = x[row * p.n + c] * inverse;
            }
        }
        if (lane == 0u && row < p.rows) {
            stats[row] = vec2<f32>(inverse, length);
        }
    }
}
