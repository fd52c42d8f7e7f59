// Sums or maxima along the middle of (outer, n, inner), in `blocks` parts. Part b starts at b * span: with step 1 it takes
// the `span` elements from there on; with step `blocks` (and span 1) every blocks-th, so that neighbours read neighbours
// where inner is too small for that. The order depends on the shape only. With VEC4 an element is four of the tensor.
//
// x        (outer, n, inner)       read
// origin   (outer, n, inner)       read, with MERGE: where each x came from
// y        (outer, blocks, inner)  written: factor * sum, or with MAX the maximum
// indices  (outer, blocks, inner)  written, with MAX: where it is; the first one of equals
// grid     ceil(outer * blocks * inner / 64) workgroups of 64 invocations, folded; one element each

struct Params { count: u32, n: u32, inner: u32, blocks: u32, span: u32, step: u32, factor: f32 }
#params Params p

#import grid

#ifdef VEC4
alias Element = vec4<f32>;
alias Index = vec4<u32>;
#else
alias Element = f32;
alias Index = u32;
#endif

@group(0) @binding(0) var<storage, read> x: array<Element>;
#ifdef MAX
#ifdef MERGE
@group(0) @binding(1) var<storage, read> origin: array<Index>;
@group(0) @binding(2) var<storage, read_write> y: array<Element>;
@group(0) @binding(3) var<storage, read_write> indices: array<Index>;
#else
@group(0) @binding(1) var<storage, read_write> y: array<Element>;
@group(0) @binding(2) var<storage, read_write> indices: array<Index>;
#endif
#else
@group(0) @binding(1) var<storage, read_write> y: array<Element>;
#endif

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_group(group, groups) * 64u + local;
    if (i < p.count) {
        let c = i % p.inner;
        let block = (i / p.inner) % p.blocks;
        let first = block * p.span;
        let end = select(p.n, min(first + p.span, p.n), p.step == 1u);
        let start = i / (p.inner * p.blocks) * p.n * p.inner + c;
#ifdef MAX
        var best = x[start + first * p.inner];
#ifdef MERGE
        var index = origin[start + first * p.inner];
#else
        var index = Index(first);
#endif
        for (var k = first + p.step; k < end; k += p.step) {
            let v = x[start + k * p.inner];
#ifdef MERGE
            let j = origin[start + k * p.inner];
#else
            let j = Index(k);
#endif
            let better = (v > best) | ((v == best) & (j < index));
            best = select(best, v, better);
            index = select(index, j, better);
        }
        y[i] = best;
        indices[i] = index;
#else
        var total = Element(0.0);
        for (var k = first; k < end; k += p.step) {
            total += x[start + k * p.inner];
        }
        y[i] = p.factor * total;
#endif
    }
}
