// For each row of a square matrix of scores, the column that stands at a given place when the row is sorted from high to
// low, its diagonal first: how ReLoCLNet draws negatives. Equal scores keep the order of their columns; NaN comes last.
//
// A column is found by counting those that come before it, so that nothing is sorted: n^2 comparisons a row, of which a
// workgroup makes those of p.chunk columns.
//
// scores  (n, n)  read
// places  (n)     read: 0 is the diagonal, 1 the highest of the others
// at      (n)     written: the column
// grid    n * p.chunks workgroups of LANES invocations, folded

struct Params { n: u32, chunk: u32, chunks: u32 }
#params Params p

@group(0) @binding(0) var<storage, read> scores: array<f32>;
@group(0) @binding(1) var<storage, read> places: array<u32>;
@group(0) @binding(2) var<storage, read_write> at: array<u32>;

#import lanes
#import ordered

#entry LANES {
    let row = min(flat / p.chunks, p.n - 1u);
    let first = flat % p.chunks * p.chunk;
    let end = min(first + p.chunk, p.n);
    let place = places[row];
    // One column has this place; the others say NONE.
    var found = select(NONE, row, place == 0u && row >= first && row < end);
    for (var c = first + local; c < end; c += LANES) {
        if (c != row) {
            let mine = vec2<u32>(ordered(scores[row * p.n + c]), c);
            var before = 1u;
            for (var d = 0u; d < p.n; d++) {
                let other = vec2<u32>(ordered(scores[row * p.n + d]), d);
                before += select(0u, 1u, d != row && better(other, mine));
            }
            found = select(found, c, before == place);
        }
    }
    let column = lanes_tally(vec4<u32>(0u, 0u, 0u, found), local).w;
    if (local == 0u && flat < p.n * p.chunks && column != NONE) {
        at[row] = column;
    }
}
