// Gradient of gates.wgsl for its dot products, from the gates g and their gradient u: with s = u . g and the symmetric
// part H of the video's Gram matrix, dd = g (u - s H g) / temperature, as g' H g = 1. And -s / 2, for gates_grams.wgsl.
//
// u       (rows, frames)              read
// gates   (rows, frames)              read; row r has video r % videos
// grams   (videos, frames, frames)    read
// ddots   (rows, frames)              written
// slopes  (rows)                      written
// grid    ceil(rows / (ROWS * SEQUENCE)) workgroups of LANES * ROWS invocations, folded

struct Params { rows: u32, videos: u32, frames: u32, flags: u32, inverse: f32 }
#params Params p

@group(0) @binding(0) var<storage, read> u: array<f32>;
@group(0) @binding(1) var<storage, read> gates: array<f32>;
@group(0) @binding(2) var<storage, read> grams: array<f32>;
@group(0) @binding(3) var<storage, read_write> ddots: array<f32>;
@group(0) @binding(4) var<storage, read_write> slopes: array<f32>;
#import gates

#entry LANES * ROWS {
    let lane = local % LANES;
    for (var r = 0u; r < SEQUENCE; r++) {
        let row = (flat * SEQUENCE + r) * ROWS + local / LANES;
        let base = row * p.frames;
        let end = select(0u, p.frames, row < p.rows);
        var part = 0.0;
        for (var f = lane; f < end; f += LANES) {
            let g = gates[base + f];
            part += select(u[base + f] * g, 0.0, g == 0.0);
#ifndef SUBGROUP
            team_gates[local / LANES * MOST_FRAMES + f] = g;
#endif
        }
        // Its barriers are those of team_gates, too.
        let slope = row_sum(part, local);
        if (lane == 0u && row < p.rows) {
            slopes[row] = -0.5 * slope;
        }

        let first = row % p.videos * p.frames * p.frames;
        for (var start = 0u; start < end; start += LANES) {
            let f = start + lane;
            let product = gram_product(base, end, first, min(f, p.frames - 1u), local);
            if (f < end) {
                let g = gates[base + f];
                ddots[base + f] = select(p.inverse * g * (u[base + f] - slope * product), 0.0, g == 0.0);
            }
        }
    }
}
