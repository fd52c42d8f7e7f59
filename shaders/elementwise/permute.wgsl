// A strided copy: the index of an element is taken apart along RANK merged dimensions (extents e0, e1, ... from the
// innermost) and put together with the strides of source and target. With VEC4 an element is four of the tensor. Words
// are copied as they are, whatever their type.
//
// x  read
// y  written
// grid  ceil(n / 256) workgroups of 64 invocations, folded; four elements each

struct Params {
    n: u32, source: u32, place: u32,
    e0: u32, e1: u32, e2: u32, e3: u32,
    x0: u32, x1: u32, x2: u32, x3: u32, x4: u32,
    y0: u32, y1: u32, y2: u32, y3: u32, y4: u32,
}
#params Params p

#import element

@group(0) @binding(0) var<storage, read> x: array<Word>;
@group(0) @binding(1) var<storage, read_write> y: array<Word>;

#entry 64 {
    let base = flat * 256u + local;
    for (var s = 0u; s < 4u; s++) {
        let i = base + s * 64u;
        if (i < p.n) {
            var rest = i;
            var source = p.source;
            var place = p.place;
#for d in 0..LAST
            let quotient{d} = rest / p.e{d};
            let index{d} = rest - quotient{d} * p.e{d};
            source += index{d} * p.x{d};
            place += index{d} * p.y{d};
            rest = quotient{d};
#endfor
#for d in LAST..RANK
            source += rest * p.x{d};
            place += rest * p.y{d};
#endfor
            y[place] = x[source];
        }
    }
}
