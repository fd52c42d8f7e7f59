// Cross entropy of rows of logits; with SYMMETRIC, the mean of those of the rows and the columns of square scores whose
// targets are the diagonal.
//
// x       (n, c)  read
// target  (n)     read, without SYMMETRIC: column numbers below c
// part    (n)     written: row i's loss; with SYMMETRIC, the mean of row i's and column i's
// lse     (n)     written: log of the sum of row i's exponentials; with SYMMETRIC
//         (2, n)  written: that of each row, then of each column
// grid            n workgroups of LANES invocations, folded

struct Params { n: u32, c: u32 }
#params Params p

#ifdef SYMMETRIC
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> part: array<f32>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;
#else
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> target_of: array<u32>;
@group(0) @binding(2) var<storage, read_write> part: array<f32>;
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;
#endif

#import lanes
#import small_exp

const LOWEST: f32 = -3.4028234e38;

// The maximum, and the log of the sum of exponentials less the maximum, of c elements from `start` on, `step` apart.
fn log_sum(start: u32, step: u32, lane: u32) -> vec2<f32> {
    var highest = LOWEST;
    for (var j = lane; j < p.c; j += LANES) {
        highest = max(highest, x[start + j * step]);
    }
    let top = lanes_max(highest, lane);
    var sum = 0.0;
    for (var j = lane; j < p.c; j += LANES) {
        sum += small_exp(x[start + j * step] - top);
    }
    return vec2<f32>(top, log(lanes_sum(sum, lane)));
}

#entry LANES {
    let i = min(flat, p.n - 1u);
    let writes = local == 0u && flat < p.n;
    let row = log_sum(i * p.c, 1u, local);
#ifdef SYMMETRIC
    let column = log_sum(i, p.c, local);
    if (writes) {
        // The difference of the large numbers first.
        let positive = x[i * p.c + i];
        part[i] = 0.5 * ((row.x - positive) + row.y + (column.x - positive) + column.y);
        lse[i] = row.x + row.y;
        lse[p.n + i] = column.x + column.y;
    }
#else
    if (writes) {
        part[i] = (row.x - x[i * p.c + target_of[i]]) + row.y;
        lse[i] = row.x + row.y;
    }
#endif
}
