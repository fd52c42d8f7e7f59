// Where an invocation of a pooling kernel works: the head of its `main`. It has SPAN neighbouring Elements of a row of y,
// columns c0 to c(SPAN - 1), at column0 and so on in y; the batch item's positions begin at `first`.
//
// VEC4: D is a multiple of 4, and an Element is four channels; otherwise one. W is D in Elements.
// SPAN: 4 for software adapters, which run few invocations side by side and would otherwise touch a little of every row
// before the next; otherwise 1.
    let bundle = flat * 64u + local;
    if (bundle >= p.bundles) {
        return;
    }
    let batch = bundle / p.per_row;
    let first = batch * p.length;
    // What would lie beyond the end is the last Element once more.
#for t in 0..SPAN
    let c{t} = min(bundle % p.per_row * SPAN + {t}u, p.width - 1u);
    let column{t} = batch * p.width + c{t};
#endfor
