// Gradients of attention's queries, or with KV of its keys and values; tiles in workgroup memory.
//
// A workgroup owns 16 R queries and walks over the keys, 8 J at a time; with KV it owns keys and walks over queries.
// Probabilities come anew from lse. An invocation holds the scores of R rows and J columns, and of the same rows the
// gradients of CHUNKS vec4s of channels, eight vec4s apart.
//
// first    q, with KV k     read; the rows
// second   dy, with KV v    read
// third    k, with KV q     read; the columns
// fourth   v, with KV dy    read
// stats    (B, H, Tq, 2)    read: lse, and the sum of dy y
// d_first  dq, with KV dk   written
// d_second dv               written, with KV
// d_scores (B, H, Tq, Tk)   written, with SCORES: the gradient of the biased scores, where the walk comes by
// lengths, bias             see shared/attention
// grid     B H ceil(rows / 16 R) workgroups of 128 invocations, folded

#import attention_backward

// Eight vec4s of every row, then what the scores' gradients are for eight groups of J columns; and of every column. A
// ninth vec4 a row spreads the rows over the banks.
var<workgroup> left: array<vec4<f32>, 144u * R>;
var<workgroup> right: array<vec4<f32>, 72u * J>;

#for t in first second
// Vec4 c of the rows from `start` on, those of invocation (x, z).
fn fill_left_{t}(rows: u32, start: u32, c: u32, x: u32, z: u32) {
    for (var slot = z; slot < 16u * R; slot += 16u) {
        let row = start + (slot % 16u) * R + slot / 16u;
        var quad = vec4<f32>(0.0);
        if (c < p.quads && row < p.rows) { quad = {t}_quad(rows + row * p.row_stride, c); }
        left[slot * 9u + x] = quad;
    }
}
#endfor

#for t in third fourth
// The same of the columns from `start` to `end`.
fn fill_right_{t}(cols: u32, start: u32, end: u32, c: u32, x: u32, z: u32) {
    for (var slot = z; slot < 8u * J; slot += 16u) {
        let col = start + (slot % 8u) * J + slot / 8u;
        var quad = vec4<f32>(0.0);
        if (c < p.quads && col < end) { quad = {t}_quad(cols + col * p.col_stride, c); }
        right[slot * 9u + x] = quad;
    }
}
#endfor

#entry 128 {
    if (flat >= p.groups) {
        return;
    }
    let at = place(flat, 16u * R);
#ifdef KV
    let keys = valid_keys(at.batch, p.rows);
#else
    let keys = valid_keys(at.batch, p.cols);
#endif
    let range = columns(at, 16u * R);
    let rows = at.batch * p.rows * p.heads * p.width + at.head * p.row_head;
    let cols = at.batch * p.cols * p.heads * p.width + at.head * p.col_head;
    let x = local % 8u;
    let z = local / 8u;
    let my_row = at.row + z * R;
#for r in 0..R
#ifndef KV
    let stats{r} = stats[at.pair * p.rows + min(my_row + {r}u, p.rows - 1u)];
#endif
#for i in 0..CHUNKS
    var a{r}_{i} = vec4<f32>(0.0);
#ifdef KV
    var b{r}_{i} = vec4<f32>(0.0);
