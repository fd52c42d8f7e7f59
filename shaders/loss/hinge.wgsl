// Bidirectional max-margin loss on scores s whose positives are the diagonal. For each index a, the terms that compare
// with s_aa: relu(margin + s_ab - s_aa) along row a and relu(margin + s_ba - s_aa) along column a, b != a.
//
// s      (n, n)  read
// part   (n)     written: the sum of a's terms; with HARDEST, of the largest in the row and the largest in the column
// saved  (n)     written: how many of a's terms are at least 0; with HARDEST
//        (2, n)  written: where the hardest negative of row a, then of column a, is; NONE if its term is below 0
// grid           n workgroups of LANES invocations, folded

struct Params { n: u32, margin: f32 }
#params Params p

@group(0) @binding(0) var<storage, read> s: array<f32>;
@group(0) @binding(1) var<storage, read_write> part: array<f32>;
@group(0) @binding(2) var<storage, read_write> saved: array<u32>;

#import lanes
#ifdef HARDEST
#import ordered

// NaN counts as the hardest, so that it reaches the loss.
fn hardness(x: f32) -> u32 {
    return select(ordered(x), NONE, is_nan(x));
}
#endif

// NaN stays NaN.
fn relu(x: f32) -> f32 {
    return select(x, 0.0, x < 0.0);
}

#entry LANES {
    let a = min(flat, p.n - 1u);
    let writes = local == 0u && flat < p.n;
    let positive = s[a * p.n + a];
#ifdef HARDEST
    var row = vec2<u32>(0u, NONE);
    var column = vec2<u32>(0u, NONE);
    for (var b = local; b < p.n; b += LANES) {
        if (b != a) {
            let in_row = vec2<u32>(hardness(s[a * p.n + b]), b);
            let in_column = vec2<u32>(hardness(s[b * p.n + a]), b);
            row = select(row, in_row, better(in_row, row));
            column = select(column, in_column, better(in_column, column));
        }
    }
    row = lanes_best(row, local);
    column = lanes_best(column, local);
    if (writes) {
        var sum = 0.0;
        var row_at = NONE;
        var column_at = NONE;
        if (p.n > 1u) {
            let in_row = p.margin + s[a * p.n + row.y] - positive;
            let in_column = p.margin + s[column.y * p.n + a] - positive;
            sum = relu(in_row) + relu(in_column);
            row_at = select(row.y, NONE, in_row < 0.0);
            column_at = select(column.y, NONE, in_column < 0.0);
        }
        part[a] = sum;
        saved[a] = row_at;
        saved[p.n + a] = column_at;
    }
#else
    var sum = 0.0;
    var count = 0u;
    for (var b = local; b < p.n; b += LANES) {
        if (b != a) {
            let in_row = p.margin + s[a * p.n + b] - positive;
            let in_column = p.margin + s[b * p.n + a] - positive;
            sum += relu(in_row) + relu(in_column);
            count += select(1u, 0u, in_row < 0.0) + select(1u, 0u, in_column < 0.0);
        }
    }
    let total = lanes_sum(sum, local);
    let tally = lanes_tally(vec4<u32>(count, 0u, 0u, 0u), local);
    if (writes) {
        part[a] = total;
        saved[a] = tally.x;
    }
#endif
}
