// Sums or maxima along the middle of (outer, n, inner), in `blocks` parts. Part b starts at b * span: with step 1 it takes
// the `span` elements from there on; with step `blocks` (and span 1) every blocks-th, so that neighbours read neighbours
// where inner is too small for that. The order depends on the shape only. With VEC4 an element is four of the tensor.
//
// x        (outer, n, inner)       read
// origin   (outer, n, inner)       read, with MERGE: where each x came from
// y        (outer, blocks, inner)  written: factor * sum, or with MAX the maximum
// indices  (outer, blocks, inner)  written, with MAX: where it is; the first one of equals. NaN exceeds all
// grid     ceil(outer * blocks * inner / 64) workgroups of 64 invocations, folded; one element each

struct Params { count: u32, n: u32, inner: u32, blocks: u32, span: u32, step: u32, factor: f32 }
#params Params p

#import element

@group(0) @binding(0) var<storage, read> x: array<Element>;
#ifdef MAX
#ifdef MERGE
@group(0) @binding(1) var<storage, read> origin: array<Word>;
@group(0) @binding(2) var<storage, read_write> y: array<Element>;
@group(0) @binding(3) var<storage, read_write> indices: array<Word>;
#else
@group(0) @binding(1) var<storage, read_write> y: array<Element>;
@group(0) @binding(2) var<storage, read_write> indices: array<Word>;
#endif
#else
@group(0) @binding(1) var<storage, read_write> y: array<Element>;
#endif

#entry 64 {
    let i = flat * 64u + local;
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
        var index = Word(first);
#endif
        for (var k = first + p.step; k < end; k += p.step) {
            let v = x[start + k * p.inner];
#ifdef MERGE
            let j = origin[start + k * p.inner];
#else
            let j = Word(k);
#endif
            let equal = (v == best) | (are_nan(v) & are_nan(best));
            let better = exceeds(v, best) | (equal & (j < index));
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
