// y = softmax(scale q kᵀ + bias) v by head, with an online softmax; one subgroup a workgroup, no workgroup memory.
//
// A workgroup owns ROWS queries and walks over the keys, S * PER at a time. For the scores a lane is PER keys, and the
// queries come by broadcast; for the output a lane is QUADS vec4s of channels, and the probabilities come by broadcast.
//
// q, y     (B, Tq, H d) or (B, H, Tq, d)   read, written
// k, v     (B, Tk, H d) or (B, H, Tk, d)   read
// lse      (B, H, Tq)                      written: log of the sum of e^score; 0 where every key is forbidden
// lengths, bias                            see shared/attention
// grid     B H ceil(Tq / ROWS) workgroups of S invocations, folded

#import attention_forward

// Broadcasts from constant lanes: on a software adapter one shuffle each, where a reduction is a loop over the lanes.
fn group_max(x: f32) -> f32 {
    var top = subgroupBroadcast(x, 0u);
#for i in 1..S
    top = max(top, subgroupBroadcast(x, {i}u));
#endfor
    return top;
}

fn group_sum(x: f32) -> f32 {
    var sum = subgroupBroadcast(x, 0u);
#for i in 1..S
    sum += subgroupBroadcast(x, {i}u);
#endfor
    return sum;
}

#entry subgroup S {
    if (flat >= p.groups) {
        return;
    }
    let at = place(flat, ROWS);
    let keys = valid_keys(at.batch, p.cols);
    let end = columns(at, ROWS).y;
    let rows = at.batch * p.rows * p.heads * p.width + at.head * p.row_head;
    let cols = at.batch * p.cols * p.heads * p.width + at.head * p.col_head;
    // The query that this lane loads for all.
    let mine = rows + min(at.row + lane % ROWS, p.rows - 1u) * p.row_stride;
#for r in 0..ROWS
    var top{r} = FORBIDDEN;
    var sum{r} = 0.0;
#for c in 0..QUADS
    var o{r}_{c} = vec4<f32>(0.0);
#endfor
#endfor
#for c in 0..QUADS
    let channel{c} = min(lane + {c}u * S, p.quads - 1u);
#endfor
    for (var first = 0u; first < end; first += S * PER) {
#for j in 0..PER
        let key{j} = first + lane * PER + {j}u;
        let key_row{j} = cols + min(key{j}, end - 1u) * p.col_stride;
#endfor
#for r in 0..ROWS
#for j in 0..PER
        var w{r}_{j} = 0.0;
#endfor
#endfor
        for (var c = 0u; c < p.quads; c++) {
            let query = q_quad(mine, c);
#for j in 0..PER
            let key_quad{j} = k_quad(key_row{j}, c);
#endfor
#for r in 0..ROWS
            let q{r} = subgroupBroadcast(query, {r}u);
#for j in 0..PER
            w{r}_{j} += dot(q{r}, key_quad{j});
#endfor
#endfor
        }
        // From here on w is the probability, up to the factor e^(lse - top).
#for r in 0..ROWS
        {
            var high = FORBIDDEN;
#for j in 0..PER
            w{r}_{j} = masked_score(w{r}_{j}, at, keys, at.row + {r}u, key{j});
            high = max(high, w{r}_{j});
#endfor
            high = max(top{r}, group_max(high));
            let shrink = exp(top{r} - high);
            top{r} = high;
            sum{r} *= shrink;
#for c in 0..QUADS
            o{r}_{c} *= shrink;
#endfor
#for j in 0..PER
            w{r}_{j} = select(exp(w{r}_{j} - high), 0.0, is_forbidden(w{r}_{j}));
            sum{r} += w{r}_{j};
#endfor
#ifdef DROPOUT
            let keep = kept_from(at.pair, min(at.row + {r}u, p.rows - 1u), key0);
#for j in 0..PER
            w{r}_{j} *= keep[{j}];
#endfor
#endif
        }
#endfor
        for (var j = 0u; j < PER; j++) {
#for r in 0..ROWS
            var share{r} = w{r}_0;
#endfor
#for n in 1..PER
            if (j == {n}u) {
#for r in 0..ROWS
                share{r} = w{r}_{n};
#endfor
            }
#endfor
#for i in 0..S
            {
                let row = cols + min(first + {i}u * PER + j, end - 1u) * p.col_stride;
#for c in 0..QUADS
                let value{c} = v_quad(row, channel{c});
#endfor
#for r in 0..ROWS
                let share{r}_{i} = subgroupBroadcast(share{r}, {i}u);
#for c in 0..QUADS
                o{r}_{c} += share{r}_{i} * value{c};
#endfor
#endfor
            }
#endfor
        }
    }
    var log_sum = 0.0;
#for r in 0..ROWS
    {
        let sum = group_sum(sum{r});
        let none = sum == 0.0;
        let inverse = select(1.0 / sum, 0.0, none);
        log_sum = select(log_sum, select(top{r} + log(sum), 0.0, none), lane == {r}u);
        if (at.row + {r}u < p.rows) {
            let row = rows + (at.row + {r}u) * p.row_stride;
#for c in 0..QUADS
            if (lane + {c}u * S < p.quads) {
                store(row, lane + {c}u * S, o{r}_{c} * inverse);
            }
#endfor
        }
    }
#endfor
    if (lane < ROWS && at.row + lane < p.rows) {
        lse[at.pair * p.rows + at.row + lane] = log_sum;
    }
}
