// What follows a matmul's sums: v = act(alpha * sum + bias) + residual. Without ACTIVATION only y = alpha * sum; with it,
// flags say which of the others there are: 1 bias, 2 residual, 4 keep alpha * sum + bias in `kept`. The importer
// declares p (alpha, flags), y, and with ACTIVATION bias, residual and kept. A Cell is a vec4 along a row with VEC_OUT,
// otherwise one element; `i` and `column` count cells.
#ifdef VEC_OUT
alias Cell = vec4<f32>;
#else
alias Cell = f32;
#endif
#ifdef ACTIVATION
#import activation

#ifdef VEC_OUT
fn activate_cell(v: Cell) -> Cell {
    return vec4<f32>(activate(v.x), activate(v.y), activate(v.z), activate(v.w));
}
#else
fn activate_cell(v: Cell) -> Cell {
    return activate(v);
}
#endif
#endif

fn emit(i: u32, column: u32, sum: Cell) {
    var v = p.alpha * sum;
#ifdef ACTIVATION
    if ((p.flags & 1u) != 0u) {
        v += bias[column];
    }
    if ((p.flags & 4u) != 0u) {
        kept[i] = v;
    }
    v = activate_cell(v);
    if ((p.flags & 2u) != 0u) {
        v += residual[i];
    }
#endif
    y[i] = v;
}
