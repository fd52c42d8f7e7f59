// The tensors of both backward kernels of attention, and how they are read and written.

#import attention
#import element

@group(0) @binding(0) var<storage, read> first: array<Element>;
@group(0) @binding(1) var<storage, read> second: array<Element>;
@group(0) @binding(2) var<storage, read> third: array<Element>;
@group(0) @binding(3) var<storage, read> fourth: array<Element>;
@group(0) @binding(4) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> d_first: array<Element>;
#ifdef KV
@group(0) @binding(6) var<storage, read_write> d_second: array<Element>;
#ifdef LENGTHS
@group(0) @binding(7) var<storage, read> lengths: array<u32>;
#endif
#ifdef BIAS
@group(0) @binding(7) var<storage, read> bias: array<f32>;
#endif
#else
#ifdef LENGTHS
@group(0) @binding(6) var<storage, read> lengths: array<u32>;
#endif
#ifdef BIAS
@group(0) @binding(6) var<storage, read> bias: array<f32>;
#endif
#endif
#ifdef SCORES
@group(0) @binding(7) var<storage, read_write> d_scores: array<f32>;
#endif

#for x in first second third fourth
// Four channels of a row from 4 c on; zeros beyond the width.
fn {x}_quad(row: u32, c: u32) -> vec4<f32> {
#ifdef VEC4
    return {x}[row + c];
#else
    let i = part_at(row, c);
    return part(vec4<f32>({x}[i.x], {x}[i.y], {x}[i.z], {x}[i.w]), p.width - 4u * c);
#endif
}
#endfor

fn store_first(row: u32, c: u32, x: vec4<f32>) {
#ifdef VEC4
    d_first[row + c] = x;
#else
#for e in 0..4
    if (4u * c + {e}u < p.width) { d_first[row + 4u * c + {e}u] = x[{e}]; }
#endfor
#endif
}

#ifdef KV
fn store_second(row: u32, c: u32, x: vec4<f32>) {
#ifdef VEC4
    d_second[row + c] = x;
#else
#for e in 0..4
    if (4u * c + {e}u < p.width) { d_second[row + 4u * c + {e}u] = x[{e}]; }
#endfor
#endif
}
#endif
