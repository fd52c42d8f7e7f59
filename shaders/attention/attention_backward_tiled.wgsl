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

#import attention
#import grid

#ifdef VEC4
@group(0) @binding(0) var<storage, read> first: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> second: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> third: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> fourth: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> d_first: array<vec4<f32>>;
#ifdef KV
@group(0) @binding(6) var<storage, read_write> d_second: array<vec4<f32>>;
#endif

fn first_quad(row: u32, c: u32) -> vec4<f32> { return first[row + c]; }
fn second_quad(row: u32, c: u32) -> vec4<f32> { return second[row + c]; }
fn third_quad(row: u32, c: u32) -> vec4<f32> { return third[row + c]; }
fn fourth_quad(row: u32, c: u32) -> vec4<f32> { return fourth[row + c]; }
fn store_first(row: u32, c: u32, x: vec4<f32>) { d_first[row + c] = x; }
#ifdef KV
fn store_second(row: u32, c: u32, x: vec4<f32>) { d_second[row + c] = x; }
#endif
#else
@group(0) @binding(0) var<storage, read> first: array<f32>;
@group(0) @binding(1) var<storage, read> second: array<f32>;
@group(0) @binding(2) var<storage, read> third: array<f32>;
@group(0) @binding(3) var<storage, read> fourth: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_first: array<f32>;
#ifdef KV
@group(0) @binding(6) var<storage, read_write> d_second: array<f32>;
#endif

fn first_quad(row: u32, c: u32) -> vec4<f32> {
    let i = part_at(row, c);
    return part(vec4<f32>(first[i.x], first[i.y], first[i.z], first[i.w]), p.width - 4u * c);
}
fn second_quad(row: u32, c: u32) -> vec4<f32> {
    let i = part_at(row, c);
    return part(vec4<f32>(second[i.x], second[i.y], second[i.z], second[i.w]), p.width - 4u * c);
}
fn third_quad(row: u32, c: u32) -> vec4<f32> {
    let i = part_at(row, c);
    return part(vec4<f32>(third[i.x], third[i.y], third[i.z], third[i.w]), p.width - 4u * c);
}
fn fourth_quad(row: u32, c: u32) -> vec4<f32> {
    let i = part_at(row, c);
    return part(vec4<f32>(fourth[i.x], fourth[i.y], fourth[i.z], fourth[i.w]), p.width - 4u * c);
}
fn store_first(row: u32, c: u32, x: vec4<f32>) {
#for e in 0..4
    if (4u * c + {e}u < p.width) { d_first[row + 4u * c + {e}u] = x[{e}]; }
#endfor
}
#ifdef KV
fn store_second(row: u32, c: u32, x: vec4<f32>) {
#for e in 0..4
    if (4u * c + {e}u < p.width) { d_second[row + 4u * c + {e}u] = x[{e}]; }
#endfor
}
#endif
#endif
@group(0) @binding(4) var<storage, read> stats: array<vec2<f32>>;
#ifdef LENGTHS
#ifdef KV
@group(0) @binding(7) var<storage, read> lengths: array<u32>;
#else
@group(0) @binding(6) var<storage, read> lengths: array<u32>;
#endif
#endif
#ifdef BIAS
#ifdef KV
@group(0) @binding(7) var<storage, read> bias: array<f32>;
#else
@group(0) @binding(6) var<storage, read> bias: array<f32>;
#endif
#endif
#ifdef SCORES
@group(0) @binding(7) var<storage, read_write> d_scores: array<f32>;
#endif

// Eight vec4s of every row, then what the scores' gradients are for eight groups of J columns; and of every column. A
// ninth vec4 a row spreads the rows over the banks.
var<workgroup> left: array<vec4<f32>, 144u * R>;
var<workgroup> right: array<vec4<f32>, 72u * J>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let flat = flat_group(group, groups);
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
    let x = lane % 8u;
    let z = lane / 8u;
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
            for (var slot = z; slot < 16u * R; slot += 16u) {
                let row = at.row + (slot % 16u) * R + slot / 16u;
                var quad = vec4<f32>(0.0);
                if (c < p.quads && row < p.rows) { quad = first_quad(rows + row * p.row_stride, c); }
                left[slot * 9u + x] = quad;
            }
            for (var slot = z; slot < 8u * J; slot += 16u) {
                let col = start + (slot % 8u) * J + slot / 8u;
                var quad = vec4<f32>(0.0);
                if (c < p.quads && col < range.y) { quad = third_quad(cols + col * p.col_stride, c); }
                right[slot * 9u + x] = quad;
            }
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
            for (var slot = z; slot < 16u * R; slot += 16u) {
                let row = at.row + (slot % 16u) * R + slot / 16u;
                var quad = vec4<f32>(0.0);
                if (c < p.quads && row < p.rows) { quad = second_quad(rows + row * p.row_stride, c); }
                left[slot * 9u + x] = quad;
            }
            for (var slot = z; slot < 8u * J; slot += 16u) {
                let col = start + (slot % 8u) * J + slot / 8u;
                var quad = vec4<f32>(0.0);
                if (c < p.quads && col < range.y) { quad = fourth_quad(cols + col * p.col_stride, c); }
                right[slot * 9u + x] = quad;
            }
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
            var keep = kept(at.pair, min(col, p.cols - 1u), my_row / 4u);
            if ((my_row & 2u) != 0u) { keep = keep.zwxy; }
            if ((my_row & 1u) != 0u) { keep = keep.yxwz; }
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
            var keep = kept(at.pair, min(row, p.rows - 1u), my_col / 4u);
            if ((my_col & 2u) != 0u) { keep = keep.zwxy; }
            if ((my_col & 1u) != 0u) { keep = keep.yxwz; }
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
        for (var slot = z; slot < 8u * J; slot += 16u) {
            let col = start + (slot % 8u) * J + slot / 8u;
            var quad = vec4<f32>(0.0);
            if ({i}u * 8u + x < p.quads && col < range.y) {
                quad = third_quad(cols + col * p.col_stride, {i}u * 8u + x);
            }
            right[slot * 9u + x] = quad;
        }
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
        for (var slot = z; slot < 8u * J; slot += 16u) {
            let col = start + (slot % 8u) * J + slot / 8u;
            var quad = vec4<f32>(0.0);
            if ({i}u * 8u + x < p.quads && col < range.y) {
                quad = fourth_quad(cols + col * p.col_stride, {i}u * 8u + x);
            }
            right[slot * 9u + x] = quad;
        }
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