#endif
#endfor
#endfor
    for (var start = range.x / (8u * J) * (8u * J); start < range.y; start += 8u * J) {
#for r in 0..R
#for j in 0..J
        var s{r}_{j} = 0.0;
        var t{r}_{j} = 0.0;
#endfor
#endfor
        for (var chunk = 0u; chunk < p.quads; chunk += 8u) {
            let c = chunk + x;
            workgroupBarrier();
            fill_left_first(rows, at.row, c, x, z);
            fill_right_third(cols, start, range.y, c, x, z);
            workgroupBarrier();
            for (var n = 0u; n < 8u; n++) {
#for j in 0..J
                let third{j} = right[({j}u * 8u + x) * 9u + n];
#endfor
#for r in 0..R
                let first{r} = left[({r}u * 16u + z) * 9u + n];
#for j in 0..J
                s{r}_{j} += dot(first{r}, third{j});
#endfor
#endfor
            }
        }
        for (var chunk = 0u; chunk < p.quads; chunk += 8u) {
            let c = chunk + x;
            workgroupBarrier();
            fill_left_second(rows, at.row, c, x, z);
            fill_right_fourth(cols, start, range.y, c, x, z);
            workgroupBarrier();
            for (var n = 0u; n < 8u; n++) {
#for j in 0..J
                let fourth{j} = right[({j}u * 8u + x) * 9u + n];
#endfor
#for r in 0..R
                let second{r} = left[({r}u * 16u + z) * 9u + n];
#for j in 0..J
                t{r}_{j} += dot(second{r}, fourth{j});
#endfor
#endfor
            }
        }
        // From here on s is the scores' gradient times scale, and t the probability after dropout.
        let my_col = start + x * J;
#ifdef KV
#for j in 0..J
        {
            let col = my_col + {j}u;
            let column_stats = stats[at.pair * p.cols + min(col, p.cols - 1u)];
#ifdef DROPOUT
            let keep = kept_from(at.pair, min(col, p.cols - 1u), my_row);
#else
            let keep = vec4<f32>(1.0);
#endif
#for r in 0..R
            {
                let score = masked_score(s{r}_{j}, at, keys, my_row + {r}u, col);
                let there = score > FORBIDDEN && col < p.cols && my_row + {r}u < p.rows;
                let share = select(0.0, exp(min(score - column_stats.x, 0.0)), there);
                s{r}_{j} = select(0.0, share * (t{r}_{j} * keep[{r}] - column_stats.y) * p.scale, there);
                t{r}_{j} = share * keep[{r}];
            }
#endfor
        }
#endfor
#else
#for r in 0..R
        {
            let row = my_row + {r}u;
#ifdef DROPOUT
            let keep = kept_from(at.pair, min(row, p.rows - 1u), my_col);
#else
            let keep = vec4<f32>(1.0);
#endif
#for j in 0..J
            {
                let score = masked_score(s{r}_{j}, at, keys, row, my_col + {j}u);
                let there = score > FORBIDDEN && my_col + {j}u < p.cols && row < p.rows;
                let share = select(0.0, exp(min(score - stats{r}.x, 0.0)), there);
                let d_score = select(0.0, share * (t{r}_{j} * keep[{j}] - stats{r}.y), there);
#ifdef SCORES
                if (my_col + {j}u < p.cols && row < p.rows) {
                    d_scores[(at.pair * p.rows + row) * p.cols + my_col + {j}u] = d_score;
                }
#endif
                s{r}_{j} = d_score * p.scale;
            }
#endfor
        }
#endfor
#endif
        workgroupBarrier();
#for r in 0..R
        {
            var row = vec4<f32>(0.0);
#for j in 0..J
            row[{j}] = s{r}_{j};
#endfor
            left[({r}u * 16u + z) * 9u + x] = row;
        }
#endfor
#for i in 0..CHUNKS
        workgroupBarrier();
        fill_right_third(cols, start, range.y, {i}u * 8u + x, x, z);
        workgroupBarrier();
        for (var n = 0u; n < 8u; n++) {
#for j in 0..J
            let third{j} = right[({j}u * 8u + n) * 9u + x];
#endfor
#for r in 0..R
            let s{r} = left[({r}u * 16u + z) * 9u + n];
#for j in 0..J
            a{r}_{i} += s{r}[{j}] * third{j};
#endfor
#endfor
        }
#endfor
#ifdef KV
        workgroupBarrier();
#for r in 0..R
        {
            var row = vec4<f32>(0.0);
#for j in 0..J
            row[{j}] = t{r}_{j};
#endfor
            left[({r}u * 16u + z) * 9u + x] = row;
        }
#endfor
#for i in 0..CHUNKS
        workgroupBarrier();
        fill_right_fourth(cols, start, range.y, {i}u * 8u + x, x, z);
        workgroupBarrier();
        for (var n = 0u; n < 8u; n++) {
#for j in 0..J
            let fourth{j} = right[({j}u * 8u + n) * 9u + x];
#endfor
#for r in 0..R
            let t{r} = left[({r}u * 16u + z) * 9u + n];
#for j in 0..J
            b{r}_{i} += t{r}[{j}] * fourth{j};
#endfor
#endfor
        }
#endfor
#endif
    }
#for r in 0..R
    if (my_row + {r}u < p.rows) {
        let row = rows + (my_row + {r}u) * p.row_stride;
#for i in 0..CHUNKS
        if ({i}u * 8u + x < p.quads) {
            store_first(row, {i}u * 8u + x, a{r}_{i});
#ifdef KV
            store_second(row, {i}u * 8u + x, b{r}_{i});
#endif
        }
#endfor
    }
#endfor
}
