// What the kernels of aosm share. A workgroup of 256 invocations has one pair of a text and a video at a time; for the
// pair, m is the matrix (rows, rows) of dot products. Four rows of m are a quad, which lies in workgroup memory as a
// vec4 for each column, and an invocation owns one column of one quad: a slot holds a quad, and there are 256 / rows of
// them, so a pair is done in as many blocks of quads as it takes.

struct Params {
    pairs: u32,
    videos: u32,
    rows: u32,
    frames: u32,
    // The first pair of the dispatch, its workgroups, and the pairs of each of them.
    first: u32,
    groups: u32,
    each: u32,
    // X, Y, MATRIX: which gradients are wanted.
    wanted: u32,
    // 1 / temperature.
    inverse: f32,
}
#params Params p

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read> matrix: array<f32>;

const X: u32 = 1u;
const Y: u32 = 2u;
const MATRIX: u32 = 4u;

var<workgroup> products: array<vec4<f32>, 256>;
var<workgroup> exponentials: array<vec4<f32>, 256>;

// Where row 0 of a pair starts; the next one starts p.videos * p.frames further on.
fn pair_start(pair: u32) -> u32 {
    let text = pair / p.videos;
    return (text * p.rows * p.videos + pair % p.videos) * p.frames;
}

// Four rows of a quad at frame f; beyond the end the last row repeats.
fn quad_of_x(start: u32, quad: u32, f: u32) -> vec4<f32> {
    let step = p.videos * p.frames;
    var v = vec4<f32>(0.0);
#for r in 0..4
    v[{r}] = x[start + min(4u * quad + {r}u, p.rows - 1u) * step + f];
#endfor
    return v;
}

// One column of a quad of m.
fn dot_products(start: u32, quad: u32, column: u32) -> vec4<f32> {
    let at = start + column * p.videos * p.frames;
    var sum = vec4<f32>(0.0);
    for (var f = 0u; f < p.frames; f++) {
        sum += quad_of_x(start, quad, f) * y[at + f];
    }
    return sum;
}

// The largest element of each row of the quad whose columns start at `slot`.
fn peak(slot: u32) -> vec4<f32> {
    var top = products[slot];
    for (var a = 1u; a < p.rows; a++) {
        top = max(top, products[slot + a]);
    }
    return top;
}

// Puts the owner's column m of a quad of dot products into `products`, and exp((m - max m) / temperature) into
// `exponentials`; returns m. The whole workgroup calls it.
fn multiply(owns: bool, start: u32, quad: u32, column: u32, slot: u32) -> vec4<f32> {
    var m = vec4<f32>(0.0);
    if (owns) {
        m = dot_products(start, quad, column);
        products[slot + column] = m;
    }
    workgroupBarrier();
    if (owns) {
        exponentials[slot + column] = exp((m - peak(slot)) * p.inverse);
    }
    workgroupBarrier();
    return m;
}
