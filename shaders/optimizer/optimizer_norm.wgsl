// Norms of gradients, and the factors that bring them down to a maximum.
//
// With SQUARES, one workgroup a block:
//   grads   (n)          read
//   blocks  (blocks, 4)  read: see optimizer.wgsl
//   part    (all blocks)  written: the block's sum of squares, at its number
// With NORM, one workgroup a norm, of part[first .. first + count]:
//   part    (blocks)     read
//   spans   (norms, 2)   read: first, count
//   before  (1)          read, with AFTER: a factor that the gradients get first
//   norm    (norms)      written: with AFTER, of the gradients times `before`
//   scale   (norms)      written: min(1, limit / (norm + 1e-6)), with AFTER times `before`
// grid      workgroups of LANES invocations, folded; every sum in a fixed order

struct Params { groups: u32, limit: f32 }
#params Params p
#import element

#ifdef SQUARES
@group(0) @binding(0) var<storage, read> grads: array<Element>;
@group(0) @binding(1) var<storage, read> blocks: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> part: array<f32>;
#else
@group(0) @binding(0) var<storage, read> part: array<f32>;
@group(0) @binding(1) var<storage, read> spans: array<vec2<u32>>;
#ifdef AFTER
@group(0) @binding(2) var<storage, read> before: array<f32>;
@group(0) @binding(3) var<storage, read_write> norm: array<f32>;
@group(0) @binding(4) var<storage, read_write> scale: array<f32>;
#else
@group(0) @binding(2) var<storage, read_write> norm: array<f32>;
@group(0) @binding(3) var<storage, read_write> scale: array<f32>;
#endif
#endif

#import lanes

#entry LANES {
    let index = min(flat, p.groups - 1u);
    let writes = local == 0u && flat < p.groups;
    var sum = 0.0;
#ifdef SQUARES
    let block = blocks[index];
#ifdef VEC4
    for (var i = 4u * local; i < block.y; i += 4u * LANES) {
        let at = vec4<u32>(i, i + 1u, i + 2u, i + 3u);
        let g = select(vec4<f32>(), grads[(block.x + i) / 4u], at < vec4<u32>(block.y));
        sum += dot(g, g);
    }
#else
    for (var i = local; i < block.y; i += LANES) {
        let g = grads[block.x + i];
        sum += g * g;
    }
#endif
    let total = lanes_sum(sum, local);
    if (writes) {
        part[block.w] = total;
    }
#else
    let span = spans[index];
    for (var i = local; i < span.y; i += LANES) {
        sum += part[span.x + i];
    }
    let total = sqrt(lanes_sum(sum, local));
    if (writes) {
#ifdef AFTER
        let factor = before[0];
#else
        let factor = 1.0;
#endif
        let length = total * factor;
        let ratio = p.limit / (length + 1e-6);
        norm[index] = length;
        // A norm that is NaN makes the factor NaN.
        scale[index] = factor * select(ratio, 1.0, ratio >= 1.0);
    }
#endif
}
