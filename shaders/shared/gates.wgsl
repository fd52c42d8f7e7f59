// What the kernels of gates share: a row of gates times the Gram matrix K of its video. LANES invocations share a row,
// as in row.wgsl; with SYMMETRIC it is (K + K') / 2 instead.
//
// The importer declares p with p.frames, and
//
// gates  (rows, frames)              read or written; lane l of a row writes the elements l, l + LANES ..
// grams  (videos, frames, frames)    read

#import row

#ifndef SUBGROUP
// The gates of the rows that the workgroup works on; MOST_FRAMES is the widest row.
var<workgroup> team_gates: array<f32, ROWS * MOST_FRAMES>;
#endif

// A gate times the element (g, f) of the matrix that starts at `first`. A frame without weight takes no part, whatever
// its products are.
fn gated(gate: f32, first: u32, g: u32, f: u32) -> f32 {
#ifdef SYMMETRIC
    let k = 0.5 * (grams[first + g * p.frames + f] + grams[first + f * p.frames + g]);
#else
    let k = grams[first + g * p.frames + f];
#endif
    return select(gate * k, 0.0, gate == 0.0);
}

// Element f of the gates at `base` times the matrix at `first`; `end` is how many gates there are, none in a row beyond
// the last. Subgroups call it in uniform control flow.
fn gram_product(base: u32, end: u32, first: u32, f: u32, local: u32) -> f32 {
    var sum = 0.0;
#ifdef SUBGROUP
    for (var block = 0u; block < end; block += LANES) {
        var mine = 0.0;
        if (block + local < end) {
            mine = gates[base + block + local];
        }
#for i in 0..LANES
        sum += gated(subgroupBroadcast(mine, {i}u), first, min(block + {i}u, p.frames - 1u), f);
#endfor
    }
#else
    let team = local / LANES * MOST_FRAMES;
    for (var g = 0u; g < end; g++) {
        sum += gated(team_gates[team + g], first, g, f);
    }
#endif
    return sum;
}
