// The tensors of both forward kernels of attention, and how they are read and written.

#import attention
#import element

@group(0) @binding(0) var<storage, read> q: array<Element>;
@group(0) @binding(1) var<storage, read> k: array<Element>;
@group(0) @binding(2) var<storage, read> v: array<Element>;
@group(0) @binding(3) var<storage, read_write> y: array<Element>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
#ifdef LENGTHS
@group(0) @binding(5) var<storage, read> lengths: array<u32>;
#endif
#ifdef BIAS
@group(0) @binding(5) var<storage, read> bias: array<f32>;
#endif

#for x in q k v
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

fn store(row: u32, c: u32, x: vec4<f32>) {
#ifdef VEC4
    y[row + c] = x;
#else
#for e in 0..4
    if (4u * c + {e}u < p.width) { y[row + 4u * c + {e}u] = x[{e}]; }
#endfor
#endif
}
