// Dot products of listed pairs, as in gathered.wgsl, for many rows on software adapters: a workgroup is one subgroup of
// LANES lanes and does GROUPS LANES rows by 4 LANES items of a video. Each lane has four items; queries come by broadcast,
// in steps of a vec4. There is no workgroup memory and no barrier.
//
// queries  (texts, queries, width)      read
// x        (videos, items, width)       read; with HALF as f16, two in each u32
// texts    (pairs)                      read
// tiles    (tiles): first row, end, video  read
// y        (pairs, queries, items)      written
// grid     tiles * column_tiles workgroups, folded, less those before p.first

#import gathered

const ROWS: u32 = GROUPS * LANES;

#entry subgroup LANES {
    // Neighbours share their rows.
    let number = p.first + flat;
    let at = number / p.column_tiles;
    if (at >= p.tiles) {
        return;
    }
    let tile = tiles[at];
    let column = ((number - at * p.column_tiles) * LANES + lane) * 4u;
#for g in 0..GROUPS
    let q_at{g} = query_at(tile, tile.first + {g}u * LANES + lane);
#endfor
#for c in 0..4
    let x_at{c} = item_at(tile, column + {c}u);
#endfor
#for g in 0..GROUPS
#for i in 0..LANES
    var sum{g}_{i} = vec4<f32>(0.0);
#endfor
#endfor
    for (var k = 0u; k < p.width; k++) {
#for g in 0..GROUPS
        let q{g} = queries[q_at{g} + k];
#endfor
#for c in 0..4
        let t{c} = fetch_item(x_at{c} + k);
#endfor
#for j in 0..4
        let x{j} = vec4<f32>(t0[{j}], t1[{j}], t2[{j}], t3[{j}]);
#endfor
#for j in 0..4
#for g in 0..GROUPS
#for i in 0..LANES
        sum{g}_{i} += subgroupBroadcast(q{g}[{j}], {i}u) * x{j};
#endfor
#endfor
#endfor
    }

    // One copy of what follows: code size is compile time here, and choosing a row costs little.
    let rows = min(ROWS, tile.end - tile.first);
    for (var r = 0u; r < rows; r++) {
        var v = sum0_0;
#for g in 0..GROUPS
#for i in 0..LANES
        v = select(v, sum{g}_{i}, r == {g}u * LANES + {i}u);
#endfor
#endfor
#for c in 0..4
        store(tile, tile.first + r, column + {c}u, v[{c}]);
#endfor
    }
}
