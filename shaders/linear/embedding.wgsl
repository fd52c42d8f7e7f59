// Rows of a table by their numbers. The caller vouches that no number is beyond the table's end.
//
// VEC4: the width is a multiple of 4, and an element of V stands for four channels; otherwise for one. W is the width
// in elements of V.
//
// table  (V, W)  read
// ids    (N)     read
// y      (N, W)  written, where the row is bound
// grid   ceil(N W / 256) workgroups of 64 invocations, folded; four elements each

// The table's rows from `first` on are bound, so many as `rows`; what other rows would give is left as it is.
struct Params { count: u32, width: u32, first: u32, rows: u32 } // count = N W
#params Params p

#ifdef VEC4
alias V = vec4<f32>;
#else
alias V = f32;
#endif

@group(0) @binding(0) var<storage, read> table: array<V>;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<V>;

#import grid

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let base = flat_group(group, groups) * 256u + lane;
    for (var k = 0u; k < 4u; k++) {
        let i = base + k * 64u;
        if (i < p.count) {
            // Rows before `first` wrap around, to beyond the last.
            let row = ids[i / p.width] - p.first;
            if (row < p.rows) {
                y[i] = table[row * p.width + i % p.width];
            }
        }
    }
}
