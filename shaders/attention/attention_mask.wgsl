// One additive bias from a bias and a key mask: the bias where the key is valid, a forbidding value elsewhere.
//
// mask  (B, Tk) with MASK, (B) u32 with LENGTHS   read: valid where above 0.5; how many are valid
// bias  (B|1, H|1, Tq|1, Tk)                      read, with BIAS; 0 without
// y     (B, H|1, Tq|1, Tk)                        written
// grid  ceil(elements / 256) workgroups of 64 invocations, folded; four elements each

struct Params { n: u32, heads: u32, rows: u32, keys: u32, bias_batch: u32, bias_head: u32, bias_row: u32 }
#params Params p

#ifdef MASK
@group(0) @binding(0) var<storage, read> mask: array<f32>;
#else
@group(0) @binding(0) var<storage, read> mask: array<u32>;
#endif
#ifdef BIAS
@group(0) @binding(1) var<storage, read> bias: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
#else
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
#endif

#entry 64 {
    let base = flat * 256u + local;
    for (var n = 0u; n < 4u; n++) {
        let i = base + n * 64u;
        if (i < p.n) {
            let key = i % p.keys;
            let row = i / p.keys;
            let pair = row / p.rows;
            let batch = pair / p.heads;
#ifdef MASK
            let valid = mask[batch * p.keys + key] > 0.5;
#else
            let valid = key < mask[batch];
#endif
#ifdef BIAS
            let x = bias[batch * p.bias_batch + (pair % p.heads) * p.bias_head + (row % p.rows) * p.bias_row + key];
#else
            let x = 0.0;
#endif
            y[i] = select(-3.4e38, x, valid);
        }
    }
}
