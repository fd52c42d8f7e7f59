// Attention over the similarity matrix: for every text i and video v, m_kl = sum_f x_ikvf y_ilvf, and
// scores_ivk = sum_ab p_ka matrix_ab m_kb, with p_k = softmax(m_k / temperature).
//
// x       (texts, rows, videos, frames)  read
// y       (texts, rows, videos, frames)  read
// matrix  (rows, rows)                   read
// scores  (texts, videos, rows)          written
// grid    p.groups workgroups of 256 invocations, folded; each does p.each pairs, p.groups apart, from p.first on

@group(0) @binding(3) var<storage, read_write> scores: array<f32>;
#import aosm

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
            let quad = block + local / p.rows;
            let owns = local < slots * p.rows && quad < quads;
            let m = multiply(owns, start, quad, column, slot);
            if (owns) {
                var total = vec4<f32>(0.0);
                var weight = vec4<f32>(0.0);
                for (var a = 0u; a < p.rows; a++) {
                    let e = exponentials[slot + a];
                    total += e;
                    weight += e * matrix[a * p.rows + column];
                }
                products[local] = weight / total * m;
            }
            workgroupBarrier();
            if (owns && column == 0u) {
                var sum = vec4<f32>(0.0);
                for (var a = 0u; a < p.rows; a++) {
                    sum += products[slot + a];
                }
#for r in 0..4
                if (4u * quad + {r}u < p.rows) {
                    scores[pair * p.rows + 4u * quad + {r}u] = sum[{r}];
                }
#endfor
            }
            workgroupBarrier();
        }
    }
}
