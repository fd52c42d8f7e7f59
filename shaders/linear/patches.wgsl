// Cuts images into square patches, one row each; with FOLD, puts such rows back, with zeros where no patch lies.
//
// Row (n, i, j) is the patch at grid row i and grid column j of image n, its channels, rows and columns in that order.
// What is left of an image at its lower and right edge, less than a patch, is in none.
//
// VEC4: the patch and the image's width are multiples of 4, and an Element is four pixels of a row; otherwise
// one.
//
// image  (N, C, H, W)            read; with FOLD written
// rows   (N grid grid, C P P)    written; with FOLD read
// grid   ceil(n / 64) workgroups of 64 invocations, folded; one of the n Elements written each

struct Params {
    count: u32, // of Elements written
    channels: u32,
    height: u32,
    width: u32, // in Elements
    patch_rows: u32,
    patch_columns: u32, // in Elements
    grid_rows: u32,
    grid_columns: u32,
}
#params Params p

#import element

#ifdef FOLD
@group(0) @binding(0) var<storage, read> rows: array<Element>;
@group(0) @binding(1) var<storage, read_write> image: array<Element>;
#else
@group(0) @binding(0) var<storage, read> image: array<Element>;
@group(0) @binding(1) var<storage, read_write> rows: array<Element>;
#endif

#entry 64 {
    let at = flat * 64u + local;
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
        image[at] = select(Element(0.0), rows[source], inside);
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
