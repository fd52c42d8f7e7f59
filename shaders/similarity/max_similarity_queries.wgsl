// Gradient of max_similarity's queries: dq_m = the sum over videos n of g_mn scale_nl x_nl, clip l being the maximum's.
//
// g          (queries, videos)        read: the gradient of the scores
// positions  (queries, videos)        read: l; NONE or anything beyond the clips adds nothing
// clips      (videos, clips, width)   read
// scale      (videos, clips)          read, with SCALE; without it something else is bound
// dq         (queries, width)         written
// grid       ceil(queries * per_row / 64) workgroups of 64 invocations, folded; each does SPAN neighbours of a row
//
// VEC: clips and dq are vec4, and width counts them.

#import max_similarity_grad
@group(0) @binding(2) var<storage, read> clips: array<Element>;
@group(0) @binding(4) var<storage, read_write> dq: array<Element>;

#entry 64 {
    let i = flat * 64u + local;
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
            let factor = share(query, video, at);
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
