// What the two kernels of max_similarity share: parameters, how both operands are read, and the running best.
//
// VEC: rows are read as vec4, their width is a multiple of 4. HALF: a u32 of clips is two f16, their width is even.

struct Params {
    queries: u32,
    videos: u32,
    clips: u32,
    width: u32,
    // Tiles of queries; a workgroup does one of them with one video, and neighbours share the video.
    tiles: u32,
    // The number of the first workgroup.
    first: u32,
    flags: u32,
}
#params Params p

#ifdef VEC
@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
#else
@group(0) @binding(0) var<storage, read> q: array<f32>;
#endif
#ifdef HALF
#ifdef VEC
@group(0) @binding(1) var<storage, read> clips: array<vec2<u32>>;
#else
@group(0) @binding(1) var<storage, read> clips: array<u32>;
#endif
#else
#ifdef VEC
@group(0) @binding(1) var<storage, read> clips: array<vec4<f32>>;
#else
@group(0) @binding(1) var<storage, read> clips: array<f32>;
#endif
#endif
@group(0) @binding(2) var<storage, read> mask: array<f32>;
@group(0) @binding(3) var<storage, read> scale: array<f32>;
@group(0) @binding(4) var<storage, read_write> scores: array<f32>;
@group(0) @binding(5) var<storage, read_write> positions: array<u32>;

#import max_similarity_flags
#import ranked
#import ordered
#import halves

// The score of a video without a valid clip.
const NO_CLIP = -1.0e10;

// Elements k to k + 3 of a query; zeros beyond its width.
fn fetch_query(query: u32, k: u32) -> vec4<f32> {
#ifdef VEC
    return q[(query * p.width + k) / 4u];
#else
    var v = vec4<f32>(0.0);
    let at = query * p.width + k;
#for c in 0..4
    if (k + {c}u < p.width) {
        v[{c}] = q[at + {c}u];
    }
#endfor
    return v;
#endif
}

// The same of a clip; `row` counts the clips of all videos.
fn fetch_clip(row: u32, k: u32) -> vec4<f32> {
#ifdef HALF
#ifdef VEC
    return halves(clips[(row * p.width + k) / 4u]);
#else
    var v = vec4<f32>(0.0);
    let at = (row * p.width + k) / 2u;
    let first = unpack2x16float(clips[at]);
    v.x = first.x;
    v.y = first.y;
    if (k + 2u < p.width) {
        let second = unpack2x16float(clips[at + 1u]);
        v.z = second.x;
        v.w = second.y;
    }
    return v;
#endif
#else
#ifdef VEC
    return clips[(row * p.width + k) / 4u];
#else
    var v = vec4<f32>(0.0);
    let at = row * p.width + k;
#for c in 0..4
    if (k + {c}u < p.width) {
        v[{c}] = clips[at + {c}u];
    }
#endfor
    return v;
#endif
#endif
}

// Whether a clip of a video counts.
fn is_valid(video: u32, clip: u32) -> bool {
    var valid = clip < p.clips;
    if (valid && (p.flags & MASK) != 0u) {
        valid = mask[video * p.clips + clip] > 0.5;
    }
    return valid;
}

// The factor of a clip's dot products.
fn factor(video: u32, clip: u32) -> f32 {
    var f = 1.0;
    if ((p.flags & SCALE) != 0u && clip < p.clips) {
        f = scale[video * p.clips + clip];
    }
    return f;
}

// The better of an entry and four neighbouring clips, of which `valid` count. NaN is best of all, so that it shows.
fn fold(entry: vec2<u32>, values: vec4<f32>, clip: u32, valid: vec4<bool>) -> vec2<u32> {
    var found = entry;
#for c in 0..4
    let key{c} = select(0u, select(ordered(values[{c}]), NONE, is_nan(values[{c}])), valid[{c}]);
    if (key{c} > found.x) {
        found = vec2<u32>(key{c}, clip + {c}u);
    }
#endfor
    return found;
}

fn store(query: u32, video: u32, entry: vec2<u32>) {
    let at = query * p.videos + video;
    scores[at] = select(unordered(entry.x), NO_CLIP, entry.x == 0u);
    positions[at] = entry.y;
}
