// Gradients of attention's queries, or with KV of its keys and values; one subgroup a workgroup, no workgroup memory.
//
// A workgroup owns ROWS queries and walks over the keys; with KV it owns keys and walks over the queries. Probabilities
// come anew from lse. For the scores a lane is PER columns, and the rows come by broadcast; for the gradients a lane is
// QUADS vec4s of channels, and the scores' gradients come by broadcast.
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
// grid     B H ceil(rows / ROWS) workgroups of S invocations, folded

#import attention_backward

#entry subgroup S {
    if (flat >= p.groups) {
        return;
    }
    let at = place(flat, ROWS);
#ifdef KV
    let keys = valid_keys(at.batch, p.rows);
#else
    let keys = valid_keys(at.batch, p.cols);
#endif
    let range = columns(at, ROWS);
    let rows = at.batch * p.rows * p.heads * p.width + at.head * p.row_head;
    let cols = at.batch * p.cols * p.heads * p.width + at.head * p.col_head;
    // The row that this lane loads for all.
    let my_row = min(at.row + lane % ROWS, p.rows - 1u);
    let mine = rows + my_row * p.row_stride;
#ifndef KV
    let my_stats = stats[at.pair * p.rows + my_row];
#endif
#for r in 0..ROWS
#for c in 0..QUADS
    var a{r}_{c} = vec4<f32>(0.0);
#ifdef KV
    var b{r}_{c} = vec4<f32>(0.0);
#endif
#endfor
#endfor
#for c in 0..QUADS
    let channel{c} = min(lane + {c}u * S, p.quads - 1u);
#endfor
    for (var start = range.x / (S * PER) * (S * PER); start < range.y; start += S * PER) {
#for j in 0..PER
        let col{j} = start + lane * PER + {j}u;
        let inside{j} = min(col{j}, range.y - 1u);
        let col_row{j} = cols + inside{j} * p.col_stride;
#endfor
#for r in 0..ROWS
#for j in 0..PER
        var s{r}_{j} = 0.0;
        var t{r}_{j} = 0.0;
#endfor
#endfor
        for (var c = 0u; c < p.quads; c++) {
            let first_mine = first_quad(mine, c);
            let second_mine = second_quad(mine, c);
#for j in 0..PER
            let third{j} = third_quad(col_row{j}, c);
            let fourth{j} = fourth_quad(col_row{j}, c);
#endfor
#for r in 0..ROWS
            let first{r} = subgroupBroadcast(first_mine, {r}u);
            let second{r} = subgroupBroadcast(second_mine, {r}u);
#for j in 0..PER
            s{r}_{j} += dot(first{r}, third{j});
            t{r}_{j} += dot(second{r}, fourth{j});
#endfor
#endfor
        }
#ifdef KV
#for j in 0..PER
        let stats{j} = stats[at.pair * p.cols + inside{j}];
#ifdef DROPOUT
        var keep{j} = vec4<f32>(0.0);
#endif
#endfor
#endif
        // From here on s is the scores' gradient times scale, and t the probability after dropout.
#for r in 0..ROWS
        {
#ifndef KV
            let row_stats = subgroupBroadcast(my_stats, {r}u);
#ifdef DROPOUT
            let keep = kept_from(at.pair, min(at.row + {r}u, p.rows - 1u), col0);
#endif
#endif
#for j in 0..PER
            {
#ifdef KV
                let row_stats = stats{j};
#endif
                let score = masked_score(s{r}_{j}, at, keys, at.row + {r}u, col{j});
                let there = score > FORBIDDEN && col{j} < p.cols && at.row + {r}u < p.rows;
                let share = select(0.0, exp(min(score - row_stats.x, 0.0)), there);
#ifdef DROPOUT
#ifdef KV
                // One block of random words is four keys.
                if ({r}u % 4u == 0u) { keep{j} = kept(at.pair, inside{j}, (at.row + {r}u) / 4u); }
                let factor = keep{j}[{r}u % 4u];
#else
                let factor = keep[{j}];
#endif
#else
                let factor = 1.0;
#endif
                let d_score = select(0.0, share * (t{r}_{j} * factor - row_stats.y), there);
#ifdef SCORES
                if (col{j} < p.cols && at.row + {r}u < p.rows) {
                    d_scores[(at.pair * p.rows + at.row + {r}u) * p.cols + col{j}] = d_score;
                }
#endif
                s{r}_{j} = d_score * p.scale;
                t{r}_{j} = share * factor;
            }
#endfor
        }
#endfor
        for (var j = 0u; j < PER; j++) {
#for r in 0..ROWS
            var s{r} = s{r}_0;
            var t{r} = t{r}_0;
#endfor
#for n in 1..PER
            if (j == {n}u) {
#for r in 0..ROWS
                s{r} = s{r}_{n};
                t{r} = t{r}_{n};
#endfor
            }
#endfor
#for i in 0..S
            {
                let row = cols + min(start + {i}u * PER + j, range.y - 1u) * p.col_stride;
#for c in 0..QUADS
                let third{c} = third_quad(row, channel{c});
#ifdef KV
                let fourth{c} = fourth_quad(row, channel{c});
#endif
#endfor
#for r in 0..ROWS
                let s{r}_{i} = subgroupBroadcast(s{r}, {i}u);
#for c in 0..QUADS
                a{r}_{c} += s{r}_{i} * third{c};
#endfor
#ifdef KV
                let t{r}_{i} = subgroupBroadcast(t{r}, {i}u);
#for c in 0..QUADS
                b{r}_{c} += t{r}_{i} * fourth{c};
#endfor
#endif
#endfor
            }
#endfor
        }
    }
#for r in 0..ROWS
    if (at.row + {r}u < p.rows) {
        let row = rows + (at.row + {r}u) * p.row_stride;
#for c in 0..QUADS
        if (lane + {c}u * S < p.quads) {
            store_first(row, lane + {c}u * S, a{r}_{c});
#ifdef KV
            store_second(row, lane + {c}u * S, b{r}_{c});
#endif
        }
#endfor
    }
#endfor
}
