// Gradient of gates.wgsl for the Gram matrices: dK_ab = the sum, in order, of slope g_a g_b over a video's rows; here
// over the `span` rows of each of several parts.
//
// gates     (rows, videos, frames)              read
// slopes    (rows, videos)                      read: as gates_dots.wgsl writes them
// partial   (parts, videos, frames, frames)     written
// grid      ceil(parts * videos * tiles * tiles / 64) workgroups of 64 invocations, folded; each has 4 x 4 elements,
//           with tiles = ceil(frames / 4)

struct Params { rows: u32, videos: u32, frames: u32, tiles: u32, span: u32, parts: u32 }
#params Params p

@group(0) @binding(0) var<storage, read> gates: array<f32>;
@group(0) @binding(1) var<storage, read> slopes: array<f32>;
@group(0) @binding(2) var<storage, read_write> partial: array<f32>;

#entry 64 {
    let i = flat * 64u + local;
    let matrix = i / (p.tiles * p.tiles);
    if (matrix >= p.parts * p.videos) {
        return;
    }
    let tile = i % (p.tiles * p.tiles);
    let a = tile / p.tiles * 4u;
    let b = tile % p.tiles * 4u;
    let part = matrix / p.videos;
    let video = matrix % p.videos;
    // Elements beyond the end repeat the last one and are not stored.
#for j in 0..4
    let a{j} = min(a + {j}u, p.frames - 1u);
    let b{j} = min(b + {j}u, p.frames - 1u);
    var sum{j} = vec4<f32>(0.0);
#endfor
    let end = min((part + 1u) * p.span, p.rows);
    for (var row = part * p.span; row < end; row++) {
        let at = row * p.videos + video;
        let base = at * p.frames;
        let g = slopes[at] * vec4<f32>(gates[base + b0], gates[base + b1], gates[base + b2], gates[base + b3]);
#for j in 0..4
        sum{j} += gates[base + a{j}] * g;
#endfor
    }
#for j in 0..4
#for c in 0..4
    if (a + {j}u < p.frames && b + {c}u < p.frames) {
        partial[(matrix * p.frames + a + {j}u) * p.frames + b + {c}u] = sum{j}[{c}];
    }
#endfor
#endfor
}
