// Gradient of max_similarity's queries: dq_m = the sum over videos n of g_mn scale_nl x_nl, clip l being the maximum's.
//
// g          (queries, videos)        read: the gradient of the scores
// positions  (queries, videos)        read: l; NONE or anything beyond the clips adds nothing
// clips      (videos, clips, width)   read
// scale      (videos, clips)          read, with flag 2; without it something else is bound
// dq         (queries, width)         written
// grid       ceil(queries * per_row / 64) workgroups of 64 invocations, folded; each does SPAN neighbours of a row
//
// VEC: clips and dq are vec4, and width counts them.

struct Params { queries: u32, videos: u32, clips: u32, width: u32, per_row: u32, flags: u32 }
#params Params p

#ifdef VEC
alias Element = vec4<f32>;
#else
alias Element = f32;
#endif
@group(0) @binding(0) var<storage, read> g: array<f32>;
@group(0) @binding(1) var<storage, read> positions: array<u32>;
@group(0) @binding(2) var<storage, read> clips: array<Element>;
@group(0) @binding(3) var<storage, read> scale: array<f32>;
@group(0) @binding(4) var<storage, read_write> dq: array<Element>;
#import grid

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    let query = i / p.per_row;
    if (query >= p.queries) {
        return;
    }
    let column = (i - query * p.per_row) * SPAN;
#for s in 0..SPAN
    let column{s} = min(column + {s}u, p.width - 1u);
    var sum{s} = Element(0.0);
#endfor
    for (var video = 0u; video < p.videos; video++) {
        let at = positions[query * p.videos + video];
        if (at < p.clips) {
            let row = video * p.clips + at;
            var factor = g[query * p.videos + video];
            if ((p.flags & 2u) != 0u) {
                factor *= scale[row];
            }
#for s in 0..SPAN
            sum{s} += factor * clips[row * p.width + column{s}];
#endfor
        }
    }
#for s in 0..SPAN
    if (column + {s}u < p.width) {
        dq[query * p.width + column + {s}u] = sum{s};
    }
#endfor
}
