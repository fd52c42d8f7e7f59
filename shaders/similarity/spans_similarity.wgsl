// How similar a query is to every clip of its candidate videos: the product of its vector with the clip's; with two
// streams, the mean of their products.
//
// A team of TEAM invocations multiplies four clips at a time, each lane every TEAM-th quad of channels. With SUBGROUP
// the workgroup is one team, which is one subgroup; otherwise it is 16 teams.
//
// candidates  (queries, candidates)          read: numbers of videos; beyond the last one, similarities are 0
// y           (queries, candidates, length)  written
// q0, q1      (queries, width)               read; q1 with SECOND
// x0, x1      (videos, length, width)        read: f32, or with HALF two f16 in a u32; x1 with SECOND
// grid        a workgroup for every 64 clips of every pair of query and candidate, folded
//
// With VEC4 an element of q or x is four channels.

struct Params { pairs: u32, candidates: u32, videos: u32, length: u32, width: u32 }
#params Params p

#import element
#import halves

#ifdef HALF
#ifdef VEC4
alias Clip = vec2<u32>;
#else
alias Clip = u32;
#endif
#else
alias Clip = Element;
#endif
@group(0) @binding(0) var<storage, read> candidates: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> q0: array<Element>;
@group(0) @binding(3) var<storage, read> x0: array<Clip>;
#ifdef SECOND
@group(0) @binding(4) var<storage, read> q1: array<Element>;
@group(0) @binding(5) var<storage, read> x1: array<Clip>;
#endif

#ifdef SUBGROUP
const TEAMS: u32 = 1u;
#else
const TEAMS: u32 = 16u;
var<workgroup> partial: array<vec4<f32>, TEAM * TEAMS>;
#endif

// Channels 4 i to 4 i + 3 of a query and of a clip, zeros beyond the width.
#for s in 0..STREAMS
fn query{s}(row: u32, i: u32) -> vec4<f32> {
#ifdef VEC4
    return q{s}[row * (p.width / 4u) + i];
#else
    var v = vec4<f32>(0.0);
#for c in 0..4
    if (4u * i + {c}u < p.width) {
        v[{c}] = q{s}[row * p.width + 4u * i + {c}u];
    }
#endfor
    return v;
#endif
}

fn clip{s}(row: u32, i: u32) -> vec4<f32> {
#ifdef VEC4
    let v = x{s}[row * (p.width / 4u) + i];
#ifdef HALF
    return halves(v);
#else
    return v;
#endif
#else
    var v = vec4<f32>(0.0);
#ifdef HALF
    // Half rows are of even width.
    let at = row * (p.width / 2u) + 2u * i;
    if (4u * i < p.width) {
        let pair = unpack2x16float(x{s}[at]);
        v.x = pair.x;
        v.y = pair.y;
    }
    if (4u * i + 2u < p.width) {
        let pair = unpack2x16float(x{s}[at + 1u]);
        v.z = pair.x;
        v.w = pair.y;
    }
#else
#for c in 0..4
    if (4u * i + {c}u < p.width) {
        v[{c}] = x{s}[row * p.width + 4u * i + {c}u];
    }
#endfor
#endif
    return v;
#endif
}
#endfor

fn across(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

#entry TEAM * TEAMS {
    let chunks = (p.length + 63u) / 64u;
    let pair = min(flat / chunks, p.pairs - 1u);
    let start = flat % chunks * 64u;
    let end = min(start + 64u, p.length);
    let query = pair / p.candidates;
    let candidate = candidates[pair];
    let known = candidate < p.videos;
    let first = select(0u, candidate, known) * p.length;
    let team = local / TEAM;
    let lane = local % TEAM;
    if (!known && flat / chunks == pair) {
        for (var i = start + local; i < end; i += TEAM * TEAMS) {
            y[pair * p.length + i] = 0.0;
        }
    }
    for (var block = start; block < select(start, end, known); block += 4u * TEAMS) {
        // Clips beyond the end repeat the last one.
#for c in 0..4
        let row{c} = first + min(block + 4u * team + {c}u, p.length - 1u);
        var sum{c} = vec4<f32>(0.0);
#endfor
#for s in 0..STREAMS
        for (var i = lane; 4u * i < p.width; i += TEAM) {
            let v = query{s}(query, i);
#for c in 0..4
            sum{c} += v * clip{s}(row{c}, i);
#endfor
        }
#endfor
        var sums = vec4<f32>(across(sum0), across(sum1), across(sum2), across(sum3));
#ifdef SUBGROUP
#for i in 0..LOG_TEAM
        sums += subgroupShuffleXor(sums, 1u << {i}u);
#endfor
        let clip = block + lane;
        var total = select(select(sums.x, sums.y, lane == 1u), select(sums.z, sums.w, lane == 3u), lane >= 2u);
#else
        workgroupBarrier();
        partial[local] = sums;
        workgroupBarrier();
        let clip = block + local;
        var total = 0.0;
        if (local < 4u * TEAMS) {
            for (var i = 0u; i < TEAM; i++) {
                total += partial[local / 4u * TEAM + i][local % 4u];
            }
        }
#endif
#ifdef SECOND
        total *= 0.5;
#endif
        if (flat / chunks == pair && local < 4u * TEAMS && clip < end) {
            y[pair * p.length + clip] = total;
        }
    }
}
