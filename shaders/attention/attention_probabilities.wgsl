// The probabilities themselves, before dropout: for inspection, not for speed.
//
// q        (B, Tq, H d) or (B, H, Tq, d)  read
// k        (B, Tk, H d) or (B, H, Tk, d)  read
// lse      (B, H, Tq)                     read
// y        (B, H, Tq, Tk)                 written
// lengths, bias                           see shared/attention
// grid     ceil(B H Tq Tk / 64) workgroups of 64 invocations, folded

#import attention

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
#ifdef LENGTHS
@group(0) @binding(4) var<storage, read> lengths: array<u32>;
#endif
#ifdef BIAS
@group(0) @binding(4) var<storage, read> bias: array<f32>;
#endif

#entry 64 {
    let i = flat * 64u + local;
    // groups counts elements here.
    if (i >= p.groups) {
        return;
    }
    let col = i % p.cols;
    let at = place(i / p.cols, 1u);
    let rows = at.batch * p.rows * p.heads * p.width + at.head * p.row_head + at.row * p.row_stride;
    let cols = at.batch * p.cols * p.heads * p.width + at.head * p.col_head + col * p.col_stride;
    var sum = 0.0;
    for (var c = 0u; c < p.width; c++) {
        sum += q[rows + c] * k[cols + c];
    }
    let score = masked_score(sum, at, valid_keys(at.batch, p.cols), at.row, col);
    let z = score - lse[at.pair * p.rows + at.row];
    y[i] = select(select(exp(min(z, 0.0)), z, is_nan(z)), 0.0, is_forbidden(score));
}
