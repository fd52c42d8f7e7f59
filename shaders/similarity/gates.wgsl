// Gates of text rows over the frames of videos: e_f = exp((d_f - max d) / temperature) for the frames that count, 0 for
// the others, and g = e / sqrt(e' K e), K being the Gram matrix of the video's frames. 0 where e' K e is not above 0.
//
// dots   (rows, frames)              read
// grams  (videos, frames, frames)    read
// mask   (videos, frames)            read, with MASK: above 0.5 for frames that count
// which  (rows)                      read, with WHICH: the row's video; beyond the last one, no frame counts. Without
//                                    it row r has video r % videos
// gates  (rows, frames)              written
// grid   ceil(rows / (ROWS * SEQUENCE)) workgroups of LANES * ROWS invocations, folded
//
// Without a flag, something else is bound in the place of mask or which.

struct Params { rows: u32, videos: u32, frames: u32, flags: u32, inverse: f32 }
#params Params p

@group(0) @binding(0) var<storage, read> dots: array<f32>;
@group(0) @binding(1) var<storage, read> grams: array<f32>;
@group(0) @binding(2) var<storage, read> mask: array<f32>;
@group(0) @binding(3) var<storage, read> which: array<u32>;
@group(0) @binding(4) var<storage, read_write> gates: array<f32>;
#import gates
#import nan

const MASK: u32 = 1u;
const WHICH: u32 = 2u;

const LOWEST: f32 = -3.40282347e38;

fn counts(video: u32, f: u32) -> bool {
    var found = video < p.videos;
    if (found && (p.flags & MASK) != 0u) {
        found = mask[video * p.frames + f] > 0.5;
    }
    return found;
}

#entry LANES * ROWS {
    let lane = local % LANES;
    for (var r = 0u; r < SEQUENCE; r++) {
        let row = (flat * SEQUENCE + r) * ROWS + local / LANES;
        let base = row * p.frames;
        let end = select(0u, p.frames, row < p.rows);
        var video = row % p.videos;
        if (row < p.rows && (p.flags & WHICH) != 0u) {
            video = which[row];
        }

        var tops = LOWEST;
        for (var f = lane; f < end; f += LANES) {
            if (counts(video, f)) {
                tops = max(tops, dots[base + f]);
            }
        }
        let top = row_max(tops, local);

        for (var f = lane; f < end; f += LANES) {
            var e = 0.0;
            if (counts(video, f)) {
                e = exp((dots[base + f] - top) * p.inverse);
            }
            gates[base + f] = e;
#ifndef SUBGROUP
            team_gates[local / LANES * MOST_FRAMES + f] = e;
#endif
        }
#ifndef SUBGROUP
        workgroupBarrier();
#endif

        let first = min(video, p.videos - 1u) * p.frames * p.frames;
        var sum = 0.0;
        for (var start = 0u; start < end; start += LANES) {
            let f = start + lane;
            let product = gram_product(base, end, first, min(f, p.frames - 1u), local);
            if (f < end) {
                let e = gates[base + f];
                sum += select(e * product, 0.0, e == 0.0);
            }
        }
        let square = row_sum(sum, local);

        var factor = 0.0;
        if (square > 0.0 || is_nan(square)) {
            factor = 1.0 / sqrt(square);
        }
        for (var f = lane; f < end; f += LANES) {
            gates[base + f] = gates[base + f] * factor;
        }
    }
}
