// y = f(a, b), element by element, with broadcasting: y's index is taken apart along RANK merged dimensions (extents
// e0, e1, ... from the innermost) and put together with the strides of a and b, which are 0 along what repeats.
// With VEC4 an element is four of the tensor; A_SPLAT or B_SPLAT says whose innermost stride is 0.
//
// a  read
// b  read; WHERE: the mask
// g  (n)  read, with GRAD: the gradient of f(a, b); y is then the gradient of a (DIV: of b) before it is summed
// y  (n)  written
// grid    ceil(n / 256) workgroups of 64 invocations, folded; four elements each

struct Params {
    n: u32, value: f32,
    e0: u32, e1: u32, e2: u32, e3: u32,
    a0: u32, a1: u32, a2: u32, a3: u32, a4: u32,
    b0: u32, b1: u32, b2: u32, b3: u32, b4: u32,
}
#params Params p

#import element

#ifdef A_SPLAT
@group(0) @binding(0) var<storage, read> a: array<f32>;
#else
@group(0) @binding(0) var<storage, read> a: array<Element>;
#endif
#ifdef B_SPLAT
@group(0) @binding(1) var<storage, read> b: array<f32>;
#else
@group(0) @binding(1) var<storage, read> b: array<Element>;
#endif
#ifdef GRAD
@group(0) @binding(2) var<storage, read> g: array<Element>;
@group(0) @binding(3) var<storage, read_write> y: array<Element>;
#else
@group(0) @binding(2) var<storage, read_write> y: array<Element>;
#endif

#ifdef GRAD
fn f(a: Element, b: Element, g: Element) -> Element {
#ifdef DIV
    return -(g * (a / b)) / b;
#endif
#ifdef MIN
    return select(select(Element(0.0), 0.5 * g, a == b), g, a < b);
#endif
#ifdef MAX
    return select(select(Element(0.0), 0.5 * g, a == b), g, a > b);
#endif
}
#else
fn f(a: Element, b: Element) -> Element {
#ifdef ADD
    return a + b;
#endif
#ifdef SUB
    return a - b;
#endif
#ifdef MUL
    return a * b;
#endif
#ifdef DIV
    return a / b;
#endif
#ifdef MIN
    return select(select(min(a, b), b, are_nan(b)), a, are_nan(a));
#endif
#ifdef MAX
    return select(select(max(a, b), b, are_nan(b)), a, are_nan(a));
#endif
#ifdef WHERE
    return select(Element(p.value), a, b > Element(0.5));
#endif
}
#endif

#entry 64 {
    let base = flat * 256u + local;
    for (var s = 0u; s < 4u; s++) {
        let i = base + s * 64u;
        if (i < p.n) {
            var rest = i;
            var at_a = 0u;
            var at_b = 0u;
#for d in 0..LAST
            let quotient{d} = rest / p.e{d};
            let index{d} = rest - quotient{d} * p.e{d};
            at_a += index{d} * p.a{d};
            at_b += index{d} * p.b{d};
            rest = quotient{d};
#endfor
#for d in LAST..RANK
            at_a += rest * p.a{d};
            at_b += rest * p.b{d};
#endfor
#ifdef GRAD
            y[i] = f(Element(a[at_a]), Element(b[at_b]), g[i]);
#else
            y[i] = f(Element(a[at_a]), Element(b[at_b]));
#endif
        }
    }
}
