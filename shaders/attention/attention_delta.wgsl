// What attention's backward needs of every query: (lse, sum of dy y).
//
// y, dy  (B, Tq, H d) or (B, H, Tq, d)  read
// lse    (B, H, Tq)                     read
// stats  (B, H, Tq, 2)                  written
// grid   ceil(B H Tq / 64) workgroups of 64 invocations, folded

struct Params { n: u32, heads: u32, rows: u32, width: u32, row_head: u32, row_stride: u32 }
#params Params p
#import element

@group(0) @binding(0) var<storage, read> y: array<Element>;
@group(0) @binding(1) var<storage, read> dy: array<Element>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read_write> stats: array<vec2<f32>>;

#entry 64 {
    let i = flat * 64u + local;
    if (i >= p.n) {
        return;
    }
    let pair = i / p.rows;
    let row = (pair / p.heads) * p.rows * p.heads * p.width + (pair % p.heads) * p.row_head
        + (i % p.rows) * p.row_stride;
    var sum = 0.0;
    for (var c = 0u; c < p.width; c++) {
#ifdef VEC4
        sum += dot(y[row + c], dy[row + c]);
#else
        sum += y[row + c] * dy[row + c];
#endif
    }
    stats[i] = vec2<f32>(lse[i], sum);
}
