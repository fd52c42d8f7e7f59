// The gradient of a slice: x in the middle of (outer, n, inner) from `start` on, and 0 around it. With VEC4 an element is
// four of the tensor.
//
// x  (outer, m, inner)  read
// y  (outer, n, inner)  written
// grid  ceil(outer * n * inner / 256) workgroups of 64 invocations, folded; four elements each

struct Params { count: u32, n: u32, m: u32, inner: u32, start: u32 }
#params Params p

#import element

@group(0) @binding(0) var<storage, read> x: array<Element>;
@group(0) @binding(1) var<storage, read_write> y: array<Element>;

#entry 64 {
    let base = flat * 256u + local;
    for (var s = 0u; s < 4u; s++) {
        let i = base + s * 64u;
        if (i < p.count) {
            let row = i / p.inner;
            // Before the start it wraps round to a large number.
            let k = row % p.n - p.start;
            var v = Element(0.0);
            if (k < p.m) {
                v = x[(row / p.n * p.m + k) * p.inner + i % p.inner];
            }
            y[i] = v;
        }
    }
}
