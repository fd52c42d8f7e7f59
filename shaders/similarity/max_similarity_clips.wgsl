// Gradient of max_similarity's clips: dclips_nl = the sum, in order, of g_mn scale_nl q_m over the queries m whose
// maximum is at clip l of video n. An invocation owns SPAN columns of a video: it clears them, then adds query by
// query.
//
// g          (queries, videos)        read: the gradient of the scores
// positions  (queries, videos)        read: l; NONE or anything beyond the clips adds nothing
// q          (queries, width)         read
// scale      (videos, clips)          read, with SCALE; without it something else is bound
// dclips     (videos, clips, width)   written
// grid       ceil(videos * per_row / 64) workgroups of 64 invocations, folded
//
// VEC: q and dclips are vec4, and width counts them.

#import max_similarity_grad
@group(0) @binding(2) var<storage, read> q: array<Element>;
@group(0) @binding(4) var<storage, read_write> dclips: array<Element>;

#entry 64 {
    let i = flat * 64u + local;
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
            let factor = share(query, video, at);
            for (var c = column; c < end; c++) {
                dclips[(first + at) * p.width + c] += factor * q[query * p.width + c];
            }
        }
    }
}
