// What follows a matmul's sums: v = act(alpha * sum + bias) + residual. Without ACTIVATION only y = alpha * sum; with it,
// flags say which of the others there are; with KEEP alpha * sum + bias is kept in `kept`. The importer declares
// p (alpha, flags), y, and with ACTIVATION bias, residual and kept. A Cell is a vec4 along a row with VEC_OUT,
// otherwise one element; `i` and `column` count cells.
#ifdef VEC_OUT
alias Cell = vec4<f32>;
#else
alias Cell = f32;
#endif
const BIAS: u32 = 1u;
const RESIDUAL: u32 = 2u;
const KEEP: u32 = 4u;

#ifdef ACTIVATION
#import activation

fn activate_cell(v: Cell) -> Cell {
#ifdef VEC_OUT
    return activate4(v);
#else
    return activate(v);
#endif
}
#endif

fn emit(i: u32, column: u32, sum: Cell) {
    var v = p.alpha * sum;
#ifdef ACTIVATION
    if ((p.flags & BIAS) != 0u) {
        v += bias[column];
    }
    if ((p.flags & KEEP) != 0u) {
        kept[i] = v;
    }
    v = activate_cell(v);
    if ((p.flags & RESIDUAL) != 0u) {
        v += residual[i];
    }
#endif
    y[i] = v;
}
