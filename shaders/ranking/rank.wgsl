// Ranking by counting, over tiles of a matrix of scores that need never exist as a whole. A row and a column belong
// together where their groups are equal; every row (or with COLUMNS every column) is a query.
//
// With BEST: the query's highest own score, as an ordered key (see ordered.wgsl), 0 as long as there is none.
// With COUNT: how many scores of other groups are greater than that and how many are equal to it.
// With POOL: the highest score of every group of rows in every column, as ordered keys.
// With DECODE: those keys as floats.
//
// s        (rows, columns)  read: the tile that starts at (row_start, column_start) of the whole
// row_of   (all rows)       read: groups of rows
// col_of   (all columns)    read, without POOL: groups of columns
// best     (queries)        accumulated with BEST, read with COUNT
// counts   (4, queries)     accumulated: greater, equal, non-finite scores, and the first column (row) of those
// best     (groups, all columns)  accumulated with POOL
// grid, COUNT by rows       rows * chunks workgroups of LANES invocations, each up to 64 columns a lane
//       COUNT by columns    chunks of 64 columns times chunks of 64 rows; workgroups of 64 invocations
//       BEST, POOL          rows * chunks workgroups of 64 invocations, each up to 256 columns
//       DECODE              ceil(n / 256) workgroups of 64 invocations
// Only integers are added, so that the order does not matter. All grids are folded.

struct Params { rows: u32, columns: u32, row_start: u32, column_start: u32, queries: u32, chunks: u32 }
#params Params p
#import element

#ifdef DECODE
@group(0) @binding(0) var<storage, read> keys: array<u32>;
@group(0) @binding(1) var<storage, read_write> values: array<f32>;
#else
@group(0) @binding(0) var<storage, read> s: array<Element>;
@group(0) @binding(1) var<storage, read> row_of: array<u32>;
#ifdef POOL
@group(0) @binding(2) var<storage, read_write> best: array<atomic<u32>>;
#else
@group(0) @binding(2) var<storage, read> col_of: array<Word>;
#ifdef BEST
@group(0) @binding(3) var<storage, read_write> best: array<atomic<u32>>;
#else
@group(0) @binding(3) var<storage, read> best: array<u32>;
@group(0) @binding(4) var<storage, read_write> counts: array<atomic<u32>>;
#endif
#endif
#endif

#import ordered

#ifdef COUNT
// A query without an own score ranks behind everything.
fn score_of(query: u32) -> f32 {
    let key = best[query];
    return select(unordered(key), -3.4028234e38, key == 0u);
}

// What one score adds to (greater, equal, non-finite), and `at` if it is the first to be non-finite.
fn tally(x: f32, own: f32, other: bool, at: u32, so_far: vec4<u32>) -> vec4<u32> {
    let broken = (bitcast<u32>(x) & 0x7f800000u) == 0x7f800000u;
    let more = vec3<u32>(u32(other && x > own), u32(other && x == own), u32(broken));
    return vec4<u32>(so_far.xyz + more, select(so_far.w, min(so_far.w, at), broken));
}

fn add(query: u32, t: vec4<u32>) {
    if (t.x > 0u) {
        atomicAdd(&counts[query], t.x);
    }
    if (t.y > 0u) {
        atomicAdd(&counts[p.queries + query], t.y);
    }
    if (t.z > 0u) {
        atomicAdd(&counts[2u * p.queries + query], t.z);
        atomicMin(&counts[3u * p.queries + query], t.w);
    }
}

#ifdef COLUMNS
#entry 64 {
    let first = flat / p.chunks * 64u;
    let j = (flat % p.chunks) * 64u + local;
    if (first >= p.rows || j >= p.columns) {
        return;
    }
    let query = p.column_start + j;
    let own = score_of(query);
    let mine = col_of[query];
    var t = vec4<u32>(0u, 0u, 0u, 0xffffffffu);
    for (var i = first; i < min(first + 64u, p.rows); i++) {
        let row = p.row_start + i;
        t = tally(s[i * p.columns + j], own, row_of[row] != mine, row, t);
    }
    add(query, t);
}
#else
#import lanes

#entry LANES {
    let index = flat / p.chunks;
    let i = min(index, p.rows - 1u);
    let first = (flat % p.chunks) * (64u * LANES);
    let end = min(first + 64u * LANES, p.columns);
    let query = p.row_start + i;
    let own = score_of(query);
    let mine = row_of[query];
    var t = vec4<u32>(0u, 0u, 0u, 0xffffffffu);
#ifdef VEC4
    // Rows and tiles start at multiples of four.
    for (var j = first / 4u + local; j < end / 4u; j += LANES) {
        let x = s[i * (p.columns / 4u) + j];
        let other = col_of[p.column_start / 4u + j] != vec4<u32>(mine);
        let at = p.column_start + 4u * j;
        t = tally(x.x, own, other.x, at, t);
        t = tally(x.y, own, other.y, at + 1u, t);
        t = tally(x.z, own, other.z, at + 2u, t);
        t = tally(x.w, own, other.w, at + 3u, t);
    }
#else
    for (var j = first + local; j < end; j += LANES) {
        let column = p.column_start + j;
        t = tally(s[i * p.columns + j], own, col_of[column] != mine, column, t);
    }
#endif
    t = lanes_tally(t, local);
    if (local == 0u && index < p.rows) {
        add(query, t);
    }
}
#endif
#else
#entry 64 {
#ifdef DECODE
    for (var k = 0u; k < 4u; k++) {
        let i = flat * 256u + k * 64u + local;
        if (i < p.queries) {
            values[i] = select(unordered(keys[i]), -3.4028234e38, keys[i] == 0u);
        }
    }
#else
    let i = flat / p.chunks;
    if (i >= p.rows) {
        return;
    }
    let row = p.row_start + i;
    let mine = row_of[row];
    for (var k = 0u; k < 4u; k++) {
        let j = (flat % p.chunks) * 256u + k * 64u + local;
        if (j < p.columns) {
            let column = p.column_start + j;
#ifdef POOL
            atomicMax(&best[mine * p.queries + column], ordered(s[i * p.columns + j]));
#else
            if (col_of[column] == mine) {
#ifdef COLUMNS
                let query = column;
#else
                let query = row;
#endif
                atomicMax(&best[query], ordered(s[i * p.columns + j]));
            }
#endif
        }
    }
#endif
}
#endif
