// y = act(alpha * op(A) op(B) + bias) + residual, for GPUs: a workgroup of TX x TY invocations makes 4 TY rows by 4 TX
// columns, each invocation 4 x 4 of them, in steps of 16 k through workgroup memory; the next step's loads are under way
// while this one is summed.
//
// a         (z, m, k), or (z, k, m) with TRANSPOSE_A   read
// b         (z, k, n), or (z, n, k) with TRANSPOSE_B   read
// y         (z, m, n)                                  written
// bias      (n)        read, with ACTIVATION
// residual  as y       read, with ACTIVATION
// kept      as y       written, with ACTIVATION: the sum before the activation
// grid      (n / (4 TX), m / (4 TY), z), rounded up, less what `first` skips; with DOWN x and y swapped
//
// VEC: a and b are vec4 along their rows, whose lengths are multiples of 4. VEC_OUT: the same for y and its company.
// HALF, which comes with VEC and TRANSPOSE_B: b is f16, two in each u32.
// z is a batch, or with k_step > 0 a slice of k: then y holds the slices' partial sums.

#import matmul

const THREADS: u32 = TX * TY;

// A tile keeps the direction it has in memory, so that it is moved as whole vec4s; both directions cost the inner loop
// the same. Along k, rows are padded to five vec4, and B's column 4 t + c lies in row t of block c: then neighbours read
// from different banks.
const B_BLOCK: u32 = TX * 5u + 4u;
#ifdef TRANSPOSE_A
var<workgroup> tile_a: array<vec4<f32>, 16u * TY>;
#else
var<workgroup> tile_a: array<vec4<f32>, 20u * TY>;
#endif
#ifdef TRANSPOSE_B
var<workgroup> tile_b: array<vec4<f32>, 4u * B_BLOCK>;
#else
var<workgroup> tile_b: array<vec4<f32>, 16u * TX>;
#endif

// Four elements of a matrix of `rows` by `width` at `row` and `column`, `base` elements into the buffer; zeros outside.
#for t in a b
fn load_{t}(base: u32, row: u32, column: u32, rows: u32, columns: u32, width: u32) -> vec4<f32> {
    var v = vec4<f32>(0.0);
#ifdef VEC
    if (row < rows && column < columns) {
        v = {t}_quad((base + row * width + column) / 4u);
    }
#else
#for c in 0..4
    if (row < rows && column + {c}u < columns) {
        v[{c}] = {t}[base + row * width + column + {c}u];
    }
#endfor
#endif
    return v;
}
#endfor

// The v-th vec4 of the tiles of step k.
fn fetch_a(base: u32, row0: u32, k: u32, k_to: u32, v: u32) -> vec4<f32> {
#ifdef TRANSPOSE_A
    return load_a(base, k + v / TY, row0 + v % TY * 4u, k_to, p.m, p.m);
#else
    return load_a(base, row0 + v / 4u, k + v % 4u * 4u, p.m, k_to, p.k);
#endif
}

fn fetch_b(base: u32, column0: u32, k: u32, k_to: u32, v: u32) -> vec4<f32> {
#ifdef TRANSPOSE_B
    return load_b(base, column0 + v / 4u, k + v % 4u * 4u, p.n, k_to, p.k);
#else
    return load_b(base, k + v / TX, column0 + v % TX * 4u, k_to, p.n, p.n);
#endif
}

@compute @workgroup_size(TX, TY)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let tx = local.x;
    let ty = local.y;
    let tile = tile_of(group);
    let row0 = tile.y * (4u * TY);
    let column0 = tile.x * (4u * TX);
    let z = p.first_z + group.z;
    let base_a = z * p.stride_a;
    let base_b = z * p.stride_b;
    let k_from = z * p.k_step;
    let k_to = min(k_from + p.k_count, p.k);

#for r in 0..4
    var sum{r} = vec4<f32>(0.0);
#endfor
#for l in 0..A_LOADS
    var next_a{l} = fetch_a(base_a, row0, k_from, k_to, index + {l}u * THREADS);
#endfor
#for l in 0..B_LOADS
    var next_b{l} = fetch_b(base_b, column0, k_from, k_to, index + {l}u * THREADS);
#endfor
    for (var k = k_from; k < k_to; k += 16u) {
#for l in 0..A_LOADS
        {
            let v = index + {l}u * THREADS;
            if (v < 16u * TY) {
#ifdef TRANSPOSE_A
                tile_a[v] = next_a{l};
#else
                tile_a[v / 4u * 5u + v % 4u] = next_a{l};
#endif
            }
        }
#endfor
#for l in 0..B_LOADS
        {
            let v = index + {l}u * THREADS;
#ifdef TRANSPOSE_B
            tile_b[v / 4u % 4u * B_BLOCK + v / 16u * 5u + v % 4u] = next_b{l};
#else
            tile_b[v] = next_b{l};
#endif
        }
#endfor
        workgroupBarrier();
        // Beyond the end these fetch nothing.
#for l in 0..A_LOADS
        next_a{l} = fetch_a(base_a, row0, k + 16u, k_to, index + {l}u * THREADS);
#endfor
#for l in 0..B_LOADS
        next_b{l} = fetch_b(base_b, column0, k + 16u, k_to, index + {l}u * THREADS);
#endfor
#for q in 0..4
        {
#ifdef TRANSPOSE_A
#for j in 0..4
            let s{j} = tile_a[({q}u * 4u + {j}u) * TY + ty];
#endfor
#for r in 0..4
            let a{r} = vec4<f32>(s0[{r}], s1[{r}], s2[{r}], s3[{r}]);
#endfor
#else
#for r in 0..4
            let a{r} = tile_a[(ty * 4u + {r}u) * 5u + {q}u];
#endfor
#endif
#ifdef TRANSPOSE_B
#for c in 0..4
            let t{c} = tile_b[{c}u * B_BLOCK + tx * 5u + {q}u];
#endfor
#for j in 0..4
            let b{j} = vec4<f32>(t0[{j}], t1[{j}], t2[{j}], t3[{j}]);
#endfor
#else
#for j in 0..4
            let b{j} = tile_b[({q}u * 4u + {j}u) * TX + tx];
#endfor
#endif
#for j in 0..4
#for r in 0..4
            sum{r} += a{r}[{j}] * b{j};
#endfor
#endfor
        }
#endfor
        workgroupBarrier();
    }

    let column = column0 + tx * 4u;
    for (var r = 0u; r < 4u; r++) {
        var v = sum0;
#for r in 1..4
        v = select(v, sum{r}, r == {r}u);
#endfor
        let row = row0 + ty * 4u + r;
        let at = z * p.stride_y + row * p.n + column;
#ifdef VEC_OUT
        if (row < p.m && column < p.n) {
            emit(at / 4u, column / 4u, v);
        }
#else
#for c in 0..4
        if (row < p.m && column + {c}u < p.n) {
            emit(at + {c}u, column + {c}u, v[{c}]);
        }
#endfor
#endif
    }
}
