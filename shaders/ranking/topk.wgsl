// The k largest elements of each row, in order: value descending, then index ascending; NaN after everything else, and
// -0 equal to 0.
//
// The row is dealt into 4 LANES slices, of which lane l holds the best remaining element of slices 4 l to 4 l + 3: the
// elements 4 (l + LANES t) + c. Each round takes the best of all, and the lanes together search its slice for the next.
//
// x        (rows, m)  read
// values   (rows, k)  written
// indices  (rows, k)  written
// grid     one workgroup of LANES invocations a row, folded

struct Params { rows: u32, m: u32, k: u32 }
#params Params p
#import element

@group(0) @binding(0) var<storage, read> x: array<Element>;
@group(0) @binding(1) var<storage, read_write> values: array<f32>;
@group(0) @binding(2) var<storage, read_write> indices: array<u32>;

#import lanes
#import ordered

fn element(i: u32) -> f32 {
#ifdef VEC4
    return x[i / 4u][i % 4u];
#else
    return x[i];
#endif
}

#entry LANES {
    let row = min(flat, p.rows - 1u);
    let writes = local == 0u && flat < p.rows;
    let base = row * p.m;
#for c in 0..4
    var head{c} = vec2<u32>(0u, NONE);
#endfor
    for (var i = 4u * local; i < p.m; i += 4u * LANES) {
#ifdef VEC4
        let quad = x[(base + i) / 4u];
#for c in 0..4
        let next{c} = vec2<u32>(ordered(quad[{c}]), i + {c}u);
        head{c} = select(head{c}, next{c}, better(next{c}, head{c}));
#endfor
#else
#for c in 0..4
        if (i + {c}u < p.m) {
            let next = vec2<u32>(ordered(x[base + i + {c}u]), i + {c}u);
            head{c} = select(head{c}, next, better(next, head{c}));
        }
#endfor
#endif
    }
    for (var round = 0u; round < p.k; round++) {
        var mine = head0;
#for c in 1..4
        mine = select(mine, head{c}, better(head{c}, mine));
#endfor
        let best = lanes_best(mine, local);
        // There are at least k elements, so that there is always a best one; the clamp keeps reads inside regardless.
        let at = min(best.y, p.m - 1u);
        if (writes) {
            values[row * p.k + round] = element(base + at);
            indices[row * p.k + round] = at;
        }
        if (round + 1u < p.k) {
            let owner = at / 4u % LANES;
            let c = at % 4u;
            var next = vec2<u32>(0u, NONE);
            for (var i = 4u * (owner + LANES * local) + c; i < p.m; i += 4u * LANES * LANES) {
                let entry = vec2<u32>(ordered(element(base + i)), i);
                next = select(next, entry, better(best, entry) && better(entry, next));
            }
            next = lanes_best(next, local);
#for c in 0..4
            head{c} = select(head{c}, next, local == owner && c == {c}u);
#endfor
        }
    }
}
