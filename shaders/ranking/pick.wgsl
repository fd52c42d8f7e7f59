// One element of each row.
//
// x     (rows, width)  read
// at    (rows)         read: the element's column
// y     (rows)         written; 0 for a column beyond the end
// grid  rows / 64 workgroups of 64 invocations, folded

struct Params { rows: u32, width: u32 }
#params Params p

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> at: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

#entry 64 {
    let row = flat * 64u + local;
    if (row >= p.rows) {
        return;
    }
    let column = at[row];
    var value = 0.0;
    if (column < p.width) {
        value = x[row * p.width + column];
    }
    y[row] = value;
}
