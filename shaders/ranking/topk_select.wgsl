// The k largest elements of each part of each row, in order: value descending, then index ascending; NaN after
// everything else, and -0 equal to 0. Rows are cut into nearly equal parts, so that few long rows keep all of a GPU at
// work; the parts' lists, side by side, are rows for the next launch.
//
// x        (rows, m)         read
// values   (rows, parts, k)  written
// indices  (rows, parts, k)  written
// sources  (rows, m)         read, with MERGE: what to write for an element instead of its place in the row
// grid     rows * parts workgroups of LANES invocations, folded

struct Params {
    rows: u32,
    m: u32,
    k: u32,
    // When to gather; see select.wgsl.
    room: u32,
    parts: u32,
    // Elements of a part (vec4s with VEC4), and how many parts have one more.
    part_size: u32,
    longer_parts: u32,
}
#params Params p
#import element

@group(0) @binding(0) var<storage, read> x: array<Element>;
@group(0) @binding(1) var<storage, read_write> values: array<f32>;
@group(0) @binding(2) var<storage, read_write> indices: array<u32>;
#ifdef MERGE
@group(0) @binding(3) var<storage, read> sources: array<u32>;
#endif

#import ordered
#import select

// Where the row starts, and what of it is searched, in the units of x.
var<private> base: u32;
var<private> range: vec2<u32>;

fn element(i: u32) -> f32 {
#ifdef VEC4
    return x[base + i / 4u][i % 4u];
#else
    return x[base + i];
#endif
}

fn scan(lane: u32) {
    for (var i = range.x + lane; i < range.y; i += LANES) {
#ifdef VEC4
        let quad = x[base + i];
#for c in 0..4
        offer(ordered(quad[{c}]), 4u * i + {c}u);
#endfor
#else
        offer(ordered(x[base + i]), i);
#endif
    }
}

#entry LANES {
    let list = min(flat, p.rows * p.parts - 1u);
    let row = list / p.parts;
    range = part_range(list % p.parts, p.part_size, p.longer_parts);
#ifdef VEC4
    base = row * (p.m / 4u);
    let total = 4u * (range.y - range.x);
#else
    base = row * p.m;
    let total = range.y - range.x;
#endif
    select_best(p.k, total, p.room, local);
    if (flat == list) {
        for (var i = local; i < p.k; i += LANES) {
            // There are at least k elements; the clamp keeps reads inside regardless.
            let at = min(entries[i].y, p.m - 1u);
            values[list * p.k + i] = element(at);
#ifdef MERGE
            indices[list * p.k + i] = sources[row * p.m + at];
#else
            indices[list * p.k + i] = at;
#endif
        }
    }
}
