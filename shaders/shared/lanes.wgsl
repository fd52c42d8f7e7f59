// Reductions over the LANES invocations of a workgroup; every lane gets the result. With SUBGROUP a workgroup is
// exactly one subgroup of LANES lanes; otherwise they go through workgroup memory. The order is fixed, so results repeat
// bit by bit. Call them in uniform control flow only.

#import ranked

#ifndef SUBGROUP
var<workgroup> lanes_f32: array<f32, LANES>;
var<workgroup> lanes_vec4: array<vec4<u32>, LANES>;
#endif

fn lanes_sum(value: f32, lane: u32) -> f32 {
#ifdef SUBGROUP
    // subgroupAdd leaves the order to the driver; a butterfly does not.
    var sum = value;
#for i in 0..LOG_LANES
    sum += subgroupShuffleXor(sum, 1u << {i}u);
#endfor
    return sum;
#else
    workgroupBarrier();
    lanes_f32[lane] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            lanes_f32[lane] += lanes_f32[lane + half];
        }
        workgroupBarrier();
    }
    return lanes_f32[0];
#endif
}

fn lanes_max(value: f32, lane: u32) -> f32 {
#ifdef SUBGROUP
    return subgroupMax(value);
#else
    workgroupBarrier();
    lanes_f32[lane] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            lanes_f32[lane] = max(lanes_f32[lane], lanes_f32[lane + half]);
        }
        workgroupBarrier();
    }
    return lanes_f32[0];
#endif
}

// Sums of x, y and z; the least w.
fn lanes_tally(value: vec4<u32>, lane: u32) -> vec4<u32> {
#ifdef SUBGROUP
    return vec4<u32>(subgroupAdd(value.xyz), subgroupMin(value.w));
#else
    workgroupBarrier();
    lanes_vec4[lane] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            let a = lanes_vec4[lane];
            let b = lanes_vec4[lane + half];
            lanes_vec4[lane] = vec4<u32>(a.xyz + b.xyz, min(a.w, b.w));
        }
        workgroupBarrier();
    }
    return lanes_vec4[0];
#endif
}

// The best entry of all lanes.
fn lanes_best(value: vec2<u32>, lane: u32) -> vec2<u32> {
#ifdef SUBGROUP
    let key = subgroupMax(value.x);
    return vec2<u32>(key, subgroupMin(select(NONE, value.y, value.x == key)));
#else
    workgroupBarrier();
    lanes_vec4[lane] = value.xyxy;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            let other = lanes_vec4[lane + half];
            if (better(other.xy, lanes_vec4[lane].xy)) {
                lanes_vec4[lane] = other;
            }
        }
        workgroupBarrier();
    }
    return lanes_vec4[0].xy;
#endif
}
