// y = softmax(scale q kᵀ + bias) v by head, with an online softmax; tiles in workgroup memory.
//
// A workgroup owns 16 R queries and walks over the keys, 8 J at a time. An invocation holds the scores of R queries and
// J keys, and of the same queries the outputs of CHUNKS vec4s of channels, eight vec4s apart.
//
// q, y     (B, Tq, H d) or (B, H, Tq, d)   read, written
// k, v     (B, Tk, H d) or (B, H, Tk, d)   read
// lse      (B, H, Tq)                      written: log of the sum of e^score; 0 where every key is forbidden
// lengths, bias                            see shared/attention
// grid     B H ceil(Tq / 16 R) workgroups of 128 invocations, folded

#import attention_forward

// Eight vec4s of every query, then the probabilities of eight groups of J keys; of every key; and what 8 invocations of
// a row share. A ninth vec4 a row spreads the rows over the banks.
var<workgroup> left: array<vec4<f32>, 144u * R>;
var<workgroup> right: array<vec4<f32>, 72u * J>;
var<workgroup> shared_rows: array<vec4<f32>, 128>;

#entry 128 {
    if (flat >= p.groups) {
        return;
    }
    let at = place(flat, 16u * R);
    let keys = valid_keys(at.batch, p.cols);
    let end = columns(at, 16u * R).y;
    let rows = at.batch * p.rows * p.heads * p.width + at.head * p.row_head;
    let cols = at.batch * p.cols * p.heads * p.width + at.head * p.col_head;
    let x = local % 8u;
    let z = local / 8u;
    let my_row = at.row + z * R;
#for r in 0..R
    var top{r} = FORBIDDEN;
    var sum{r} = 0.0;
#for i in 0..CHUNKS
    var o{r}_{i} = vec4<f32>(0.0);
#endfor
#endfor
    for (var first = 0u; first < end; first += 8u * J) {
#for r in 0..R
#for j in 0..J
        var w{r}_{j} = 0.0;
#endfor
#endfor
        for (var chunk = 0u; chunk < p.quads; chunk += 8u) {
            let c = chunk + x;
            workgroupBarrier();
            for (var slot = z; slot < 16u * R; slot += 16u) {
                let row = at.row + (slot % 16u) * R + slot / 16u;
                var quad = vec4<f32>(0.0);
                if (c < p.quads && row < p.rows) { quad = q_quad(rows + row * p.row_stride, c); }
                left[slot * 9u + x] = quad;
            }
            for (var slot = z; slot < 8u * J; slot += 16u) {
                let key = first + (slot % 8u) * J + slot / 8u;
                var quad = vec4<f32>(0.0);
                if (c < p.quads && key < end) { quad = k_quad(cols + key * p.col_stride, c); }
                right[slot * 9u + x] = quad;
            }
            workgroupBarrier();
            for (var n = 0u; n < 8u; n++) {
#for j in 0..J
                let k{j} = right[({j}u * 8u + x) * 9u + n];
#endfor
#for r in 0..R
                let q{r} = left[({r}u * 16u + z) * 9u + n];
#for j in 0..J
                w{r}_{j} += dot(q{r}, k{j});
#endfor
#endfor
            }
        }
        let my_key = first + x * J;
        var highest = vec4<f32>(FORBIDDEN);
#for r in 0..R
#for j in 0..J
        w{r}_{j} = masked_score(w{r}_{j}, at, keys, my_row + {r}u, my_key + {j}u);
        highest[{r}] = max(highest[{r}], w{r}_{j});
#endfor
#endfor
        shared_rows[local] = highest;
        workgroupBarrier();
        for (var n = 0u; n < 8u; n++) {
            highest = max(highest, shared_rows[z * 8u + n]);
        }
#for r in 0..R
        {
            let high = max(top{r}, highest[{r}]);
            let shrink = exp(top{r} - high);
            top{r} = high;
            sum{r} *= shrink;
#for i in 0..CHUNKS
            o{r}_{i} *= shrink;
#endfor
            var share = vec4<f32>(0.0);
#for j in 0..J
            share[{j}] = select(exp(w{r}_{j} - high), 0.0, is_forbidden(w{r}_{j}));
            sum{r} += share[{j}];
#endfor
#ifdef DROPOUT
            let keep = kept_from(at.pair, min(my_row + {r}u, p.rows - 1u), my_key);
            share *= keep;
#endif
            left[({r}u * 16u + z) * 9u + x] = share;
        }
#endfor
#for i in 0..CHUNKS
        workgroupBarrier();
        for (var slot = z; slot < 8u * J; slot += 16u) {
            let key = first + (slot % 8u) * J + slot / 8u;
            var quad = vec4<f32>(0.0);
            if ({i}u * 8u + x < p.quads && key < end) { quad = v_quad(cols + key * p.col_stride, {i}u * 8u + x); }
            right[slot * 9u + x] = quad;
        }
        workgroupBarrier();
        for (var n = 0u; n < 8u; n++) {
#for j in 0..J
            let v{j} = right[({j}u * 8u + n) * 9u + x];
#endfor
#for r in 0..R
            let share{r} = left[({r}u * 16u + z) * 9u + n];
#for j in 0..J
            o{r}_{i} += share{r}[{j}] * v{j};
#endfor
#endfor
        }
#endfor
    }
    var sums = vec4<f32>(0.0);
#for r in 0..R
    sums[{r}] = sum{r};
#endfor
    workgroupBarrier();
    shared_rows[local] = sums;
    workgroupBarrier();
    sums = vec4<f32>(0.0);
    for (var n = 0u; n < 8u; n++) {
        sums += shared_rows[z * 8u + n];
    }
#for r in 0..R
    if (my_row + {r}u < p.rows) {
        let none = sums[{r}] == 0.0;
        let inverse = select(1.0 / sums[{r}], 0.0, none);
        let row = rows + (my_row + {r}u) * p.row_stride;
#for i in 0..CHUNKS
        if ({i}u * 8u + x < p.quads) {
            store(row, {i}u * 8u + x, o{r}_{i} * inverse);
        }
#endfor
        if (x == 0u) {
            lse[at.pair * p.rows + my_row + {r}u] = select(top{r} + log(sums[{r}]), 0.0, none);
        }
    }
#endfor
}
