// The sum of a matmul's partial results over slices of k, in order, and what follows it:
// y = act(alpha * sum + bias) + residual.
//
// partial   (slices, n)                    read
// y         (n)                            written
// bias      (width), width divides n       read, with ACTIVATION
// residual  (n)                            read, with ACTIVATION
// kept      (n)                            written, with ACTIVATION: the sum before the activation
// grid      ceil(n / 64) workgroups of 64 invocations, folded; a cell each
//
// With VEC_OUT everything is vec4 and n, stride and width count them.

struct Params { n: u32, slices: u32, stride: u32, width: u32, alpha: f32, flags: u32 }
#params Params p

@group(0) @binding(0) var<storage, read> partial: array<Cell>;
@group(0) @binding(1) var<storage, read_write> y: array<Cell>;
#ifdef ACTIVATION
@group(0) @binding(2) var<storage, read> bias: array<Cell>;
@group(0) @binding(3) var<storage, read> residual: array<Cell>;
@group(0) @binding(4) var<storage, read_write> kept: array<Cell>;
#endif
#import epilogue

#entry 64 {
    let i = flat * 64u + local;
    if (i < p.n) {
        var sum = Cell(0.0);
        for (var s = 0u; s < p.slices; s++) {
            sum += partial[s * p.stride + i];
        }
        emit(i, i % p.width, sum);
    }
}
