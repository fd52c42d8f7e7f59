// Gradient of the bidirectional max-margin loss; a term at exactly 0 passes it. See hinge.wgsl.
//
// s      (n, n)  read, without HARDEST
// saved  (n) or (2, n)  read: as hinge.wgsl writes it
// g      (1)     read: the gradient of the loss
// ds     (n, n)  written
// grid           n * chunks workgroups of 64 invocations, folded; each does up to 256 columns of one row

struct Params { n: u32, chunks: u32, margin: f32 }
#params Params p

#ifdef HARDEST
@group(0) @binding(0) var<storage, read> saved: array<u32>;
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read_write> ds: array<f32>;
#else
@group(0) @binding(0) var<storage, read> s: array<f32>;
@group(0) @binding(1) var<storage, read> saved: array<u32>;
@group(0) @binding(2) var<storage, read> g: array<f32>;
@group(0) @binding(3) var<storage, read_write> ds: array<f32>;
#endif

const NONE: u32 = 0xffffffffu;

#entry 64 {
    let a = flat / p.chunks;
    if (a >= p.n) {
        return;
    }
    let start = (flat - a * p.chunks) * 256u + local;
    let upstream = g[0];
    for (var k = 0u; k < 4u; k++) {
        let b = start + k * 64u;
        if (b < p.n) {
            var count = 0.0;
#ifdef HARDEST
            if (a == b) {
                count = -select(1.0, 0.0, saved[a] == NONE) - select(1.0, 0.0, saved[p.n + a] == NONE);
            } else {
                count = select(0.0, 1.0, saved[a] == b) + select(0.0, 1.0, saved[p.n + b] == a);
            }
#else
            if (a == b) {
                count = -f32(saved[a]);
            } else {
                let score = p.margin + s[a * p.n + b];
                count = select(1.0, 0.0, score - s[a * p.n + a] < 0.0);
                count += select(1.0, 0.0, score - s[b * p.n + b] < 0.0);
            }
#endif
            ds[a * p.n + b] = upstream * count;
        }
    }
}
