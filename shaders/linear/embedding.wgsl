// Rows of a table by their numbers. The caller vouches that no number is beyond the table's end.
//
// VEC4: the width is a multiple of 4, and an Element is four channels; otherwise one. W is the width in
// Elements.
//
// table  (any, W)  read
// ids    (N)     read
// y      (N, W)  written, where the row is bound
// grid   ceil(N W / 256) workgroups of 64 invocations, folded; four elements each

// The table's rows from `first` on are bound, so many as `rows`; what other rows would give is left as it is.
struct Params { count: u32, width: u32, first: u32, rows: u32 } // count = N W
#params Params p

#import element

@group(0) @binding(0) var<storage, read> table: array<Element>;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<Element>;

#entry 64 {
    let base = flat * 256u + local;
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
