// One step of Adam, AdamW or BertAdam over a group of ranges of flat buffers.
//
// params   (n)          accumulated
// grads    (n)          read
// m, v     (n)          accumulated: the moving averages of the gradient and of its square
// blocks   (blocks, 4)  read: first element, length (at most 4096), number of the range, number of the block
// scale    (1) or (ranges)  read, with CLIP: factors of the gradients
// grid     one workgroup of 64 invocations a block, folded
//
// HALF, which comes with BERT: what PyTorch makes of tensors of halves. Parameters, gradients, m, v and the result of
// every operation are rounded to the nearest half.

struct Params {
    blocks: u32,
    // 1 if there is a factor for each range, 0 if there is one for all.
    each: u32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    // With ADAM and ADAMW the learning rate over the first bias correction.
    rate: f32,
    // 1 over the root of the second bias correction.
    root: f32,
    eps: f32,
    // With ADAM and BERT the weight decay; with ADAMW what the step leaves of a parameter.
    decay: f32,
    // Parameters above it are set to it.
    most: f32,
}
#params Params p

#import element
@group(0) @binding(0) var<storage, read_write> params: array<Element>;
@group(0) @binding(1) var<storage, read> grads: array<Element>;
@group(0) @binding(2) var<storage, read_write> m: array<Element>;
@group(0) @binding(3) var<storage, read_write> v: array<Element>;
@group(0) @binding(4) var<storage, read> blocks: array<vec4<u32>>;
#ifdef CLIP
@group(0) @binding(5) var<storage, read> scale: array<f32>;
#endif

#ifdef VEC4
const WIDTH: u32 = 4u;
#else
const WIDTH: u32 = 1u;
#endif

#ifdef HALF
// x to the nearest half, ties to even, by integers: WGSL lets its own conversion round either way, and there are drivers
// whose `round` takes ties away from zero.
fn half(x: Element) -> Element {
    let bits = bitcast<Word>(x);
    let size = bits & Word(0x7fffffffu);
    // Ten bits of the fraction stay. From 65,536 on there is only infinity.
    let rounded = (size + Word(0xfffu) + ((size >> Word(13u)) & Word(1u))) & Word(0xffffe000u);
    let normal = select(rounded, Word(0x7f800000u), rounded >= Word(0x47800000u));
    // Below 2^-14 halves are the multiples of 2^-24: of the 24 bits of the fraction, `less` go. Below 2^-25 all do.
    let fraction = (size & Word(0x7fffffu)) | Word(0x800000u);
    let less = min(Word(126u) - min(size >> Word(23u), Word(112u)), Word(25u));
    let multiple = (fraction + (Word(1u) << (less - Word(1u))) - Word(1u) + ((fraction >> less) & Word(1u))) >> less;
    let small = bitcast<Word>(Element(multiple) * 5.9604644775390625e-8);
    let finite = select(normal, small, size < Word(0x38800000u));
    let nan = size > Word(0x7f800000u);
    return bitcast<Element>((bits & Word(0x80000000u)) | select(finite, size, nan));
}
#endif

#entry 64 {
    if (flat >= p.blocks) {
        return;
    }
    let block = blocks[flat];
#ifdef CLIP
    let factor = scale[block.z * p.each];
#endif
    let end = block.x + block.y;
    for (var at = block.x + local * WIDTH; at < end; at += 64u * WIDTH) {
        let i = at / WIDTH;
        let old = params[i];
        let old_m = m[i];
        let old_v = v[i];
#ifdef HALF
        // In the order of the published optimiser.
        var w = half(old);
        var g = half(grads[i]);
#ifdef CLIP
        g = half(g * half(Element(factor)));
#endif
        var new_m = half(half(p.beta1 * old_m) + p.rest1 * g);
        var new_v = half(half(p.beta2 * old_v) + p.rest2 * (g * g));
        let change = half(new_m / half(half(sqrt(new_v)) + p.eps));
        w = half(w - half(p.rate * half(change + half(p.decay * w))));
#else
        var w = old;
        var g = grads[i];
#ifdef CLIP
        g *= factor;
#endif
#ifdef ADAM
        g += p.decay * w;
#endif
#ifdef ADAMW
        w *= p.decay;
#endif
        var new_m = p.beta1 * old_m + p.rest1 * g;
        var new_v = p.beta2 * old_v + p.rest2 * g * g;
#ifdef BERT
        w -= p.rate * (new_m / (sqrt(new_v) + p.eps) + p.decay * w);
#else
        w -= p.rate * (new_m / (sqrt(new_v) * p.root + p.eps));
#endif
#endif
        w = select(w, Element(p.most), w > Element(p.most));
#ifdef VEC4
        // The last vec4 of a range may reach beyond it; what is there keeps its value.
        let inside = vec4<u32>(at, at + 1u, at + 2u, at + 3u) < vec4<u32>(end);
        w = select(old, w, inside);
        new_m = select(old_m, new_m, inside);
        new_v = select(old_v, new_v, inside);
#endif
        params[i] = w;
        m[i] = new_m;
        v[i] = new_v;
    }
}
