// Gradients of aosm.wgsl, from that of the scores, g. With q_k = matrix' p_k and u_k = matrix m_k:
// dm_k = g_k (q_k + p_k (u_k - scores_k) / temperature), dx_k = sum_l dm_kl y_l, dy_l = sum_k dm_kl x_k, and
// dmatrix_ab = sum_k g_k p_ka m_kb, summed over the pairs of a workgroup, in order.
//
// x        (texts, rows, videos, frames)  read
// y        (texts, rows, videos, frames)  read
// matrix   (rows, rows)                   read
// scores   (texts, videos, rows)          read: as aosm.wgsl writes them
// g        (texts, videos, rows)          read
// dx       (texts, rows, videos, frames)  written, with X
// dy       (texts, rows, videos, frames)  written, with Y
// partial  (groups, rows, rows)           +=, with MATRIX
// grid     p.groups workgroups of 256 invocations, folded; each does p.each pairs, p.groups apart, from p.first on

@group(0) @binding(3) var<storage, read> scores: array<f32>;
@group(0) @binding(4) var<storage, read> g: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;
@group(0) @binding(6) var<storage, read_write> dy: array<f32>;
@group(0) @binding(7) var<storage, read_write> partial: array<f32>;
#import aosm

var<workgroup> gradients: array<vec4<f32>, 256>;

// dx of the quads in the slots, from `block` on.
fn store_dx(start: u32, block: u32, used: u32, index: u32) {
    let step = p.videos * p.frames;
    for (var e = index; e < used * p.frames; e += 256u) {
        let slot = e / p.frames;
        let at = start + e % p.frames;
        var sum = vec4<f32>(0.0);
        for (var l = 0u; l < p.rows; l++) {
            sum += gradients[slot * p.rows + l] * y[at + l * step];
        }
        let row = 4u * (block + slot);
#for r in 0..4
        if (row + {r}u < p.rows) {
            dx[at + (row + {r}u) * step] = sum[{r}];
        }
#endfor
    }
}

// What the quads in the slots give to dy. An element is always the same invocation's.
fn add_dy(start: u32, block: u32, used: u32, index: u32) {
    for (var e = index; e < p.rows * p.frames; e += 256u) {
        let row = e / p.frames;
        let f = e % p.frames;
        let at = start + row * p.videos * p.frames + f;
        var sum = 0.0;
        if (block > 0u) {
            sum = dy[at];
        }
        for (var slot = 0u; slot < used; slot++) {
            sum += dot(gradients[slot * p.rows + row], quad_of_x(start, block + slot, f));
        }
        dy[at] = sum;
    }
}

// What they give to dmatrix; `exponentials` hold p times g. An invocation does four rows of a column, always the same.
fn add_dmatrix(first: u32, used: u32, quads: u32, index: u32) {
    for (var e = index; e < quads * p.rows; e += 256u) {
        let row = e / p.rows * 4u;
        let column = e % p.rows;
        var sum = vec4<f32>(0.0);
        for (var slot = 0u; slot < used; slot++) {
            let m = products[slot * p.rows + column];
#for r in 0..4
            sum[{r}] += dot(exponentials[slot * p.rows + min(row + {r}u, p.rows - 1u)], m);
#endfor
        }
#for r in 0..4
        if (row + {r}u < p.rows) {
            partial[first + (row + {r}u) * p.rows + column] += sum[{r}];
        }
#endfor
    }
}

#entry 256 {
    if (flat >= p.groups) {
        return;
    }
    let slots = 256u / p.rows;
    let quads = (p.rows + 3u) / 4u;
    let column = local % p.rows;
    let slot = local - column;
    for (var i = 0u; i < p.each; i++) {
        let pair = p.first + i * p.groups + flat;
        if (pair >= p.pairs) {
            return;
        }
        let start = pair_start(pair);
        for (var block = 0u; block < quads; block += slots) {
            let used = min(slots, quads - block);
            let quad = block + local / p.rows;
            let owns = local < used * p.rows;
            let m = multiply(owns, start, quad, column, slot);
            var mine = exponentials[local];
            var dm = vec4<f32>(0.0);
            if (owns) {
                var total = vec4<f32>(0.0);
                var q = vec4<f32>(0.0);
                var u = vec4<f32>(0.0);
                for (var a = 0u; a < p.rows; a++) {
                    let e = exponentials[slot + a];
                    total += e;
                    q += e * matrix[a * p.rows + column];
                    u += matrix[column * p.rows + a] * products[slot + a];
                }
                var score = vec4<f32>(0.0);
                var upstream = vec4<f32>(0.0);
#for r in 0..4
                if (4u * quad + {r}u < p.rows) {
                    score[{r}] = scores[pair * p.rows + 4u * quad + {r}u];
                    upstream[{r}] = g[pair * p.rows + 4u * quad + {r}u];
                }
#endfor
                // Rows beyond the end have no upstream, so nothing comes of them.
                dm = upstream * (q + p.inverse * mine * (u - score)) / total;
                mine *= upstream / total;
            }
            workgroupBarrier();
            if (owns) {
                exponentials[local] = mine;
                gradients[local] = dm;
            }
            workgroupBarrier();
            if ((p.wanted & X) != 0u) {
                store_dx(start, block, used, local);
            }
            if ((p.wanted & Y) != 0u) {
                add_dy(start, block, used, local);
            }
            if ((p.wanted & MATRIX) != 0u) {
                add_dmatrix(flat * p.rows * p.rows, used, quads, local);
            }
            workgroupBarrier();
        }
    }
}
