// What the gradients of max_similarity share.
//
// VEC: rows are read and written as vec4, and width counts them.

struct Params { queries: u32, videos: u32, clips: u32, width: u32, per_row: u32, flags: u32 }
#params Params p

#import max_similarity_flags

#ifdef VEC
alias Element = vec4<f32>;
#else
alias Element = f32;
#endif

@group(0) @binding(0) var<storage, read> g: array<f32>;
@group(0) @binding(1) var<storage, read> positions: array<u32>;
@group(0) @binding(3) var<storage, read> scale: array<f32>;

// What the clip at `at` of a video gets of the gradient of a query's score.
fn share(query: u32, video: u32, at: u32) -> f32 {
    var factor = g[query * p.videos + video];
    if ((p.flags & SCALE) != 0u) {
        factor *= scale[video * p.clips + at];
    }
    return factor;
}
