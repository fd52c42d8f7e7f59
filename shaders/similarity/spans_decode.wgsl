// The best spans of each query over its candidate videos, exactly: those of the highest start * weight * end among all
// spans that are long enough and not too long. Equal scores go by candidate, then start, then end. Spans whose score is
// not above 0 are none; places left over have score 0 and NONE in their span. The positions of all candidates are cut
// into nearly equal parts, so that few queries keep all of a GPU at work; with MERGE the parts' lists become fewer.
//
// starts     (queries, candidates, length)  read, without MERGE
// ends       (queries, candidates, length)  read, without MERGE
// weights    (queries, candidates)          read, without MERGE
// scores     (queries, parts, top)          written
// spans      (queries, parts, top, 3)       written: candidate, start, end
// grid       queries * parts workgroups of LANES invocations, folded
//
// part_scores (queries, candidates), part_spans (queries, candidates, 3)  read, with MERGE: lists found before

struct Params {
    lists: u32,
    // With MERGE, the places in a query's lists.
    candidates: u32,
    length: u32,
    // The least end - start, and how many there are.
    shortest: u32,
    lengths: u32,
    top: u32,
    // When to gather; see select.wgsl.
    room: u32,
    parts: u32,
    // Positions of a part (places with MERGE), and how many parts have one more.
    part_size: u32,
    longer_parts: u32,
}
#params Params p

#ifdef MERGE
@group(0) @binding(0) var<storage, read> part_scores: array<f32>;
@group(0) @binding(1) var<storage, read> part_spans: array<u32>;
@group(0) @binding(2) var<storage, read_write> scores: array<f32>;
@group(0) @binding(3) var<storage, read_write> spans: array<u32>;
#else
@group(0) @binding(0) var<storage, read> starts: array<f32>;
@group(0) @binding(1) var<storage, read> ends: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> scores: array<f32>;
@group(0) @binding(4) var<storage, read_write> spans: array<u32>;
#endif

#import ordered
#import select

var<private> query: u32;
// Which of the query's positions are searched, or places with MERGE.
var<private> range: vec2<u32>;

// The key of 0. Keys are compared, not floats: NaN has a key below it on every compiler.
const ZERO: u32 = 0x80000000u;

fn scan(lane: u32) {
#ifdef MERGE
    for (var i = range.x + lane; i < range.y; i += LANES) {
        let key = ordered(part_scores[query * p.candidates + i]);
        if (key > ZERO) {
            offer(key, i);
        }
    }
#else
    for (var i = range.x + lane; i < range.y; i += LANES) {
        let candidate = i / p.length;
        let weighted = starts[query * p.candidates * p.length + i] * weights[query * p.candidates + candidate];
        let first = i % p.length + p.shortest;
        // Most positions cannot start anything: ends are at most 1, and scores below the bound so far do not count.
        let reach = ordered(weighted);
        if (reach > ZERO && reach >= prefix.x && first < p.length) {
            let row = query * p.candidates * p.length + candidate * p.length;
            for (var n = 0u; n < min(p.lengths, p.length - first); n++) {
                let key = ordered(weighted * ends[row + first + n]);
                if (key > ZERO) {
                    offer(key, i * p.lengths + n);
                }
            }
        }
    }
#endif
}

#entry LANES {
    let list = min(flat, p.lists - 1u);
    query = list / p.parts;
    range = part_range(list % p.parts, p.part_size, p.longer_parts);
#ifdef MERGE
    let total = range.y - range.x;
#else
    let total = (range.y - range.x) * p.lengths;
#endif
    select_best(p.top, total, p.room, local);
    if (flat == list) {
        for (var i = local; i < p.top; i += LANES) {
            let entry = entries[i];
            let place = list * p.top + i;
            let there = entry.y != NONE;
            scores[place] = select(0.0, unordered(entry.x), there);
#ifdef MERGE
            let source = 3u * (query * p.candidates + select(0u, entry.y, there));
            let span = vec3<u32>(part_spans[source], part_spans[source + 1u], part_spans[source + 2u]);
#else
            let at = entry.y / p.lengths;
            let start = at % p.length;
            let span = vec3<u32>(at / p.length, start, start + p.shortest + entry.y % p.lengths);
#endif
            let out = select(vec3<u32>(NONE), span, there);
#for c in 0..3
            spans[3u * place + {c}u] = out[{c}];
#endfor
        }
    }
}
