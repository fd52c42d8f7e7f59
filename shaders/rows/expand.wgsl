// The gradients of reduce.wgsl: x repeated along the middle of (outer, n, inner), or, with MAX, put where the maximum was
// and 0 elsewhere. With VEC4 an element is four of the tensor.
//
// x        (outer, inner)     read
// indices  (outer, inner)     read, with MAX
// y        (outer, n, inner)  written
// grid     ceil(outer * n * inner / 256) workgroups of 64 invocations, folded; four elements each

struct Params { count: u32, n: u32, inner: u32, factor: f32 }
#params Params p

#import element

@group(0) @binding(0) var<storage, read> x: array<Element>;
#ifdef MAX
@group(0) @binding(1) var<storage, read> indices: array<Word>;
@group(0) @binding(2) var<storage, read_write> y: array<Element>;
#else
@group(0) @binding(1) var<storage, read_write> y: array<Element>;
#endif

#entry 64 {
    let base = flat * 256u + local;
    for (var s = 0u; s < 4u; s++) {
        let i = base + s * 64u;
        if (i < p.count) {
            let row = i / p.inner;
            let source = row / p.n * p.inner + i % p.inner;
#ifdef MAX
            y[i] = select(Element(0.0), x[source], indices[source] == Word(row % p.n));
#else
            y[i] = p.factor * x[source];
#endif
        }
    }
}
