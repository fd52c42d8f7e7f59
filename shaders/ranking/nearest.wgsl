// Of every chunk of CHUNK rows, those with the largest dot products with each query: product descending, then row ascending;
// NaN after everything else. A workgroup takes a chunk and a query: teams of TEAM invocations sum the products of COLUMNS
// rows at a time, and what they come to stays in workgroup memory. With SUBGROUP the workgroup is one team, which is a
// subgroup. A unit is what is fetched of a row at a time: 4 values, or 16 bytes with BYTES.
//
// queries  (queries, width)                  read
// x        (rows, width)                     read; with HALF as f16, two in each u32; with BYTES as i8, four in each u32
// values   (queries, chunks, kept)           written
// indices  (queries, chunks, kept)           written; NONE, and -1e38 as value, where a chunk has fewer rows
// scales   (rows, width / 16)                read, with BYTES: the factor of every 16 values, a unit
// grid     chunks * queries workgroups, folded, less those before p.first

struct Params {
    queries: u32,
    rows: u32,
    // In units.
    width: u32,
    chunks: u32,
    kept: u32,
    // When to gather; see select.wgsl.
    room: u32,
    // The number of the first workgroup.
    first: u32,
}
#params Params p

@group(0) @binding(0) var<storage, read> queries: array<vec4<f32>>;
#ifdef BYTES
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;
#else
#ifdef HALF
@group(0) @binding(1) var<storage, read> x: array<vec2<u32>>;
#else
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
#endif
#endif
@group(0) @binding(2) var<storage, read_write> values: array<f32>;
@group(0) @binding(3) var<storage, read_write> indices: array<u32>;
#ifdef BYTES
@group(0) @binding(4) var<storage, read> scales: array<f32>;
#endif

#import halves
#import ordered
#import select

const LEAST: f32 = -1e38;

var<workgroup> products: array<f32, CHUNK>;
// The chunk's first row, and how many it has.
var<private> start: u32;
var<private> count: u32;

fn scan(lane: u32) {
    for (var i = lane; i < count; i += LANES) {
        offer(ordered(products[i]), i);
    }
}

#ifdef SUBGROUP
alias Sum = vec4<f32>;

fn summed(products: vec4<f32>) -> Sum {
    return products;
}

fn across(sum: Sum) -> f32 {
    return (sum.x + sum.y) + (sum.z + sum.w);
}
#else
// A register for a sum, not four.
alias Sum = f32;

fn summed(products: vec4<f32>) -> Sum {
    return (products.x + products.y) + (products.z + products.w);
}

fn across(sum: Sum) -> f32 {
    return sum;
}

// One row a column of a team, padded so that neighbouring rows begin in different banks.
const PITCH: u32 = LANES + 1u;
var<workgroup> partial: array<f32, COLUMNS * PITCH>;
#endif

#ifdef BYTES
fn bytes(word: u32) -> vec4<f32> {
    return vec4<f32>((vec4<i32>(bitcast<i32>(word)) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u));
}

alias Query = mat4x4<f32>;

fn fetch_query(query: u32, unit: u32) -> Query {
    let at = 4u * (query * p.width + unit);
    return Query(queries[at], queries[at + 1u], queries[at + 2u], queries[at + 3u]);
}

fn product(q: Query, row: u32, unit: u32) -> Sum {
    let word = x[row * p.width + unit];
    let low = q[0] * bytes(word.x) + q[1] * bytes(word.y);
    let high = q[2] * bytes(word.z) + q[3] * bytes(word.w);
    return summed(low + high) * scales[row * p.width + unit];
}
#else
alias Query = vec4<f32>;

fn fetch_query(query: u32, unit: u32) -> Query {
    return queries[query * p.width + unit];
}

fn product(q: Query, row: u32, unit: u32) -> Sum {
#ifdef HALF
    return summed(q * halves(x[row * p.width + unit]));
#else
    return summed(q * x[row * p.width + unit]);
#endif
}
#endif

#entry LANES {
    // Neighbours share their rows. Workgroups beyond the last repeat it.
    let number = p.first + flat;
    let writes = number < p.chunks * p.queries;
    let chunk = min(number / p.queries, p.chunks - 1u);
    let query = number % p.queries;
    start = chunk * CHUNK;
    count = min(CHUNK, p.rows - start);
    let lane = local % TEAM;
    for (var first = 0u; first < CHUNK; first += LANES / TEAM * COLUMNS) {
        let mine = start + first + local / TEAM * COLUMNS;
#for c in 0..COLUMNS
        // What is beyond the last row repeats it.
        let row{c} = min(mine + {c}u, p.rows - 1u);
        var sum{c} = Sum();
#endfor
        for (var unit = lane; unit < p.width; unit += TEAM) {
            let q = fetch_query(query, unit);
#for c in 0..COLUMNS
            sum{c} += product(q, row{c}, unit);
#endfor
        }
#ifdef SUBGROUP
        var stored = 0.0;
#for c in 0..COLUMNS
        {
            var total = across(sum{c});
#for i in 0..LOG_LANES
            total += subgroupShuffleXor(total, 1u << {i}u);
#endfor
            stored = select(stored, total, lane == {c}u);
        }
#endfor
        if (lane < COLUMNS) {
            products[first + lane] = stored;
        }
#else
        workgroupBarrier();
#for c in 0..COLUMNS
        partial[{c}u * PITCH + local] = across(sum{c});
#endfor
        workgroupBarrier();
        if (local < LANES / TEAM * COLUMNS) {
            let at = local % COLUMNS * PITCH + local / COLUMNS * TEAM;
            var total = 0.0;
            for (var i = 0u; i < TEAM; i++) {
                total += partial[at + i];
            }
            products[first + local] = total;
        }
#endif
    }
    workgroupBarrier();
    select_best(p.kept, count, p.room, local);
    if (writes) {
        let place = (query * p.chunks + chunk) * p.kept;
        for (var i = local; i < p.kept; i += LANES) {
            let at = entries[i].y;
            let exists = at != NONE;
            values[place + i] = select(LEAST, products[min(at, CHUNK - 1u)], exists);
            indices[place + i] = select(NONE, start + at, exists);
        }
    }
}
