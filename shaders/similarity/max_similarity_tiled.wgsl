// The largest of scale_nl <q_m, x_nl> over the clips l of a video that count, for GPUs: a workgroup of TX x TY
// invocations does 4 TY queries with one video, 4 TX clips at a time, each invocation 4 x 4 dot products, in steps of
// 16 elements through workgroup memory. Dot products never leave the registers: an invocation keeps the best of its
// clips.
//
// q          (queries, width)         read
// clips      (videos, clips, width)   read; with HALF as f16, two in each u32
// mask       (videos, clips)          read, with MASK: above 0.5 for clips that count
// scale      (videos, clips)          read, with SCALE
// scores     (queries, videos)        written
// positions  (queries, videos)        written: where the maximum is, the first of equals; NONE where no clip counts
// grid       videos * ceil(queries / (4 TY)) workgroups, folded, less those before p.first
//
// VEC: the width is a multiple of 4. Without a flag, something else is bound in the place of mask or scale.

#import max_similarity

const THREADS: u32 = TX * TY;

// Rows are padded to five vec4, and clip 4 t + c lies in row t of block c: then neighbours read from different banks.
const BLOCK: u32 = TX * 5u + 4u;
var<workgroup> tile_q: array<vec4<f32>, 20u * TY>;
var<workgroup> tile_x: array<vec4<f32>, 4u * BLOCK>;
var<workgroup> pool: array<vec4<u32>, THREADS>;
var<workgroup> last: atomic<u32>;
var<workgroup> end: u32;

// The v-th vec4 of the tiles of step k; zeros outside.
fn next_query(query0: u32, k: u32, v: u32) -> vec4<f32> {
    let query = query0 + v / 4u;
    let at = k + v % 4u * 4u;
    var found = vec4<f32>(0.0);
    if (query < p.queries && at < p.width) {
        found = fetch_query(query, at);
    }
    return found;
}

fn next_clip(video: u32, clip0: u32, k: u32, v: u32) -> vec4<f32> {
    let clip = clip0 + v / 4u;
    let at = k + v % 4u * 4u;
    var found = vec4<f32>(0.0);
    if (clip < p.clips && at < p.width) {
        found = fetch_clip(video * p.clips + clip, at);
    }
    return found;
}

#entry THREADS {
    let tx = local % TX;
    let ty = local / TX;
    let number = p.first + flat;
    let video = number / p.tiles;
    if (video >= p.videos) {
        return;
    }
    let query0 = (number - video * p.tiles) * (4u * TY);

    // Videos are padded at their end: no tile begins behind the last clip that counts.
    if (local == 0u) {
        atomicStore(&last, 0u);
    }
    workgroupBarrier();
    for (var clip = local; clip < p.clips; clip += THREADS) {
        if (is_valid(video, clip)) {
            atomicMax(&last, clip + 1u);
        }
    }
    workgroupBarrier();
    if (local == 0u) {
        end = atomicLoad(&last);
    }
    let clips_end = workgroupUniformLoad(&end);

#for r in 0..4
    var best{r} = vec2<u32>(0u, NONE);
#endfor
    for (var clip0 = 0u; clip0 < clips_end; clip0 += 4u * TX) {
#for r in 0..4
        var sum{r} = vec4<f32>(0.0);
#endfor
#for l in 0..Q_LOADS
        var next_q{l} = next_query(query0, 0u, local + {l}u * THREADS);
#endfor
#for l in 0..X_LOADS
        var next_x{l} = next_clip(video, clip0, 0u, local + {l}u * THREADS);
#endfor
        for (var k = 0u; k < p.width; k += 16u) {
#for l in 0..Q_LOADS
            {
                let v = local + {l}u * THREADS;
                if (v < 16u * TY) {
                    tile_q[v / 4u * 5u + v % 4u] = next_q{l};
                }
            }
#endfor
#for l in 0..X_LOADS
            {
                let v = local + {l}u * THREADS;
                tile_x[v / 4u % 4u * BLOCK + v / 16u * 5u + v % 4u] = next_x{l};
            }
#endfor
            workgroupBarrier();
            // Beyond the end these fetch nothing.
#for l in 0..Q_LOADS
            next_q{l} = next_query(query0, k + 16u, local + {l}u * THREADS);
#endfor
#for l in 0..X_LOADS
            next_x{l} = next_clip(video, clip0, k + 16u, local + {l}u * THREADS);
#endfor
#for s in 0..4
            {
#for r in 0..4
                let q{r} = tile_q[(ty * 4u + {r}u) * 5u + {s}u];
#endfor
#for c in 0..4
                let t{c} = tile_x[{c}u * BLOCK + tx * 5u + {s}u];
#endfor
#for j in 0..4
                let x{j} = vec4<f32>(t0[{j}], t1[{j}], t2[{j}], t3[{j}]);
#endfor
#for j in 0..4
#for r in 0..4
                sum{r} += q{r}[{j}] * x{j};
#endfor
#endfor
            }
#endfor
            workgroupBarrier();
        }
        let clip = clip0 + tx * 4u;
        var valid = vec4<bool>(false);
        var factors = vec4<f32>(0.0);
#for c in 0..4
        valid[{c}] = is_valid(video, clip + {c}u);
        factors[{c}] = factor(video, clip + {c}u);
#endfor
#for r in 0..4
        best{r} = fold(best{r}, sum{r} * factors, clip, valid);
#endfor
    }

    // The best over the TX invocations of each query, for two queries at a time.
    let query = query0 + ty * 4u;
    for (var pair = 0u; pair < 2u; pair++) {
        pool[local] = select(vec4<u32>(best0, best1), vec4<u32>(best2, best3), pair == 1u);
        workgroupBarrier();
        for (var half = TX / 2u; half > 0u; half /= 2u) {
            if (tx < half) {
                let a = pool[local];
                let b = pool[local + half];
                pool[local] = vec4<u32>(select(a.xy, b.xy, better(b.xy, a.xy)), select(a.zw, b.zw, better(b.zw, a.zw)));
            }
            workgroupBarrier();
        }
        if (tx == 0u) {
            let found = pool[local];
            if (query + 2u * pair < p.queries) {
                store(query + 2u * pair, video, found.xy);
            }
            if (query + 2u * pair + 1u < p.queries) {
                store(query + 2u * pair + 1u, video, found.zw);
            }
        }
        workgroupBarrier();
    }
}
