// What a kernel handles at a time: with VEC4 four neighbours of a row, otherwise one. Words and Truths are as wide.

#ifdef VEC4
alias Element = vec4<f32>;
alias Word = vec4<u32>;
alias Truth = vec4<bool>;
fn across_sum(v: Element) -> f32 { return (v.x + v.y) + (v.z + v.w); }
fn across_max(v: Element) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }
#else
alias Element = f32;
alias Word = u32;
alias Truth = bool;
fn across_sum(v: Element) -> f32 { return v; }
fn across_max(v: Element) -> f32 { return v; }
#endif

// See nan.wgsl.
fn are_nan(v: Element) -> Truth {
    return (bitcast<Word>(v) & Word(0x7fffffffu)) > Word(0x7f800000u);
}

// Whether a > b, NaN being above everything and equal to itself.
fn exceeds(a: Element, b: Element) -> Truth {
    return !are_nan(b) & ((a > b) | are_nan(a));
}
