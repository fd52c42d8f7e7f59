// y = act(alpha * op(A) op(B) + bias) + residual, for software adapters: a workgroup is one subgroup of LANES lanes,
// each with a vec4 of columns; A travels by broadcast, in steps of four k. There is no workgroup memory and no barrier.
// A storage load costs a trip per lane and each trip fetches up to a vec4, so everything is fetched as vec4.
//
// a         (z, m, k), or (z, k, m) with TRANSPOSE_A   read
// b         (z, k, n), or (z, n, k) with TRANSPOSE_B   read
// y         (z, m, n)                                  written
// bias      (n)        read, with ACTIVATION
// residual  as y       read, with ACTIVATION
// kept      as y       written, with ACTIVATION: the sum before the activation
// grid      (n / (4 LANES), m / (GROUPS LANES), z), rounded up, less what `first` skips; with DOWN x and y swapped
//
// VEC: a and b are vec4 along their rows, whose lengths are multiples of 4. VEC_OUT: the same for y and its company.
// HALF, which comes with VEC and TRANSPOSE_B: b is f16, two in each u32.
// z is a batch, or with k_step > 0 a slice of k: then y holds the slices' partial sums.

#import matmul

const ROWS: u32 = GROUPS * LANES;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let tile = tile_of(group);
    let row0 = tile.y * ROWS;
    let column = (tile.x * LANES + lane) * 4u;
    let z = p.first_z + group.z;
    let k_from = z * p.k_step;
    let k_to = min(k_from + p.k_count, p.k);
    // Rows and columns beyond the end repeat the last one; their sums are not stored.
#ifdef VEC
#ifdef TRANSPOSE_A
    // A lane fetches four rows of one k.
    let a_k = lane / (LANES / 4u);
    let a_width = p.m / 4u;
#for g in 0..GROUPS
    let a_at{g} = z * (p.stride_a / 4u) + min(row0 / 4u + {g}u * (LANES / 4u) + lane % (LANES / 4u), a_width - 1u);
#endfor
#else
    // A lane fetches four k of one row.
#for g in 0..GROUPS
    let a_at{g} = z * (p.stride_a / 4u) + min(row0 + {g}u * LANES + lane, p.m - 1u) * (p.k / 4u);
#endfor
#endif
#ifdef TRANSPOSE_B
#for c in 0..4
    let b_at{c} = z * (p.stride_b / 4u) + min(column + {c}u, p.n - 1u) * (p.k / 4u);
#endfor
#else
    let b_width = p.n / 4u;
    let b_at = z * (p.stride_b / 4u) + min(column / 4u, b_width - 1u);
#endif
#else
#ifdef TRANSPOSE_A
    let a_step = p.m;
    let a_row = 1u;
#else
    let a_step = 1u;
    let a_row = p.k;
#endif
#ifdef TRANSPOSE_B
    let b_step = 1u;
    let b_column = p.k;
#else
    let b_step = p.n;
    let b_column = 1u;
#endif
#for g in 0..GROUPS
    let a_at{g} = z * p.stride_a + min(row0 + {g}u * LANES + lane, p.m - 1u) * a_row;
#endfor
#for c in 0..4
    let b_at{c} = z * p.stride_b + min(column + {c}u, p.n - 1u) * b_column;
#endfor
#endif

#for g in 0..GROUPS
#for i in 0..LANES
    var sum{g}_{i} = vec4<f32>(0.0);
#endfor
#endfor
    for (var k = k_from; k < k_to; k += 4u) {
#ifdef VEC
#ifdef TRANSPOSE_A
        // Only here and in the scalar edition can k end within a step.
        let a_in = k + a_k < k_to;
        let a_line = min(k + a_k, k_to - 1u) * a_width;
#for g in 0..GROUPS
        let a{g} = select(vec4<f32>(0.0), a[a_at{g} + a_line], a_in);
#endfor
#else
#for g in 0..GROUPS
        let a{g} = a[a_at{g} + k / 4u];
#endfor
#endif
#ifdef TRANSPOSE_B
#for c in 0..4
        let t{c} = b_quad(b_at{c} + k / 4u);
#endfor
#for j in 0..4
        let b{j} = vec4<f32>(t0[{j}], t1[{j}], t2[{j}], t3[{j}]);
#endfor
#else
#for j in 0..4
#ifdef TRANSPOSE_A
        let b{j} = select(vec4<f32>(0.0), b[b_at + min(k + {j}u, k_to - 1u) * b_width], k + {j}u < k_to);
#else
        let b{j} = b[b_at + (k + {j}u) * b_width];
#endif
#endfor
#endif
#else
#for j in 0..4
        let in{j} = k + {j}u < k_to;
        let k{j} = min(k + {j}u, k_to - 1u);
#endfor
#for g in 0..GROUPS
        let a{g} = vec4<f32>(
#for j in 0..4
            select(0.0, a[a_at{g} + k{j} * a_step], in{j}),
#endfor
        );
#endfor
#for j in 0..4
        let b{j} = vec4<f32>(
#for c in 0..4
            select(0.0, b[b_at{c} + k{j} * b_step], in{j}),
#endfor
        );
#endfor
#endif
#for j in 0..4
#for g in 0..GROUPS
#for i in 0..LANES
#ifdef TRANSPOSE_A
#ifdef VEC
        sum{g}_{i} += subgroupBroadcast(a{g}[{i}u % 4u], {j}u * (LANES / 4u) + {i}u / 4u) * b{j};
#else
        sum{g}_{i} += subgroupBroadcast(a{g}[{j}], {i}u) * b{j};
#endif
#else
        sum{g}_{i} += subgroupBroadcast(a{g}[{j}], {i}u) * b{j};
#endif
#endfor
#endfor
#endfor
    }

    // One copy of the epilogue: code size is compile time here, and choosing a row costs little.
    let rows = min(ROWS, p.m - row0);
    for (var r = 0u; r < rows; r++) {
        var v = sum0_0;
#for g in 0..GROUPS
#for i in 0..LANES
        v = select(v, sum{g}_{i}, r == {g}u * LANES + {i}u);
#endfor
#endfor
        let at = z * p.stride_y + (row0 + r) * p.n + column;
#ifdef VEC_OUT
        if (column < p.n) {
            emit(at / 4u, column / 4u, v);
        }
#else
#for c in 0..4
        if (column + {c}u < p.n) {
            emit(at + {c}u, column + {c}u, v[{c}]);
        }
#endfor
#endif
    }
}
