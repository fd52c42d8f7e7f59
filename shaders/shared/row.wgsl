// What kernels on rows share. LANES invocations share a row. With SUBGROUP they are the workgroup, which is one subgroup;
// otherwise a workgroup holds ROWS such teams side by side and reduces through workgroup memory. SEQUENCE: how many rows
// a team does one after another. With VEC4 an element is four of the tensor. With
// STEPS, which comes with SUBGROUP only, a row is exactly STEPS * LANES elements, and stays in registers.
//
// Every reduction must be reached by the whole workgroup.

#import element

#ifdef SUBGROUP
fn row_sum(v: f32, local: u32) -> f32 {
    var total = subgroupBroadcast(v, 0u);
#for i in 1..LANES
    total += subgroupBroadcast(v, {i}u);
#endfor
    return total;
}

fn row_sum2(v: vec2<f32>, local: u32) -> vec2<f32> {
    return vec2<f32>(row_sum(v.x, local), row_sum(v.y, local));
}

fn row_max(v: f32, local: u32) -> f32 {
    var top = subgroupBroadcast(v, 0u);
#for i in 1..LANES
    top = max(top, subgroupBroadcast(v, {i}u));
#endfor
    return top;
}
#else
var<workgroup> row_scratch: array<vec2<f32>, LANES * ROWS>;

fn row_sum2(v: vec2<f32>, local: u32) -> vec2<f32> {
    workgroupBarrier();
    row_scratch[local] = v;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half = half / 2u) {
        if (local % LANES < half) {
            row_scratch[local] += row_scratch[local + half];
        }
        workgroupBarrier();
    }
    return row_scratch[local - local % LANES];
}

fn row_sum(v: f32, local: u32) -> f32 {
    return row_sum2(vec2<f32>(v, 0.0), local).x;
}

fn row_max(v: f32, local: u32) -> f32 {
    workgroupBarrier();
    row_scratch[local] = vec2<f32>(v, 0.0);
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half = half / 2u) {
        if (local % LANES < half) {
            row_scratch[local] = max(row_scratch[local], row_scratch[local + half]);
        }
        workgroupBarrier();
    }
    return row_scratch[local - local % LANES].x;
}
#endif
