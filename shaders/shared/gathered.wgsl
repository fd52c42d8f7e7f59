// What the kernels of gathered share: parameters, and where rows and items are. Rows are the queries of all pairs, pair by
// pair; a tile is some rows of pairs with one video. With HALF x is f16, two in each u32.

struct Params {
    queries: u32,
    items: u32,
    // In vec4.
    width: u32,
    tiles: u32,
    column_tiles: u32,
    // The number of the first workgroup.
    first: u32,
}
#params Params p

#import halves

struct Tile {
    first: u32,
    end: u32,
    video: u32,
}

@group(0) @binding(0) var<storage, read> queries: array<vec4<f32>>;
#ifdef HALF
@group(0) @binding(1) var<storage, read> x: array<vec2<u32>>;
#else
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
#endif
@group(0) @binding(2) var<storage, read> texts: array<u32>;
@group(0) @binding(3) var<storage, read> tiles: array<Tile>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

// Where the row's query begins; rows beyond the tile repeat its last.
fn query_at(tile: Tile, row: u32) -> u32 {
    let at = min(row, tile.end - 1u);
    let pair = at / p.queries;
    return (texts[pair] * p.queries + (at - pair * p.queries)) * p.width;
}

// Where the item begins; items beyond the video's repeat its last.
fn item_at(tile: Tile, item: u32) -> u32 {
    return (tile.video * p.items + min(item, p.items - 1u)) * p.width;
}

fn fetch_item(at: u32) -> vec4<f32> {
#ifdef HALF
    return halves(x[at]);
#else
    return x[at];
#endif
}

fn store(tile: Tile, row: u32, item: u32, value: f32) {
    if (row < tile.end && item < p.items) {
        y[row * p.items + item] = value;
    }
}
