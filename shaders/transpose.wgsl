// y[z, j, i] = x[z, i, j].
//
// x     (z, rows, columns)  read
// y     (z, columns, rows)  written
// grid  ceil(n / 64) workgroups of 64 invocations, folded, with n = z * rows * columns; an element each

struct Params { n: u32, rows: u32, columns: u32 }
#params Params p

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
#import grid

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = flat_group(group, groups) * 64u + lane;
    if (at < p.n) {
        let row = at / p.rows;
        y[at] = x[((row / p.columns) * p.rows + at % p.rows) * p.columns + row % p.columns];
    }
}
