// What the attention kernels share: parameters, masks, dropout, and rows whose width is no multiple of four.
//
// Rows are what a workgroup owns and columns what it walks over: queries and keys; with KV keys and queries.
//
// A kernel that imports this declares, with LENGTHS or with BIAS:
//
// lengths  (B)                     read: how many keys of the batch item are valid
// bias     (B|1, H|1, Tq|1, Tk)    read: added to the scores; FORBIDDEN or less forbids the key

struct Params {
    heads: u32,
    rows: u32,
    cols: u32,
    // Elements in a row of one head, vec4s with VEC4; and vec4s, rounded up.
    width: u32,
    quads: u32,
    // Strides between heads and between rows of a head, in units of width.
    row_head: u32,
    row_stride: u32,
    col_head: u32,
    col_stride: u32,
    causal: u32,
    // Workgroups that have work.
    groups: u32,
    bias_batch: u32,
    bias_head: u32,
    bias_row: u32,
    scale: f32,
    // Dropout: the least random word that keeps, the factor of what is kept, key and stream.
    threshold: u32,
    keep: f32,
    seed_low: u32,
    seed_high: u32,
    stream_low: u32,
    stream_high: u32,
}
#params Params p

#import nan

const FORBIDDEN: f32 = -3.0e38;

// Whether a score is that of a forbidden key; NaN is not.
fn is_forbidden(score: f32) -> bool {
    return score <= FORBIDDEN && !is_nan(score);
}

// Where a workgroup works: batch item and head, as one number and as two, and its first row.
struct Place { pair: u32, batch: u32, head: u32, row: u32 }

fn place(flat: u32, tile: u32) -> Place {
    let tiles = (p.rows + tile - 1u) / tile;
    let pair = flat / tiles;
    return Place(pair, pair / p.heads, pair % p.heads, (flat - pair * tiles) * tile);
}

// How many keys of the batch item may be seen at all.
fn valid_keys(batch: u32, keys: u32) -> u32 {
#ifdef LENGTHS
    return min(lengths[batch], keys);
#else
    return keys;
#endif
}

// The first and one past the last column that any of `tile` rows sees.
fn columns(at: Place, tile: u32) -> vec2<u32> {
#ifdef KV
    let any = at.row < valid_keys(at.batch, p.rows);
    // Query i sees keys up to i.
    return vec2<u32>(select(0u, min(at.row, p.cols), p.causal != 0u), select(0u, p.cols, any));
#else
    let keys = valid_keys(at.batch, p.cols);
    return vec2<u32>(0u, select(keys, min(keys, at.row + tile), p.causal != 0u));
#endif
}

// A score of a pair within the tensors, or FORBIDDEN. `keys` is valid_keys of the batch item.
fn masked_score(dot: f32, at: Place, keys: u32, row: u32, col: u32) -> f32 {
#ifdef KV
    let query = col;
    let key = row;
#else
    let query = row;
    let key = col;
#endif
    var score = dot * p.scale;
    var allowed = key < keys && (p.causal == 0u || key <= query);
#ifdef BIAS
    // Beyond the tensors, any element of the bias will do: the caller drops the score.
#ifdef KV
    let cell = vec2<u32>(min(query, p.cols - 1u), min(key, p.rows - 1u));
#else
    let cell = vec2<u32>(min(query, p.rows - 1u), min(key, p.cols - 1u));
#endif
    let b = bias[at.batch * p.bias_batch + at.head * p.bias_head + cell.x * p.bias_row + cell.y];
    allowed = allowed && !is_forbidden(b);
    score += b;
#endif
    return select(FORBIDDEN, score, allowed);
}

#ifdef DROPOUT
#import philox

// The factors of keys 4 * quad to 4 * quad + 3 for one query: 0 or 1 / (1 - probability).
fn kept(pair: u32, query: u32, quad: u32) -> vec4<f32> {
#ifdef KV
    let block = (pair * p.cols + query) * ((p.rows + 3u) / 4u) + quad;
#else
    let block = (pair * p.rows + query) * ((p.cols + 3u) / 4u) + quad;
#endif
    let words = philox(vec4<u32>(block, p.stream_low, p.stream_high, 0u), vec2<u32>(p.seed_low, p.seed_high));
    return select(vec4<f32>(0.0), vec4<f32>(p.keep), words >= vec4<u32>(p.threshold));
}

// The factors of key `first` and of those that follow it in its four.
fn kept_from(pair: u32, query: u32, first: u32) -> vec4<f32> {
    var keep = kept(pair, query, first / 4u);
    if ((first & 2u) != 0u) { keep = keep.zwxy; }
    if ((first & 1u) != 0u) { keep = keep.yxwz; }
    return keep;
}
#endif

#ifndef VEC4
// Four elements of which only the first `left` are there.
fn part(x: vec4<f32>, left: u32) -> vec4<f32> {
    return select(vec4<f32>(0.0), x, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(left));
}

// Where they are, kept within the row.
fn part_at(row: u32, quad: u32) -> vec4<u32> {
    return vec4<u32>(row) + min(vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.width - 1u));
}
#endif
