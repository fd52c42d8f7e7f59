// Where a moment starts and ends in each candidate video: the similarities along the video, weighted by taps, through a
// softmax over the valid positions. The others have probability 0; with LOGITS, which stops before the softmax, -1e10.
//
// similarity  (queries, candidates, length)  read
// mask        (videos, length)               read: 0 hides a position
// candidates  (queries, candidates)          read: numbers of videos; beyond the last one, all results are 0
// start_taps  (taps)                         read: cross-correlated, with zeros beyond both ends of the length
// end_taps    (taps)                         read
// starts      (queries, candidates, length)  written
// ends        (queries, candidates, length)  written
// grid        one workgroup of LANES invocations a pair of query and candidate, folded

struct Params {
    pairs: u32,
    videos: u32,
    length: u32,
    taps: u32,
    // Whether the similarities of hidden positions count as 0.
    mask_similarity: u32,
}
#params Params p

@group(0) @binding(0) var<storage, read> similarity: array<f32>;
@group(0) @binding(1) var<storage, read> mask: array<f32>;
@group(0) @binding(2) var<storage, read> candidates: array<u32>;
@group(0) @binding(3) var<storage, read> start_taps: array<f32>;
@group(0) @binding(4) var<storage, read> end_taps: array<f32>;
@group(0) @binding(5) var<storage, read_write> starts: array<f32>;
@group(0) @binding(6) var<storage, read_write> ends: array<f32>;

#import lanes

const HIDDEN: f32 = -1e10;

#entry LANES {
    let pair = min(flat, p.pairs - 1u);
    let candidate = candidates[pair];
    let known = candidate < p.videos;
    let row = pair * p.length;
    let mask_row = select(0u, candidate, known) * p.length;
    let writes = flat == pair;

    // A local reads back only what it wrote itself.
    var start_top = HIDDEN;
    var end_top = HIDDEN;
    for (var i = local; i < p.length; i += LANES) {
        var start = HIDDEN;
        var end = HIDDEN;
        if (mask[mask_row + i] != 0.0) {
            start = 0.0;
            end = 0.0;
            for (var tap = 0u; tap < p.taps; tap++) {
                // Below 0 it wraps, far beyond the length.
                let at = i + tap - p.taps / 2u;
                if (at < p.length && (p.mask_similarity == 0u || mask[mask_row + at] != 0.0)) {
                    start += start_taps[tap] * similarity[row + at];
                    end += end_taps[tap] * similarity[row + at];
                }
            }
        }
        if (writes) {
            starts[row + i] = select(0.0, start, known);
            ends[row + i] = select(0.0, end, known);
        }
        start_top = max(start_top, start);
        end_top = max(end_top, end);
    }
#ifndef LOGITS
    start_top = lanes_max(start_top, local);
    end_top = lanes_max(end_top, local);
    var start_sum = 0.0;
    var end_sum = 0.0;
    for (var i = local; i < p.length; i += LANES) {
        let valid = known && mask[mask_row + i] != 0.0;
        let start = select(0.0, exp(starts[row + i] - start_top), valid);
        let end = select(0.0, exp(ends[row + i] - end_top), valid);
        start_sum += start;
        end_sum += end;
        if (writes) {
            starts[row + i] = start;
            ends[row + i] = end;
        }
    }
    start_sum = lanes_sum(start_sum, local);
    end_sum = lanes_sum(end_sum, local);
    // Without a valid position the sum is 0, and so is everything else.
    let start_scale = 1.0 / select(start_sum, 1.0, start_sum == 0.0);
    let end_scale = 1.0 / select(end_sum, 1.0, end_sum == 0.0);
    for (var i = local; i < p.length; i += LANES) {
        if (writes) {
            starts[row + i] *= start_scale;
            ends[row + i] *= end_scale;
        }
    }
#endif
}
