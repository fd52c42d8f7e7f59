// Layer norm over rows: y = gain * (x - mean) * inverse + bias, where inverse is 1 / sqrt(variance + eps), or, with
// p.unbiased, 1 / (deviation of n - 1 + eps). With RESIDUAL, x + residual takes the place of x; with SUM it is written.
// The variance is the mean of squared differences from the mean, in a second pass over the row: rows whose values differ
// by little only would lose it in E[x^2] - E[x]^2.
//
// x         (rows, n)  read
// gain      (n)        read
// bias      (n)        read
// residual  (rows, n)  read, with RESIDUAL
// y         (rows, n)  written
// stats     (rows, 2)  written: the mean, and 1 / sqrt(variance + eps) or, with p.unbiased, the deviation
// total     (rows, n)  written, with SUM: x + residual
// grid      ceil(rows / (ROWS * SEQUENCE)) workgroups of LANES * ROWS invocations, folded

struct Params { rows: u32, n: u32, width: f32, eps: f32, unbiased: u32 }
#params Params p

#import row

@group(0) @binding(0) var<storage, read> x: array<Element>;
@group(0) @binding(1) var<storage, read> gain: array<Element>;
@group(0) @binding(2) var<storage, read> bias: array<Element>;
#ifdef RESIDUAL
@group(0) @binding(3) var<storage, read> residual: array<Element>;
@group(0) @binding(4) var<storage, read_write> y: array<Element>;
@group(0) @binding(5) var<storage, read_write> stats: array<vec2<f32>>;
#ifdef SUM
@group(0) @binding(6) var<storage, read_write> total: array<Element>;
#endif
#else
@group(0) @binding(3) var<storage, read_write> y: array<Element>;
@group(0) @binding(4) var<storage, read_write> stats: array<vec2<f32>>;
#endif

fn load(at: u32) -> Element {
#ifdef RESIDUAL
    return x[at] + residual[at];
#else
    return x[at];
#endif
}

// 1 / divisor, and what backward needs, from the sum of squared differences.
fn divisors(square: f32) -> vec2<f32> {
    if (p.unbiased != 0u) {
        let deviation = sqrt(square / max(p.width - 1.0, 1.0));
        return vec2<f32>(1.0 / (deviation + p.eps), deviation);
    }
    let inverse = 1.0 / sqrt(square / p.width + p.eps);
    return vec2<f32>(inverse, inverse);
}

#entry LANES * ROWS {
    let lane = local % LANES;
#ifdef STEPS
    // Loaded once for all rows: on a software adapter a value kept is far cheaper than one loaded lane by lane.
#for i in 0..STEPS
    let gain{i} = gain[lane + {i}u * LANES];
    let bias{i} = bias[lane + {i}u * LANES];
#endfor
    for (var r = 0u; r < SEQUENCE; r++) {
        let row = flat * SEQUENCE + r;
        if (row < p.rows) {
            let at = row * p.n + lane;
#for i in 0..STEPS
            let v{i} = load(at + {i}u * LANES);
#ifdef SUM
            total[at + {i}u * LANES] = v{i};
#endif
#endfor
            var sums = v0;
#for i in 1..STEPS
            sums += v{i};
#endfor
            let mean = row_sum(across_sum(sums), local) / p.width;
            var squares = Element(0.0);
#for i in 0..STEPS
            let d{i} = v{i} - mean;
            squares += d{i} * d{i};
#endfor
            let scales = divisors(row_sum(across_sum(squares), local));
#for i in 0..STEPS
            y[at + {i}u * LANES] = d{i} * scales.x * gain{i} + bias{i};
#endfor
            if (lane == 0u) {
                stats[row] = vec2<f32>(mean, scales.y);
            }
        }
    }
#else
    let steps = (p.n + LANES - 1u) / LANES;
    for (var r = 0u; r < SEQUENCE; r++) {
        let row = (flat * SEQUENCE + r) * ROWS + local / LANES;
        let end = select(0u, p.n, row < p.rows);

        var sums = Element(0.0);
        for (var s = 0u; s < steps; s++) {
            let c = s * LANES + lane;
            if (c < end) {
                let v = load(row * p.n + c);
                sums += v;
#ifdef SUM
                total[row * p.n + c] = v;
#endif
            }
        }
        let mean = row_sum(across_sum(sums), local) / p.width;

        var squares = Element(0.0);
        for (var s = 0u; s < steps; s++) {
            let c = s * LANES + lane;
            if (c < end) {
                let d = load(row * p.n + c) - mean;
                squares += d * d;
            }
        }
        let scales = divisors(row_sum(across_sum(squares), local));
        for (var s = 0u; s < steps; s++) {
            let c = s * LANES + lane;
            if (c < end) {
                let at = row * p.n + c;
                y[at] = (load(at) - mean) * scales.x * gain[c] + bias[c];
            }
        }
        if (lane == 0u && row < p.rows) {
            stats[row] = vec2<f32>(mean, scales.y);
        }
    }
#endif
}
