// Dot products of listed pairs: y_iqr = <q_nq, x_vr> for pair i of text n and video v. LANES invocations share QUERIES rows
// x COLUMNS items of a video: each sums every LANES-th vec4 of all of them, and the sums are added at the end. With
// SUBGROUP they are the workgroup, which is one subgroup; otherwise a workgroup holds TEAMS such teams side by side and
// adds through workgroup memory.
//
// queries  (texts, queries, width)      read
// x        (videos, items, width)       read; with HALF as f16, two in each u32
// texts    (pairs)                      read
// tiles    (tiles): first row, end, video  read
// y        (pairs, queries, items)      written
// grid     tiles * column_tiles workgroups, folded, less those before p.first

#import gathered
#ifdef SUBGROUP
alias Sum = vec4<f32>;

fn product(a: vec4<f32>, b: vec4<f32>) -> Sum {
    return a * b;
}

fn across(sum: Sum) -> f32 {
    return (sum.x + sum.y) + (sum.z + sum.w);
}
#else
// A register for a sum, not four: there are QUERIES x COLUMNS of them.
alias Sum = f32;

fn product(a: vec4<f32>, b: vec4<f32>) -> Sum {
    return dot(a, b);
}

fn across(sum: Sum) -> f32 {
    return sum;
}

// One row a column of a team, padded so that neighbouring rows begin in different banks.
const PITCH: u32 = LANES * TEAMS + 1u;
var<workgroup> partial: array<f32, COLUMNS * PITCH>;
#endif

#entry LANES * TEAMS {
    // Neighbours share their rows.
    let number = p.first + flat;
    let at = number / p.column_tiles;
    if (at >= p.tiles) {
        return;
    }
    let tile = tiles[at];
    let lane = local % LANES;
    let columns0 = (number - at * p.column_tiles) * (TEAMS * COLUMNS);
    let first = columns0 + local / LANES * COLUMNS;
    // The item whose products this invocation stores.
    let column = columns0 + local;
#for q in 0..QUERIES
    let q_at{q} = query_at(tile, tile.first + {q}u);
#endfor
#for c in 0..COLUMNS
    let x_at{c} = item_at(tile, first + {c}u);
#endfor
#for q in 0..QUERIES
#for c in 0..COLUMNS
    var sum{q}_{c} = Sum();
#endfor
#endfor
    for (var k = lane; k < p.width; k += LANES) {
#for q in 0..QUERIES
        let q{q} = queries[q_at{q} + k];
#endfor
#for c in 0..COLUMNS
        let x{c} = fetch_item(x_at{c} + k);
#endfor
#for q in 0..QUERIES
#for c in 0..COLUMNS
        sum{q}_{c} += product(q{q}, x{c});
#endfor
#endfor
    }
#for q in 0..QUERIES
#for c in 0..COLUMNS
    let across{q}_{c} = across(sum{q}_{c});
#endfor
    {
#ifdef SUBGROUP
        var mine = 0.0;
#for c in 0..COLUMNS
        {
            var total = across{q}_{c};
#for i in 0..LOG_LANES
            total += subgroupShuffleXor(total, 1u << {i}u);
#endfor
            mine = select(mine, total, lane == {c}u);
        }
#endfor
        if (lane < COLUMNS) {
            store(tile, tile.first + {q}u, column, mine);
        }
#else
        workgroupBarrier();
#for c in 0..COLUMNS
        partial[{c}u * PITCH + local] = across{q}_{c};
#endfor
        workgroupBarrier();
        if (local < TEAMS * COLUMNS) {
            let start = local % COLUMNS * PITCH + local / COLUMNS * LANES;
            var total = 0.0;
            for (var i = 0u; i < LANES; i++) {
                total += partial[start + i];
            }
            store(tile, tile.first + {q}u, column, total);
        }
#endif
    }
#endfor
}
