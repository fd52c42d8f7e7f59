// Cuts images into square patches, one row each; with FOLD, puts such rows back, with zeros where no patch lies.
//
// Row (n, i, j) is the patch at grid row i and grid column j of image n, its channels, rows and columns in that order.
// What is left of an image at its lower and right edge, less than a patch, is in none.
//
// VEC4: the patch and the image's width are multiples of 4, and an element of V stands for four pixels of a row;
// otherwise for one.
//
// image  (N, C, H, W)            read; with FOLD written
// rows   (N grid grid, C P P)    written; with FOLD read
// grid   ceil(n / 64) workgroups of 64 invocations, folded; one element of the n of V written each

struct Params {
    count: u32, // of elements of V written
    channels: u32,
    height: u32,
    width: u32, // in elements of V
    patch_rows: u32,
    patch_columns: u32, // in elements of V
    grid_rows: u32,
    grid_columns: u32,
}
#params Params p

#ifdef VEC4
alias V = vec4<f32>;
#else
alias V = f32;
#endif

#ifdef FOLD
@group(0) @binding(0) var<storage, read> rows: array<V>;
@group(0) @binding(1) var<storage, read_write> image: array<V>;
#else
@group(0) @binding(0) var<storage, read> image: array<V>;
@group(0) @binding(1) var<storage, read_write> rows: array<V>;
#endif

#import grid

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = flat_group(group, groups) * 64u + lane;
    if (at < p.count) {
#ifdef FOLD
        let x = at % p.width;
        let y = at / p.width % p.height;
        let plane = at / p.width / p.height;
        let i = y / p.patch_rows;
        let j = x / p.patch_columns;
        let inside = i < p.grid_rows && j < p.grid_columns;
        let piece = (plane / p.channels * p.grid_rows + i) * p.grid_columns + j;
        let line = (piece * p.channels + plane % p.channels) * p.patch_rows + y % p.patch_rows;
        let source = select(0u, line * p.patch_columns + x % p.patch_columns, inside);
        image[at] = select(V(0.0), rows[source], inside);
#else
        let x = at % p.patch_columns;
        let line = at / p.patch_columns;
        let y = line % p.patch_rows;
        let channel = line / p.patch_rows % p.channels;
        let piece = line / p.patch_rows / p.channels;
        let j = piece % p.grid_columns;
        let i = piece / p.grid_columns % p.grid_rows;
        let n = piece / p.grid_columns / p.grid_rows;
        let plane = n * p.channels + channel;
        rows[at] = image[(plane * p.height + i * p.patch_rows + y) * p.width + j * p.patch_columns + x];
#endif
    }
}
