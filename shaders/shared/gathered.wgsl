// What the kernels of gathered share: parameters, where a column is in x, and how products are stored. A column is an
// item of a candidate, number c * items + r. The importer declares queries, x, ids and y; with HALF x is f16, two in each
// u32.

struct Params {
    batch: u32,
    queries: u32,
    columns: u32,
    videos: u32,
    items: u32,
    // In vec4.
    width: u32,
    column_tiles: u32,
    query_tiles: u32,
    // The number of the first workgroup.
    first: u32,
}
#params Params p

#import grid
#import halves

// The number in x of a column's video, which there may not be.
fn video_of(batch: u32, column: u32) -> u32 {
    return ids[batch * (p.columns / p.items) + min(column, p.columns - 1u) / p.items];
}

// Where a column's item begins; columns and videos beyond the end repeat the last one.
fn item_at(batch: u32, column: u32) -> u32 {
    let video = min(video_of(batch, column), p.videos - 1u);
    return (video * p.items + min(column, p.columns - 1u) % p.items) * p.width;
}

fn query_at(batch: u32, query: u32) -> u32 {
    return (batch * p.queries + min(query, p.queries - 1u)) * p.width;
}

fn fetch_item(at: u32) -> vec4<f32> {
#ifdef HALF
    return halves(x[at]);
#else
    return x[at];
#endif
}

fn store(batch: u32, query: u32, column: u32, value: f32) {
    if (query < p.queries && column < p.columns) {
        y[(batch * p.queries + query) * p.columns + column] = value;
    }
}
