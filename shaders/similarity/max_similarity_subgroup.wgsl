// The largest of scale_nl <q_m, x_nl> over the clips l of a video that count, for software adapters: a workgroup is one
// subgroup of LANES lanes and does GROUPS LANES queries with one video. Each lane has four clips at a time; queries
// come by broadcast, in steps of four elements. There is no workgroup memory and no barrier.
//
// q          (queries, width)         read
// clips      (videos, clips, width)   read; with HALF as f16, two in each u32
// mask       (videos, clips)          read, with MASK: above 0.5 for clips that count
// scale      (videos, clips)          read, with SCALE
// scores     (queries, videos)        written
// positions  (queries, videos)        written: where the maximum is, the first of equals; NONE where no clip counts
// grid       videos * ceil(queries / (GROUPS LANES)) workgroups, folded, less those before p.first
//
// VEC: the width is a multiple of 4. Without a flag, something else is bound in the place of mask or scale.

#import max_similarity

const ROWS: u32 = GROUPS * LANES;

#entry subgroup LANES {
    let number = p.first + flat;
    let video = number / p.tiles;
    if (video >= p.videos) {
        return;
    }
    let query0 = (number - video * p.tiles) * ROWS;
    // Queries and clips beyond the end repeat the last one; nothing comes of them.
#for g in 0..GROUPS
    let line{g} = min(query0 + {g}u * LANES + lane, p.queries - 1u);
#endfor

    // Videos are padded at their end: no tile begins behind the last clip that counts.
    var last = 0u;
    for (var clip = lane; clip < p.clips; clip += LANES) {
        last = select(last, clip + 1u, is_valid(video, clip));
    }
    let clips_end = subgroupMax(last);

#for g in 0..GROUPS
#for i in 0..LANES
    var best{g}_{i} = vec2<u32>(0u, NONE);
#endfor
#endfor
    for (var clip0 = 0u; clip0 < clips_end; clip0 += 4u * LANES) {
        let clip = clip0 + lane * 4u;
#for c in 0..4
        let row{c} = video * p.clips + min(clip + {c}u, p.clips - 1u);
#endfor
#for g in 0..GROUPS
#for i in 0..LANES
        var sum{g}_{i} = vec4<f32>(0.0);
#endfor
#endfor
        for (var k = 0u; k < p.width; k += 4u) {
#for g in 0..GROUPS
            let q{g} = fetch_query(line{g}, k);
#endfor
#for c in 0..4
            let t{c} = fetch_clip(row{c}, k);
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
        var valid = vec4<bool>(false);
        var factors = vec4<f32>(0.0);
#for c in 0..4
        valid[{c}] = is_valid(video, clip + {c}u);
        factors[{c}] = factor(video, clip + {c}u);
#endfor
#for g in 0..GROUPS
#for i in 0..LANES
        best{g}_{i} = fold(best{g}_{i}, sum{g}_{i} * factors, clip, valid);
#endfor
#endfor
    }

    // One copy of what follows: code size is compile time here, and choosing a row costs little.
    let rows = min(ROWS, p.queries - query0);
    for (var r = 0u; r < rows; r++) {
        var mine = best0_0;
#for g in 0..GROUPS
#for i in 0..LANES
        mine = select(mine, best{g}_{i}, r == {g}u * LANES + {i}u);
#endfor
#endfor
        let key = subgroupMax(mine.x);
        let at = subgroupMin(select(NONE, mine.y, mine.x == key));
        if (lane == 0u) {
            store(query0 + r, video, vec2<u32>(key, at));
        }
    }
}
