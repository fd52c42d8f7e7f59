// Gradient of pick.wgsl: each row's gradient at its column, 0 elsewhere.
//
// g     (rows)         read
// at    (rows)         read
// dx    (rows, width)  written
// grid  rows * width / 64 workgroups of 64 invocations, folded

struct Params { rows: u32, width: u32 }
#params Params p

@group(0) @binding(0) var<storage, read> g: array<f32>;
@group(0) @binding(1) var<storage, read> at: array<u32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;

#entry 64 {
    let i = flat * 64u + local;
    if (i >= p.rows * p.width) {
        return;
    }
    let row = i / p.width;
    dx[i] = select(0.0, g[row], i - row * p.width == at[row]);
}
