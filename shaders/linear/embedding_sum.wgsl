// Sums of listed rows, each in the list's order: one stage of the gradient of embedding.wgsl.
//
// Sum k is of the rows whose numbers stand in plan from plan[k] to plan[k + 1] - 1, and becomes row
// plan[p.targets + k] of the table, of which y is bound from first_row on. No two sums have the same target. The K sums
// from first_sum on are made.
//
// VEC4: the width is a multiple of 4, and an Element is four channels; otherwise one. W is the width in
// Elements.
//
// x     (any, W)  read
// plan  (any)     read
// y     (any, W)  written, only the rows that are targets
// grid  ceil(K W / 64) workgroups of 64 invocations, folded; one element of a sum each

struct Params { count: u32, width: u32, targets: u32, first_sum: u32, first_row: u32 } // count = K W
#params Params p

#import element

@group(0) @binding(0) var<storage, read> x: array<Element>;
@group(0) @binding(1) var<storage, read> plan: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<Element>;

#entry 64 {
    let i = flat * 64u + local;
    if (i < p.count) {
        let k = p.first_sum + i / p.width;
        let channel = i % p.width;
        let end = plan[k + 1u];
        var sum = Element(0.0);
        for (var at = plan[k]; at < end; at++) {
            sum += x[plan[at] * p.width + channel];
        }
        y[(plan[p.targets + k] - p.first_row) * p.width + channel] = sum;
    }
}
