// Gradient of max_similarity's clips: dclips_nl = the sum, in order, of g_mn scale_nl q_m over the queries m whose
// maximum is at clip l of video n. An invocation owns SPAN columns of a video: it clears them, then adds query by
// query.
//
// g          (queries, videos)        read: the gradient of the scores
// positions  (queries, videos)        read: l; NONE or anything beyond the clips adds nothing
// q          (queries, width)         read
// scale      (videos, clips)          read, with flag 2; without it something else is bound
// dclips     (videos, clips, width)   written
// grid       ceil(videos * per_row / 64) workgroups of 64 invocations, folded
//
// VEC: q and dclips are vec4, and width counts them.

struct Params { queries: u32, videos: u32, clips: u32, width: u32, per_row: u32, flags: u32 }
#params Params p

#ifdef VEC
alias Element = vec4<f32>;
#else
alias Element = f32;
#endif
@group(0) @binding(0) var<storage, read> g: array<f32>;
@group(0) @binding(1) var<storage, read> positions: array<u32>;
@group(0) @binding(2) var<storage, read> q: array<Element>;
@group(0) @binding(3) var<storage, read> scale: array<f32>;
@group(0) @binding(4) var<storage, read_write> dclips: array<Element>;
#import grid

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    let video = i / p.per_row;
    if (video >= p.videos) {
        return;
    }
    let first = video * p.clips;
    let column = (i - video * p.per_row) * SPAN;
    let end = min(column + SPAN, p.width);
    for (var clip = 0u; clip < p.clips; clip++) {
        for (var c = column; c < end; c++) {
            dclips[(first + clip) * p.width + c] = Element(0.0);
        }
    }
    for (var query = 0u; query < p.queries; query++) {
        let at = positions[query * p.videos + video];
        if (at < p.clips) {
            var factor = g[query * p.videos + video];
            if ((p.flags & 2u) != 0u) {
                factor *= scale[first + at];
            }
            for (var c = column; c < end; c++) {
                dclips[(first + at) * p.width + c] += factor * q[query * p.width + c];
            }
        }
    }
}
