// The factor of dropout, 0 or 1 / (1 - probability), by the rule of dropout.wgsl; p has the parameters' fields.

#import philox

fn dropout_block(block: u32) -> vec4<u32> {
    return philox(vec4<u32>(block, p.stream_low, p.stream_high, 0u), vec2<u32>(p.seed_low, p.seed_high));
}

// Of elements 4 block to 4 block + 3.
fn dropout_four(block: u32) -> vec4<f32> {
    return select(vec4<f32>(0.0), vec4<f32>(p.scale), dropout_block(block) >= vec4<u32>(p.threshold));
}

// Of one element.
fn dropout_one(i: u32) -> f32 {
    let block = dropout_block(i / 4u);
    let pair = select(block.xy, block.zw, (i & 2u) != 0u);
    return select(0.0, p.scale, select(pair.x, pair.y, (i & 1u) != 0u) >= p.threshold);
}
