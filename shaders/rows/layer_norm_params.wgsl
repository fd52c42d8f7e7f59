// The gradients of layer_norm.wgsl for gain and bias, summed over `span` rows for each block.
// With VEC4 an element is four of the tensor.
//
// dy     (rows, n)    read
// x      (rows, n)    read: what was normalised
// stats  (rows, 2)    read
// dgain  (blocks, n)  written: the sums of dy times the normalised row
// dbias  (blocks, n)  written: the sums of dy
// grid   ceil(blocks * n / 64) workgroups of 64 invocations, folded; one element each

struct Params { rows: u32, n: u32, blocks: u32, span: u32, eps: f32, unbiased: u32 }
#params Params p

#import element

@group(0) @binding(0) var<storage, read> dy: array<Element>;
@group(0) @binding(1) var<storage, read> x: array<Element>;
@group(0) @binding(2) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> dgain: array<Element>;
@group(0) @binding(4) var<storage, read_write> dbias: array<Element>;

#entry 64 {
    let i = flat * 64u + local;
    if (i < p.blocks * p.n) {
        let block = i / p.n;
        let c = i % p.n;
        var gain_sum = Element(0.0);
        var bias_sum = Element(0.0);
        let end = min((block + 1u) * p.span, p.rows);
        for (var row = block * p.span; row < end; row++) {
            let saved = stats[row];
            let inverse = select(saved.y, 1.0 / (saved.y + p.eps), p.unbiased != 0u);
            let g = dy[row * p.n + c];
            gain_sum += g * ((x[row * p.n + c] - saved.x) * inverse);
            bias_sum += g;
        }
        dgain[i] = gain_sum;
        dbias[i] = bias_sum;
    }
}
