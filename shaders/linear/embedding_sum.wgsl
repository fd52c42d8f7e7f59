// Sums of listed rows, each in the list's order: one stage of the gradient of embedding.wgsl.
//
// Sum k is of the rows whose numbers stand in plan from plan[k] to plan[k + 1] - 1, and becomes row
// plan[p.targets + k] of the table, of which y is bound from first_row on. No two sums have the same target. The K sums
// from first_sum on are made.
//
// VEC4: the width is a multiple of 4, and an element of V stands for four channels; otherwise for one. W is the width
// in elements of V.
//
// x     (any, W)  read
// plan  (any)     read
// y     (any, W)  written, only the rows that are targets
// grid  ceil(K W / 64) workgroups of 64 invocations, folded; one element of a sum each

struct Params { count: u32, width: u32, targets: u32, first_sum: u32, first_row: u32 } // count = K W
#params Params p

#ifdef VEC4
alias V = vec4<f32>;
#else
alias V = f32;
#endif

@group(0) @binding(0) var<storage, read> x: array<V>;
@group(0) @binding(1) var<storage, read> plan: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<V>;

#import grid

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if (i < p.count) {
        let k = p.first_sum + i / p.width;
        let channel = i % p.width;
        let end = plan[k + 1u];
        var sum = V(0.0);
        for (var at = plan[k]; at < end; at++) {
            sum += x[plan[at] * p.width + channel];
        }
        y[(plan[p.targets + k] - p.first_row) * p.width + channel] = sum;
    }
}
